"""How fast a resync goes: what the target asks for in each step of 0.1 s, and when the source yields (WIRE 12.8).

Pure arithmetic over DRBD's options. Those that the configuration does not name have no effect: a resync is then as
fast as it can be.

    c-plan-ahead 0             resync-rate, fixed
    c-plan-ahead, c-*-target   the controller: what came in is asked for again, and a correction, spread over the steps
                               of the plan, brings what is under way to c-fill-target, or to what came in times
                               c-delay-target
    c-max-rate                 the most, in either case or alone
    c-min-rate                 the source: while the application uses the disk, more than this waits
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from pydrbd.units import KIB

__all__ = ["PACE_STEP_S", "Pace", "PaceOptions", "Yielding"]

PACE_STEP_S: Final = 0.1
_STEPS_A_SECOND: Final = 10
_IDLE_SECTORS_MAX: Final = 64
"""An application that moves no more than this in a step counts as idle."""


@dataclass(frozen=True, slots=True)
class PaceOptions:
    """What the configuration says; rates in KiB/s, 0 for no bound; targets in bytes and in steps of 0.1 s."""

    fixed_kib_s: int = 0
    plan_steps: int = 0
    """How far the controller plans ahead; 0: there is none."""
    start_kib_s: int = 250
    fill_target_bytes: int = 0
    delay_target_steps: int = 10
    max_kib_s: int = 0
    min_kib_s: int = 0

    @property
    def bounds(self) -> bool:
        """Whether a target may not ask for all that its window has room for."""
        return bool(self.fixed_kib_s or self.plan_steps or self.max_kib_s)


class Pace:
    """A target's allowance: bytes that it may ask for before `next_step`; what was too much is owed."""

    __slots__ = ("_came_in_bytes", "_plan", "allowance_bytes", "next_step")

    def __init__(self, now: float) -> None:
        self.next_step = now
        self.allowance_bytes = 0
        self._came_in_bytes = 0
        self._plan: deque[int] = deque()

    def came_in(self, byte_count: int) -> None:
        """The source has answered so much."""
        self._came_in_bytes += byte_count

    def asked(self, byte_count: int) -> None:
        """So much has been asked for."""
        self.allowance_bytes -= byte_count

    def step(self, options: PaceOptions, now: float, in_flight_bytes: int) -> None:
        """If it is time for it, allow what this step is worth. Steps that nobody took are not made up for."""
        if now < self.next_step:
            return
        self.next_step = max(self.next_step + PACE_STEP_S, now + PACE_STEP_S / 2)
        came_in, self._came_in_bytes = self._came_in_bytes, 0
        if options.fixed_kib_s:
            worth = options.fixed_kib_s * KIB // _STEPS_A_SECOND
        else:
            most = options.max_kib_s * KIB // _STEPS_A_SECOND
            worth = self._planned(options, came_in, in_flight_bytes) if options.plan_steps else most
            worth = min(worth, most) if most else worth
        self.allowance_bytes = min(self.allowance_bytes, 0) + worth

    def _planned(self, options: PaceOptions, came_in: int, in_flight_bytes: int) -> int:
        steps = options.plan_steps
        while len(self._plan) > steps:
            self._plan.pop()
        self._plan.extend([0] * (steps - len(self._plan)))
        if not came_in and not in_flight_bytes:
            wanted = options.start_kib_s * KIB * steps // _STEPS_A_SECOND
        else:
            wanted = options.fill_target_bytes or came_in * options.delay_target_steps
        correction = wanted - in_flight_bytes - sum(self._plan)
        a_step = int(correction / steps)  # towards zero, as C divides
        planned = [each + a_step for each in self._plan]
        self._plan = deque([*planned[1:], 0])
        return max(0, came_in + planned[0])


class Yielding:
    """Whether the application uses the disk, and a source's reserve then: bytes that it may still read in this step."""

    __slots__ = ("_active", "_seen_sectors", "next_step", "reserve_bytes")

    def __init__(self, now: float, application_sectors: int) -> None:
        self.next_step = now + PACE_STEP_S
        self.reserve_bytes = 0
        self._active = False
        self._seen_sectors = application_sectors

    def yields(self, options: PaceOptions, now: float, application_sectors: int) -> bool:
        """Whether the next request has to wait for another step. `application_sectors`: read and written so far."""
        if now >= self.next_step:
            self.next_step = now + PACE_STEP_S
            self._active = application_sectors - self._seen_sectors > _IDLE_SECTORS_MAX
            self._seen_sectors = application_sectors
            self.reserve_bytes = min(self.reserve_bytes, 0) + options.min_kib_s * KIB // _STEPS_A_SECOND
        return bool(options.min_kib_s) and self._active and self.reserve_bytes <= 0

    def is_busy(self, options: PaceOptions, now: float, application_sectors: int) -> bool:
        """Whether the application has used the disk in the last step."""
        self.yields(options, now, application_sectors)
        return self._active

    def served(self, byte_count: int) -> None:
        """So much has been read for the target."""
        self.reserve_bytes -= byte_count
