"""`python -m tests.endurance --minutes 30`: random operations on a kernel and pydrbd, until time is up or it fails.

The seed decides which operations come in which order. It is drawn and printed; `--seed` plays the same again.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.endurance.nodes import make_nodes
from tests.endurance.operations import walk
from tests.endurance.player import Player
from tests.lab.lab import Lab, why_not


def endure(seed: int, minutes: float) -> int:
    """One run, told on stdout; the exit code."""
    archive = Path(tempfile.mkdtemp(prefix=f"pydrbd-endurance-{seed}-"))
    print(f"seed {seed}; logs in {archive}", flush=True)
    with Lab() as lab:
        player = Player(make_nodes(lab), archive)
        try:
            play(player, seed, minutes * 60)
        except KeyboardInterrupt:
            print(f"\ninterrupted; again: make endurance SEED={seed}")
            return 130
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            print(player.judge.describe())
            with contextlib.suppress(Exception):
                player.judge.keep()
            print(f"\nFAILED. Logs in {archive}; again: make endurance SEED={seed}", flush=True)
            return 1
        finally:
            with contextlib.suppress(Exception):
                player.close()
    shutil.rmtree(archive)
    print(summary(player))
    return 0


def play(player: Player, seed: int, seconds: float, steps_least: int = 1) -> None:
    """Step by step, until this time is over, so many steps are done, and the pair is at a quiet point."""
    began = time.monotonic()
    player.start(seed)
    for number, step in enumerate(walk(seed, player.model), 1):
        took = int(time.monotonic() - began)
        print(f"{number:5} {took // 60:02}:{took % 60:02} {step!s:32} | ", end="", flush=True)
        player.carry_out(step)
        print(player.judge.states(), flush=True)
        over = time.monotonic() - began > seconds and number >= steps_least
        if over and step.operation.name == "wait_in_sync":
            return


def summary(player: Player) -> str:
    """What was done, when all was well."""
    counts = player.counts
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return (
        f"passed: {counts.total()} operations, {player.written} writes and more under stress, "
        f"0 differences at {counts['wait_in_sync']} quiet points, no unexpected line in either log\n{kinds}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if (reason := why_not()) is not None:
        print(f"no lab here: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return endure(secrets.randbits(32) if options.seed is None else options.seed, options.minutes)


if __name__ == "__main__":
    sys.exit(main())
