"""Every option of DRBD 8.4, with its kind, default and range (source: `drbdsetup-84 xml-help`, drbd.conf(5) of 8.4).

A number keeps the unit that DRBD counts in, and the attribute that holds it ends with that unit: `ping-timeout 5`
is five tenths of a second and `NetOptions.ping_timeout_ds == 5`. `OPTIONS` is ordered by section, then as
drbdsetup lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

__all__ = [
    "OPTIONS",
    "SECRET_OPTION",
    "SECTIONS",
    "Kind",
    "Option",
    "Unit",
    "find_option",
    "section_of",
]


SECRET_OPTION: Final = "shared-secret"
"""Its value is shown to nobody."""


class Kind(Enum):
    """How the value of an option is written."""

    BOOL = "yes or no"
    FLAG = "nothing"
    NUMBER = "a number"
    ENUM = "one of its words"
    STRING = "a string"
    WORDS = "one or more words"


class Unit(Enum):
    """What a number counts: the end of the attribute's name, and how many bytes one is (where they are bytes)."""

    NONE = ("", 1)
    SECONDS = ("_s", 1)
    DECISECONDS = ("_ds", 1)
    BYTES = ("_bytes", 1)
    SECTORS = ("_sectors", 512)
    KIB_PER_SECOND = ("_kib_s", 1024)

    def __init__(self, suffix: str, size_bytes: int) -> None:
        self.suffix = suffix
        self.size_bytes = size_bytes


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `maximum` of a string is its longest length in bytes.

    `effective`: pydrbd acts on it. `quiet`: an option about drbdadm or the kernel module, which pydrbd has no use for:
    nothing to report.
    """

    section: str
    name: str
    kind: Kind
    default: bool | int | str | tuple[str, ...]
    minimum: int = 0
    maximum: int = 0
    unit: Unit = Unit.NONE
    choices: tuple[str, ...] = ()
    effective: bool = False
    quiet: bool = False

    @property
    def attribute(self) -> str:
        """The name of the field that holds the value in the section's dataclass."""
        return self.name.replace("-", "_") + self.unit.suffix


def _bool(section: str, name: str, default: bool, effective: bool = False, *, quiet: bool = False) -> Option:
    return Option(section, name, Kind.BOOL, default, effective=effective, quiet=quiet)


def _flag(section: str, name: str, *, effective: bool = False) -> Option:
    return Option(section, name, Kind.FLAG, False, effective=effective)


def _number(
    section: str,
    name: str,
    minimum: int,
    default: int,
    maximum: int,
    unit: Unit = Unit.NONE,
    *,
    effective: bool = False,
    quiet: bool = False,
) -> Option:
    return Option(section, name, Kind.NUMBER, default, minimum, maximum, unit, effective=effective, quiet=quiet)


def _enum(section: str, name: str, default: str, *others: str, effective: bool = False, quiet: bool = False) -> Option:
    return Option(section, name, Kind.ENUM, default, choices=(default, *others), effective=effective, quiet=quiet)


def _string(section: str, name: str, length_max: int = 63, *, effective: bool = False) -> Option:
    return Option(section, name, Kind.STRING, "", maximum=length_max, effective=effective)


_NET: Final = (
    Option("net", "protocol", Kind.ENUM, "C", choices=("A", "B", "C"), effective=True),
    _number("net", "timeout", 1, 60, 600, Unit.DECISECONDS, effective=True),
    _number("net", "max-epoch-size", 1, 2048, 20000, effective=True),
    _number("net", "max-buffers", 32, 2048, 131072, effective=True),
    _number("net", "unplug-watermark", 1, 128, 131072, quiet=True),
    _number("net", "connect-int", 1, 10, 120, Unit.SECONDS, effective=True),
    _number("net", "ping-int", 1, 10, 120, Unit.SECONDS, effective=True),
    _number("net", "sndbuf-size", 0, 0, 10485760, Unit.BYTES, effective=True),
    _number("net", "rcvbuf-size", 0, 0, 10485760, Unit.BYTES, effective=True),
    _number("net", "ko-count", 0, 7, 200, effective=True),
    _bool("net", "allow-two-primaries", False, effective=True),
    _string("net", "cram-hmac-alg", effective=True),
    _string("net", "shared-secret", effective=True),
    Option(
        "net",
        "after-sb-0pri",
        Kind.ENUM,
        "disconnect",
        choices=(
            "disconnect",
            "discard-younger-primary",
            "discard-older-primary",
            "discard-zero-changes",
            "discard-least-changes",
            "discard-local",
            "discard-remote",
            "discard-node-?*",
        ),
        effective=True,
    ),
    _enum(
        "net",
        "after-sb-1pri",
        "disconnect",
        "consensus",
        "discard-secondary",
        "call-pri-lost-after-sb",
        "violently-as0p",
        effective=True,
    ),
    _enum("net", "after-sb-2pri", "disconnect", "call-pri-lost-after-sb", "violently-as0p", effective=True),
    _bool("net", "always-asbp", False, effective=True),
    _enum("net", "rr-conflict", "disconnect", "call-pri-lost", "violently", effective=True),
    _number("net", "ping-timeout", 1, 5, 300, Unit.DECISECONDS, effective=True),
    _string("net", "data-integrity-alg", effective=True),
    _bool("net", "tcp-cork", True, quiet=True),
    _enum("net", "on-congestion", "block", "pull-ahead", "disconnect", effective=True),
    _number("net", "congestion-fill", 0, 0, 20971520, Unit.SECTORS, effective=True),
    _number("net", "congestion-extents", 67, 1237, 65534, effective=True),
    _string("net", "csums-alg", effective=True),
    _bool("net", "csums-after-crash-only", False, effective=True),
    _string("net", "verify-alg", effective=True),
    _bool("net", "use-rle", True, effective=True),
    _number("net", "socket-check-timeout", 0, 0, 300, Unit.DECISECONDS, effective=True),
)

