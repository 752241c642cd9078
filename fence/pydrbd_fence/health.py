"""What Pacemaker and Corosync say of themselves, asked by their own tools, in a process of its own.

`python -m pydrbd_fence.health pacemaker|corosync NODE LOOP_S WATCHDOG_S DISKS` writes one line for each look: a word of
`Health`, when the look began, and a reason. A tool that hangs is killed and makes us silent, and what was said before
goes stale.

Starting tools is most of what an idle node would do. While all is calm they are started every REST_LOOPS loops only; a
byte on standard input asks for a look now: the inquisitor sends it as soon as its disks alone do not carry the vote.
Looking less often can only let news go stale sooner: no node lives longer by it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .judge import Health

__all__ = ["REST_LOOPS", "CorosyncHealth", "PacemakerHealth", "main", "parse_line"]

PR_SET_PDEATHSIG = 1
TOOL_LOOPS = 2
"""A tool may take so many loops."""

REST_LOOPS = 5
"""So many loops pass between two looks at a calm cluster that nobody asks for."""

WAKE_BYTES = 4096

OVER = "shutdown_complete"
ALIVE = ("running", "shutting_down")
"""While it shuts down resources still run: the node must prove that it is wanted."""

Tool = Callable[[Sequence[str]], str | None]
Verdict = tuple[Health, str]
Report = tuple[Health, float, str]


@dataclass(slots=True)
class CorosyncHealth:
    """From `corosync-quorumtool -s`: the members, and whether two nodes or a quorum device are configured."""

    watchdog_s: int
    both_seen: bool = False
    calm: bool = False
    """Nothing is under way that must not be missed, such as the short meeting of two nodes."""

    def judge(self, tool: Tool) -> Verdict:
        self.calm = False
        text = tool(["corosync-quorumtool", "-s"])
        if text is None:
            return Health.silent, "corosync-quorumtool did not answer"
        members = re.search(r"^Nodes:\s*(\d+)", text, re.MULTILINE)
        if members is None:
            return Health.ill, "corosync is not there"
        flags = re.search(r"^Flags:\s*(.*)$", text, re.MULTILINE)
        words = flags[1].split() if flags else []
        count = int(members[1])
        if count < 1:
            return Health.ill, "corosync has no members"
        if "2Node" in words:
            self.both_seen |= count >= 2
            if self.both_seen and count < 2:
                return Health.ill, "two_node requires both nodes to be present"
        if "Qdevice" in words:
            answer = tool(["corosync-cmapctl", "-g", "quorum.device.sync_timeout"]) or ""
            sync = re.search(r"=\s*(\d+)\s*$", answer)
            sync_ms = int(sync[1]) if sync else 30_000
            if sync_ms > self.watchdog_s * 1000:
                return Health.ill, f"the quorum device may take {sync_ms} ms, longer than the watchdog"
        self.calm = self.both_seen or "2Node" not in words
        return Health.well, ""


@dataclass(slots=True)
class PacemakerHealth:
    """From `crmadmin -P` (as `sbd`: that also releases a pacemakerd that waits for sbd) and `crm_mon`."""

    node: str
    disks: bool
    had_quorum: bool = False
    calm: bool = False
    """Nothing is under way: a start, or a stop, for whose end pacemakerd waits until we have seen it."""

    def judge(self, tool: Tool) -> Verdict:
        self.calm = False
        answer = parse(tool(["crmadmin", "--output-as=xml", "-P", "-i", "sbd", "-t", "3s"]))
        daemon = None if answer is None else answer.find(".//pacemakerd")
        state = "" if daemon is None else daemon.get("state", "")
        if state == OVER:
            return Health.stopped, f"pacemakerd is {state}"
        if state not in ALIVE:
            return Health.silent, f"pacemakerd is {state or 'not there'}"
        status = parse(tool(["crm_mon", "--output-as=xml", "-1"]))
        if status is None:
            return Health.silent, "crm_mon did not answer"
        verdict = self._judge_status(status)
        self.calm = verdict[0] is Health.well and state == ALIVE[0]
        return verdict

    def _judge_status(self, status: ET.Element) -> Verdict:
        coordinator = status.find("./summary/current_dc")
        if coordinator is None or coordinator.get("present") != "true":
            return Health.silent, "there is no DC yet"
        me = next((n for n in status.iterfind("./nodes/node") if n.get("name", "").lower() == self.node), None)
        if me is None or me.get("online") != "true":
            return Health.ill, f"{self.node} is not online"
        if me.get("unclean") == "true":
            return Health.ill, f"{self.node} is unclean"
        if me.get("pending") == "true":
            return Health.silent, f"{self.node} is pending"
        if coordinator.get("with_quorum") == "true":
            self.had_quorum = True
            return Health.well, ""
        if self.disks:
            return Health.ill, "no quorum"
        if not self.had_quorum:
            return Health.well, ""
        options = status.find("./summary/cluster_options")
        policy = "" if options is None else options.get("no-quorum-policy", "")
        return (Health.ill if policy == "suicide" else Health.silent), "quorum is lost"


def parse(text: str | None) -> ET.Element | None:
    """XML, or None if it is none."""
    try:
        return None if text is None else ET.fromstring(text)
    except ET.ParseError:
        return None


def parse_line(line: str) -> Report:
    """A line of a reporter; what is not understood is silence."""
    word, _, rest = line.strip().partition(" ")
    began_at, _, why = rest.partition(" ")
    with contextlib.suppress(ValueError):
        return Health(word), float(began_at), why
    return Health.silent, 0.0, line.strip()


def run_tool(words: Sequence[str], limit_s: float) -> str | None:
    """What a tool printed, whatever its exit code; None if it is not there or took too long."""
    path = shutil.which(words[0], path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        return None
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        done = subprocess.run([path, *words[1:]], capture_output=True, text=True, timeout=limit_s, check=False)
        return done.stdout
    return None


def main(argv: Sequence[str]) -> int:
    """Report for ever, until the inquisitor is gone."""
    source, node, loop_s, watchdog_s, disks = argv
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0")
    with contextlib.suppress(OSError):
        os.setresuid(0, 0, 0)
    reporter: CorosyncHealth | PacemakerHealth
    reporter = PacemakerHealth(node, disks == "1") if source == "pacemaker" else CorosyncHealth(int(watchdog_s))
    limit_s = TOOL_LOOPS * float(loop_s)
    while True:
        began_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        health, why = reporter.judge(lambda words: run_tool(words, limit_s))
        try:
            os.write(1, f"{health.value} {began_at:.3f} {why}".rstrip().encode() + b"\n")
        except OSError:
            return 0
        if not wait_for_wish(float(loop_s) * (REST_LOOPS if reporter.calm else 1)):
            return 0


def wait_for_wish(pause_s: float) -> bool:
    """Pause, or less if a look is asked for; False if there is nobody any more who could ask."""
    asked = select.select([0], [], [], pause_s)[0]
    return not asked or bool(os.read(0, WAKE_BYTES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
