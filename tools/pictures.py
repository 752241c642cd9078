"""The pictures in README.md: what `pydrbd top` and `pydrbd doctor` show, drawn from made-up states.

    python tools/pictures.py [DIRECTORY]        writes top.svg and doctor.svg there (default: docs/pictures)
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from pydrbd.admin.doctor import diagnose  # noqa: E402
from pydrbd.admin.top import frame  # noqa: E402
from pydrbd.admin.verbs_doctor import report  # noqa: E402
from tests.admin.snapshots import a_snapshot, a_volume, alone, syncing  # noqa: E402

COLUMNS = 132


def svg(title: str, *parts: Any) -> str:
    """What a terminal would show. The id is fixed, so that the same picture is the same file."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), highlight=False)
    for part in parts:
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)
    return console.export_svg(title=title, unique_id=title.replace(" ", "-"))


def top() -> str:
    log = {"slot_count": 1237, "hot_count": 310, "eviction_count": 0}
    busy = a_volume(activity_log=log, pending={"upper": 32, "lower": 4, "peer": 30, "unacked": 0})
    split = {"volume": 0, "my_bits": 310, "peer_bits": 77, "my_role": "Primary", "peer_role": "Secondary"}
    found = [
        a_snapshot(busy, name="vm-disks"),
        syncing("Secondary", done=62) | {"name": "mail"},
        alone("StandAlone", out_of_sync_bits=310) | {"name": "web", "split_brain": split},
    ]
    speed = {("vm-disks", 0): {"read": 41e6, "written": 87e6, "sent": 87e6, "received": 0.0}}
    speed[("mail", 0)] = {"read": 0.0, "written": 118e6, "sent": 0.0, "received": 118e6}
    return svg("pydrbd top", frame(found, speed, title="pydrbd on alpha, 03:12:45", width=COLUMNS))


def doctor() -> str:
    split = {"volume": 0, "my_bits": 310, "peer_bits": 77, "my_role": "Primary", "peer_role": "Secondary"}
    snapshot = alone("StandAlone", out_of_sync_bits=310) | {"name": "web", "split_brain": split}
    known = {"handlers": frozenset({"fence-peer"}), "fencing": frozenset({"resource-only"})}
    found = diagnose(snapshot, since="2026-11-26 02:58:31", **known)
    return svg("pydrbd doctor web", *report("web", "alpha", found))


if __name__ == "__main__":
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/pictures"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "top.svg").write_text(top())
    (directory / "doctor.svg").write_text(doctor())
