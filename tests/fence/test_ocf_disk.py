"""ocf:pydrbd:disk, as Pacemaker calls it: by environment and exit code, with real processes behind it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.runtime.test_rendezvous import free_ports

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "fence" / "ocf" / "disk"
SCHEMAS = Path("/usr/share/resource-agents")
OCF_LIB = Path("/usr/lib/ocf/lib/heartbeat")
LIMIT_S = 90
RUNNING, PROMOTED, NOT_RUNNING, GENERIC, UNIMPLEMENTED, CONFIGURED = 0, 8, 7, 1, 3, 6

pytestmark = pytest.mark.skipif(not (OCF_LIB / "ocf.py").exists(), reason="resource-agents is not installed")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The agent as a module, to look at its tables."""
    monkeypatch.syspath_prepend(str(OCF_LIB))
    loader = importlib.machinery.SourceFileLoader("ocf_disk", str(AGENT))
    spec = importlib.util.spec_from_loader("ocf_disk", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


class Node:
    """One node of a pair, and the agent on it."""

    def __init__(self, directory: Path, name: str, config: Path) -> None:
        self.run_dir = directory / f"run-{name}"
        self.program = directory / "pydrbd"
        self.program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pydrbd "$@"\n')
        self.program.chmod(0o755)
        self.base = [str(self.program), "-c", str(config), "--node", name, "--run-dir", str(self.run_dir)]
        self.environment = {
            **os.environ,
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RESOURCE_INSTANCE": "disk",
            "OCF_RESKEY_drbd_resource": "r0",
            "OCF_RESKEY_drbdconf": str(config),
            "OCF_RESKEY_run_dir": str(self.run_dir),
            "OCF_RESKEY_node": name,
            "OCF_RESKEY_program": str(self.program),
            "OCF_RESKEY_wfc_timeout": "1",
            "OCF_RESKEY_CRM_meta_timeout": "20000",
        }

    def agent(self, action: str, **changed: str) -> int:
        environment = {**self.environment, **changed}
        done = subprocess.run(
            [AGENT, action], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        self.said = done.stdout + done.stderr
        return done.returncode

    def pydrbd(self, *words: str) -> None:
        subprocess.run([*self.base, *words, "r0"], check=True, capture_output=True, timeout=LIMIT_S)

    @property
    def pid(self) -> int:
        return int((self.run_dir / "r0.pid").read_text())


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for whoever adopted it to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def nodes(short_tmp: Path):
    """Two nodes with fresh disks; whatever runs afterwards is ended."""
    config = short_tmp / "r0.res"
    hosts = "".join(
        f"on {name} {{ device minor 0; disk {short_tmp}/{name}.img; meta-disk internal; address 127.0.0.1:{port}; }}\n"
        for name, port in zip(("alpha", "beta"), free_ports(2), strict=True)
    )
    config.write_text(f"resource r0 {{ net {{ connect-int 1; ping-int 1; }}\n{hosts}}}\n")
    pair = [Node(short_tmp, name, config) for name in ("alpha", "beta")]
    for node, name in zip(pair, ("alpha", "beta"), strict=True):
        with (short_tmp / f"{name}.img").open("wb") as disk:
            disk.truncate(8 << 20)
        node.pydrbd("create-md")
    yield pair
    for node in pair:
        if (node.run_dir / "r0.pid").exists() and not has_ended(node.pid):
            os.kill(node.pid, signal.SIGCONT)
            node.pydrbd("down", "--force")


def a_status(role: str, mine: str, theirs: str | None) -> dict[str, Any]:
    links = [{"peer_devices": [{"peer-disk-state": theirs}]}] if theirs else []
    return {"name": "r0", "role": role, "devices": [{"disk-state": mine}], "connections": links}


def test_of_two_copies_that_do_not_see_each_other_the_newer_one_is_promoted(agent: ModuleType, monkeypatch) -> None:
    """After a restart of both without their link, and without fencing, both are UpToDate: who wrote alone is ahead."""
    newer, older = a_status("Secondary", "UpToDate", "DUnknown"), a_status("Secondary", "UpToDate", "DUnknown")
    newer["connections"][0]["peer_devices"][0]["out-of-sync"] = 4
    older["connections"][0]["peer_devices"][0]["out-of-sync"] = 0
    assert agent.promotion_score(newer) == 5500 and agent.promotion_score(older) == 1000
    monkeypatch.setitem(agent.DEFAULTS, "adjust_master_score", "0 10 0 10000")  # the administrator forbids both
    assert agent.promotion_score(newer) is None and agent.promotion_score(older) is None


@pytest.mark.parametrize(
    ("role", "mine", "theirs", "score"),
    [
        ("Primary", "UpToDate", "UpToDate", 10000),
        ("Primary", "UpToDate", "DUnknown", 10000),
        ("Secondary", "UpToDate", "UpToDate", 10000),
        ("Secondary", "UpToDate", "Outdated", 10000),
        ("Secondary", "UpToDate", "DUnknown", 1000),
        ("Secondary", "Inconsistent", "UpToDate", 10),
        ("Secondary", "Diskless", "UpToDate", 10),
        ("Secondary", "Outdated", "DUnknown", None),
        ("Secondary", "Inconsistent", "DUnknown", None),
        ("Secondary", "Inconsistent", "Inconsistent", None),
        ("Secondary", "Consistent", "DUnknown", None),
        ("Secondary", "Diskless", "DUnknown", None),
        ("Secondary", "Negotiating", "UpToDate", -1),
    ],
)
def test_the_score_says_where_the_newest_data_is(
    agent: ModuleType, role: str, mine: str, theirs: str, score: int | None
) -> None:
    """An Outdated or Inconsistent copy is never promoted where it is alone; -1: not settled, the old score stays."""
    assert agent.promotion_score(a_status(role, mine, theirs)) == score


def test_its_description_is_valid() -> None:
    """By the schema of ClusterLabs' agents; every action that Pacemaker calls is in it."""
    xml = subprocess.run([AGENT, "meta-data"], capture_output=True, check=True, timeout=LIMIT_S).stdout
    for words in (["--valid"], ["--relaxng", "metadata.rng"]):
        done = subprocess.run(
            ["xmllint", "--noout", *words, "-"], input=xml, cwd=SCHEMAS, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
    for action in ("start", "stop", "monitor", "promote", "demote", "notify", "validate-all", "meta-data"):
        assert f'<action name="{action}"'.encode() in xml


def test_a_life_on_two_nodes(nodes: list[Node]) -> None:
    """Start, refuse, promote, move, stop: with the exit codes that Pacemaker decides by."""
    alpha, beta = nodes
    assert alpha.agent("monitor") == NOT_RUNNING
    assert [node.agent("start") for node in nodes] == [RUNNING, RUNNING]
    assert alpha.agent("start") == RUNNING and alpha.agent("monitor") == RUNNING
    alpha.pydrbd("primary", "--force")
    alpha.pydrbd("wait-sync")
    assert alpha.agent("monitor") == PROMOTED and beta.agent("monitor") == RUNNING
    assert beta.agent("promote", OCF_RESKEY_CRM_meta_timeout="1000") == GENERIC
    assert "ocf-exit-reason:" in beta.said and "Multiple primaries not allowed" in beta.said
    assert alpha.agent("demote") == RUNNING and alpha.agent("demote") == RUNNING
    assert beta.agent("promote") == RUNNING and beta.agent("promote") == RUNNING
    assert beta.agent("monitor") == PROMOTED
    assert beta.agent("notify") == RUNNING
    assert [node.agent("stop") for node in nodes] == [RUNNING, RUNNING]
    assert beta.agent("stop") == RUNNING and beta.agent("monitor") == NOT_RUNNING
    assert beta.agent("promote", OCF_RESKEY_CRM_meta_timeout="1000") == NOT_RUNNING


def test_a_process_that_hangs_is_no_secondary_and_is_ended_by_force(nodes: list[Node]) -> None:
    """It could write when it wakes up: the monitor fails, and the stop is true."""
    alpha = nodes[0]
    assert alpha.agent("start") == RUNNING
    pid = alpha.pid
    os.kill(pid, signal.SIGSTOP)
    assert alpha.agent("demote", OCF_RESKEY_CRM_meta_timeout="1000000") == GENERIC  # without waiting for all that time
    assert alpha.agent("monitor") == GENERIC
    assert alpha.agent("stop") == RUNNING
    assert has_ended(pid)
    assert alpha.agent("monitor") == NOT_RUNNING


def test_wrong_words_are_told_from_trouble(nodes: list[Node], tmp_path: Path) -> None:
    """What is wrong on every node is `not configured`; a probe where nothing is installed finds nothing running."""
    alpha = nodes[0]
    assert alpha.agent("frobnicate") == UNIMPLEMENTED
    assert alpha.agent("validate-all", OCF_RESKEY_drbd_resource="r7") == CONFIGURED
    assert alpha.agent("validate-all", OCF_RESKEY_adjust_master_score="1 2 3") == CONFIGURED
    assert alpha.agent("validate-all", OCF_RESKEY_CRM_meta_promoted_max="2") == CONFIGURED
    assert alpha.agent("monitor", OCF_RESKEY_program=str(tmp_path / "none")) == NOT_RUNNING
    assert alpha.agent("validate-all") == RUNNING


@pytest.mark.interop
@pytest.mark.timeout(240)
def test_ocf_tester_passes(nodes: list[Node], need: Any) -> None:
    """ClusterLabs' own test of an agent, promotion included."""
    alpha, beta = nodes
    for node in nodes:
        node.pydrbd("up")
    alpha.pydrbd("primary", "--force")
    alpha.pydrbd("wait-sync")
    alpha.pydrbd("secondary")
    alpha.pydrbd("down")
    prefix = "OCF_RESKEY_"
    given = [(key.removeprefix(prefix), value) for key, value in alpha.environment.items() if key.startswith(prefix)]
    options = [word for key, value in given if not key.startswith("CRM_") for word in ("-o", f"{key}={value}")]
    done = subprocess.run(
        [need("ocf-tester"), "-n", "disk", *options, AGENT], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0 and "passed all tests" in done.stdout, done.stdout + done.stderr
    beta.pydrbd("down")
