"""pydrbd-fence-peer in clusters that are drawn, and that change while it looks: what it says is so (C10).

It is the script itself that runs, against stand-ins for Pacemaker's commands (tests/fence/plays.py).
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fence.plays import ACTIVE, NO_VERDICT, OUTDATED, STONITHED, Play
from tests.harness.checkers import Violation
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS"]

_ROLES = ("", "", "Unpromoted", "Promoted")
_DISKS = ("UpToDate", "UpToDate", "Consistent", "Outdated", "Inconsistent", "Diskless")
_ALLOWED = (NO_VERDICT, OUTDATED, ACTIVE, STONITHED)
_LOOKS = 3


def _draw_node(draw: random.Random) -> dict[str, Any]:
    flags: dict[str, Any] = {name: draw.random() < 0.7 for name in ("online", "expected_up")}
    flags |= {name: draw.random() < 0.25 for name in ("unclean", "pending")}
    return {
        **flags, "role": draw.choice(_ROLES), "shot": draw.choice(("", "beta", "gamma")),
        "quorum": draw.random() < 0.9, "dc": draw.random() < 0.9,
    }  # fmt: skip


def ask(draw: random.Random, directory: Path) -> None:
    """One verdict. Raises Violation."""
    play, mine = Play(directory), draw.choice(_DISKS)
    looks = [_draw_node(draw) for _ in range(_LOOKS if draw.random() < 0.3 else 1)]
    for number, node in enumerate(looks[:-1], 1):
        play.node(f"monitor.{number}", **node)
    play.node(**looks[-1])
    play.disks(mine, "DUnknown")
    if draw.random() < 0.3:
        (directory / "answer").unlink()
    code = play.run(patience_s=1.5 if len(looks) > 1 else 0.0)

    def require(holds: bool, text: str) -> None:
        if not holds:
            raise Violation("C10", f"{text}; {mine}, looks: {looks}; it said {play.said!r}")

    require(code in _ALLOWED, f"the handler ends with {code}")
    if code == STONITHED:
        gone = [n for n in looks if n["shot"] == "beta" and not (n["online"] or n["unclean"] or n["pending"])]
        require(bool(gone), "a peer is called dead that nobody has shot")
    if code in (OUTDATED, STONITHED):
        require(mine in ("UpToDate", "Consistent"), "a peer is fenced for a disk that is not good")
        require(play.is_banned, "a peer is called fenced, and may be promoted")
        require(any(node["quorum"] and node["dc"] for node in looks), "a verdict without quorum")


def judge(seed: int, figures: Counter[str]) -> None:
    """One verdict in a cluster of its own. Raises Broken."""
    with tempfile.TemporaryDirectory(prefix="pydrbd-prove-") as directory:
        try:
            ask(random.Random(f"handlers/{seed}"), Path(directory))
        except Exception as error:
            replay = f"python -m tests.prove --only 'handlers' --seed {seed} --once"
            raise Broken("C10", f"{type(error).__name__}: {error}", replay) from error
    figures["checked C10"] += 1


RUNGS = (Rung("handlers", 0.2, judge),)
