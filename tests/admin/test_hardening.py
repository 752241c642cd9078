"""The installed units: how much they leave open, and that a node needs no more than its unit leaves it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.admin.test_process import ask

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
EXPOSURE_MAX = {"pydrbd@": 4.0, "pydrbd-nbd@": 3.5, "pydrbd-sbd": 3.6, "pydrbd-metrics": 2.0, "pydrbd-witness": 2.0}
"""In systemd's measure, from 0 to 10; below 5 it says OK. Handlers may do what an administrator wants done."""


def unit_text(name: str) -> str:
    return (ROOT / "systemd" / f"{name}.service.in").read_text().replace("@sbindir@", "/usr/sbin")


@pytest.mark.parametrize("name", EXPOSURE_MAX)
def test_a_unit_leaves_little_open(name: str, need, tmp_path: Path) -> None:
    """As systemd-analyze judges it."""
    path = tmp_path / f"{name.replace('@', '@r0')}.service"
    path.write_text(unit_text(name))
    words = [need("systemd-analyze"), "security", "--offline=true", "--no-pager", path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze can't judge a file")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX[name], done.stdout


def test_no_unit_dumps_what_is_secret() -> None:
    """A core has the shared secret in it."""
    assert "\nLimitCORE=0\n" in unit_text("pydrbd@")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give rights away")
def test_a_node_lives_with_the_rights_of_its_unit(node, need, processes) -> None:
    """The capabilities that the unit leaves it, and none from a program with setuid."""
    kept = re.findall(r"CAP_(\w+)", " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", unit_text("pydrbd@"), re.M)))
    assert len(kept) < 12
    rights = ",".join(["-all", *(f"+{name.lower()}" for name in kept)])
    assert node("create-md", "r0").code == 0
    words = [need("setpriv"), f"--bounding-set={rights}", "--no-new-privs", ROOT / ".venv/bin/python", "-m", "pydrbd"]
    words += ["serve", "r0", "-c", node.config, "--node", "alpha", "--run-dir", node.run_dir]
    process = processes.start(words, stderr=subprocess.PIPE, text=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if "r0: up as alpha" in line:
            break
    assert "up as" in said[-1], "".join(said)
    bounding = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "CapBnd" in line)
    assert int(bounding.split()[1], 16).bit_count() == len(kept)
    assert node("primary", "--force", "r0").code == 0
    assert '"role": "Primary"' in ask(node, "status")
    assert node("secondary", "r0").code == 0 and node("down", "r0").code == 0
    assert process.wait(LIMIT_S) == 0
