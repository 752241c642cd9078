"""The daemon allocates nothing that it could avoid: with the garbage collector off, nothing may pile up."""

from __future__ import annotations

import gc

from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.errors import DeviceError
from pydrbd_fence.extension import Letter
from pydrbd_fence.judge import Health, Judge, Rules
from pydrbd_fence.timeouts import derive_timeouts
from pydrbd_fence.watcher import Lost, Noted, Posted, Seen, Watcher

from tests.fence.harness import MemoryDevice

TIMES = derive_timeouts(5)
LOOKS = 3000


class Daemon:
    """Eyes and judge, a quarter of a second at a time."""

    def __init__(self):
        self.device = MemoryDevice()
        self.disk = SbdDisk(self.device.another())
        self.disk.create(TIMES, b"u" * 16)
        self.now = 0.0
        self.events = []
        self.judge = Judge(Rules(("disk",), TIMES, True), 0.0)
        self.gone = False
        self.watcher = Watcher(
            0,
            "alpha",
            b"B" * 16,
            TIMES,
            opener=self.open,
            post=self.events.append,
            clock=lambda: self.now,
            sleep=lambda s: None,
        )

    def open(self):
        if self.gone:
            raise DeviceError("gone")
        return self.device

    def live(self, looks):
        """Healthy for a while, a loss now and then, a test message, a cluster that comes and goes."""
        for number in range(looks):
            self.now += 0.25
            self.gone = number % 50 in (20, 21)
            if self.gone:
                self.watcher.forget()
            elif number % 50 == 30:
                self.disk.write_letter(0, Letter(1, "beta"))
            self.watcher.step()
            for event in self.events:
                match event:
                    case Seen(index, began_at):
                        self.judge.on_device_seen(index, began_at)
                    case Lost(index, why):
                        self.judge.on_device_lost(index, why)
                    case Posted(index, letter):
                        self.judge.on_letter(index, letter)
                    case Noted():
                        pass
            self.events.clear()
            for source in ("pacemaker", "corosync"):
                self.judge.on_health(source, Health.ill if number % 100 == 0 else Health.well, self.now, "why")
            self.judge.decide(self.now)


def test_thousands_of_looks_leave_nothing_behind():
    """As many objects after three thousand looks, losses and messages as before them, without one collection."""
    daemon = Daemon()
    daemon.live(200)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        daemon.live(LOOKS)
        after = len(gc.get_objects())
    finally:
        gc.enable()
    assert daemon.judge.final is None and daemon.judge.armed
    assert after - before < LOOKS / 100, f"{after - before} objects more"
