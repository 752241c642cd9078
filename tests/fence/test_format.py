"""The on-disk format: SBD's bytes from its description, our extension, and how damage is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.errors import DeviceError, FormatError, Refused
from pydrbd_fence.extension import (
    Letter,
    Record,
    Stage,
    State,
    decode_io_s,
    decode_letter,
    decode_record,
    encode_header_with_io,
    encode_letter,
    encode_record,
)
from pydrbd_fence.layout import SLOTS, Header, check_name, command_name, decode_header, encode_header
from pydrbd_fence.timeouts import Timeouts, contest_s, derive_timeouts

from tests.fence.harness import MemoryDevice

HEADER = bytes.fromhex(
    "5342445f5342445f02ff0000000002000000000700000001000000010000000e01fddb7ab85b2049fb980000000000000000"
)
"""What sbd 1.5.2 wrote for `create -1 7 -2 1 -3 1 -4 14` (the end of its uuid replaced by zeros)."""

ids = st.binary(min_size=16, max_size=16)
names = st.from_regex(r"[a-z][a-z0-9.-]{0,62}", fullmatch=True)
u32 = st.integers(0, 2**32 - 1)


def test_a_header_is_what_sbd_writes():
    """Reading sbd's own bytes gives the values, and writing them gives the bytes."""
    sector = HEADER.ljust(512, b"\0")
    header = decode_header(sector)
    assert (header.watchdog_s, header.allocate_s, header.loop_s, header.msgwait_s) == (7, 1, 1, 14)
    assert (header.sector_bytes, header.slot_count, header.minor_version) == (512, SLOTS, 1)
    assert header.uuid == bytes.fromhex("fddb7ab85b2049fb98") + bytes(7)
    assert encode_header(header) == sector


def test_slots_and_mailboxes_are_a_byte_and_a_name():
    """What carries nothing of ours is, to the byte, what sbd writes."""
    assert encode_record(Record("alpha"), 512) == b"\x01alpha".ljust(512, b"\0")
    assert encode_letter(Letter(2, "beta"), 4096) == b"\x02beta".ljust(4096, b"\0")
    assert decode_record(b"\x01alpha".ljust(512, b"\0")) == Record("alpha")
    assert decode_letter(b"\x03beta".ljust(512, b"\0")) == Letter(3, "beta")


@pytest.mark.parametrize("change", [(0, 0x54), (8, 3), (12, 1), (9, 0)], ids=["magic", "version", "sector", "slots"])
def test_a_foreign_header_is_refused(change):
    """Another magic, version, sector size or slot count is no header of ours."""
    sector = bytearray(HEADER.ljust(512, b"\0"))
    sector[change[0]] = change[1]
    with pytest.raises(FormatError):
        decode_header(bytes(sector))


@given(names, u32, ids, st.sampled_from([s for s in State if s is not State.stock]), u32, ids, u32)
def test_a_record_comes_back(name, generation, boot, state, priority, taken, dead_ms):
    """Our extension of a slot survives both sector sizes, and leaves sbd's part alone."""
    record = Record(name, True, 2**40, boot, generation, state, priority, taken, 3, dead_ms)
    for size in (512, 4096):
        sector = encode_record(record, size)
        assert len(sector) == size and decode_record(sector) == record
        assert sector[:128] == encode_record(Record(name), size)[:128]


@given(names, ids, ids, ids, st.sampled_from(Stage), u32, st.integers(0, 255))
def test_a_letter_comes_back(sender, letter_id, mine, theirs, stage, priority, command):
    """Our extension of a mailbox survives, and leaves sbd's part alone."""
    letter = Letter(command, sender, True, True, 7, letter_id, mine, theirs, stage, priority)
    sector = encode_letter(letter, 512)
    assert decode_letter(sector) == letter
    assert sector[:128] == encode_letter(Letter(command, sender), 512)[:128]


@given(st.integers(0, 511), st.integers(1, 255))
def test_damage_is_seen(at, change):
    """Any changed byte of a sector of ours: nothing is acknowledged by it, and no claim or boot is believed."""
    record = Record("alpha", True, 1, b"b" * 16, 1, State.dying, 5, b"p" * 16, 2, 1000)
    letter = Letter(2, "beta", True, True, 1, b"i" * 16, b"s" * 16, b"t" * 16, Stage.claim, 5)
    for sector, decode in ((encode_record(record, 512), decode_record), (encode_letter(letter, 512), decode_letter)):
        torn = bytearray(sector)
        torn[at] ^= change
        found = decode(bytes(torn))
        assert found not in (record, letter)
        if isinstance(found, Record):
            assert found.state is State.stock
        else:
            assert not found.claims and (not found.ours or not found.intact)


