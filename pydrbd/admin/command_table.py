"""The commands of the command line: what each is for, what it names, and its own options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["COMMANDS", "COMMON_OPTIONS", "DRBDADM_OPTIONS", "GROUPS", "NAMES", "Command"]

_Adder = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True, slots=True)
class Command:
    """One verb: what it is for, what it names, and its own options."""

    summary: str
    names: str
    """`one` resource, `some` (or all) of them, `volumes` (RES or RES/VNR), `any` (none means all), `none`,
    `device` (RES or RES/VNR, and perhaps a device)."""
    add_options: _Adder = lambda _parser: None
    group: str = "state"
    reads: bool = False
    """It only looks, whatever its group."""

    @property
    def changes(self) -> bool:
        """Whether it changes something: --dry-run then only says so."""
        return not self.reads and self.group in ("process", "state", "meta-data", "run-time")


def _force(words: str) -> _Adder:
    return lambda parser: _flag(parser, "--force", words)


def _primary(parser: argparse.ArgumentParser) -> None:
    words = "although its data is not known to be good (--overwrite-data-of-peer is its old name)"
    parser.add_argument("--force", "--overwrite-data-of-peer", "-o", action="store_true", help=words)


def _flag(parser: argparse.ArgumentParser, name: str, words: str) -> None:
    parser.add_argument(name, action="store_true", help=words)


def _timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--timeout",
        "--wfc-timeout",
        dest="timeout_s",
        type=_seconds,
        metavar="SECONDS",
        help="give up after this long; 0 is never (default: as section startup of the configuration says)",
    )
    for name, words in (
        ("degr-wfc-timeout", "if this node was a Primary that was alone when it was last in use"),
        ("outdated-wfc-timeout", "if the peer's disk is outdated"),
    ):
        attribute = name.replace("-", "_") + "_s"
        parser.add_argument(f"--{name}", dest=attribute, type=_seconds, metavar="SECONDS", help=f"the same, {words}")
    _flag(parser, "--wait-after-sb", "also while it is StandAlone, as after a split brain")


def _wait_sync(parser: argparse.ArgumentParser) -> None:
    _timeout(parser)
    _flag(parser, "--quiet", "show no progress")


def _serve(parser: argparse.ArgumentParser) -> None:
    words = "where its log goes, 4 MiB and as much older at most (default: standard error, as for a journal)"
    parser.add_argument("--log-file", metavar="FILE", help=words)
    _flag(parser, "--bare", "attach and connect nothing until it is told to (as new-resource does)")


def _status(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--json", "in drbdsetup 9's schema")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also what is as usual, and the NBD addresses"
    )  # fmt: skip
    _flag(parser, "--statistics", "also what was read, written, sent, ...")


def _events2(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--now", "what is, and no more")
    _flag(parser, "--poll", "at each n on standard input tell of new figures, too; with --now of everything")
    _flag(parser, "--statistics", "also what was read, written, sent, ...")
    _flag(parser, "--full", "all of an object at each change, and --statistics")
    _flag(parser, "--timestamps", "when, before each line")
    _flag(parser, "--json", "each line as an object of JSON")


def _metrics(parser: argparse.ArgumentParser) -> None:
    words = "where: unix:PATH, tcp:HOST:PORT (default: pydrbd.toml's, else tcp:127.0.0.1:9942)"
    parser.add_argument("--listen", metavar="PLACE", help=words)
    _flag(parser, "--once", "print them, and end")


def _top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--interval", dest="interval_s", type=_seconds, default=1.0, metavar="SECONDS", help="how often (1)"
    )
    _flag(parser, "--once", "one picture, and end")


def _to_test(parser: argparse.ArgumentParser) -> None:
    words = "a file that is to be checked beside the configuration, as one that it includes"
    parser.add_argument("-t", "--config-to-test", dest="config_to_test", metavar="FILE", help=words)


def _set_gi(parser: argparse.ArgumentParser) -> None:
    words = "what get-gi prints; a field that is empty or missing stays as it is (also as a word beside the names)"
    parser.add_argument("--gi", metavar="UUID:UUID:...", help=words)
    _flag(parser, "--force", "yes, do it (needed)")


def _events(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--now", "what is, and no more")


def _nbd_attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--uri", dest="uris", action="append", default=[], metavar="URI",
        help="a server of the export, as in nbd://alpha/r0; again for each that may become Primary "
        "(default: this machine's)",
    )  # fmt: skip
    parser.add_argument(
        "--dead-timeout", dest="dead_timeout_s", type=_count, default=86400, metavar="SECONDS",
        help="how long requests wait while no server is there, before they fail (86400)",
    )  # fmt: skip
    _flag(parser, "--force", "although there is a swap area on it, as to put something else there")
    _flag(parser, "--foreground", "be the helper that stays with the device, as for a service manager")


def _create_md(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--force", "overwrite what is there")
    parser.add_argument("--al-stripes", type=_count, default=1, metavar="N", help="stripes of the activity log (1)")
    parser.add_argument(
        "--al-stripe-size-kB", dest="al_stripe_size_kib", type=_count, default=32, metavar="N", help="size of each (32)"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_seconds.__name__ = "number of seconds"
_count.__name__ = "number"


def _adjust(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--skip-disk", "attach nothing")
    _flag(parser, "--skip-net", "connect nothing")
    _flag(parser, "--discard-my-data", "if it connects: after a split brain, give up what was written here alone")


def _options_of(section: str) -> _Adder:
    def add(parser: argparse.ArgumentParser) -> None:
        from pydrbd.config.options import SECTIONS

        for option in SECTIONS[section].values():
            words = "it has no effect in pydrbd" if not option.effective else f"see section {section} of pydrbd.conf(5)"
            parser.add_argument(f"--{option.name}", dest=option.name, metavar="VALUE", help=words)

    return add


def _show(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--show-defaults", "also what is as by default")


def _connect(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--discard-my-data", "after a split brain: give up what was written here alone")
    _flag(parser, "--tentative", "only say what would be synced, and stand alone again")


def _resize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        dest="size_sectors",
        type=_size_sectors,
        metavar="SIZE",
        help="as large as this (suffix s: sectors, K, M, G, T; default K); 0: as the disks allow "
        "(default: the configuration's)",
    )
    _flag(parser, "--assume-clean", "the new end is equal on both disks: don't sync it")
    _flag(parser, "--assume-peer-has-space", "although the peer is not connected, and can't be asked")


def _size_sectors(text: str) -> int:
    """A size in drbdsetup's words; without a suffix it is in KiB."""
    number, factor = text[:-1], _SECTORS_OF.get(text[-1:].upper(), 0)
    if not factor:
        number, factor = text, _SECTORS_OF["K"]
    if not (number.isascii() and number.isdigit()):
        raise ValueError
    return int(number) * factor


