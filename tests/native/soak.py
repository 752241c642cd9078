"""The tests beside this one for as long as you like, under the sanitizers, with new random batches in every round.

    python -m tests.native.soak --minutes 10        (make soak MINUTES=10)
    python -m tests.native.soak --cases 10000000    (make soak CASES=10000000)

A round runs every test once and every property with EXAMPLES examples, drawn from a seed of its own; a failure prints
the seed. With `--cases` C is compared with its twins so many times instead (tests/native/differential.py).
PYDRBD_SANITIZE's compiler libraries must be there (they come with gcc).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.native.sanitized_extension import RUNTIME_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests/native"
EXAMPLES = 500
COMPARE = """
import os, sys, tests.native.sanitized_extension as extension
extension.load(os.environ["PYDRBD_NATIVE"])
from tests.native.differential import work
work(int(sys.argv[1]), int(sys.argv[2]))
"""
LIBRARIES = ("libasan.so", "libubsan.so")


def library_paths() -> str:
    """libasan and libubsan of the compiler that builds the extension. Raises SystemExit where they are not there."""
    paths = []
    for name in LIBRARIES:
        words = [*os.environ.get("CC", "cc").split(), f"-print-file-name={name}"]
        path = Path(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())
        if not path.is_absolute():
            raise SystemExit(f"{name} is not installed: it comes with gcc")
        paths.append(str(path.resolve()))
    return " ".join(paths)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.native.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="of the first round; the next one's is one more")
    parser.add_argument("--cases", type=int, default=0, help="comparisons of C with its twins, instead of the tests")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as directory:
        words = [sys.executable, "native/build.py", directory]
        sanitize = os.environ | {"PYDRBD_SANITIZE": "1"}
        built = subprocess.run(words, cwd=ROOT, env=sanitize, capture_output=True, text=True, check=True)
        environment = os.environ | RUNTIME_OPTIONS
        environment |= {
            "PYDRBD_NATIVE": built.stdout.strip(),
            "LD_PRELOAD": library_paths(),
            "PYDRBD_SOAK": str(EXAMPLES),
        }
        if arguments.cases:
            return compare(arguments.cases, seed, environment)
        rounds = 0
        while time.monotonic() < end:
            if not play(seed + rounds, environment):
                return 1
            rounds += 1
            left_s = max(0.0, end - time.monotonic())
            print(f"round {rounds} (seed {seed + rounds - 1}): clean; {left_s:.0f} s left", flush=True)
    print(f"{rounds} rounds of {EXAMPLES} random examples for every property: no difference, no wrong access")
    return 0


def compare(cases: int, seed: int, environment: dict[str, str]) -> int:
    """C and its twins in a process for each processor; 1 if they differ somewhere, or the sanitizers complain."""
    count, began = os.cpu_count() or 1, time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", COMPARE, str(seed + one), str(-(-cases // count))], cwd=ROOT, env=environment
        )
        for one in range(count)
    ]
    codes = [process.wait() for process in running]
    end = "FAILED" if any(codes) else "no difference, no wrong access"
    print(f"{cases} cases in {time.monotonic() - began:.0f} s: {end}")
    return int(any(codes))


def play(seed: int, environment: dict[str, str]) -> bool:
    """One round; False if a test failed."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.native.sanitized_extension", "-p", "no:cacheprovider"]
    words += ["--hypothesis-profile=soak", f"--hypothesis-seed={seed}", f"--ignore={HERE}/test_sanitized.py", HERE]
    words += ["--timeout=0", "-o", "faulthandler_timeout=0"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not re.search(r"\d+ passed", done.stdout):
        print(done.stdout[-6000:], done.stderr[-6000:], f"again: python -m tests.native.soak --seed {seed}", sep="\n")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
