"""One installation for all tests that only look at it, or run what is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600


def make(target: str, destination: Path) -> None:
    """`make TARGET` as a packager calls it."""
    done = subprocess.run(
        ["make", "-C", ROOT, target, f"DESTDIR={destination}"],
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where DESTDIR was."""
    if shutil.which("make") is None:
        pytest.skip("not installed: make")
    place = tmp_path_factory.mktemp("dest")
    make("install", place)
    yield place
    shutil.rmtree(place)
