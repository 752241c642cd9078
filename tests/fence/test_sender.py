"""Sending: exactly one of two dies, a pill knows its boot, success means death, no write is simply believed."""

from __future__ import annotations

import itertools
import random

import pytest
from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.errors import DeviceError, Refused
from pydrbd_fence.extension import NO_ID, Letter, Record, Stage, State, is_kill
from pydrbd_fence.layout import Command
from pydrbd_fence.sender import Errand, Proof, outranks, run_to_end, send
from pydrbd_fence.timeouts import derive_timeouts

from tests.fence.harness import MemoryDevice, MemoryPanel

TIMES = derive_timeouts(5)
BOOTS = {"alpha": b"A" * 16, "beta": b"B" * 16}
ALPHA, BETA = 0, 1


class Place:
    """Devices with slots for alpha and beta, a clock, and senders on both nodes."""

    def __init__(self, count=1, stock=False, priorities=(0, 0)):
        self.devices = [MemoryDevice(f"disk{i}") for i in range(count)]
        self.now = 0.0
        self.ids = (bytes([i]) * 16 for i in itertools.count(1))
        self.at_pause = []
        self.priorities = dict(zip(BOOTS, priorities, strict=True))
        for device in self.devices:
            disk = SbdDisk(device)
            disk.create(TIMES, b"u" * 16)
            for index, (name, boot) in enumerate(BOOTS.items()):
                ours = Record(name, True, 1, boot, 1, State.watching, self.priorities[name])
                disk.write_slot(index, Record(name) if stock else ours)

    def disks(self):
        return [SbdDisk(device.another()) for device in self.devices]

    def panel(self):
        panel = MemoryPanel(self.devices)
        return panel

    def steps(self, me, target, command=Command.reset, boot=None):
        own = BOOTS.get(me, b"X" * 16) if boot is None else boot
        priority = self.priorities.get(me, 0)
        errand = Errand(me, own, priority, target, command, lambda: self.now, lambda: next(self.ids))
        return send(self.panel(), errand, TIMES)

    def sleep(self, seconds):
        self.now += seconds
        for action in self.at_pause:
            action()

    def run(self, *words, **options):
        return run_to_end(self.steps(*words, **options), self.sleep)

    def letters(self, index):
        return [disk.read_letter(index) for disk in self.disks()]

    def write(self, index, letter):
        for disk in self.disks():
            disk.write_letter(index, letter)

    def slot(self, index, **changes):
        for disk in self.disks():
            record = disk.read_slot(index)
            fields = {field: getattr(record, field) for field in Record.__slots__}
            disk.write_slot(index, Record(**(fields | {"sequence": record.sequence + 1} | changes)))


def test_a_taken_pill_is_proof_after_the_time_that_it_names():
    """beta's daemon takes it at once and is dead a second later: no msgwait."""
    place = Place()

    def beta():
        letter = place.letters(BETA)[0]
        if is_kill(letter):
            place.slot(BETA, state=State.dying, taken_id=letter.letter_id, taken_command=2, dead_within_ms=1000)

    place.at_pause.append(beta)
    assert place.run("alpha", "beta") is Proof.taken
    assert 1.0 <= place.now < 2.0
    pill = place.letters(BETA)[0]
    assert (pill.command, pill.target_boot, pill.sender) == (Command.reset, BOOTS["beta"], "alpha")


def test_an_acknowledgement_of_another_pill_proves_nothing():
    """A slot that still says `dying` from an earlier pill does not shorten the wait."""
    place = Place()
    place.slot(BETA, state=State.dying, taken_id=b"old" + bytes(13), dead_within_ms=0)
    assert place.run("alpha", "beta") is Proof.elapsed
    assert place.now >= TIMES.msgwait_s


def test_without_an_acknowledgement_msgwait_counts_from_the_write():
    """The target is dead, or runs SBD's own daemon."""
    for stock in (False, True):
        place = Place(stock=stock)
        assert place.run("alpha", "beta") is Proof.elapsed
        assert TIMES.msgwait_s <= place.now < TIMES.msgwait_s + 1


def test_another_boot_is_proof():
    """The boot that was to die is over; the pill does not reach the next one."""
    place = Place()
    place.at_pause.append(lambda: place.slot(BETA, boot=b"C" * 16, state=State.starting) if place.now > 3 else None)
    assert place.run("alpha", "beta") is Proof.rebooted
    assert place.now < 4 and place.letters(BETA)[0].target_boot == BOOTS["beta"]


