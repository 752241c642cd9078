"""One device, watched step by step: what counts as seen, what a loss is, what is written where."""

from __future__ import annotations

import pytest
from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.errors import DeviceError
from pydrbd_fence.extension import Letter, Record, Stage, State
from pydrbd_fence.timeouts import derive_timeouts
from pydrbd_fence.watcher import Followed, Lost, Noted, Posted, Seen, Watcher, Wish

from tests.fence.harness import MemoryDevice

TIMES = derive_timeouts(5)
BOOT = b"B" * 16


class Eyes:
    """A watcher of alpha on a device in memory, and the disk as another node sees it."""

    def __init__(self):
        self.device = MemoryDevice()
        self.disk = SbdDisk(self.device.another())
        self.disk.create(TIMES, b"u" * 16)
        self.now = 0.0
        self.events = []
        self.gone = False
        self.watcher = Watcher(
            0,
            "alpha",
            BOOT,
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

    def step(self):
        self.events.clear()
        self.watcher.step()
        return [event for event in self.events if not isinstance(event, Noted)]

    def notes(self):
        return " ".join(event.text for event in self.events if isinstance(event, Noted))


def test_the_first_look_takes_a_slot_and_says_who_lives_there():
    """Boot, generation, state and priority are in the slot; later looks write nothing."""
    eyes = Eyes()
    eyes.watcher.priority = 100
    assert eyes.step() == [Followed(0, Wish()), Seen(0, 0.0)]
    record = eyes.disk.read_slot(0)
    assert (record.name, record.boot, record.state) == ("alpha", BOOT, State.starting)
    assert (record.priority, record.generation) == (100, 1)
    eyes.device.written.clear()
    assert eyes.step() == [Seen(0, 0.0)] and eyes.device.written == []


def test_wishes_are_written_once():
    """State and acknowledgement come into the slot with the next look."""
    eyes = Eyes()
    eyes.step()
    wish = Wish(State.dying, b"p" * 16, 2, 1500)
    eyes.watcher.wish = wish
    assert eyes.step() == [Followed(0, wish), Seen(0, 0.0)]
    record = eyes.disk.read_slot(0)
    assert (record.state, record.taken_id, record.dead_within_ms, record.sequence) == (State.dying, b"p" * 16, 1500, 2)


def test_pills_stay_and_other_messages_are_taken_out():
    """The next boot must see that the pill was for this one; test, exit and unknown ones are told and removed."""
    eyes = Eyes()
    eyes.step()
    pill = Letter(2, "beta", True, True, 1, b"p" * 16, b"s" * 16, BOOT)
    eyes.disk.write_letter(0, pill)
    assert Posted(0, pill) in eyes.step() and eyes.disk.read_letter(0) == pill
    for code in (1, 4, 77, 200):
        eyes.disk.write_letter(0, Letter(code, "beta"))
        assert Posted(0, Letter(code, "beta")) in eyes.step()
        assert eyes.disk.read_letter(0) == Letter()


def test_a_pill_for_an_earlier_boot_is_removed_with_words():
    """At the start, and when it arrives late."""
    eyes = Eyes()
    old = Letter(2, "beta", True, True, 1, b"p" * 16, b"s" * 16, b"old" + bytes(13))
    eyes.disk.write_slot(0, Record("alpha"))
    for _ in range(2):
        eyes.disk.write_letter(0, old)
        assert not any(isinstance(event, Posted) for event in eyes.step())
        assert eyes.disk.read_letter(0) == Letter() and "reset from beta" in eyes.notes()


def test_a_pill_that_came_while_the_daemon_was_away_is_obeyed():
    """Same boot, a daemon of ours was here: SBD's pill too."""
    for letter in (Letter(2, "beta"), Letter(3, "beta", True, True, 1, b"p" * 16, b"s" * 16, BOOT)):
        eyes = Eyes()
        eyes.disk.write_slot(0, Record("alpha", True, 1, BOOT, 1, State.left))
        eyes.disk.write_letter(0, letter)
        assert Posted(0, letter) in eyes.step()
        assert eyes.disk.read_slot(0).generation == 2


@pytest.mark.parametrize("what", ["header", "slot", "stock slot"])
def test_a_device_that_is_not_ours_any_more_is_lost(what):
    """Created again, or our slot given to another: the look does not count."""
    eyes = Eyes()
    eyes.step()
    if what == "header":
        eyes.disk.create(TIMES, b"v" * 16)
    else:
        eyes.disk.write_slot(0, Record("gamma" if what == "slot" else "alpha"))
    (lost,) = eyes.step()
    assert isinstance(lost, Lost) and ("header" in lost.why or "not ours" in lost.why)
    assert eyes.device.closed
    assert Seen(0, 0.0) in eyes.step()


def test_a_device_with_other_times_is_lost():
    """The whole cluster works with one set of times."""
    eyes = Eyes()
    eyes.disk.create(derive_timeouts(10), b"u" * 16)
    assert "other times" in eyes.step()[0].why


def test_errors_are_losses_and_the_device_is_opened_again():
    """Reading, writing our slot, opening."""
    eyes = Eyes()
    eyes.step()
    eyes.device.broken = "medium error"
    assert "medium error" in eyes.step()[0].why
    eyes.gone, eyes.device.broken = True, ""
    assert eyes.step() == [Lost(0, "gone")]
    eyes.gone = False
    assert Seen(0, 0.0) in eyes.step()
    eyes.device.deaf = True
    eyes.watcher.priority = 5
    assert "does not hold" in eyes.step()[0].why


def test_a_claim_that_leads_to_nothing_is_removed():
    """Its sender crashed: it must not stop us from fencing for ever. One that is renewed stays."""
    eyes = Eyes()
    eyes.step()

    def claim(sequence):
        boots = (b"s" * 16, BOOT)
        eyes.disk.write_letter(0, Letter(0, "beta", True, True, sequence, b"c" * 16, *boots, Stage.claim))

    for second in range(30):
        claim(second)
        eyes.now += 1
        eyes.step()
    assert eyes.disk.read_letter(0).claims
    eyes.now += 30
    eyes.step()
    assert eyes.disk.read_letter(0) == Letter() and "led to nothing" in eyes.notes()
