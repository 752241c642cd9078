"""`watch`: the thin shell around the judge. Threads and processes report; one loop decides, feeds, and ends the node.

The loop does no I/O but on the watchdog: devices are looked at by a thread each, the cluster by a process each, the log
is written by a thread. Whatever of these hangs only stops reporting.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

from .device import Device, open_device
from .errors import SbdError
from .extension import State
from .health import parse_line
from .identity import boot_of_this_node, priority_of_this_node
from .journal import Journal
from .judge import CLUSTER_SOURCES, Acknowledge, Arm, Decision, Die, Health, Judge, Kick, Leave, Log, Rules
from .opening import open_devices, start_delay_s
from .parent import Parent
from .power import Power
from .process import PidFile, become_realtime, harden, leave_cpu_cgroup, look_like_sbd
from .settings import Settings
from .timeouts import Timeouts
from .watchdog import Watchdog
from .watcher import Event as DeviceEvent
from .watcher import Followed, Lost, Noted, Posted, Seen, Watcher

__all__ = ["watch"]

LOOKS_PER_LOOP = 4
"""The mailbox is read more often than SBD does: a pill is taken within a quarter of a loop."""

ACKNOWLEDGE_S = 0.7
"""So long the acknowledgement may keep us alive."""

LAST_LINES_S = 0.2
LAST_WATCHDOG_S = 1
LAST_MARGIN_MS = 500
PIDFILE = "/run/pydrbd-sbd.pid"
INFO, NOTICE = 6, 5

Report = tuple[str, Health, float, str]


def clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Inquisitor:
    """One running daemon."""

    def __init__(self, settings: Settings, times: Timeouts, power: Power, journal: Journal, parent: Parent) -> None:
        self.settings = settings
        self.times = times
        self.power = power
        self.journal = journal
        self.parent = parent
        self.boot = boot_of_this_node()
        self.events: queue.SimpleQueue[DeviceEvent | Report | None] = queue.SimpleQueue()
        self.watchdog: Watchdog | None = None
        if settings.watchdog and not settings.simulate:
            self.watchdog = Watchdog(settings.watchdog, times.watchdog_s, settings.set_watchdog_time)
        warn_s = 0.6 * times.watchdog_s if settings.warn_s is None else settings.warn_s
        rules = Rules(
            settings.devices,
            times,
            settings.pacemaker,
            settings.cluster_first,
            settings.action,
            settings.flush,
            warn_s,
        )
        self.judge = Judge(rules, clock())
        # A simulation stops nothing, and nobody may count on it.
        self.watching = State.left if settings.simulate else State.watching
        self.pause_s = times.loop_s / LOOKS_PER_LOOP
        self.watchers = [self._watcher(index, address) for index, address in enumerate(settings.devices)]
        # A pipe to each reporter, for as long as we live: what is asked for is never written to something else.
        self.wishes = {source: os.pipe() for source in CLUSTER_SOURCES if settings.pacemaker}
        for _, writing in self.wishes.values():
            os.set_blocking(writing, False)
        self.asked_at = 0.0

    def _watcher(self, index: int, address: str) -> Watcher:
        def opener() -> Device:
            return open_device(address, self.times.io_s)

        watcher = Watcher(
            index,
            self.settings.node,
            self.boot,
            self.times,
            opener=opener,
            post=self.events.put,
            clock=clock,
            sleep=time.sleep,
        )
        if self.settings.simulate:
            watcher.wish = replace(watcher.wish, state=self.watching)
        return watcher

    def start(self) -> None:
        """Reporters of all kinds."""
        for watcher in self.watchers:
            self._thread(self._watch_device, watcher)
        if self.settings.pacemaker:
            for source in CLUSTER_SOURCES:
                self._thread(self._watch_cluster, source)
        self._thread(self._watch_priority)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.events.put(None))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, self._on_look_now)

    def _on_look_now(self, *_: object) -> None:
        for watcher in self.watchers:
            watcher.wake.set()

    def _thread(self, target: object, *args: object) -> None:
        def run() -> None:
            if self.settings.realtime:
                become_realtime()
            assert callable(target)
            target(*args)

        threading.Thread(target=run, daemon=True).start()

    def _watch_device(self, watcher: Watcher) -> None:
        watcher.run(self.pause_s, min(self.settings.restart_s, self.times.fresh_s) or self.pause_s)

    def _watch_cluster(self, source: str) -> None:
        """Keep one reporter process alive, and hand on what it says."""
        words = [source, self.settings.node, str(self.times.loop_s), str(self.times.watchdog_s)]
        while True:
            helper = subprocess.Popen(
                [sys.executable, "-P", "-m", "pydrbd_fence.health", *words, str(int(bool(self.watchers)))],
                stdin=self.wishes[source][0],
                stdout=subprocess.PIPE,
            )
            assert helper.stdout is not None
            for line in helper.stdout:
                self.events.put((source, *parse_line(line.decode(errors="replace"))))
            helper.wait()
            time.sleep(self.times.loop_s)

    def _watch_priority(self) -> None:
        """Files may hang too: not in the loop."""
        while True:
            priority = priority_of_this_node(self.settings.priority_directory)
            for watcher in self.watchers:
                watcher.priority = priority
            time.sleep(self.times.loop_s)

    def hear(self, event: DeviceEvent | Report | None) -> None:
        """One report, to the judge."""
        judge = self.judge
        match event:
            case None:
                judge.on_terminate()
            case Seen(index, began_at):
                judge.on_device_seen(index, began_at)
            case Lost(index, why):
                judge.on_device_lost(index, why)
            case Posted(index, letter):
                judge.on_letter(index, letter)
            case Noted(_, text):
                self.journal.log(NOTICE, text)
            case Followed():
                pass
            case (source, health, began_at, why):
                judge.on_health(source, health, min(began_at, clock()), why)

    def loop(self) -> int:
        """Until this node, or only this daemon, ends; the exit code in the second case."""
        while True:
            try:
                self.hear(self.events.get(timeout=self.pause_s))
                while True:
                    self.hear(self.events.get_nowait())
            except queue.Empty:
                pass
            self._ask_cluster(clock())
            for decision in self.judge.decide(clock()):
                code = self.carry_out(decision)
                if code is not None:
                    return code

    def _ask_cluster(self, now: float) -> None:
        """Have the reporters look in each loop in which they may matter. One that hangs has a full pipe, no more."""
        if now - self.asked_at < self.times.loop_s or not self.judge.asks_cluster(now):
            return
        self.asked_at = now
        for _, writing in self.wishes.values():
            with contextlib.suppress(BlockingIOError):
                os.write(writing, b".")

    def carry_out(self, decision: Decision) -> int | None:
        """Do what the judge decided; an exit code ends the loop."""
        match decision:
            case Kick():
                if self.watchdog is not None:
                    self.watchdog.kick()
            case Log(level, text):
                self.journal.log(level, text)
            case Arm():
                if self.watchdog is not None:
                    self.watchdog.arm()
                self._wish(self.watching)
                self.journal.log(NOTICE, f"this node is watched now: {', '.join(self.settings.devices) or 'no disks'}")
                self.parent.tell(0)
            case Acknowledge(letter_id, command):
                self._acknowledge(letter_id, command)
            case Die(action, flush, why):
                return self._die(action, flush, why)
            case Leave(code, why):
                return self._leave(code, why)
        return None

    def _wish(self, state: State, limit_s: float = 0.0, **fields: object) -> None:
        """Have all slots say it; wait until one does, but no longer than `limit_s`."""
        wanted = set()
        for watcher in self.watchers:
            watcher.wish = replace(watcher.wish, state=state, **fields)  # type: ignore[arg-type]
            wanted.add(watcher.wish)
            watcher.wake.set()
        end = clock() + limit_s
        while wanted and (left := end - clock()) > 0:
            try:
                event = self.events.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(event, Followed) and event.wish in wanted:
                return

    def _acknowledge(self, letter_id: bytes, command: int) -> None:
        """The watchdog is not fed any more; first make it short, then promise when we are dead."""
        if self.settings.simulate:
            return
        short = self.watchdog is not None and self.watchdog.armed and self.watchdog.set_timeout(LAST_WATCHDOG_S)
        bound_s = LAST_WATCHDOG_S if short else self.times.watchdog_s
        self._wish(
            State.dying,
            ACKNOWLEDGE_S,
            taken_id=letter_id,
            taken_command=command,
            dead_within_ms=bound_s * 1000 + LAST_MARGIN_MS,
        )

    def _die(self, action: str, flush: bool, why: str) -> int:
        self.journal.log(0, f"Rebooting system: {action} ({why})")
        if self.settings.simulate:
            self.journal.log(NOTICE, "only simulated")
            self.journal.flush(LAST_LINES_S)
            return 0
        if flush:
            threading.Thread(target=os.sync, daemon=True).start()
        if self.watchdog is not None and action == "crashdump":
            if self.settings.crashdump_s:
                self.watchdog.set_timeout(self.settings.crashdump_s)
            else:
                self.watchdog.disarm()
        self.journal.flush(LAST_LINES_S)
        bites = self.watchdog is None or self.watchdog.armed
        if self.watchdog is not None:
            self.watchdog.abandon()
        self.power.end(action)
        # Still here: the armed watchdog is all that is left, and nobody feeds it.
        if self.watchdog is not None and not bites:
            self.watchdog.arm()
        os._exit(1)

    def _leave(self, code: int, why: str) -> int:
        self.journal.log(NOTICE, f"ending: {why}")
        self._wish(State.left, min(self.times.io_s, self.times.watchdog_s / 2))
        if self.watchdog is not None:
            self.watchdog.disarm()
        self.journal.flush(LAST_LINES_S)
        return code


def watch(settings: Settings, power: Power) -> int:
    """Become the daemon; 0 in the parent when the node is watched, 1 with words if it can't be."""
    parent = Parent(settings.foreground)
    if parent.fork():
        return parent.wait()
    journal = Journal(settings.foreground, settings.verbosity)
    try:
        pidfile = PidFile(settings.pidfile or PIDFILE)
        pidfile.take()
        complaints = look_like_sbd() + harden(settings.realtime)
        times = open_devices(settings, clock, time.sleep)
        if delay := start_delay_s(settings, times):
            time.sleep(delay)
        if settings.realtime:
            complaints += leave_cpu_cgroup(settings.root_cgroup)
            complaints += become_realtime()
        power.prepare()
        journal.start()
        for complaint in complaints:
            journal.log(4, complaint)
        inquisitor = Inquisitor(settings, times, power, journal, parent)
        inquisitor.start()
        code = inquisitor.loop()
        pidfile.give_back()
    except SbdError as error:
        journal.log(3, str(error))
        parent.tell(1, f"pydrbd-sbd: {error}\n")
        code = 1
    # Threads may hang in I/O for ever: nothing waits for them.
    os._exit(code)
