"""The long run: `python -m tests.fuzz --inputs 10000000 --sessions 100000` (make fuzz).

Inputs go to the parsers, each target an equal share, on all processors; sessions to a live node with a good client
beside them (tests/nbd/test_fuzz.py). What is found is written to a directory, and said; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.share import GROWTH_BYTES_MAX, play
from tests.fuzz.targets import TARGETS
from tests.nbd.test_fuzz import SESSIONS_PER_ROUND


def play_sessions(count: int, seed: int) -> bool:
    """Whole sessions on a live node, as its test plays them."""
    rounds = -(-count // SESSIONS_PER_ROUND)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=0", f"--rounds={rounds}"]
    words += [f"--seed={seed}", "tests/nbd/test_fuzz.py", "-k", "live_node"]
    began = time.monotonic()
    done = subprocess.run(words, cwd=Path(__file__).parents[2], check=False)
    took_s = time.monotonic() - began
    print(
        f"{rounds * SESSIONS_PER_ROUND} sessions on a live node in {took_s:.0f} s: "
        f"{'FAILED' if done.returncode else 'good'}"
    )
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="for all targets together")
    parser.add_argument("--sessions", type=int, default=0, help="on a live node")
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
        good = play_sessions(options.sessions, seed) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
