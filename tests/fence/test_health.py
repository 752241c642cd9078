"""What the tools of Pacemaker and Corosync say, and what it means for the vote."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from pydrbd_fence.health import CorosyncHealth, PacemakerHealth, parse_line, run_tool
from pydrbd_fence.judge import Health

QUORUM = """\
Quorum information
------------------
Date:             Sun Nov 22 12:00:00 2026
Quorum provider:  corosync_votequorum
Nodes:            {nodes}
Node ID:          1
Ring ID:          1.5
Quorate:          Yes

Votequorum information
----------------------
Expected votes:   2
Flags:            {flags}
"""

PACEMAKERD = (
    '<pacemaker-result api-version="2.25"><pacemakerd sys_from="sbd" state="{state}" last_updated="x"/>'
    '<status code="0" message="OK"/></pacemaker-result>'
)
STATUS = (
    "<pacemaker-result><summary><current_dc present={dc} with_quorum={quorum} />"
    '<cluster_options no-quorum-policy="{policy}" /></summary>'
    '<nodes><node name="beta" online="true" /><node name="Alpha" online={online} unclean={unclean} pending={pending} />'
    "</nodes></pacemaker-result>"
)


def corosync(health, nodes=2, flags="Quorate", sync="30000"):
    answers = {
        "corosync-quorumtool": QUORUM.format(nodes=nodes, flags=flags),
        "corosync-cmapctl": f"quorum.device.sync_timeout (u32) = {sync}\n",
    }
    return health.judge(lambda words: answers[words[0]])


def pacemaker(health, state="running", policy="stop", **changes):
    fields = {"dc": True, "quorum": True, "online": True, "unclean": False, "pending": False} | changes
    status = STATUS.format(policy=policy, **{key: f'"{str(value).lower()}"' for key, value in fields.items()})
    answers = {"crmadmin": PACEMAKERD.format(state=state), "crm_mon": status}
    return health.judge(lambda words: answers[words[0]])


def test_corosync_with_members_is_well():
    """Quorum itself is Pacemaker's business."""
    assert corosync(CorosyncHealth(5), nodes=1) == (Health.well, "")
    assert corosync(CorosyncHealth(5), nodes=3) == (Health.well, "")


def test_two_nodes_need_each_other_once_they_met():
    """A lone start is well; after both were seen, one is not enough."""
    health = CorosyncHealth(5)
    assert corosync(health, 1, "2Node Quorate WaitForAll")[0] is Health.well
    assert corosync(health, 2, "2Node Quorate WaitForAll")[0] is Health.well
    assert corosync(health, 1, "2Node Quorate WaitForAll")[0] is Health.ill


def test_a_quorum_device_must_answer_before_the_watchdog():
    """sync_timeout beyond the watchdog's time is no quorum."""
    assert corosync(CorosyncHealth(35), flags="Quorate Qdevice")[0] is Health.well
    assert corosync(CorosyncHealth(5), flags="Quorate Qdevice")[0] is Health.ill


def test_a_corosync_that_is_gone_is_ill_and_one_that_hangs_is_silent():
    """An error text without members, and no answer in time."""
    assert CorosyncHealth(5).judge(lambda words: "Cannot initialize QUORUM service\n")[0] is Health.ill
    assert CorosyncHealth(5).judge(lambda words: None)[0] is Health.silent


@pytest.mark.parametrize(
    ("changes", "health"),
    [
        ({}, Health.well),
        ({"dc": False}, Health.silent),
        ({"online": False}, Health.ill),
        ({"unclean": True}, Health.ill),
        ({"pending": True}, Health.silent),
        ({"quorum": False}, Health.ill),
        ({"state": "starting_daemons"}, Health.silent),
        ({"state": "shutting_down"}, Health.well),
        ({"state": "shutdown_complete"}, Health.stopped),
    ],
)
def test_pacemakers_states_with_disks(changes, health):
    """Online and quorate is well; in between is silence; unclean or gone is ill; a stop on purpose is told."""
    assert pacemaker(PacemakerHealth("alpha", True), **changes)[0] is health


def test_without_disks_quorum_counts_from_the_first_time_on():
    """A node that never had quorum runs nothing; one that lost it goes silent, or ill where the policy is suicide."""
    health = PacemakerHealth("alpha", False)
    assert pacemaker(health, quorum=False)[0] is Health.well
    assert pacemaker(health)[0] is Health.well
    assert pacemaker(health, quorum=False)[0] is Health.silent
    assert pacemaker(health, quorum=False, policy="suicide")[0] is Health.ill


def test_no_answer_is_silence():
    """Tools that are missing, hang, or print no XML."""
    health = PacemakerHealth("alpha", True)
    assert health.judge(lambda words: None)[0] is Health.silent
    assert health.judge(lambda words: "connection refused")[0] is Health.silent
    assert run_tool(["no-such-tool-at-all"], 1) is None
    assert run_tool([sys.executable, "-c", "while True: pass"], 0.1) is None
    assert run_tool([sys.executable, "-c", "print(5); exit(3)"], 30) == "5\n"


def test_lines_of_a_reporter():
    """What is not understood is silence."""
    assert parse_line("well 12.500\n") == (Health.well, 12.5, "")
    assert parse_line("ill 12.500 no quorum\n") == (Health.ill, 12.5, "no quorum")
    assert parse_line("well\n")[0] is Health.silent
    assert parse_line("Traceback (most recent call last):\n")[0] is Health.silent


def test_a_calm_cluster_is_looked_at_less_often_and_a_changing_one_is_not():
    """Calm is well, with no start, stop or first meeting of two nodes under way that a pause could miss."""
    lone, health = CorosyncHealth(5), PacemakerHealth("alpha", True)
    corosync(lone, 1, "2Node Quorate")
    assert not lone.calm
    corosync(lone, 2, "2Node Quorate")
    assert lone.calm
    corosync(lone, 1, "2Node Quorate")
    assert not lone.calm
    pacemaker(health)
    assert health.calm
    for changes in ({"state": "shutting_down"}, {"online": False}, {"dc": False}, {"state": "starting_daemons"}):
        pacemaker(health, **changes)
        assert not health.calm, changes


def reporter(processes, loop_s):
    """A reporter of a Corosync that is always well, and the moments of its looks."""
    code = (
        "import sys; from pydrbd_fence import health\n"
        "text = 'Nodes: 2\\nFlags: Quorate\\n'\n"
        "health.run_tool = lambda words, limit_s: text\n"
        "sys.exit(health.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "corosync", "alpha", str(loop_s), "5", "1"]
    env = {"PYTHONPATH": ":".join(sys.path)}
    process = processes.start(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return process, lambda: parse_line(process.stdout.readline().decode())


def test_a_reporter_at_rest_looks_at_once_when_it_is_asked(processes):
    """Its next look would be in days; what it says then was seen after the wish."""
    process, line = reporter(processes, 86_400)
    assert line()[0] is Health.well
    asked_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    process.stdin.write(b".")
    process.stdin.flush()
    health, began_at, _ = line()
    assert health is Health.well and began_at >= asked_at - 0.001
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_reporter_ends_with_its_inquisitor(processes):
    """Nobody reads its lines any more, or could ask for one: it ends."""
    process, line = reporter(processes, 0)
    assert line()[0] is Health.well
    process.stdout.close()
    assert process.wait(30) == 0
    process, line = reporter(processes, 86_400)
    assert line()[0] is Health.well
    process.stdin.close()
    assert process.wait(30) == 0
