"""What is wrong in the command line or in the configuration is one line and an exit code, also in nbdkit."""

from __future__ import annotations

import subprocess

import pytest

from tests.nbdkit.conftest import LIMIT_S, ROOT

pytestmark = pytest.mark.interop


@pytest.mark.parametrize(
    ("parameters", "code", "words"),
    [
        (["resource=other"], 78, "other"),
        (["colour=red"], 64, "unknown parameter 'colour': there are config, "),
        (["primary=perhaps"], 64, "primary is true or false"),
    ],
)
def test_a_fault_is_one_line(pair, parameters, code, words):
    """No traceback around the words."""
    done = subprocess.run(
        pair.nbdkit_words(*parameters, options=("-U", str(pair.socket))),
        env=pair.env, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == code and line.startswith("pydrbd: ") and words in line
