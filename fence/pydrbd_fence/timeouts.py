"""Times, in seconds, all derived from one: how long the watchdog waits. Bad relations are found here, and refused.

A node that gets no news from its disks is dead after `io + loop` (until which the last news count), `watchdog` (until
the hardware acts) and one second (in which the inquisitor looks). A sender that hears nothing must wait longer: what is
derived here does so even if the node's clock loses a tenth and the sender's gains one.
"""

from __future__ import annotations

from dataclasses import dataclass

from .layout import Header

__all__ = ["ALLOCATE_S", "LOOP_S", "WATCHDOG_S", "Timeouts", "contest_s", "derive_timeouts", "times_of_header"]

WATCHDOG_S = 5
ALLOCATE_S = 2
LOOP_S = 1
IO_LOOPS = 3
"""One I/O may take this many loops, if nobody says otherwise (as SBD has it)."""

POLL_S = 1
MARGIN_S = 2
CLOCKS = (11, 9)
"""What the faster clock shows when the slower one shows the second number, each wrong by a tenth."""
TIME_MAX_S = 86_400


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What the nodes and the senders of one cluster agree on."""

    watchdog_s: int
    allocate_s: int
    loop_s: int
    msgwait_s: int
    io_s: int

    @property
    def fresh_s(self) -> int:
        """So long news of a device count."""
        return self.io_s + self.loop_s

    @property
    def death_s(self) -> int:
        """So long a node without news may live."""
        return self.fresh_s + self.watchdog_s + POLL_S

    @property
    def settle_s(self) -> int:
        """So long a sender of lower priority waits for the claim of the better one."""
        return 2 * self.loop_s

    def complaints(self) -> list[str]:
        """The relations that do not hold, in words."""
        found = [
            f"{name} is {value} s: it must be 1 s to {TIME_MAX_S} s"
            for name, value in (
                ("watchdog", self.watchdog_s),
                ("allocate", self.allocate_s),
                ("loop", self.loop_s),
                ("msgwait", self.msgwait_s),
                ("io", self.io_s),
            )
            if not 1 <= value <= TIME_MAX_S
        ]
        if self.loop_s >= self.watchdog_s:
            found.append(f"loop ({self.loop_s} s) must be shorter than watchdog ({self.watchdog_s} s)")
        if self.msgwait_s < 2 * self.watchdog_s:
            found.append(
                f"msgwait ({self.msgwait_s} s) must be at least twice watchdog ({self.watchdog_s} s):"
                f" a sender would report a death before the watchdog acts"
            )
        if self.msgwait_s < self.death_s:
            found.append(
                f"msgwait ({self.msgwait_s} s) must be at least {self.death_s} s:"
                f" io {self.io_s} + loop {self.loop_s} + watchdog {self.watchdog_s} + {POLL_S}"
            )
        return found

    def pacemaker_values(self) -> dict[str, str]:
        """The cluster properties that fit; stonith-watchdog-timeout is for clusters without disks."""
        send_s = self.msgwait_s + contest_s(self) + self.io_s
        return {
            "stonith-timeout": f"{-(-send_s * 12 // 10)}s",
            "stonith-watchdog-timeout": f"{2 * self.watchdog_s}s",
        }


def contest_s(times: Timeouts) -> int:
    """So long after its claim a sender may still write its pill: the other side counts on it."""
    return times.settle_s + 2 * times.io_s


def derive_timeouts(
    watchdog_s: int = WATCHDOG_S,
    allocate_s: int | None = None,
    loop_s: int | None = None,
    msgwait_s: int | None = None,
    io_s: int | None = None,
) -> Timeouts:
    """All times from the watchdog's; what is given is kept, also if it is bad (ask `complaints`)."""
    loop = LOOP_S if loop_s is None else loop_s
    io = IO_LOOPS * loop if io_s is None else io_s
    hardware_s = io + loop + watchdog_s
    by_clock_s = -(-hardware_s * CLOCKS[0] // CLOCKS[1]) + POLL_S
    needed = max(2 * watchdog_s, hardware_s + POLL_S + MARGIN_S, by_clock_s)
    return Timeouts(
        watchdog_s=watchdog_s,
        allocate_s=ALLOCATE_S if allocate_s is None else allocate_s,
        loop_s=loop,
        msgwait_s=needed if msgwait_s is None else msgwait_s,
        io_s=io,
    )


def times_of_header(header: Header, stored_io_s: int, io_s: int | None = None) -> Timeouts:
    """The times of a device: the header's; for one I/O the option's, else what our `create` stored, else SBD's rule."""
    io = io_s or stored_io_s or IO_LOOPS * header.loop_s
    return Timeouts(header.watchdog_s, header.allocate_s, header.loop_s, header.msgwait_s, io)