_SECTORS_OF: Final = {"S": 1, "K": 2, "M": 2 << 10, "G": 2 << 20, "T": 2 << 30}
_size_sectors.__name__ = "size"


def _new_current_uuid(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--clear-bitmap", "the peer's copy is equal: on a fresh connected pair, skip the first sync")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start", dest="start_sector", type=_sectors, metavar="S",
        help="the first sector (default: where the last one was cut off, else 0); 16M is a byte offset",
    )  # fmt: skip
    parser.add_argument("--stop", dest="stop_sector", type=_sectors, metavar="S", help="the sector to stop before")
    _flag(parser, "--wait", "wait until it is over, and show how far it is; 6 if the copies differ")


def _sectors(text: str) -> int:
    from pydrbd.config.options import Unit
    from pydrbd.config.values import parse_number

    value = parse_number(text, Unit.SECTORS)
    if value is None:
        raise ValueError
    return value


_sectors.__name__ = "number of sectors"


COMMANDS: Final[Mapping[str, Command]] = {
    "up": Command("start a resource's process in the background", "some", group="process"),
    "adjust": Command("make it what the configuration says, also while it runs", "some", _adjust, "process"),
    "adjust-with-progress": Command("the same: adjust says what it does", "some", _adjust, "process"),
    "down": Command("stop it", "some", _force("although clients have it open"), "process"),
    "serve": Command("be that process, in the foreground", "one", _serve, "process"),
    "demo": Command("two nodes on this machine, and what can happen to them", "none", group="process"),
    "new-resource": Command("start its process with nothing attached nor connected", "some", group="process"),
    "new-minor": Command("the volumes of such a process: is it there?", "volumes", group="process"),
    "sh-new-minor": Command("the same", "volumes", group="process"),
    "del-minor": Command("may this volume go: is it Secondary, and detached?", "volumes", group="process"),
    "del-resource": Command("end a process with nothing attached nor connected", "some", group="process"),
    "primary": Command("make it writable here", "some", _primary),
    "secondary": Command("give that up", "some", _force("although clients have it open")),
    "connect": Command("look for the peer", "some", _connect),
    "disconnect": Command("leave the peer", "some", _force("without asking the peer")),
    "attach": Command("take up the local disk", "some"),
    "detach": Command("give up the local disk", "some", _force("without asking the peer")),
    "invalidate": Command("forget the local data: sync all of it from the peer", "some"),
    "invalidate-remote": Command("forget the peer's data: sync all of it to the peer", "some"),
    "outdate": Command("mark the local data as out of date", "some"),
    "suspend-io": Command("hold back what clients ask for", "some"),
    "resume-io": Command("let them go on, also if the peer could not be fenced", "some"),
    "pause-sync": Command("hold its resync, this one and those to come", "some"),
    "verify": Command("compare both copies while they are in use", "some", _verify),
    "resume-sync": Command("go on with it", "some"),
    "new-current-uuid": Command("begin a new generation of the data by hand", "volumes", _new_current_uuid),
    "resize": Command("grow it to what its disks have grown to", "volumes", _resize),
    "net-options": Command(
        "other options of the connection, until the next adjust", "some", _options_of("net"), "run-time"
    ),
    "disk-options": Command(
        "other options of the disk, until the next adjust", "volumes", _options_of("disk"), "run-time"
    ),
    "resource-options": Command(
        "other options of the resource, until the next adjust", "some", _options_of("options"), "run-time"
    ),
    "nbd-attach": Command("make its export /dev/nbdN, and keep it so", "device", _nbd_attach, "nbd"),
    "nbd-detach": Command(
        "write what is buffered, detach it", "device", _force("although it is in use, or can't be written"), "nbd"
    ),
    "status": Command("what is running, and how it is", "any", _status, "show"),
    "doctor": Command("what is wrong, in plain words, and which command mends it", "some", group="show"),
    "events2": Command("what is, and each change from then on, as drbdsetup events2 tells it", "any", _events2, "show"),
    "events": Command("the same in the words of DRBD 8.4's drbdsetup events", "any", _events, "show"),
    "top": Command("all that runs here at a glance, refreshed; q ends it", "none", _top, "show"),
    "metrics": Command("an exporter for Prometheus, of all that runs here", "none", _metrics, "show"),
    "proc-drbd": Command("the same in the words of /proc/drbd", "any", group="show"),
    "role": Command("Primary/Secondary", "volumes", group="show"),
    "state": Command("the old name of role", "volumes", group="show"),
    "cstate": Command("the connection, as in Connected", "volumes", group="show"),
    "dstate": Command("the disks, as in UpToDate/UpToDate", "volumes", group="show"),
    "wait-connect": Command("wait for the peer", "some", _timeout, "show"),
    "wait-con-int": Command("the same, of all resources, as at the start of a machine", "any", _timeout, "show"),
    "wait-sync": Command("wait until both copies are the same", "some", _wait_sync, "show"),
    "show": Command("what a running resource was configured with", "some", _show, "show"),
    "dump-xml": Command("the same as dump, as drbdadm's XML", "any", group="show"),
    "dump": Command("the configuration as it is understood", "any", _to_test, "show"),
    "create-md": Command("write fresh meta-data to a disk", "volumes", _create_md, "meta-data"),
    "dump-md": Command(
        "print the meta-data as text", "volumes", _force("although its log is unapplied"), "meta-data", reads=True
    ),
    "check-resize": Command("note the size of its disks, before they grow", "volumes", group="meta-data"),
    "wipe-md": Command("remove the meta-data from a disk", "volumes", _force("yes, do it (needed)"), "meta-data"),
    "apply-al": Command("apply the activity log after a crash (attach does it too)", "volumes", group="meta-data"),
    "get-gi": Command("the generation identifiers", "volumes", group="meta-data", reads=True),
    "show-gi": Command("the same, explained", "volumes", group="meta-data", reads=True),
    "set-gi": Command("write other generation identifiers", "volumes", _set_gi, "meta-data"),
    "sh-nop": Command("nothing: is the configuration good?", "any", _to_test, "scripts"),
    "sh-status": Command("how it is, as variables of a shell", "any", group="scripts"),
    "sh-resources": Command("the names of all resources of this node", "any", group="scripts"),
    "sh-resource": Command("the name", "some", group="scripts"),
    "sh-mod-parms": Command("parameters for the kernel's module", "any", group="scripts"),
    "sh-dev": Command("the name of the device node, were it the kernel's", "volumes", group="scripts"),
    "sh-udev": Command("what udev's rules ask for", "volumes", group="scripts"),
    "sh-minor": Command("the minor number", "volumes", group="scripts"),
    "sh-ll-dev": Command("the disk", "volumes", group="scripts"),
    "sh-md-dev": Command("where its meta-data is", "volumes", group="scripts"),
    "sh-md-idx": Command("the index of its meta-data", "volumes", group="scripts"),
    "sh-ip": Command("this node's address", "some", group="scripts"),
    "sh-lr-of": Command("the resource below a stacked one", "some", group="scripts"),
    "sh-b-pri": Command("promote it if become-primary-on says so", "some", group="scripts"),
}
"""Every verb, in the order of the help."""

