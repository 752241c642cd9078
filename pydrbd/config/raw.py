"""What a file says, before anything is inherited: filled by the parser, read by resolve.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pydrbd.config.lexer import Place, Token
from pydrbd.config.model import Address, MetaDisk, Notice, Proxy, Written
from pydrbd.config.syntax import Statement
from pydrbd.config.values import Setting

__all__ = ["RawConfig", "RawHost", "RawResource", "RawSections", "RawVolume", "SeenOnce"]

_STARTUP_LAST: Final = {"stacked-timeouts": 1, "become-primary-on": 2}
"""drbdadm lists these two after the others."""


class SeenOnce:
    """Remembers where something stands, and refuses a second one."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def __contains__(self, what: str) -> bool:
        return what in self._places

    def add(self, what: str, token: Token) -> None:
        """Note `what` at `token`; ConfigError with both places if it is there already."""
        first = self._places.setdefault(what, token.place)
        if first is not token.place:
            raise token.place.error(f"a second {what} (the first is in {first.seen_from(token.place)})")


@dataclass(slots=True)
class RawSections:
    """Option sections of `common` or of a resource."""

    settings: dict[str, list[Setting]] = field(default_factory=dict)
    proxy: tuple[Proxy, ...] = ()
    seen: SeenOnce = field(default_factory=SeenOnce)

    def of(self, section: str) -> list[Setting]:
        """The settings of a section, to read or to append to."""
        return self.settings.setdefault(section, [])

    def written(self) -> Written:
        """The same, frozen."""
        return Written(
            options=tuple(self.of("options")),
            net=tuple(self.of("net")),
            disk=tuple(self.of("disk")),
            startup=tuple(sorted(self.of("startup"), key=lambda setting: _STARTUP_LAST.get(setting.name, 0))),
            proxy=self.proxy,
            handlers=tuple(self.of("handlers")),
        )


@dataclass(slots=True)
class RawVolume:
    """What one level (resource or host) says about a volume. `is_implicit`: without a `volume N { }` around it."""

    vnr: int
    is_implicit: bool = False
    device: tuple[str, int] | None = None
    disk: str | None = None
    meta_disk: MetaDisk | None = None
    disk_settings: list[Setting] = field(default_factory=list)
    seen: SeenOnce = field(default_factory=SeenOnce)


@dataclass(slots=True)
class RawHost:
    """An `on` or `floating` section."""

    names: tuple[str, ...]
    place: Place
    address: Address | None = None
    volumes: dict[int, RawVolume] = field(default_factory=dict)
    options: list[Setting] = field(default_factory=list)
    proxy: tuple[Proxy, ...] = ()
    seen: SeenOnce = field(default_factory=SeenOnce)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"on {' '.join(self.names)}" if self.names else f"floating {self.address}"


@dataclass(slots=True)
class RawResource:
    """A `resource` section. `connections`: DRBD 9's, read when the hosts are known."""

    name: str
    place: Place
    sections: RawSections = field(default_factory=RawSections)
    volumes: dict[int, RawVolume] = field(default_factory=dict)
    hosts: list[RawHost] = field(default_factory=list)
    host_names: SeenOnce = field(default_factory=SeenOnce)
    connections: list[Statement] = field(default_factory=list)


@dataclass(slots=True)
class RawConfig:
    """All files together."""

    file: str
    files: list[str] = field(default_factory=list)
    global_settings: list[Setting] = field(default_factory=list)
    common: RawSections = field(default_factory=RawSections)
    resources: list[RawResource] = field(default_factory=list)
    seen: SeenOnce = field(default_factory=SeenOnce)
    notices: list[Notice] = field(default_factory=list)
