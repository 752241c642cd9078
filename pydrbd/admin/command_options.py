"""The options that single commands have, besides those of every command; command_table.py says which has which."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from pydrbd.admin.colours import CHOICES
from pydrbd.limits import NBD_ATTACH_CONNECTIONS_MAX

__all__ = [
    "Adder",
    "adjust",
    "check",
    "connect",
    "create_md",
    "events",
    "events2",
    "force",
    "metrics",
    "nbd_attach",
    "new_current_uuid",
    "primary",
    "resize",
    "section_options",
    "serve",
    "set_gi",
    "show",
    "snapshot",
    "status",
    "timeout",
    "to_test",
    "top",
    "unsnapshot",
    "verify",
    "wait_sync",
    "witness",
]

Adder = Callable[[argparse.ArgumentParser], None]
"""Adds the options of one command."""


def force(words: str) -> Adder:
    return lambda parser: _flag(parser, "--force", words)


def primary(parser: argparse.ArgumentParser) -> None:
    words = "although its data is not known to be good (--overwrite-data-of-peer is its old name)"
    parser.add_argument("--force", "--overwrite-data-of-peer", "-o", action="store_true", help=words)


def _flag(parser: argparse.ArgumentParser, name: str, words: str) -> None:
    parser.add_argument(name, action="store_true", help=words)


def timeout(parser: argparse.ArgumentParser) -> None:
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


def wait_sync(parser: argparse.ArgumentParser) -> None:
    timeout(parser)
    _flag(parser, "--quiet", "show no progress")


def serve(parser: argparse.ArgumentParser) -> None:
    words = "where its log goes, 4 MiB and as much older at most (default: standard error, as for a journal)"
    parser.add_argument("--log-file", metavar="FILE", help=words)
    _flag(parser, "--bare", "attach and connect nothing until it is told to (as new-resource does)")


def status(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--json", "in drbdsetup 9's schema")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also what is as usual, and the NBD addresses"
    )  # fmt: skip
    _flag(parser, "--statistics", "also what was read, written, sent, ...")
    _color(parser)


def _color(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--color", choices=CHOICES, default="never", metavar="WHEN",
        help="states in colours: always (also without a word), auto (on a terminal), never (the default)",
    )  # fmt: skip


def events2(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--now", "what is, and no more")
    _flag(parser, "--poll", "at each n on standard input tell of new figures, too; with --now of everything")
    _flag(parser, "--statistics", "also what was read, written, sent, ...")
    _flag(parser, "--full", "all of an object at each change, and --statistics")
    _flag(parser, "--timestamps", "when, before each line")
    _flag(parser, "--diff", "what has changed as OLD->NEW")
    _color(parser)
    _flag(parser, "--json", "each line as an object of JSON")


def metrics(parser: argparse.ArgumentParser) -> None:
    words = "where: unix:PATH, tcp:HOST:PORT (default: pydrbd.toml's, else tcp:127.0.0.1:9942)"
    parser.add_argument("--listen", metavar="PLACE", help=words)
    _flag(parser, "--once", "print them, and end")


def witness(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", metavar="PLACE", help="where: tcp:HOST:PORT, unix:PATH")
    parser.add_argument("--state", metavar="DIR", required=True, help="where it keeps who has which lease, for ever")
    parser.add_argument("--key-file", metavar="FILE", help="the key that it shares with the nodes")
    words = "forget the lease NAME (RESOURCE:HOST,HOST): its holder is lost for ever; the witness must be stopped"
    parser.add_argument("--forget", metavar="NAME", help=words)


def top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--interval", dest="interval_s", type=_seconds, default=1.0, metavar="SECONDS", help="how often (1)"
    )
    _flag(parser, "--once", "one picture, and end")


def to_test(parser: argparse.ArgumentParser) -> None:
    words = "a file that is to be checked beside the configuration, as one that it includes"
    parser.add_argument("-t", "--config-to-test", dest="config_to_test", metavar="FILE", help=words)


def set_gi(parser: argparse.ArgumentParser) -> None:
    words = "what get-gi prints; a field that is empty or missing stays as it is (also as a word beside the names)"
    parser.add_argument("--gi", metavar="UUID:UUID:...", help=words)
    _flag(parser, "--force", "yes, do it (needed)")


def events(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--now", "what is, and no more")


def nbd_attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--uri", dest="uris", action="append", default=[], metavar="URI",
        help="a server of the export, as in nbd://alpha/r0; again for each that may become Primary "
        "(default: this machine's)",
    )  # fmt: skip
    parser.add_argument(
        "--dead-timeout", dest="dead_timeout_s", type=_count, default=86400, metavar="SECONDS",
        help="how long requests wait while no server is there, before they fail (86400)",
    )  # fmt: skip
    parser.add_argument(
        "-C", "--connections", type=_connections, default=1, metavar="N",
        help="how many the device has, of which it uses one for each processor (1)",
    )  # fmt: skip
    _flag(parser, "--force", "although there is a swap area on it, as to put something else there")
    _flag(parser, "--foreground", "be the helper that stays with the device, as for a service manager")


def create_md(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--force", "overwrite what is there")
    parser.add_argument("--al-stripes", type=_count, default=1, metavar="N", help="stripes of the activity log (1)")
    parser.add_argument(
        "--al-stripe-size-kB", dest="al_stripe_size_kib", type=_count, default=32, metavar="N", help="size of each (32)"
    )


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


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


def _connections(text: str) -> int:
    value = _count(text)
    if value > NBD_ATTACH_CONNECTIONS_MAX:
        raise ValueError
    return value


_connections.__name__ = f"number from 1 to {NBD_ATTACH_CONNECTIONS_MAX}"


def _stripe_kib(text: str) -> int:
    value = _count(text)
    if value % 4:
        raise ValueError
    return value


_stripe_kib.__name__ = "multiple of 4"
_seconds.__name__ = "number of seconds"
_count.__name__ = _count_or_none.__name__ = "number"


def adjust(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--skip-disk", "attach nothing")
    _flag(parser, "--skip-net", "connect nothing")
    _flag(parser, "--discard-my-data", "if it connects: after a split brain, give up what was written here alone")


def section_options(section: str) -> Adder:
    def add(parser: argparse.ArgumentParser) -> None:
        from pydrbd.config.options import SECTIONS

        for option in SECTIONS[section].values():
            words = "it has no effect in pydrbd" if not option.effective else f"see section {section} of pydrbd.conf(5)"
            parser.add_argument(f"--{option.name}", dest=option.name, metavar="VALUE", help=words)

    return add


def show(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--show-defaults", "also what is as by default")


def connect(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--discard-my-data", "after a split brain: give up what was written here alone")
    _flag(parser, "--tentative", "only say what would be synced, and stand alone again")


def resize(parser: argparse.ArgumentParser) -> None:
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
    words = "the activity log's stripes from now on"
    parser.add_argument("--al-stripes", type=_count, metavar="N", help=words)
    parser.add_argument(
        "--al-stripe-size-kB", "--al-stripe-size", dest="al_stripe_size_kib", type=_stripe_kib, metavar="N",
        help="and the size of each, in KiB",
    )  # fmt: skip


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


def new_current_uuid(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--clear-bitmap", "the peer's copy is equal: on a fresh connected pair, skip the first sync")


def verify(parser: argparse.ArgumentParser) -> None:
    _part(parser, "where the last one was cut off, else 0")
    _flag(parser, "--wait", "wait until it is over, and show how far it is; 6 if the copies differ")


def check(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--against-peer", "what to compare with (needed; there is nothing else)")
    _part(parser, "0")
    _flag(parser, "--json", "as an object of JSON, with all ranges that differ")
    words = "a picture, .png or .svg: what is the same, out of sync, not compared"
    parser.add_argument("--map", dest="map_path", metavar="FILE", help=words)


def snapshot(parser: argparse.ArgumentParser) -> None:
    _flag(parser, "--copy", "where a file system can't share blocks of files: a plain copy, however long it takes")
    _flag(parser, "--best-effort", "if there can be none, say so, and don't forbid the resync")


def unsnapshot(parser: argparse.ArgumentParser) -> None:
    words = "leave the newest N there (0)"
    parser.add_argument("--keep", type=_count_or_none, default=0, metavar="N", help=words)


def _part(parser: argparse.ArgumentParser, default: str) -> None:
    words = f"the first sector (default: {default}); 16M is a byte offset"
    parser.add_argument("--start", dest="start_sector", type=_sectors, metavar="S", help=words)
    parser.add_argument("--stop", dest="stop_sector", type=_sectors, metavar="S", help="the sector to stop before")


def _sectors(text: str) -> int:
    from pydrbd.config.options import Unit
    from pydrbd.config.values import parse_number

    value = parse_number(text, Unit.SECTORS)
    if value is None:
        raise ValueError
    return value


_sectors.__name__ = "number of sectors"
