"""How a daemon comes to its times: devices that can be read, that agree, that are good; start mode; delay."""

from __future__ import annotations

from collections.abc import Callable

from .disk import SbdDisk
from .errors import Refused, SbdError
from .extension import Letter
from .panel import DevicePanel
from .reading import check_start, delay_s
from .settings import Settings
from .timeouts import Timeouts, derive_timeouts

__all__ = ["open_devices", "start_delay_s"]

IO_S = 3
RETRY_S = 0.5


def open_devices(settings: Settings, clock: Callable[[], float], sleep: Callable[[float], None]) -> Timeouts:
    """The times of the devices (or of the settings, without devices); Refused if this node must not start."""
    if settings.sync_startup and not settings.pacemaker:
        raise Refused(
            "SBD_PACEMAKER is no, so Pacemaker would wait for this daemon for ever: set SBD_SYNC_RESOURCE_STARTUP=no"
        )
    if not settings.devices:
        if not settings.pacemaker:
            raise Refused("neither devices nor Pacemaker: nothing would ever stop this node (say -d, or -P)")
        return good_times(derive_timeouts(settings.diskless_watchdog_s, io_s=settings.io_s))
    panel = DevicePanel(settings.devices, settings.io_s or IO_S)
    try:
        times, letters = first_look(panel, settings, clock, sleep)
    finally:
        panel.close()
    check_start(letters, settings.start_clean)
    return times


def first_look(
    panel: DevicePanel, settings: Settings, clock: Callable[[], float], sleep: Callable[[float], None]
) -> tuple[Timeouts, list[tuple[str, Letter]]]:
    """Wait for one readable device; times of all that are, and the letters in our own mailboxes."""
    end = clock() + settings.startup_s

    def look(disk: SbdDisk) -> tuple[Timeouts, list[tuple[str, Letter]]]:
        slot = disk.find_slot(settings.node)
        return disk.read_times(settings.io_s), [] if slot is None else [(disk.name, disk.read_letter(slot))]

    while True:
        answers = panel.each(look)
        seen = [answer for answer in answers if not isinstance(answer, SbdError)]
        if seen:
            break
        if clock() >= end:
            reasons = "; ".join(str(answer) for answer in answers)
            raise Refused(f"no device can be read within {settings.startup_s} s: {reasons}")
        sleep(RETRY_S)
    if any(times != seen[0][0] for times, _ in seen):
        raise Refused("the devices were created with different times: create them again, all with the same")
    return good_times(seen[0][0]), [letter for _, letters in seen for letter in letters]


def good_times(times: Timeouts) -> Timeouts:
    """The times, if they keep their relations."""
    if complaints := times.complaints():
        raise Refused(f"bad times: {'; '.join(complaints)}")
    return times


def start_delay_s(settings: Settings, times: Timeouts) -> int:
    """How long to wait before anything is announced."""
    return delay_s(settings.delay_start, times.msgwait_s, times.watchdog_s, bool(settings.devices))
