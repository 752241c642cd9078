"""Meta-data that follows its device to a new end: readable after a crash at every point."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pydrbd.errors import MetaDataError
from pydrbd.metadata.activity_log import ActivityLog, replay
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.moving import grown_layout, plan_move, with_layout
from pydrbd.metadata.opening import KnownSize, open_meta_data
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import EXTENT_SIZE_BYTES

SECTORS = 8 << 11
GROWTHS = [8, 16, 64, 72, 80, 88, 96, 2048, 130 << 11]
"""In sectors. Meta-data of this size takes 80: below, the new pieces lie upon the old ones."""
HOT = (0, 1)
MARKED = (17, 900, 2010)
UUID = 0x1122_3344_5566_7788
DEVICE = 0xABCDEF
KNOWN = (KnownSize(SECTORS, DEVICE),)


class Device:
    """A device with internal meta-data in use: three marked blocks, two hot extents, its Primary alive."""

    def __init__(self):
        self.layout = Layout.internal(SECTORS)
        flags = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.PRIMARY_IND
        self.superblock = replace(
            Superblock.fresh(self.layout, DEVICE), la_size_sectors=self.layout.usable_sectors, current_uuid=UUID
        )
        self.superblock = replace(self.superblock, flags=flags).marked_unclean()
        self.bitmap = Bitmap.for_sectors(self.layout.usable_sectors)
        for bit in MARKED:
            self.bitmap.set_bits(bit, 1)
        self.log = ActivityLog(67)
        self.image = bytearray(SECTORS * 512)
        for offset, data in plan_create(self.layout, superblock=self.superblock):
            self.put(offset, data)
        for page, data in self.bitmap.take_dirty_pages():
            self.put(self.layout.bitmap_page_offset_bytes(page), data)
        for extent in HOT:
            plan = self.log.plan([extent], 0)
            self.put(self.layout.al_offset_bytes + plan.ring_offset_bytes, plan.block)
            self.log.commit(plan)

    def put(self, offset, data):
        self.image[offset : offset + len(data)] = data

    def grow(self, by_sectors):
        """The device has grown; the stages of the move."""
        self.image += bytes(by_sectors * 512)
        new = grown_layout(self.layout, SECTORS + by_sectors)
        pages = [(page, self.bitmap.page(page)) for page in range(self.bitmap.page_count)]
        return new, plan_move(self.layout, new, with_layout(self.superblock, new), pages, self.log.rewrite())


def opened(image, known=KNOWN):
    """What attaching makes of an image; its own writes are carried out, too."""
    sectors = len(image) // 512
    found = open_meta_data(lambda o, n: bytes(image[o : o + n]), MetaKind.INTERNAL, 0, sectors, sectors, known)
    for stage in found.applied.stages:
        for offset, data in stage:
            image[offset : offset + len(data)] = data
    return found


def check(found):
    """It is the same disk, and nothing that may differ from the peer's is forgotten."""
    assert found.superblock.current_uuid == UUID and found.superblock.device_uuid == DEVICE
    assert found.superblock.is_clean and MdFlag.WAS_UP_TO_DATE in found.superblock.flags
    if found.superblock.attach_state().full_sync:
        return True
    expected = Bitmap.for_sectors(Layout.internal(SECTORS).usable_sectors)
    for bit in MARKED:
        expected.set_bits(bit, 1)
    for extent in HOT:
        expected.set_range(extent * EXTENT_SIZE_BYTES, EXTENT_SIZE_BYTES)
    assert found.bitmap.bits == expected.bits
    return False


def crashes(device, stages, rng, *, piece_bytes):
    """The image after every prefix of the writes, cut into pieces, and after some mixtures of a stage's pieces."""
    image = bytearray(device.image)
    few = len(image) > 64 << 20
    for stage in stages:
        yield bytearray(image)
        pieces = [(o + at, data[at : at + piece_bytes]) for o, data in stage for at in range(0, len(data), piece_bytes)]
        for _ in range(1 if few else 6):
            mixed = bytearray(image)
            for offset, data in rng.sample(pieces, rng.randrange(len(pieces) + 1)):
                mixed[offset : offset + len(data)] = data
            yield mixed
        for offset, data in pieces:
            image[offset : offset + len(data)] = data
            if not few:
                yield bytearray(image)
    yield bytearray(image)