def test_a_pill_that_vanishes_is_written_again():
    """Somebody empties the box without taking the pill: the wait begins anew, and ends with words if that goes on."""
    place = Place()
    emptied = []

    def thief():
        if len(emptied) < place.thefts and place.now > 5:
            emptied.append(place.now)
            place.write(BETA, Letter())

    place.at_pause.append(thief)
    place.thefts = 1
    assert place.run("alpha", "beta") is Proof.elapsed
    assert is_kill(place.letters(BETA)[0]) and place.now >= 5 + TIMES.msgwait_s
    place.thefts, place.now = 1000, 0.0
    with pytest.raises(Refused, match="keeps emptying"):
        place.run("alpha", "beta")


def test_a_node_whose_daemon_left_cleanly_is_not_called_dead():
    """No watchdog is armed there and nobody reads: time proves nothing."""
    place = Place()
    place.slot(BETA, state=State.left)
    with pytest.raises(Refused, match="ended cleanly"):
        place.run("alpha", "beta")
    assert not is_kill(place.letters(BETA)[0])


def test_a_condemned_node_fences_nobody():
    """alpha's own box holds a pill for this boot: its word does not count any more. An old pill does not matter."""
    place = Place()
    place.write(ALPHA, Letter(2, "beta", True, True, 1, b"p" * 16, BOOTS["beta"], b"old boot" * 2))
    assert place.run("alpha", "beta") is Proof.elapsed
    place = Place()
    place.write(ALPHA, Letter(2, "beta", True, True, 1, b"p" * 16, BOOTS["beta"], BOOTS["alpha"]))
    with pytest.raises(Refused, match="this node itself"):
        place.run("alpha", "beta")


@pytest.mark.parametrize(("count", "lost", "works"), [(1, 1, 0), (2, 1, 0), (3, 1, 1), (3, 2, 0)])
def test_sending_needs_a_majority(count, lost, works):
    """1 of 1, 2 of 2, 2 of 3; too few is an error that names the device."""
    place = Place(count)
    for device in place.devices[:lost]:
        device.broken = "gone"
    if works:
        assert place.run("alpha", "beta") is Proof.elapsed
    else:
        with pytest.raises(DeviceError, match=r"disk0: gone"):
            place.run("alpha", "beta")


def test_a_write_that_failed_is_never_a_delivery():
    """The device takes the write and keeps the old content: an error at once, not success after msgwait."""
    place = Place(stock=True)
    place.devices[0].deaf = True
    for command in (Command.reset, Command.test, Command.exit):
        with pytest.raises(DeviceError, match="does not hold"):
            place.run("alpha", "beta", command)
    assert place.now == 0.0


def test_leftover_messages_do_not_stop_a_kill():
    """`test`, `exit` and garbage in the box are simply replaced; an unread pill is sent anew and waited for."""
    for command in (Command.test, Command.exit, Command.crashdump, Command.reset, 77, 200):
        place = Place()
        place.write(BETA, Letter(command, "gamma"))
        assert place.run("alpha", "beta", Command.off) is Proof.elapsed
        assert place.letters(BETA)[0].command == Command.off and place.now >= TIMES.msgwait_s


def test_test_is_answered_or_an_error():
    """Taken by a daemon: consumed. Nobody there: said so, and the box is empty again."""
    place = Place()
    place.at_pause.append(lambda: place.write(BETA, Letter()) if place.now > 0.5 else None)
    assert place.run("alpha", "beta", Command.test) is Proof.consumed
    place = Place()
    with pytest.raises(Refused, match="nobody took"):
        place.run("alpha", "beta", Command.test)
    assert place.letters(BETA)[0].command == Command.clear


def test_a_waiting_pill_is_only_cleared_on_purpose():
    """`test` and `exit` must not save a node; `clear` is a human's word."""
    place = Place()
    place.write(BETA, Letter(2, "gamma"))
    for command in (Command.test, Command.exit):
        with pytest.raises(Refused, match="a pill waits"):
            place.run("alpha", "beta", command)
    assert place.run("alpha", "beta", Command.clear) is Proof.written
    assert place.letters(BETA)[0].command == Command.clear


def test_a_node_without_a_slot_is_named():
    """An unknown target is an error, not a fencing."""
    with pytest.raises(DeviceError, match="gamma has no slot"):
        Place().run("alpha", "gamma")


def test_of_two_exactly_one_outranks_the_other():
    """Priority first, then the name; never both, never none."""
    for mine, theirs in itertools.product((0, 1, 100), repeat=2):
        assert outranks(mine, "alpha", theirs, "beta") != outranks(theirs, "beta", mine, "alpha")
    assert outranks(1, "beta", 0, "alpha") and outranks(0, "alpha", 0, "beta")