GROUPS: Final = (
    ("process", "The process of a resource"),
    ("state", "Changes of state"),
    ("nbd", "As a block device of this machine"),
    ("show", "Looking and waiting"),
    ("meta-data", "Meta-data on disk"),
    ("run-time", "Options of what is running"),
    ("scripts", "For scripts (minor-N names a volume, too)"),
)
NAMES: Final = {
    "none": "",
    "one": "RES",
    "some": "{all|RES...}",
    "volumes": "{all|RES[/VNR]...}",
    "any": "[all|RES...]",
    "device": "RES[/VNR] [/dev/nbdN]",
}
"""What a command names, as it is shown."""

COMMON_OPTIONS: Final = (
    (
        ("-c", "--config-file"),
        "FILE",
        "config_path",
        "the configuration (default: /etc/pydrbd.conf, else /etc/drbd.conf)",
    ),
    (("--node",), "NAME", "node", "which 'on' section of it this node is (default: the host's name)"),
    (
        ("--run-dir",),
        "DIR",
        "run_dir",
        "where sockets, logs and pid files are (default: /run/pydrbd for root, $XDG_RUNTIME_DIR/pydrbd otherwise)",
    ),
    (("-d", "--dry-run"), "", "dry_run", "say what would be done, and don't do it"),
    (("-v", "--verbose"), "", "verbose", "say each step before it is done"),
    (
        ("-W", "--setup-option"),
        "OPTION",
        "setup_options",
        "an option of the command, as drbdadm hands one on: -W--force is --force (as is '-- --force' before a command)",
    ),
)
"""What every command takes, before or after it: names, metavar ("": it takes no value), attribute, help."""

DRBDADM_OPTIONS: Final = (
    (("-S", "--stacked"), "", "stacked", "refused: resources are not stacked"),
    (("-P", "--peer"), "NAME", "peer", "which of several hosts is the peer (said to up, it holds until down)"),
    (("-n", "--sh-varname"), "NAME", "unused", "not used, as by drbdadm"),
    (("-s", "--drbdsetup"), "FILE", "unused", "not used: there is no other program"),
    (("-m", "--drbdmeta"), "FILE", "unused", "not used: there is no other program"),
    (("-p", "--drbd-proxy-ctl"), "FILE", "unused", "not used: there is no other program"),
)
"""What every command takes besides, for scripts that were written for drbdadm."""
