"""The superblock's bytes, its text form, and what it says about the disk."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.errors import MetaDataError, UsageError
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MAGIC_CLEAN, MAGIC_UNCLEAN, AttachState, MdFlag, StoredDiskState, Superblock

U32, U64, I32 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1)
FLAGS = st.integers(0, 0x1FF).map(MdFlag)
SUPERBLOCKS = st.builds(
    Superblock,
    la_size_sectors=U64,
    current_uuid=U64,
    bitmap_uuid=U64,
    history_uuids=st.tuples(U64, U64),
    device_uuid=U64,
    flags=FLAGS,
    magic=st.sampled_from([MAGIC_CLEAN, MAGIC_UNCLEAN]),
    md_size_sectors=U32,
    al_offset_sectors=I32,
    al_extents=U32,
    bm_offset_sectors=I32,
    bytes_per_bit=U32,
    peer_max_bio_bytes=U32,
    al_stripes=U32,
    al_stripe_size_4k=U32,
)


@given(SUPERBLOCKS)
def test_a_superblock_survives_encoding(sb):
    """decode(encode(x)) == x for every value of every field, in exactly one block."""
    block = sb.encode()
    assert len(block) == 4096
    assert Superblock.decode(block) == sb
    assert not any(block[0x60:])


def test_a_kernels_superblock_decodes_field_by_field():
    """Each field at its documented place (distinct values everywhere)."""
    block = bytearray(4096)
    struct.pack_into(">QQQQQQ", block, 0, 262064, 0x11, 0x22, 0x33, 0x44, 0x55)
    struct.pack_into(">IIIiIiIIII", block, 0x38, 0x17, 0x8374026C, 80, -64, 1237, -72, 4096, 1048576, 1, 8)
    sb = Superblock.decode(bytes(block))
    assert sb.la_size_sectors == 262064
    assert (sb.current_uuid, sb.bitmap_uuid, sb.history_uuids, sb.device_uuid) == (0x11, 0x22, (0x33, 0x44), 0x55)
    assert sb.flags == MdFlag.CONSISTENT | MdFlag.PRIMARY_IND | MdFlag.CONNECTED_IND | MdFlag.WAS_UP_TO_DATE
    assert (sb.md_size_sectors, sb.al_offset_sectors, sb.bm_offset_sectors) == (80, -64, -72)
    assert (sb.al_extents, sb.bytes_per_bit, sb.peer_max_bio_bytes) == (1237, 4096, 1048576)
    assert (sb.al_stripes, sb.al_stripe_size_4k) == (1, 8)
    assert not sb.is_clean


def test_unknown_flags_are_kept():
    """A newer kernel's flag is not lost when we rewrite the block."""
    block = bytearray(Superblock().encode())
    struct.pack_into(">I", block, 0x38, 0x4000_0080)
    assert Superblock.decode(bytes(block)).encode() == bytes(block)


def test_clean_needs_magic_and_flag():
    """The clean magic without AL_CLEAN counts as unclean, as for drbdmeta and the kernel."""
    sb = Superblock.fresh(Layout.internal(262144))
    assert sb.is_clean
    assert not replace(sb, flags=MdFlag(0)).is_clean
    assert not replace(sb, magic=MAGIC_UNCLEAN).is_clean
    assert not sb.marked_unclean().is_clean
    assert sb.marked_unclean().magic == MAGIC_UNCLEAN and sb.marked_unclean().flags == 0
    assert sb.marked_unclean().marked_clean() == sb


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (bytes(4096), "all zeros. A new disk needs create-md"),
        (b"\xa5" * 4096, "magic number of the disk is 0xa5a5a5a5, expected 0x8374026b or 0x8374026c"),
        (bytes(0x3C) + b"\x83\x74\x02\x6d" + bytes(4032), "the disk is of DRBD 9"),
        (bytes(0x1C) + b"\x83\x74\x02\x6a" + bytes(4064), "the disk is of DRBD 0.7"),
    ],
)
def test_a_block_that_is_not_ours_is_named(block, words):
    """What was found, and what to do about it."""
    with pytest.raises(MetaDataError, match=words):
        Superblock.decode(block, "the disk")