_DISK: Final = (
    _number("disk", "size", 0, 0, 2199023255552, Unit.SECTORS, effective=True),
    _number("disk", "max-bio-bvecs", 0, 0, 128, quiet=True),
    _enum("disk", "on-io-error", "detach", "pass_on", "call-local-io-error", effective=True),
    _enum("disk", "fencing", "dont-care", "resource-only", "resource-and-stonith", effective=True),
    _bool("disk", "disk-barrier", False, effective=True),
    _bool("disk", "disk-flushes", True, effective=True),
    _bool("disk", "disk-drain", True, effective=True),
    _bool("disk", "md-flushes", True, effective=True),
    _number("disk", "resync-rate", 1, 250, 4194304, Unit.KIB_PER_SECOND, effective=True),
    _string("disk", "resync-after", 255, effective=True),
    _number("disk", "al-extents", 67, 1237, 65534, effective=True),
    _bool("disk", "al-updates", True, effective=True),
    _bool("disk", "discard-zeroes-if-aligned", True, effective=True),
    _bool("disk", "disable-write-same", False, quiet=True),
    _number("disk", "c-plan-ahead", 0, 20, 300, Unit.DECISECONDS, effective=True),
    _number("disk", "c-delay-target", 1, 10, 100, Unit.DECISECONDS, effective=True),
    _number("disk", "c-fill-target", 0, 100, 1048576, Unit.SECTORS, effective=True),
    _number("disk", "c-max-rate", 250, 102400, 4194304, Unit.KIB_PER_SECOND, effective=True),
    _number("disk", "c-min-rate", 0, 250, 4194304, Unit.KIB_PER_SECOND, effective=True),
    _number("disk", "disk-timeout", 0, 0, 6000, Unit.DECISECONDS, effective=True),
    _enum(
        "disk",
        "read-balancing",
        "prefer-local",
        "prefer-remote",
        "round-robin",
        "least-pending",
        "when-congested-remote",
        *(f"{size}-striping" for size in ("32K", "64K", "128K", "256K", "512K", "1M")),
        effective=True,
    ),
    _number("disk", "rs-discard-granularity", 0, 0, 1048576, Unit.BYTES, effective=True),
)

_DRBD_9: Final = (
    _bool("options", "auto-promote", False, effective=True),
    _number("options", "auto-promote-timeout", 0, 20, 600, Unit.DECISECONDS, effective=True),
    _enum("options", "quorum", "off", "majority", "all", "1", "2", effective=True),
    _enum("options", "on-no-quorum", "suspend-io", "io-error", effective=True),
    _enum("options", "on-suspended-primary-outdated", "disconnect", "force-secondary", effective=True),
)
"""Options of DRBD 9 that pydrbd has, too; drbdadm 8.4 refuses a file with them."""

_RESOURCE: Final = (
    _string("options", "cpu-mask", 31, effective=True),
    _enum("options", "on-no-data-accessible", "io-error", "suspend-io", effective=True),
    *_DRBD_9,
)

_STARTUP: Final = (
    _number("startup", "wfc-timeout", 0, 0, 300000, Unit.SECONDS, effective=True),
    _number("startup", "degr-wfc-timeout", 0, 0, 300000, Unit.SECONDS, effective=True),
    _number("startup", "outdated-wfc-timeout", 0, 0, 300000, Unit.SECONDS, effective=True),
    _bool("startup", "wait-after-sb", False, effective=True),
    _flag("startup", "stacked-timeouts"),
    Option("startup", "become-primary-on", Kind.WORDS, (), effective=True),
)

_HANDLERS: Final = tuple(
    _string("handlers", name, 4096, effective=True)
    for name in (
        "pri-on-incon-degr",
        "pri-lost-after-sb",
        "pri-lost",
        "initial-split-brain",
        "split-brain",
        "fence-peer",
        "unfence-peer",
        "local-io-error",
        "before-resync-target",
        "after-resync-target",
        "before-resync-source",
        "out-of-sync",
        "quorum-lost",  # DRBD 9's
    )
)

_GLOBAL: Final = (
    _flag("global", "disable-ip-verification", effective=True),
    _number("global", "minor-count", 1, 32, 255, effective=True),
    _number("global", "dialog-refresh", 0, 1, 600, Unit.SECONDS, effective=True),
    _number("global", "cmd-timeout-short", 0, 5, 900, Unit.SECONDS, effective=True),
    _number("global", "cmd-timeout-medium", 0, 121, 900, Unit.SECONDS, effective=True),
    _number("global", "cmd-timeout-long", 0, 600, 900, Unit.SECONDS, effective=True),
    _enum("global", "usage-count", "ask", "yes", "no", effective=True),
    _flag("global", "udev-always-use-vnr", effective=True),
)

OPTIONS: Final = (*_GLOBAL, *_RESOURCE, *_NET, *_DISK, *_STARTUP, *_HANDLERS)

SECTIONS: Final[Mapping[str, Mapping[str, Option]]] = MappingProxyType(
    {
        section: MappingProxyType({option.name: option for option in options})
        for section, options in (
            ("global", _GLOBAL),
            ("options", _RESOURCE),
            ("net", _NET),
            ("disk", _DISK),
            ("startup", _STARTUP),
            ("handlers", _HANDLERS),
        )
    }
)
"""The options by section and name."""


def find_option(section: str, name: str) -> Option | None:
    """The option of that name in a section, None if there is none."""
    return SECTIONS[section].get(name)


def section_of(name: str) -> str | None:
    """The first section that has an option of that name, None if none has."""
    return next((option.section for option in OPTIONS if option.name == name), None)