def test_the_time_for_one_io_is_kept_in_the_header():
    """SBD has no place for it; a header of sbd says 0, and so does a damaged one."""
    header = Header(512, 5, 2, 1, 12, b"u" * 16)
    sector = encode_header_with_io(header, 4)
    assert decode_header(sector) == header and decode_io_s(sector) == 4
    assert decode_io_s(encode_header(header)) == 0
    assert decode_io_s(sector[:136] + b"\xff" + sector[137:]) == 0


def test_names_are_ascii_short_and_lower_case():
    """What does not fit is refused, never cut off."""
    assert check_name("Alpha.Example") == "alpha.example"
    for bad in ("", "a b", "a\tb", "é", "x" * 64):
        with pytest.raises(FormatError):
            check_name(bad)


def test_commands_have_words():
    """The numbers that SBD knows, and one that it does not."""
    assert [command_name(code) for code in (0, 5, 6, 255)] == ["clear", "crashdump", "undefined", "undefined"]


def test_times_follow_the_watchdog():
    """One value gives all the others, and they keep every relation."""
    for watchdog in (2, 5, 15, 30, 60):
        times = derive_timeouts(watchdog)
        assert times.complaints() == []
        assert times.msgwait_s >= 2 * watchdog and times.msgwait_s > times.death_s
    assert derive_timeouts(5) == Timeouts(5, 2, 1, 12, 3)
    assert derive_timeouts(60).msgwait_s == 120
    assert derive_timeouts(8, io_s=30).msgwait_s == 49  # (30 + 1 + 8) * 11 / 9 and a second: clocks wrong by a tenth
    assert derive_timeouts(5).pacemaker_values() == {"stonith-timeout": "28s", "stonith-watchdog-timeout": "10s"}
    assert contest_s(derive_timeouts(5)) == 8


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"watchdog_s": 30, "msgwait_s": 10}, "twice"),
        ({"watchdog_s": 5, "msgwait_s": 10, "io_s": 30}, "at least 37 s"),
        ({"watchdog_s": 1}, "shorter"),
        ({"allocate_s": 0}, "allocate is 0"),
        ({"msgwait_s": 100_000}, "msgwait is 100000"),
    ],
)
def test_bad_times_are_named(given, word):
    """What is given is kept, and complained about."""
    assert any(word in complaint for complaint in derive_timeouts(**given).complaints())


def test_a_disk_is_created_and_slots_are_found():
    """create, allocate twice, find, and the first match regardless of case."""
    disk = SbdDisk(MemoryDevice())
    disk.create(derive_timeouts(5, io_s=2), b"u" * 16)
    assert disk.read_times() == Timeouts(5, 2, 1, 11, 2)
    assert disk.read_times(io_s=4).io_s == 4
    slept = []
    assert disk.allocate("alpha", 2, slept.append) == 0
    assert disk.allocate("beta", 2, slept.append) == 1
    assert disk.allocate("ALPHA", 2, slept.append) == 0 and slept == [2, 2]
    assert [(i, r.name) for i, r in disk.slots()] == [(0, "alpha"), (1, "beta")]
    assert disk.find_slot("gamma") is None


def test_the_loser_of_a_race_for_a_slot_takes_the_next():
    """Another node overwrites the claim while we wait: we look again, and claim another one."""
    disk = SbdDisk(MemoryDevice())
    disk.create(derive_timeouts(), b"u" * 16)
    losses = iter([True, False])

    def sleep(_):
        if next(losses):
            disk.write_slot(0, Record("gamma"))

    assert disk.allocate("alpha", 1, sleep) == 1
    assert [r.name for _, r in disk.slots()] == ["gamma", "alpha"]


def test_a_full_disk_has_no_slot():
    """All 255 slots in use: refused with words."""
    disk = SbdDisk(MemoryDevice())
    disk.create(derive_timeouts(), b"u" * 16)
    for index in range(SLOTS):
        disk.write_slot(index, Record(f"n{index}"))
    with pytest.raises(Refused, match="all slots"):
        disk.allocate("alpha", 1, lambda s: None)


def test_a_write_that_did_not_happen_is_an_error():
    """The device says yes and forgets it: what is read back is another thing, and that is said."""
    device = MemoryDevice()
    disk = SbdDisk(device)
    disk.create(derive_timeouts(), b"u" * 16)
    device.deaf = True
    with pytest.raises(DeviceError, match="does not hold"):
        disk.write_letter(0, Letter(2, "beta"))
    with pytest.raises(DeviceError, match="does not hold"):
        disk.write_slot(0, Record("beta"))


def test_half_a_creation_is_no_device():
    """The header is written last: a device that fails before has none."""
    device = MemoryDevice()
    SbdDisk(device).create(derive_timeouts(), b"u" * 16)
    assert device.written[-1] == 0 and len(device.written) == 512
    with pytest.raises(FormatError, match="no SBD header"):
        SbdDisk(MemoryDevice()).read_header()
