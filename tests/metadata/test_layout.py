"""Where the pieces lie, and that a superblock with a wrong geometry is refused with words that help."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.errors import MetaDataError
from pydrbd.metadata.layout import INDEXED_SLOT_SECTORS, Layout, MetaKind
from pydrbd.metadata.superblock import Superblock
from pydrbd.units import GIB, MIB, SECTORS_PER_BIT


def test_internal_layout_of_128_mib_is_as_drbdmeta_makes_it():
    """The published example: superblock, sizes and offsets of a 128 MiB device."""
    layout = Layout.internal(262144)
    assert layout.superblock_sector == 262136
    assert (layout.md_size_sectors, layout.al_offset_sectors, layout.bm_offset_sectors) == (80, -64, -72)
    assert layout.usable_sectors == 262064
    assert layout.bitmap_offset_bytes == 262064 * 512
    assert layout.al_offset_bytes == (262136 - 64) * 512


def test_internal_layout_of_1_gib_is_as_drbdmeta_makes_it():
    """The second example: eight pages of bitmap."""
    layout = Layout.internal(GIB // 512)
    assert (layout.md_size_sectors, layout.al_offset_sectors, layout.bm_offset_sectors) == (136, -64, -128)
    assert layout.usable_sectors == 2097016
    assert layout.bitmap_size_bytes == 8 * 4096


def test_external_layouts_begin_with_the_superblock():
    """Flexible takes the whole device, indexed a slot of 128 MiB with room for just under 4 TiB of data."""
    flexible = Layout.flexible(8 * MIB // 512)
    assert (flexible.superblock_sector, flexible.md_size_sectors, flexible.bm_offset_sectors) == (0, 16384, 72)
    assert flexible.data_sectors(1000) == 1000
    indexed = Layout.indexed(1, 2 * INDEXED_SLOT_SECTORS)
    assert indexed.superblock_offset_bytes == 128 * MIB
    assert indexed.usable_sectors == 8_587_575_296
    assert indexed.data_sectors(1 << 40) == 8_587_575_296


@given(st.integers(2048, 1 << 40), st.integers(1, 16), st.integers(8, 512))
def test_internal_pieces_are_aligned_and_touch_but_do_not_overlap(sectors, stripes, stripe_size):
    """Data, bitmap, log, superblock follow each other in whole blocks, and the bitmap covers all of the data."""
    try:
        layout = Layout.internal(sectors, stripes, stripe_size)
    except MetaDataError:
        assert sectors < 8 * (stripes * stripe_size + 2 + sectors // 262144 + 1)
        return
    assert layout.usable_sectors * 512 == layout.bitmap_offset_bytes
    assert layout.bitmap_offset_bytes + layout.bitmap_size_bytes == layout.al_offset_bytes
    assert layout.al_offset_bytes + layout.al_size_bytes == layout.superblock_offset_bytes
    assert layout.superblock_offset_bytes + 4096 <= sectors * 512 < layout.superblock_offset_bytes + 8192
    assert layout.superblock_offset_bytes % 4096 == layout.bitmap_offset_bytes % 4096 == 0
    assert layout.bitmap_size_bytes * 8 * SECTORS_PER_BIT >= layout.usable_sectors
    assert layout == Layout.from_superblock(MetaKind.INTERNAL, sectors, Superblock.fresh(layout))


def test_external_layouts_survive_the_way_through_a_superblock():
    """What `fresh` writes is what `from_superblock` reads, also for striped logs."""
    for layout in (Layout.flexible(20000, 2, 16), Layout.flexible(2048), Layout.indexed(3, 5 * INDEXED_SLOT_SECTORS)):
        sb = Superblock.decode(Superblock.fresh(layout).encode())
        assert Layout.from_superblock(layout.kind, layout.md_device_sectors, sb, layout.index) == layout


def test_stripes_of_zero_mean_the_old_default():
    """A block of DRBD 8.3's time has no stripe fields."""
    layout = Layout.internal(262144)
    sb = replace(Superblock.fresh(layout), al_stripes=0, al_stripe_size_4k=0)
    assert Layout.from_superblock(MetaKind.INTERNAL, 262144, sb) == layout


BAD_INTERNAL = {
    "bm_bytes_per_bit": {"bytes_per_bit": 8192},
    "al_stripes": {"al_stripes": 0},
    "al_stripe_size_4k": {"al_stripe_size_4k": 0},
    "4 KiB blocks": {"al_stripe_size_4k": 7},
    "al_offset": {"al_offset_sectors": -72},
    "bm_offset": {"bm_offset_sectors": -56},
    "md_size_sect": {"md_size_sectors": 88},
    "multiple of 8": {"bm_offset_sectors": -73, "md_size_sectors": 81},
    "at most 262144": {"bm_offset_sectors": -270000, "md_size_sectors": 270008},
    "last agreed size of 262145 sectors": {"la_size_sectors": 262145},
}


@pytest.mark.parametrize("words", BAD_INTERNAL)
def test_a_wrong_internal_geometry_is_refused_by_name(words):
    """Each check names the field, what was found and what was expected."""
    layout = Layout.internal(262144)
    sb = replace(Superblock.fresh(layout), **BAD_INTERNAL[words])
    with pytest.raises(MetaDataError, match=words) as caught:
        Layout.from_superblock(MetaKind.INTERNAL, 262144, sb)
    assert "internal meta-data at byte 134213632" in str(caught.value)


BAD_EXTERNAL = {
    "al_offset is 16, expected 8": {"al_offset_sectors": 16},
    "bm_offset is 64, expected 72": {"bm_offset_sectors": 64},
    "at most 16384": {"md_size_sectors": 16392},
    "more than 72": {"md_size_sectors": 72},
}


@pytest.mark.parametrize("words", BAD_EXTERNAL)
def test_a_wrong_external_geometry_is_refused_by_name(words):
    """As for internal."""
    sb = replace(Superblock.fresh(Layout.flexible(16384)), **BAD_EXTERNAL[words])
    with pytest.raises(MetaDataError, match=words):
        Layout.from_superblock(MetaKind.FLEXIBLE, 16384, sb)


def test_indexed_meta_data_must_have_the_fixed_size():
    """A flexible block is not taken for an indexed one."""
    sb = Superblock.fresh(Layout.flexible(16384))
    with pytest.raises(MetaDataError, match=r"md_size_sect is 16384, expected 262144"):
        Layout.from_superblock(MetaKind.INDEXED, INDEXED_SLOT_SECTORS, sb)


def test_a_device_that_is_too_small_is_refused():
    """The kernel's minimum for each kind, and a log that leaves nothing for data."""
    for make in (lambda: Layout.internal(2047), lambda: Layout.flexible(2047), lambda: Layout.indexed(1, 400_000)):
        with pytest.raises(MetaDataError, match="too small"):
            make()
    with pytest.raises(MetaDataError, match="no room for data"):
        Layout.internal(2048, 1, 256)
    with pytest.raises(MetaDataError, match="no room for data"):
        Layout.flexible(2048, 1, 255)
    with pytest.raises(MetaDataError, match="not allowed"):
        Layout.internal(1 << 20, 1, 7)
