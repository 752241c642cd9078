"""The common options of a command, settled: which configuration, which node, which run directory; which resources."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydrbd.admin.control_client import ControlClient, Limit
from pydrbd.errors import ConfigError, NotRunningError, PydrbdError, UsageError

if TYPE_CHECKING:
    from pydrbd.config.model import Config, Resource

__all__ = ["CONFIG_PATHS", "Context", "Target", "default_run_dir"]

CONFIG_PATHS = (Path("/etc/pydrbd.conf"), Path("/etc/drbd.conf"))
"""Where the configuration is without `-c`: the first that exists."""


@dataclass(frozen=True, slots=True)
class Target:
    """`RES`, or one volume of it: `RES/VNR`."""

    resource: str
    vnr: int | None = None

    def __str__(self) -> str:
        return self.resource if self.vnr is None else f"{self.resource}/{self.vnr}"


class Context:
    """What every command is given. The configuration is read when it is first asked for."""

    def __init__(
        self,
        config_path: str | None = None,
        node: str | None = None,
        run_dir: str | None = None,
        peer: str | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._config_path = config_path
        self._to_test: str | None = None
        self.peer = peer or ""
        self._tell = tell
        self.node = node or socket.gethostname()
        self._run_dir = run_dir

    @cached_property
    def run_dir(self) -> Path:
        """Where sockets, pid files and logs are."""
        return Path(self._run_dir) if self._run_dir else default_run_dir()

    @cached_property
    def config_path(self) -> Path:
        """The configuration file; raises ConfigError if none was named and there is none at the usual places."""
        if self._config_path is not None:
            return Path(self._config_path)
        for path in CONFIG_PATHS:
            if path.exists():
                return path
        raise ConfigError(f"no configuration: neither {CONFIG_PATHS[0]} nor {CONFIG_PATHS[1]} exists; name one with -c")

    @property
    def has_config(self) -> bool:
        """Whether a configuration was named, or is at a usual place."""
        return self._config_path is not None or any(path.exists() for path in CONFIG_PATHS)

    @cached_property
    def config(self) -> Config:
        """The whole configuration; raises ConfigError."""
        from pydrbd.config.load import load_config

        return load_config(self.config_path, *filter(None, [self._to_test]))

    def add_config(self, path: str) -> None:
        """A file that is to be read with the configuration, as one that it includes; before it is first asked for."""
        self._to_test = path

    def tell(self, step: str) -> None:
        """Say what is done now, if that is wanted (--verbose)."""
        if self._tell is not None:
            self._tell(step)

    def resource(self, name: str) -> Resource:
        """A resource that this node is part of, and its peer, named if there are several; raises ConfigError."""
        resource = self.config.resource(name)
        if self.peer:
            resource = resource.with_peer(self.node, self.peer)
        resource.pair(self.node)
        return resource

    def targets(self, words: list[str], *, volumes: bool = False) -> list[Target]:
        """The resources that were named; `all` (or nothing) means every one of the configuration that this node is in.

        With `volumes`, RES/VNR names one volume. Raises UsageError, ConfigError.
        """
        if not words or words == ["all"]:
            mine = [Target(resource.name) for resource in self.config if self.is_mine(resource)]
            if not mine:
                raise ConfigError(f"no resource in {self.config.file} is of this node, '{self.node}': --node names it")
            return mine
        if "all" in words:
            raise UsageError("'all' stands alone: it means every resource of the configuration")
        return [self._target_of_minor(word, volumes) or _parse_target(word, volumes) for word in words]

    def _target_of_minor(self, word: str, volumes: bool) -> Target | None:
        """`minor-N`, as udev's rules and the kernel's helpers name a volume; None if it is no such word."""
        number = word.removeprefix("minor-")
        if number == word or not (number.isascii() and number.isdigit() and len(number) <= 7) or not self.has_config:
            return None
        if any(resource.name == word for resource in self.config):
            return None
        for resource in self.config:
            for host in resource.hosts:
                if host.answers_to(self.node):
                    found = (vnr for vnr, volume in host.volumes.items() if volume.minor == int(number))
                    for vnr in found:
                        return Target(resource.name, vnr if volumes else None)
        raise ConfigError(f"no volume of this node, '{self.node}', has the minor {number}")

    def is_mine(self, resource: Resource) -> bool:
        """Whether this node is one of its hosts."""
        return any(host.answers_to(self.node) for host in resource.hosts)

    def client(self, resource: str) -> ControlClient:
        return ControlClient(resource, self.run_dir, self.limit_s, self._tell)

    def limit_s(self, limit: Limit) -> float:
        """How long an answer may take, in seconds: section global's word, else ours; infinite for its 0.

        A configuration that can't be read has no word: it must be possible to stop what it has started.
        """
        option, usual_s = limit.value
        if self.has_config:
            with suppress(PydrbdError):
                written = [setting.value for setting in self.config.written_global if setting.name == option]
                if written and isinstance(written[-1], int):
                    return float(written[-1]) or float("inf")
        return usual_s

    def ask_running(self, resource: str) -> dict[str, Any]:
        """The snapshot of a running resource; if it does not run, ConfigError for a wrong name or configuration.

        A running resource needs no configuration to be asked: it must be possible to stop one whose file is broken.
        """
        try:
            return self.client(resource).status()
        except NotRunningError:
            self.check_name(resource)
            raise

    def check_name(self, resource: str) -> None:
        """Raises ConfigError if the configuration can be found and does not have this resource for this node."""
        if self.has_config:
            self.resource(resource)

    def running(self, resource: str) -> dict[str, Any] | None:
        """The snapshot of a resource, None if it does not run here."""
        try:
            return self.client(resource).status()
        except NotRunningError:
            return None


def default_run_dir() -> Path:
    """/run/pydrbd for root, $XDG_RUNTIME_DIR/pydrbd otherwise; raises UsageError if there is no such directory."""
    if os.geteuid() == 0:
        return Path("/run/pydrbd")
    base = os.environ.get("XDG_RUNTIME_DIR")
    if not base:
        raise UsageError("there is no XDG_RUNTIME_DIR: say where sockets and logs go with --run-dir DIR")
    return Path(base) / "pydrbd"


def _parse_target(word: str, volumes: bool) -> Target:
    name, slash, number = word.partition("/")
    if not name or name in (".", "..") or "\0" in name:
        raise UsageError(f"'{word}' is no name of a resource")
    if not slash:
        return Target(name)
    if not volumes:
        raise UsageError(f"'{word}': this command is for a whole resource: '{name}'")
    if not (number.isascii() and number.isdigit() and len(number) <= 5):
        raise UsageError(f"'{word}': a volume is named RES/NUMBER, as in {name}/0")
    return Target(name, int(number))
