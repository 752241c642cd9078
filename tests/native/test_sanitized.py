"""The tests beside this one once more, with C code that reports every wrong access and undefined operation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.sanitized_extension import RUNTIME_OPTIONS
from tests.native.soak import COMPARE, library_paths

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests/native"

WRONG_ACCESS = """
import os, tests.native.sanitized_extension as extension
extension.load(os.environ["PYDRBD_NATIVE"])
from pydrbd._native import ffi, lib
print(lib.pydrbd_bitmap_count(ffi.new("uint8_t[100]"), 0, 800 + {excess}))
"""


def sanitizer_libraries():
    """libasan and libubsan of the compiler that builds the extension; skips where they are not installed."""
    try:
        return library_paths()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler that knows its sanitizers: {error}")
    except SystemExit as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """Runs Python words in a process with the sanitized extension."""
    libraries = sanitizer_libraries()
    words = [sys.executable, "native/build.py", str(tmp_path_factory.mktemp("sanitized"))]
    environment = os.environ | {"PYDRBD_SANITIZE": "1"}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    environment = os.environ | RUNTIME_OPTIONS | {"PYDRBD_NATIVE": built.stdout.strip(), "LD_PRELOAD": libraries}

    def run(*words):
        return subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_a_wrong_access_would_be_reported(sanitized):
    """One bit past the end of a buffer, which no wrapper lets through, is seen; so silence means something."""
    assert sanitized("-c", WRONG_ACCESS.format(excess=0)).stdout == "0\n"
    wrong = sanitized("-c", WRONG_ACCESS.format(excess=1))
    assert wrong.returncode != 0
    assert "heap-buffer-overflow" in wrong.stderr and "bitmap.c" in wrong.stderr


@pytest.mark.timeout(300)
def test_the_native_tests_pass_under_the_sanitizers(sanitized):
    """Every function against its twin, every refusal, every cut: no access and no operation that C does not define."""
    done = sanitized(
        *["-m", "pytest", "-q", "-p", "tests.native.sanitized_extension", "-p", "no:cacheprovider"],
        *["--hypothesis-profile=sanitized", f"--ignore={HERE}/test_sanitized.py", HERE],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


def test_c_does_as_its_twins_by_the_thousand(sanitized):
    """`make soak CASES=...` for a moment: the same answers, the same bytes, no complaint."""
    done = sanitized("-c", COMPARE, "1", "2000")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "C did as its twins" in done.stdout and not done.stderr
