"""All devices of one command, each in the hands of a thread of its own: one that hangs costs its time, and no more."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from .device import Device, open_device
from .disk import SbdDisk
from .errors import DeviceError, DeviceTimeout, SbdError

__all__ = ["DEVICES_MAX", "DevicePanel", "Panel", "good_answers", "majority_of"]

DEVICES_MAX = 3
LOOK_S = 0.05
"""How often a waiting caller looks whether a hand still makes progress."""

T = TypeVar("T")


def majority_of(count: int) -> int:
    """More than half of the devices: two such groups have a device in common."""
    return count // 2 + 1


class Panel(Protocol):
    """Several devices that are asked the same."""

    @property
    def names(self) -> Sequence[str]: ...

    def each(self, job: Callable[[SbdDisk], T]) -> list[T | SbdError]:
        """Do it on every device; the answers in the devices' order, an error where it failed."""


def good_answers(panel: Panel, answers: Sequence[T | SbdError], needed: int, what: str) -> list[T]:
    """The answers that are none of the errors; DeviceError if they are too few, with the reason for each device."""
    good = [answer for answer in answers if not isinstance(answer, SbdError)]
    if len(good) < needed:
        bad = "; ".join(str(answer) for answer in answers if isinstance(answer, SbdError))
        raise DeviceError(f"{what} on {len(good)} of {len(panel.names)} devices, {needed} needed: {bad}")
    return good


class _Counted:
    """A device that counts its I/Os, so that a long job is told from one that hangs."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.name = device.name
        self.sector_bytes = device.sector_bytes
        self.done = 0

    def read_sector(self, index: int) -> bytes:
        sector = self._device.read_sector(index)
        self.done += 1
        return sector

    def write_sector(self, index: int, sector: bytes) -> None:
        self._device.write_sector(index, sector)
        self.done += 1

    def close(self) -> None:
        self._device.close()


class _Hand:
    """One device and the thread that touches it. After a time-out it is busy until its I/O returns."""

    def __init__(self, address: str, io_s: float) -> None:
        self.address = address
        self._io_s = io_s
        self._device: _Counted | None = None
        self._disk: SbdDisk | None = None
        self._orders: queue.SimpleQueue[tuple[Callable[[SbdDisk], object], queue.SimpleQueue[object]] | None]
        self._orders = queue.SimpleQueue()
        self._busy = False
        threading.Thread(target=self._work, name=f"device {address}", daemon=True).start()

    def ask(self, job: Callable[[SbdDisk], T]) -> Callable[[], T | SbdError]:
        """Begin a job; what comes back waits for its end."""
        if self._busy:
            return lambda: DeviceTimeout(f"{self.address}: an earlier request still has no answer")
        self._busy = True
        box: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._orders.put((job, box))
        return lambda: self._wait(box)

    def close(self) -> None:
        """Give the device back when the last job is done."""
        self._orders.put(None)

    def _wait(self, box: queue.SimpleQueue[object]) -> T | SbdError:
        seen, moved = -1, time.monotonic()
        while True:
            try:
                answer = box.get(timeout=LOOK_S)
            except queue.Empty:
                done = self._device.done if self._device else 0
                if done != seen:
                    seen, moved = done, time.monotonic()
                elif time.monotonic() - moved > self._io_s:
                    return DeviceTimeout(f"{self.address}: no answer within {self._io_s:g} s")
                continue
            self._busy = False
            if isinstance(answer, Exception) and not isinstance(answer, SbdError):
                raise answer
            return answer  # type: ignore[return-value]

    def _work(self) -> None:
        while True:
            order = self._orders.get()
            if order is None:
                if self._disk is not None:
                    self._disk.close()
                return
            job, box = order
            try:
                if self._disk is None:
                    self._device = _Counted(open_device(self.address, self._io_s))
                    self._disk = SbdDisk(self._device)
                box.put(job(self._disk))
            except DeviceError as error:
                if self._disk is not None:
                    self._disk.close()
                self._disk = None
                box.put(error)
            except Exception as error:  # told to whoever asked
                box.put(error)


class DevicePanel:
    """The devices of a command line."""

    def __init__(self, addresses: Sequence[str], io_s: float) -> None:
        self._hands = [_Hand(address, io_s) for address in addresses]

    @property
    def names(self) -> Sequence[str]:
        return [hand.address for hand in self._hands]

    def each(self, job: Callable[[SbdDisk], T]) -> list[T | SbdError]:
        waits = [hand.ask(job) for hand in self._hands]
        return [wait() for wait in waits]

    def close(self) -> None:
        """The devices are given back, now or when they stop hanging."""
        for hand in self._hands:
            hand.close()
