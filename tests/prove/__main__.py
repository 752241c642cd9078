"""Prove for as long as you like: stories, broken writes, bytes from strangers, canaries; a table of the promises.

python -m tests.prove --time 10m          (make prove PROVE=10m)
python -m tests.prove --only "torn meta-data" --seed 7 --once
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.harness.situations import SITUATIONS, SOMETIMES
from tests.prove import canary_hunt, clocks, fuzz, handlers, kernels, meetings, model, pieces, stories, torn
from tests.prove.quote import REPORT
from tests.prove.run import Outcome, Rung, run_in_processes

__all__ = ["PROMISES", "RUNGS", "table"]

RUNGS: tuple[Rung, ...] = (
    *stories.RUNGS, *meetings.RUNGS, *model.RUNGS, *pieces.RUNGS, *clocks.RUNGS, *handlers.RUNGS,
    *kernels.RUNGS, *torn.RUNGS, *fuzz.RUNGS, *canary_hunt.RUNGS,
)  # fmt: skip

PROMISES = {
    "A1": "reads and writes are linearizable", "A2": "acknowledged writes survive either node",
    "A3": "no read goes back", "A4": "what was flushed survives the power of both",
    "A5": "no sector holds what nobody wrote", "A6": "what was flushed is whole after a crash",
    "A7": "overlapping writes end the same on both", "A8": "errors are honest", "A9": "a failed flush is final",
    "A10": "what was zeroed reads as zeros", "A11": "a client's last writes happen once or never",
    "B1": "the copies are equal", "B2": "every difference is known of", "B3": "the log before the data",
    "B4": "an extent is forgotten late", "B5": "a bit is cleared late", "B6": "a resync ends with equal copies",
    "B7": "a sync target is Inconsistent on disk", "B8": "a resync broken off loses no bit",
    "B9": "a verify finds what differs, nothing else", "B10": "a crash marks what was hot, nothing else",
    "C1": "no old data is served", "C2": "one Primary that answers writes", "C3": "a split brain is never merged",
    "C4": "both ends come to the same verdict", "C5": "resync goes from new to old",
    "C6": "a new generation before a lone write's answer", "C7": "strangers are refused",
    "C8": "frozen until a verdict counts", "C9": "who is called dead is dead",
    "C10": "a peer that is out of reach is not called dead",
    "C11": "a disk set back takes the newer data, or is refused", "D1": "any bytes are taken or refused",
    "D2": "what we say is understood", "D3": "what a kernel said is read as it was sent",
    "D4": "C does as its Python twin", "D5": "when faults stop, all is well soon",
    "D6": "a peer that stalls is left in time", "D7": "nothing is left over", "D8": "a clean stop resyncs nothing",
    "D9": "a seed tells one story", "D10": "a torn write of meta-data is the old or the new",
    "D11": "an older peer is met in its words",
}  # fmt: skip
"""All of them, as far as one process can check them: D3 with kernels in guests is for tests/interop."""

LONG_S = 1800
"""README.md quotes runs of this length only: the report of a shorter one goes elsewhere."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """`90s`, `10m`, `8h` in seconds. Raises ValueError."""
    return float(text[:-1]) * _UNITS[text[-1]] if text[-1:] in _UNITS else float(text)


def table(outcome: Outcome, elapsed_s: float) -> str:
    """Rates, promises, canaries, failures: what a person wants to see."""
    figures = outcome.figures
    lines = [f"{'rung':42} {'seeds':>8} {'seconds':>8} {'a second':>9}"]
    for name, count in outcome.seeds.items():
        spent = outcome.seconds[name]
        lines.append(f"{name:42} {count:8} {spent:8.0f} {count / max(spent, 0.001):9.1f}")
    lines += ["", f"{'promise':55} {'checked':>10} {'failed':>7}"]
    checked, failed = outcome.checked(), [failure.promise for failure in outcome.failures]
    for promise, words in PROMISES.items():
        lines.append(f"{promise:4} {words:50} {checked.get(promise, 0):10} {failed.count(promise):7}")
    lines += [
        "",
        f"{figures['replies']} answers to clients, {figures['kills']} kills, {figures['power losses']} power losses, "
        f"{figures['cuts']} cuts, {figures['disk errors']} disk errors, {figures['crash states']} crash states, "
        f"{figures['fuzz inputs']} inputs, {figures['model states']} states of the small model, "
        f"{figures['quorum model states']} of the one with a witness, in {elapsed_s:.0f} s "
        f"({outcome.cpu_s:.0f} s of processors)",
        *canary_hunt.describe(outcome),
        *situations(outcome),
    ]
    for failure in outcome.failures:
        lines.append(f"FAIL {failure.promise} {failure.rung} seed={failure.seed}: {failure.text}")
        lines.append(f"     replay: {failure.replay}")
    return "\n".join(lines)


def sightings(outcome: Outcome) -> dict[str, int]:
    """How many stories have met each situation."""
    return {name: outcome.figures[SOMETIMES + name] for name in SITUATIONS}


def situations(outcome: Outcome) -> list[str]:
    """The same as lines; those that none has met come last, as never."""
    counts = sightings(outcome)
    seen = sum(map(bool, counts.values()))
    lines = ["", f"{'situation':64} {'stories':>8}   ({seen} of {len(counts)} seen)"]
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        lines.append(f"{name:64} {count or 'never':>8}")
    return lines


def commit() -> str:
    """Which state of the sources this is, or nothing where git can't tell."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__.splitlines()[0])
    parser.add_argument("--time", type=seconds_of, default=60.0, metavar="TIME", help="such as 90s, 10m, 8h")
    parser.add_argument("--seed", type=int, help="the first one (default: drawn)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a processor)")
    parser.add_argument("--only", choices=[rung.name for rung in RUNGS], help="one rung")
    parser.add_argument("--once", action="store_true", help="one seed of one rung, to play a failure again")
    parser.add_argument(
        "--json", type=Path, help=f"where the report goes (default: {REPORT.name} if it has {LONG_S // 60} minutes)"
    )
    words = parser.parse_args()
    rungs = [rung for rung in RUNGS if words.only in (None, rung.name)]
    first = random.randrange(1 << 31) if words.seed is None else words.seed
    if words.once:
        if len(rungs) != 1 or words.seed is None:
            parser.error("--once needs --only and --seed")
        rungs[0].work(first, Outcome().figures)
        return 0
    print(f"from seed {first}, {words.time:.0f} s on {words.jobs} processes", flush=True)
    began, began_at = time.monotonic(), time.strftime("%Y-%m-%d")
    outcome = run_in_processes(rungs, words.time, first, words.jobs)
    elapsed_s = time.monotonic() - began
    print(table(outcome, elapsed_s))
    report = outcome.as_json(
        date=began_at, commit=commit(), first_seed=first, seconds=round(elapsed_s), jobs=words.jobs,
        situations=sightings(outcome),
    )
    path = words.json or (REPORT if words.time >= LONG_S else Path("build") / REPORT.name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(report)
    print(f"written to {path}" + ("; python -m tests.prove.quote puts it into README.md" if path == REPORT else ""))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