def race(place, rng, late=0.0):
    """Both nodes kill each other; their steps are interleaved by chance. Returns who was refused."""
    senders = {"alpha": place.steps("alpha", "beta"), "beta": place.steps("beta", "alpha")}
    due = {"alpha": 0.0, "beta": late}
    refused = {}
    while due:
        name = min(due, key=lambda n: (due[n], rng.random()))
        place.now = max(place.now, due[name])
        pill = place.letters(ALPHA if name == "alpha" else BETA)[0]
        if is_kill(pill) and rng.random() < 0.5:  # its daemon took it: the node ends, and its sender with it
            due.pop(name)
            refused[name] = "dead"
            continue
        try:
            due[name] += next(senders[name]) + rng.random() * 0.3
        except (Refused, StopIteration) as end:
            due.pop(name)
            if isinstance(end, Refused):
                refused[name] = str(end)
    return refused


@pytest.mark.parametrize("count", [1, 3])
def test_in_a_split_exactly_one_dies(seed, count):
    """Any interleaving of two claims, any priorities: one pill is written, and only one."""
    rng = random.Random(seed)
    for _ in range(60):
        priorities = rng.choice([(0, 0), (100, 0), (0, 100)])
        place = Place(count, priorities=priorities)
        refused = race(place, rng, late=rng.random() * rng.choice([0, 0.3, 1, 3]))
        shot = [name for index, name in enumerate(BOOTS) if any(is_kill(x) for x in place.letters(index))]
        assert len(shot) == 1, (shot, refused, priorities)
        assert list(refused) == shot


@pytest.mark.parametrize("late", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("primary", ["alpha", "beta"])
def test_the_primary_wins_although_it_claims_later(seed, primary, late):
    """The other one sees a better node in the slots and leaves it time for its claim."""
    rng = random.Random(seed)
    place = Place(priorities=(100, 0) if primary == "alpha" else (0, 100))
    steps = {name: place.steps(name, "beta" if name == "alpha" else "alpha") for name in BOOTS}
    due = {"alpha": 0.0, "beta": 0.0, primary: late}
    while due:
        name = min(due, key=lambda n: (due[n], rng.random()))
        place.now = max(place.now, due[name])
        if is_kill(place.letters(ALPHA if name == "alpha" else BETA)[0]):
            due.pop(name)
            continue
        try:
            due[name] += next(steps[name])
        except (Refused, StopIteration):
            due.pop(name)
    survivor, other = (ALPHA, BETA) if primary == "alpha" else (BETA, ALPHA)
    assert is_kill(place.letters(other)[0]) and not is_kill(place.letters(survivor)[0])


def test_a_claim_of_a_crashed_sender_ends_by_itself():
    """beta claimed and its sender died: alpha, of higher rank, waits until the claim is void, and goes on."""
    place = Place(priorities=(1, 0))
    place.write(ALPHA, Letter(0, "beta", True, True, 1, b"c" * 16, BOOTS["beta"], BOOTS["alpha"], Stage.claim, 0))
    assert place.run("alpha", "beta") is Proof.elapsed
    assert is_kill(place.letters(BETA)[0])


def test_a_claim_of_an_earlier_boot_does_not_count():
    """Whoever made it is dead."""
    place = Place(priorities=(0, 100))
    place.write(
        ALPHA, Letter(0, "beta", True, True, 1, b"c" * 16, b"old" + bytes(13), BOOTS["alpha"], Stage.claim, 100)
    )
    assert place.run("alpha", "beta") is Proof.elapsed


def test_the_loser_takes_its_claim_back():
    """beta sees alpha's better claim, withdraws, and says who goes on."""
    place = Place(priorities=(100, 0))
    place.write(BETA, Letter(0, "alpha", True, True, 1, b"c" * 16, BOOTS["alpha"], BOOTS["beta"], Stage.claim, 100))
    with pytest.raises(Refused, match="alpha claims this node"):
        place.run("beta", "alpha")
    assert not place.letters(ALPHA)[0].claims


def test_a_pill_comes_in_time_or_not_at_all():
    """A sender that was stopped between claim and pill does not write it: the other side no longer counts on it."""
    place = Place()
    steps = place.steps("alpha", "beta")
    next(steps)
    place.now = 60.0
    with pytest.raises(DeviceError, match="too long"):
        list(steps)
    assert not is_kill(place.letters(BETA)[0]) and not place.letters(BETA)[0].claims


def test_a_host_without_a_daemon_kills_without_a_claim():
    """An administrator's machine has no slot: nobody can claim it."""
    place = Place()
    assert place.run("admin", "beta", boot=NO_ID) is Proof.elapsed


def test_the_race_can_be_lost_by_a_weaker_protocol(seed, monkeypatch):
    """The same races without looking at the rival: both die in some of them, so the test above can fail."""
    monkeypatch.setattr("pydrbd_fence.sender._Kill._rival", lambda self, views: None)
    rng = random.Random(seed)
    both = 0
    for _ in range(40):
        place = Place()
        race(place, rng, late=rng.random() * 0.3)
        both += all(is_kill(letter) for index in (ALPHA, BETA) for letter in place.letters(index))
    assert both > 0