@pytest.mark.parametrize("by_sectors", GROWTHS)
def test_a_crash_at_any_point_leaves_the_disk_readable(by_sectors):
    """Every prefix of the writes, and mixtures inside of a stage: the identifiers are there, no mark is lost.

    Only where the new pieces lie upon the old ones may a crash cost a full sync; and what was opened opens again.
    """
    device = Device()
    new, stages = device.grow(by_sectors)
    overlaps = by_sectors < 80
    full = 0
    for image in crashes(device, stages, random.Random(by_sectors), piece_bytes=512):
        full += check(opened(image))
        again = opened(image, known=())
        assert again.superblock.current_uuid == UUID and not again.applied.stages
        assert again.layout == replace(new, md_device_sectors=again.layout.md_device_sectors)
    assert bool(full) == overlaps


@pytest.mark.parametrize("by_sectors", GROWTHS)
def test_a_crash_while_attaching_moves_it_is_as_harmless(by_sectors):
    """The device grew while nobody had it: the same, for the writes that attaching makes."""
    device = Device()
    device.grow(by_sectors)
    sectors = len(device.image) // 512
    image = device.image
    found = open_meta_data(lambda o, n: bytes(image[o : o + n]), MetaKind.INTERNAL, 0, sectors, sectors, KNOWN)
    check(found)
    for crashed in crashes(device, found.applied.stages, random.Random(by_sectors), piece_bytes=4096):
        check(opened(crashed))


def test_only_the_disk_that_is_known_is_moved():
    """Another device_uuid, another size, nothing known: no meta-data, as before."""
    device = Device()
    device.grow(2048)
    for known in ((), [KnownSize(SECTORS, DEVICE + 1)], [KnownSize(SECTORS - 8, DEVICE)], [KnownSize(1, 0)]):
        with pytest.raises(MetaDataError, match="no DRBD meta-data"):
            opened(bytearray(device.image), known)


def test_the_old_place_is_not_found_again():
    """The device shrinks back to its old size: there is nothing that looks like meta-data of then."""
    device = Device()
    device.grow(2048)
    opened(device.image)
    with pytest.raises(MetaDataError, match="all zeros"):
        opened(device.image[: SECTORS * 512], ())


@pytest.mark.parametrize("by_sectors", [0, 1, 7, 8, 9, 2048])
def test_a_layout_never_loses_room(by_sectors):
    """Growing by less than a block changes nothing; on the border of 128 MiB, a larger bitmap must not cost data."""
    for sectors in (262_144, 262_144 - 8, 262_144 * 3, SECTORS):
        old = Layout.internal(sectors)
        new = grown_layout(old, sectors + by_sectors)
        assert new.usable_sectors >= old.usable_sectors and new.md_device_sectors == sectors + by_sectors


def test_external_meta_data_stays_and_gets_its_room():
    """Flexible: the same place, a larger bitmap. Indexed: nothing changes."""
    old = Layout.flexible(4096)
    new = grown_layout(old, 8192)
    superblock = with_layout(Superblock.fresh(old), new)
    assert new.usable_sectors > old.usable_sectors and new.bitmap_offset_bytes == old.bitmap_offset_bytes
    assert plan_move(old, new, superblock, [], b"") == (((0, superblock.encode()),),)
    assert Layout.from_superblock(MetaKind.FLEXIBLE, 8192, superblock) == new
    indexed = Layout.indexed(1, 262_144 * 2)
    assert grown_layout(indexed, 262_144 * 3) == replace(indexed, md_device_sectors=262_144 * 3)


# --- other stripes of the activity log ---

STRIPES = [(1, 16), (4, 8), (2, 4), (8, 32), (1, 64)]
BUSY_SECTORS = 6 << 11
"""What is agreed on: the log can grow without the device."""


class Striped(Device):
    """The same, with room for a longer log; `before` is the one that it has."""

    def __init__(self, before):
        super().__init__()
        self.layout = Layout.internal(SECTORS, *before)
        self.superblock = with_layout(replace(self.superblock, la_size_sectors=BUSY_SECTORS), self.layout)
        self.bitmap = Bitmap.for_sectors(BUSY_SECTORS)
        self.log = ActivityLog(67, *before)
        self.image = bytearray(SECTORS * 512)
        for bit in MARKED_STRIPED:
            self.bitmap.set_bits(bit, 1)
        for extent in HOT_STRIPED:
            self.log.commit(self.log.plan([extent], 0))
        for offset, data in plan_create(self.layout, superblock=self.superblock):
            self.put(offset, data)
        self.put(self.layout.al_offset_bytes, self.log.rewrite())
        for page in range(self.bitmap.page_count):
            self.put(self.layout.bitmap_page_offset_bytes(page), self.bitmap.page(page))

    def restripe(self, stripes, by_sectors=0):
        """The stages of the move."""
        self.image += bytes(by_sectors * 512)
        new = grown_layout(self.layout, SECTORS + by_sectors, stripes)
        self.log.restripe(*stripes)
        pages = [(page, self.bitmap.page(page)) for page in range(self.bitmap.page_count)]
        return new, plan_move(self.layout, new, with_layout(self.superblock, new), pages, self.log.rewrite())


