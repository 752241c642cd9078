"""Ours and Debian's in one cluster: each kills a node that the other one watches, by one device."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import why_not
from tests.lab.guest import Guest, GuestFailed
from tests.lab.lab import Lab
from tests.lab.network import HOST_ADDRESS
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
DEVICE = "/dev/nbd0"
ADDRESS = f"nbd://{HOST_ADDRESS}/sbd"
ENVIRONMENT = f"SBD_PACEMAKER=no SBD_SYNC_RESOURCE_STARTUP=no PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={ROOT}/fence"
OURS = f"env {ENVIRONMENT} {sys.executable} -m pydrbd_fence -d {ADDRESS}"
DEBIANS = f"env {ENVIRONMENT} sbd -d {DEVICE}"
WATCHDOG = "/dev/watchdog1"
"""softdog's: the first one is user-mode Linux's own, and guards nothing."""

WATCHDOG_S = 10
DEATH_TIMEOUT_S = 120.0


class Node(Guest):
    """A guest that ends when it is reset."""

    init = (str(ROOT / "tests/lab/guest_init.py"),)

    @property
    def words(self) -> list[str]:
        return ["noreboot"]


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """A killer and its victim, both with the device (a file behind nbdkit); the victim's watchdog is softdog."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab() as lab:
        image = lab.new_disk("sbd", 1 << 20)
        server = ["nbdkit", "--foreground", "--exit-with-parent", "--ipaddr", HOST_ADDRESS, "file", str(image)]
        nbdkit = subprocess.Popen(lab.network.inside(server), stdin=subprocess.DEVNULL)
        try:
            found = []
            for number, name in enumerate(("killer", "victim"), 11):
                node = Node(lab.network, lab.directory, name, f"{lab.name}-{name}", number, [])
                lab.network.add_tap(node.tap)
                lab.guests[name] = node
                found.append(node)
            try:
                for node in found:
                    node.begin_start()
                for node in found:
                    node.finish_start()
            except GuestFailed as error:
                pytest.skip(f"a guest can't be started here: {error}")
            for node in found:
                node.load("nbd", "softdog")
                node.shell(f"nbd-client {HOST_ADDRESS} {DEVICE} -name sbd -persist", timeout_s=60.0)
            found[0].shell(f"{OURS} -1 {WATCHDOG_S} create", timeout_s=60.0)
            yield found
        finally:
            nbdkit.kill()
            nbdkit.wait()


def begin_to_watch(node: Node, command: str) -> None:
    """Start a daemon, and wait until it has armed the watchdog."""
    node.shell(f"{command} -w {WATCHDOG} watch >/run/sbd.log 2>&1", timeout_s=120.0)


def kill(killer: Node, victim: Node, agent: str) -> tuple[float, float]:
    """Have it fenced; after how many seconds it was dead, and the agent said so."""
    began = time.monotonic()
    running = killer.begin("sh", "-ec", f"{agent} -o reboot -n victim", timeout_s=DEATH_TIMEOUT_S)
    wait_until(lambda: not victim.runs, "the victim to die", DEATH_TIMEOUT_S, victim.console)
    dead_s = time.monotonic() - began
    assert "Success" in running.wait().output
    return dead_s, time.monotonic() - began


def our_agent(killer: Node) -> str:
    """fence_pydrbd's command line there."""
    killer.write_file("/run/pydrbd-sbd", f'#!/bin/sh\nexec {OURS.partition(" -d ")[0]} "$@"\n')
    killer.shell("chmod +x /run/pydrbd-sbd")
    return f"{ROOT}/fence/agents/fence_pydrbd --sbd-path=/run/pydrbd-sbd --devices={ADDRESS}"


def report(measured: Callable[[str], object], what: str, times: tuple[float, float]) -> None:
    measured(f"{what}: dead after {times[0]:.1f} s, reported after {times[1]:.1f} s (watchdog {WATCHDOG_S} s)")


def test_fence_sbd_kills_a_node_that_ours_watches(nodes: list[Node], measured: Callable[[str], object]) -> None:
    """Debian's agent and tool write the pill, our daemon takes it."""
    killer, victim = nodes
    begin_to_watch(victim, OURS)
    assert "victim" in killer.shell(f"{DEBIANS} list")
    report(measured, "fence_sbd, watched by pydrbd-sbd", kill(killer, victim, f"fence_sbd --devices={DEVICE}"))


def test_fence_pydrbd_kills_a_node_that_debians_sbd_watches(
    nodes: list[Node], measured: Callable[[str], object]
) -> None:
    """Our agent writes the pill, Debian's daemon takes it: without an acknowledgement, so msgwait is waited for."""
    killer, victim = nodes
    begin_to_watch(victim, DEBIANS)
    assert "victim" in killer.shell(f"{OURS} list")
    dead_s, said_s = kill(killer, victim, our_agent(killer))
    assert said_s >= 2 * WATCHDOG_S, "success was said before it was sure"
    report(measured, "fence_pydrbd, watched by sbd", (dead_s, said_s))


def test_fence_pydrbd_kills_a_node_that_ours_watches(nodes: list[Node], measured: Callable[[str], object]) -> None:
    """Our daemon acknowledges the pill, and the agent need not wait for msgwait. One that does not run is not faked."""
    killer, victim = nodes
    begin_to_watch(victim, OURS)
    report(measured, "fence_pydrbd, watched by pydrbd-sbd", kill(killer, victim, our_agent(killer)))