def attach(flags: int) -> AttachState:
    return Superblock(flags=MdFlag(flags)).attach_state()


def test_the_disk_state_follows_from_the_flags():
    """Not consistent, not up to date, neither: the kernel's order."""
    assert attach(0x10).disk is StoredDiskState.Inconsistent
    assert attach(0x01).disk is StoredDiskState.Outdated
    assert attach(0x11).disk is StoredDiskState.Consistent
    assert attach(0x31).peer_outdated and not attach(0x11).peer_outdated


def test_a_primary_that_stopped_counts_as_crashed():
    """PRIMARY_IND or CRASHED_PRIMARY; with a disabled log that means a full sync."""
    assert attach(0x13).crashed_primary and attach(0x51).crashed_primary and not attach(0x11).crashed_primary
    assert not attach(0x13).full_sync
    assert attach(0x113).full_sync and attach(0x19).full_sync and not attach(0x111).full_sync
    assert attach(0x13).degraded and not attach(0x17).degraded and not attach(0x11).degraded


def test_the_state_in_words_is_what_dstate_prints():
    """UpToDate only if the peer is known to be outdated."""
    texts = [Superblock(flags=MdFlag(flags)).disk_state_text() for flags in (0x00, 0x01, 0x11, 0x31)]
    assert texts == ["Inconsistent", "Outdated", "Consistent", "UpToDate"]


def test_outdate_and_invalidate():
    """Which flags they change; outdate refuses an inconsistent disk."""
    sb = Superblock(flags=MdFlag(0x97))
    assert sb.outdated().flags == 0x87
    assert sb.invalidated().flags == 0x8E
    with pytest.raises(MetaDataError, match="Inconsistent"):
        sb.invalidated().outdated()


def test_generation_identifiers_as_text():
    """get-gi's order: the documented example gives flags 0xf5."""
    sb = Superblock().with_gi_text("123456789ABCDEF0:0:0:0:1:1:0:1:0:1:1")
    assert sb.flags == 0xF5
    assert sb.gi_text() == "123456789ABCDEF0:0000000000000000:0000000000000000:0000000000000000:1:1:0:1:0:1:1"


@given(SUPERBLOCKS, SUPERBLOCKS)
def test_the_text_carries_all_identifiers_and_flags(one, other):
    """Text from one superblock, set in another: the same text again; nothing else changes."""
    moved = other.with_gi_text(one.gi_text())
    assert moved.gi_text() == one.gi_text()
    assert replace(moved, current_uuid=0, bitmap_uuid=0, history_uuids=(0, 0), flags=MdFlag(0)) == replace(
        other, current_uuid=0, bitmap_uuid=0, history_uuids=(0, 0), flags=MdFlag(0)
    )
    rest = MdFlag.AL_CLEAN | MdFlag.AL_DISABLED
    assert moved.flags & rest == other.flags & rest


def test_empty_fields_of_the_text_keep_what_was():
    """As in set-gi: only what is given changes."""
    sb = Superblock(bitmap_uuid=7, flags=MdFlag(0x81))
    changed = sb.with_gi_text(":0x9:::0")
    assert (changed.current_uuid, changed.bitmap_uuid, changed.flags) == (4, 9, 0x80)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "1 to 16 hexadecimal digits"),
        ("11111111111111111", "1 to 16"),
        ("1:2:3:4:2", "CONSISTENT is '2'"),
        ("1:2:3:4:1:1:1:1:1:1:1:1", "12 fields"),
        ("-1", "hexadecimal"),
    ],
)
def test_a_wrong_text_is_refused(text, words):
    """The word that is wrong, and what it should be."""
    with pytest.raises(UsageError, match=words):
        Superblock().with_gi_text(text)
