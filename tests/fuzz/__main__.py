"""The long run: `python -m tests.fuzz --inputs 10000000 --sessions 100000` (make fuzz).

Inputs go to the parsers, each target an equal share, on all processors; sessions to a live pair with a good client
beside them (tests/fuzz/live.py). What is found is written to a directory, and said; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import traceback
from pathlib import Path

from tests.fuzz.live import play_sessions
from tests.fuzz.share import GROWTH_BYTES_MAX, play
from tests.fuzz.targets import TARGETS


def meet_clients(count: int, seed: int) -> bool:
    """Whole sessions on a live pair."""
    try:
        figures = play_sessions(count, seed, lambda line: print(line, flush=True))
    except Exception:
        print(f"sessions on a live pair: FAILED\n{traceback.format_exc()}", flush=True)
        return False
    print(
        f"{figures.sessions} sessions on a live pair in {figures.spent_s:.0f} s "
        f"({figures.sessions / figures.spent_s:.0f}/s), fio verified {figures.fio_rounds} times beside them: good"
    )
    for name, before, after in figures.looks:
        print(f"  {name}: {before} at the beginning, {after} at the end")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="for all targets together")
    parser.add_argument("--sessions", type=int, default=0, help="on a live pair")
    parser.add_argument("--seed", type=int, help="the same inputs again")
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where inputs go that were found")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    names = options.target or [target.name for target in TARGETS]
    print(f"seed {seed}: {options.inputs} inputs, {len(names)} targets", flush=True)
    good = True
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        shares = [pool.apply_async(play, (name, seed, options.inputs // len(names))) for name in names]
        total = 0
        for waiting in shares:
            share = waiting.get()
            total += share.inputs
            good = good and not share.findings and share.grown_bytes < GROWTH_BYTES_MAX
            print(
                f"{share.target:14} {share.inputs:9} inputs {share.inputs / max(share.spent_s, 0.01):8.0f}/s "
                f"{share.corpus:5} kept {share.places:6} places, slowest {1000 * share.slowest_s:6.1f} ms, "
                f"grown {share.grown_bytes >> 10} KiB, {len(share.findings)} findings",
                flush=True,
            )
            for number, finding in enumerate(share.findings):
                options.keep.mkdir(parents=True, exist_ok=True)
                path = options.keep / f"{finding.target}-{seed}-{number}.bin"
                path.write_bytes(finding.content)
                print(f"{path}:\n{finding.text}", flush=True)
    print(f"{total} inputs in all: {'good' if good else 'FAILED'}", flush=True)
    if options.sessions:
        good = meet_clients(options.sessions, seed) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
