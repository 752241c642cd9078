"""What `pydrbd top` shows: all resources of a node, and of their peers what this node knows, as one table.

Pure: from snapshots and those of a moment ago. Rates come from the difference of their counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pydrbd.admin.progress import format_bytes, format_duration
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES

__all__ = ["frame", "rates"]

Values = dict[str, Any]

_GOOD: Final = "green"
_MEDIUM: Final = "yellow"
_BAD: Final = "bold red"
_STYLES: Final[Mapping[str, str]] = {
    "UpToDate": _GOOD,
    "Connected": _GOOD,
    "Established": _GOOD,
    "Primary": "bold",
    "Consistent": _MEDIUM,
    "SyncSource": _MEDIUM,
    "SyncTarget": _MEDIUM,
    "VerifyS": _MEDIUM,
    "VerifyT": _MEDIUM,
    "Connecting": _MEDIUM,
    "Secondary": "",
}
"""How a word looks; one that is not here is bad news."""

_FIGURES: Final = ("read/s", "write/s", "net/s", "busy", "log")
_ALL: Final = ("resource", "role", "disk", "peer", "link", "out of sync", "sync", *_FIGURES)
_NARROW: Final = ("resource", "role", "disk", "peer", "link", "sync")
_WIDE_COLUMNS: Final = 120
_COUNTERS: Final = ("read", "written", "sent", "received")
_BAR_COLUMNS: Final = 12


def rates(before: Sequence[Values], now: Sequence[Values], elapsed_s: float) -> dict[tuple[str, int], dict[str, float]]:
    """(resource, volume) to bytes a second of each counter; 0 for what was not there before, or has begun anew."""
    old = {(data["name"], volume["vnr"]): volume["counters"] for data in before for volume in data["volumes"]}
    found = {}
    for data in now:
        for volume in data["volumes"]:
            key, counters = (data["name"], volume["vnr"]), volume["counters"]
            then = old.get(key, counters)
            moved = {name: max(0, counters[name] - then[name]) for name in _COUNTERS}
            found[key] = {
                name: count * SECTOR_SIZE_BYTES / elapsed_s if elapsed_s > 0 else 0.0 for name, count in moved.items()
            }
    return found


def frame(
    found: Sequence[Values],
    speed: Mapping[tuple[str, int], Mapping[str, float]],
    *,
    title: str,
    width: int,
    hint: str = "",
) -> RenderableType:
    """One picture, `width` columns wide: in a narrow one some figures are left out."""
    shown = _ALL if width >= _WIDE_COLUMNS else _NARROW
    table = Table(title=title, title_justify="left", expand=True, pad_edge=False, box=None, header_style="bold cyan")
    for name in shown:
        table.add_column(name, justify="right" if name in _FIGURES else "left", no_wrap=True)
    for data in found:
        for volume in data["volumes"]:
            moved = speed.get((data["name"], volume["vnr"]), {})
            cells = dict(zip(_ALL, _row(data, volume, moved, bar=shown is _ALL), strict=True))
            table.add_row(*(cells[name] for name in shown))
    parts: list[RenderableType] = [table]
    if not found:
        parts.append(Text("No resource is running here.", style=_MEDIUM))
    parts += [line for data in found if (line := _trouble(data)) is not None]
    if hint:
        parts.append(Text(f"\n{hint}", style="dim"))
    return Group(*parts)


def _row(data: Values, volume: Values, speed: Mapping[str, float], *, bar: bool) -> list[RenderableType]:
    name = data["name"] if volume["vnr"] == 0 else f"{data['name']}/{volume['vnr']}"
    peer = Text.assemble(f"{data['peer']} ", _word(volume["peer_role"]), " ", _word(volume["peer_disk"]))
    stale = volume["out_of_sync_bits"] * BIT_SIZE_BYTES
    pending = volume["pending"]
    connected = data["connection"] == "Connected"
    return [
        Text(name, style="bold"),
        _word(volume["role"]),
        _word(volume["disk"]),
        peer,
        _word(volume["replication"] if connected else data["connection"]),
        Text(format_bytes(stale) if stale else "-", style=_MEDIUM if stale else "dim"),
        _sync(volume, bar=bar),
        _rate(speed.get("read", 0)),
        _rate(speed.get("written", 0)),
        _rate(speed.get("sent", 0) + speed.get("received", 0)),
        Text(f"{pending['upper']}/{pending['lower']}/{pending['peer']}"),
        _log(volume["activity_log"]),
    ]


def _word(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, _BAD))


def _rate(bytes_per_s: float) -> Text:
    return Text(format_bytes(bytes_per_s) if bytes_per_s else "-", style="" if bytes_per_s else "dim")


def _sync(volume: Values, *, bar: bool) -> RenderableType:
    """A bar, how much, and how long still."""
    running = volume["resync"] or volume.get("verify")
    if not running:
        return Text("-", style="dim")
    left = running.get("seconds_left")
    words = f"{running['percent_done']:.0f}%" + (f" {format_duration(left)}" if left is not None else "")
    if not bar:
        return Text(words)
    line = Table.grid()
    line.add_row(ProgressBar(total=100, completed=running["percent_done"], width=_BAR_COLUMNS), Text(f" {words}"))
    return line


def _log(log: Values | None) -> Text:
    """How full the activity log is: when it is, each new extent costs a write to the log, and pushes another out."""
    if log is None or not log["slot_count"]:
        return Text("-", style="dim")
    percent = 100 * log["hot_count"] // log["slot_count"]
    return Text(f"{percent}%", style=_MEDIUM if percent >= 90 else "")


def _trouble(data: Values) -> Text | None:
    """What needs somebody, in a line below the table."""
    if data["split_brain"] is not None:
        words = "split brain"
    elif data["suspended_reasons"]:
        words = f"all I/O is held back ({', '.join(data['suspended_reasons'])})"
    elif any(volume.get("fails") for volume in data["volumes"]):
        words = "all requests fail, there is no quorum"
    elif data["connection"] == "StandAlone":
        words = f"stands alone: {data['connection_reason'] or 'disconnected'}"
    else:
        return None
    return Text(f"\n{data['name']}: {words}; 'pydrbd doctor {data['name']}' says more", style=_BAD)