MARKED_STRIPED = (1030, 1500)
HOT_STRIPED = (0,)


def check_striped(found):
    """Identifiers and marks, or everything marked."""
    assert found.superblock.current_uuid == UUID and found.superblock.is_clean
    assert found.superblock.la_size_sectors == BUSY_SECTORS
    if found.bitmap.count == found.bitmap.bit_count:
        return True
    expected = Bitmap.for_sectors(BUSY_SECTORS)
    for bit in MARKED_STRIPED:
        expected.set_bits(bit, 1)
    for extent in HOT_STRIPED:
        expected.set_range(extent * EXTENT_SIZE_BYTES, EXTENT_SIZE_BYTES)
    assert found.bitmap.bits == expected.bits
    return False


@pytest.mark.parametrize("by_sectors", [0, 4096])
@pytest.mark.parametrize(
    ("before", "stripes"), [(before, after) for before in ((1, 8), (4, 8)) for after in STRIPES if after != before]
)
def test_a_crash_while_the_stripes_change_leaves_the_disk_readable(before, stripes, by_sectors):
    """Longer and shorter logs: a crash costs a full sync at most, and none if the device has grown by enough."""
    device = Striped(before)
    new, stages = device.restripe(stripes, by_sectors)
    full = 0
    for image in crashes(device, stages, random.Random(1), piece_bytes=4096):
        full += check_striped(opened(image))
        again = opened(image, known=())
        assert not again.applied.stages and again.superblock.current_uuid == UUID
    final = again
    assert (final.layout.al_stripes, final.layout.al_stripe_size_4k) == stripes and final.layout == new
    assert not (by_sectors and full)


def test_the_log_goes_on_in_a_ring_of_other_stripes():
    """What was hot is found after a crash, and so is what becomes hot later; the ring turns."""
    device = Striped((1, 8))
    new, stages = device.restripe((4, 8))
    for stage in stages:
        for offset, data in stage:
            device.put(offset, data)
    log = device.log
    for number in range(40):
        plan = log.plan([100 + number], 1000)
        device.put(new.al_offset_bytes + plan.ring_offset_bytes, plan.block)
        log.commit(plan)
    blocks = [bytes(device.image[new.al_offset_bytes + at : new.al_offset_bytes + at + 4096])
              for at in range(0, new.al_size_bytes, 4096)]  # fmt: skip
    found = replay(blocks, True, 4)
    assert set(found.extents) >= {0, *range(100, 140)}


def test_external_meta_data_gets_other_stripes():
    """Flexible: superblock at its place, the bitmap further on, a warning first. Indexed: its log is what it is."""
    old = Layout.flexible(8192)
    new = grown_layout(old, 8192, (4, 16))
    assert (new.al_block_count, new.superblock_sector, new.bm_offset_sectors) == (64, 0, 8 + 64 * 8)
    superblock = with_layout(Superblock.fresh(old), new)
    first, body, last = plan_move(old, new, superblock, [(0, bytes(4096))], b"ring")
    assert MdFlag.FULL_SYNC in Superblock.decode(first[0][1]).flags and first[0][0] == 0
    assert body == ((new.al_offset_bytes, b"ring"), (new.bitmap_offset_bytes, bytes(4096)))
    assert last == ((0, superblock.encode()),)
    swapped = plan_move(Layout.flexible(8192, 2, 16), Layout.flexible(8192, 4, 8), superblock, [], b"ring")
    assert len(swapped) == 3, "as long a log, in another order"
    indexed = Layout.indexed(1, 262_144 * 2)
    assert grown_layout(indexed, 262_144 * 2, (1, 8)) == indexed
    with pytest.raises(MetaDataError, match="can't be striped"):
        grown_layout(indexed, 262_144 * 2, (2, 8))
