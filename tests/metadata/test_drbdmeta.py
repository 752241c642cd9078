"""Our meta-data and drbd-utils': each makes, reads and repairs the other's, byte for byte."""

from __future__ import annotations

import random
import re
import subprocess
from dataclasses import replace

import pytest

from pydrbd.errors import MetaDataError
from pydrbd.metadata.activity_log import ActivityLog, Transaction, initialised_block
from pydrbd.metadata.apply_al import apply_al, split_blocks
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.create import conflicts, detect, plan_create
from pydrbd.metadata.dump import bitmap_dump_bytes, dump_md
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.moving import grown_layout, plan_move, with_layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import GIB, KIB, MIB
from tests.metadata.rings import Ring

pytestmark = pytest.mark.interop

FLAGS_LINE = re.compile(r"    flags 0x[0-9A-F]{8};\n")
INTERNAL, FLEXIBLE, INDEXED = MetaKind.INTERNAL, MetaKind.FLEXIBLE, MetaKind.INDEXED

GEOMETRIES = [
    (INTERNAL, 1 * MIB, 0, 1, 8),
    (INTERNAL, 1 * MIB + 512, 0, 1, 8),
    (INTERNAL, 5 * MIB + 7 * 512, 0, 1, 16),
    (INTERNAL, 127 * MIB, 0, 1, 8),
    (INTERNAL, 128 * MIB, 0, 1, 8),
    (INTERNAL, 128 * MIB + 512, 0, 4, 8),
    (INTERNAL, 129 * MIB + 4096 - 512, 0, 2, 32),
    (INTERNAL, 1 * GIB, 0, 1, 8),
    (INTERNAL, 2 * GIB, 0, 8, 8),
    (FLEXIBLE, 1 * MIB, 0, 1, 8),
    (FLEXIBLE, 8 * MIB + 1024, 0, 1, 8),
    (FLEXIBLE, 70 * MIB, 0, 2, 16),
    (INDEXED, 128 * MIB, 0, 1, 8),
    (INDEXED, 500 * MIB, 2, 1, 8),
]


def layout_of(kind: MetaKind, size_bytes: int, index: int, stripes: int = 1, stripe_size: int = 8) -> Layout:
    if kind is INTERNAL:
        return Layout.internal(size_bytes // 512, stripes, stripe_size)
    if kind is FLEXIBLE:
        return Layout.flexible(size_bytes // 512, stripes, stripe_size)
    return Layout.indexed(index, size_bytes // 512)


def stripe_words(kind: MetaKind, stripes: int, stripe_size: int) -> list[str]:
    if kind is INDEXED or (stripes, stripe_size) == (1, 8):
        return []
    return ["--al-stripes", str(stripes), "--al-stripe-size-kB", str(stripe_size * 4)]


def without_header(dump: str) -> str:
    return dump[dump.index('version "v08"') :]


def without_flags(dump: str) -> str:
    """drbdmeta 9.22 prints 0 for the flags of every v08 block."""
    changed, count = FLAGS_LINE.subn("    flags;\n", dump)
    assert count == 1
    return changed


def our_dump(image, layout: Layout) -> str:
    sb = image.superblock(layout)
    return dump_md(sb, layout, image.read(layout.bitmap_offset_bytes, bitmap_dump_bytes(sb)))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_new_meta_data_is_the_same_byte_for_byte(drbdmeta, make_image, geometry):
    """Each creates a set on a disk of its own: the same area, the same values decoded, the same dump."""
    kind, size_bytes, index, stripes, stripe_size = geometry
    layout = layout_of(*geometry)
    theirs, ours = make_image(size_bytes), make_image(size_bytes)
    drbdmeta.check(theirs, kind, "create-md", *stripe_words(kind, stripes, stripe_size), index=index)
    ours.write(*plan_create(layout, data_sectors=1 << 21))
    assert theirs.superblock(layout) == Superblock.fresh(layout)
    assert Layout.from_superblock(kind, size_bytes // 512, theirs.superblock(layout), index) == layout
    assert ours.area(layout) == theirs.area(layout)
    dump = without_header(drbdmeta.check(ours, kind, "dump-md", index=index))
    assert dump == FLAGS_LINE.sub("    flags 0x00000000;\n", our_dump(ours, layout))


def test_creating_over_old_data_writes_the_same_bytes(drbdmeta, make_image):
    """Only the area itself changes, and nothing in it is left of what was there."""
    theirs, ours = make_image(9 * MIB + 512, b"\xa5"), make_image(9 * MIB + 512, b"\xa5")
    layout = Layout.internal(theirs.sectors)
    drbdmeta.check(theirs, INTERNAL, "create-md")
    ours.write(*plan_create(layout))
    assert ours.read(0, ours.size_bytes) == theirs.read(0, theirs.size_bytes)


def some_bitmap(chance: random.Random, size_bytes: int) -> bytes:
    """Pieces of all sorts: runs of zeros, of ones and of any other word, and noise."""
    data = b""
    while len(data) < size_bytes:
        word = chance.choice([bytes(8), b"\xff" * 8, chance.randbytes(8)])
        data += word * chance.choice([1, 3, 7, 8, 9, 12, 100, 513])
        data += chance.randbytes(8 * chance.choice([0, 1, 5, 40]))
    return data[:size_bytes]


@pytest.mark.parametrize(
    ("kind", "size_bytes", "index"),
    [(INTERNAL, 1 * GIB, 0), (INTERNAL, 100 * MIB + 512, 0), (FLEXIBLE, 4 * MIB, 0), (INDEXED, 256 * MIB, 1)],
)
def test_a_used_set_dumps_to_the_same_text_and_restores_from_ours(drbdmeta, make_image, seed, kind, size_bytes, index):
    """Random identifiers, sizes and bits. Our dump, restored by drbdmeta, gives the superblock back, flags and all."""
    chance = random.Random(seed)
    layout = layout_of(kind, size_bytes, index)
    image = make_image(size_bytes)
    image.write(*plan_create(layout, data_sectors=1 << 21))
    for sectors in (1, min(layout.usable_sectors, 1 << 22), chance.randrange(1, min(layout.usable_sectors, 1 << 22))):
        sb = replace(
            Superblock.fresh(layout, chance.getrandbits(64)),
            la_size_sectors=sectors,
            current_uuid=chance.getrandbits(64),
            bitmap_uuid=chance.getrandbits(64),
            history_uuids=(chance.getrandbits(64), chance.getrandbits(64)),
            flags=MdFlag(chance.getrandbits(7) | 0x80),
            peer_max_bio_bytes=chance.choice([0, 4096, 1 << 20]),
        )
        bitmap = some_bitmap(chance, bitmap_dump_bytes(sb))
        image.write((layout.superblock_offset_bytes, sb.encode()), (layout.bitmap_offset_bytes, bitmap))
        dump = our_dump(image, layout)
        theirs = without_header(drbdmeta.check(image, kind, "dump-md", index=index))
        assert without_flags(theirs) == without_flags(dump)
    copy = make_image(size_bytes)
    copy.write(*plan_create(layout, data_sectors=1 << 21))
    text = copy.path.with_suffix(".txt")
    text.write_text(dump)
    drbdmeta.check(copy, kind, "restore-md", str(text), index=index)
    assert copy.superblock(layout) == sb
    assert copy.read(layout.bitmap_offset_bytes, len(bitmap)) == bitmap


def test_an_unclean_set_dumps_to_the_same_text(drbdmeta, make_image):
    """With drbdmeta's warning in it."""
    image = make_image(64 * MIB)
    layout = Layout.internal(image.sectors)
    for unclean in (Superblock.fresh(layout).marked_unclean(), replace(Superblock.fresh(layout), flags=MdFlag(0x11))):
        image.write(*plan_create(layout, superblock=replace(unclean, la_size_sectors=100)))
        theirs = without_header(drbdmeta.check(image, INTERNAL, "dump-md"))
        assert without_flags(theirs) == without_flags(our_dump(image, layout))


def test_identifiers_in_text_and_the_tools_verbs_mean_the_same(drbdmeta, make_image, seed):
    """get-gi, set-gi, dstate, outdate and invalidate, theirs and ours."""
    chance = random.Random(seed)
    image = make_image(2 * MIB)
    layout = Layout.internal(image.sectors)
    for _ in range(5):
        flags = MdFlag(chance.getrandbits(7) | 0x80)
        sb = replace(Superblock.fresh(layout), current_uuid=chance.getrandbits(64), flags=flags)
        image.write((layout.superblock_offset_bytes, sb.encode()))
        assert drbdmeta.check(image, INTERNAL, "get-gi", "--node-id", "0").strip() == sb.gi_text()
        assert drbdmeta.check(image, INTERNAL, "dstate").strip() == sb.disk_state_text()
    drbdmeta.check(image, INTERNAL, "invalidate")
    sb = sb.invalidated()
    assert image.superblock(layout) == sb
    for text in ("5:6::8:1:1:0:1:0:1:1", "::ABC", "0x1f:2"):
        drbdmeta.check(image, INTERNAL, "set-gi", "--node-id", "0", text)
        sb = sb.with_gi_text(text)
        assert image.superblock(layout) == sb
    drbdmeta.check(image, INTERNAL, "outdate")
    assert image.superblock(layout) == sb.outdated()


def both_apply(drbdmeta, image, layout: Layout, sb: Superblock, ring: bytes, bitmap: bytes, index: int = 0):
    """Let drbdmeta apply a log on disk, and us the same in memory; ours, and drbdmeta's exit code."""
    image.write(
        (layout.superblock_offset_bytes, sb.encode()),
        (layout.al_offset_bytes, ring),
        (layout.bitmap_offset_bytes, bitmap),
    )
    ours = Bitmap.for_sectors(sb.la_size_sectors)
    ours.load(bitmap)
    before = image.area(layout)
    done = drbdmeta.run(image, layout.kind, "apply-al", index=index)
    try:
        applied = apply_al(sb, layout, split_blocks(ring), ours)
    except MetaDataError:
        assert done.returncode == 1 and image.area(layout) == before
        return None
    assert done.returncode == 0, done.stderr
    theirs = Bitmap.for_sectors(sb.la_size_sectors)
    theirs.load(image.read(layout.bitmap_offset_bytes, len(bitmap)))
    assert list(theirs.runs()) == list(ours.runs())
    assert image.superblock(layout) == replace(
        applied.superblock, flags=applied.superblock.flags & ~MdFlag.FULL_SYNC | sb.flags & MdFlag.FULL_SYNC
    )
    area = dict(write for stage in applied.stages for write in stage)
    if applied.replay is not None and applied.replay.transaction_count:
        assert image.read(layout.al_offset_bytes, layout.al_size_bytes) == area[layout.al_offset_bytes]
    return applied


@pytest.mark.parametrize(
    ("kind", "size_bytes", "index", "stripes", "stripe_size", "slots"),
    [
        (INTERNAL, 2 * GIB, 0, 1, 8, 1237),
        (INTERNAL, 2 * GIB + 512, 0, 4, 8, 67),
        (INTERNAL, 100 * MIB, 0, 1, 8, 6433),
        (FLEXIBLE, 2 * MIB, 0, 3, 5, 100),
        (INDEXED, 256 * MIB, 1, 1, 8, 1237),
    ],
)
def test_a_log_is_applied_to_the_same_bits(
    drbdmeta, make_image, seed, kind, size_bytes, index, stripes, stripe_size, slots
):
    """Logs that our writer filled, more than once round, applied by both: the same bits, superblock and ring."""
    chance = random.Random(seed)
    layout = layout_of(kind, size_bytes, index, stripes, stripe_size)
    data_sectors = min(layout.usable_sectors, 2 * GIB // 512 - 5)
    extents = -(-data_sectors // 8192)
    image = make_image(size_bytes)
    ring = Ring(slots, stripes, stripe_size)
    for round_number, flags in enumerate((0x13, 0x17, 0x11)):
        for epoch in range(chance.randrange(1, 2 * stripes * stripe_size)):
            wanted = dict.fromkeys(chance.randrange(extents) for _ in range(chance.randrange(1, 30)))
            cold = ring.log.missing(wanted)
            if cold:
                ring.add(cold, 1000 * round_number + epoch - 1, 1000 * round_number + epoch)
        sb = replace(Superblock.fresh(layout), la_size_sectors=data_sectors, flags=MdFlag(flags)).marked_unclean()
        bitmap = bytearray(bitmap_dump_bytes(sb))
        bitmap[chance.randrange(len(bitmap))] = 0x5A
        applied = both_apply(drbdmeta, image, layout, sb, bytes(ring.disk), bytes(bitmap), index)
        assert set(applied.marked_extents) == (ring.log.hot_extents() if flags & 2 else set())


def block(number: int, *updates: tuple[int, int], slots: int = 1237) -> bytes:
    return Transaction(number, updates, slots, 0, ()).encode()


FRESH, TORN = initialised_block(), bytes(4096)
FULL = [block(number, (1236 - number, number)) for number in range(8)]
WRAPPED = [block((0xFFFFFFFE + n) % 2**32, (n, n)) for n in (2, 3, 4, 5, 6, 7)]
DAMAGED = {
    "nothing wrong": FULL,
    "torn newest": [*FULL[:7], TORN],
    "lost in the middle": [*FULL[:3], TORN, *FULL[4:]],
    "most are lost": [TORN] * 7 + FULL[7:],
    "all are lost": [TORN] * 8,
    "first transaction torn": [TORN] + [FRESH] * 7,
    "fresh, second block bad": [FRESH, TORN] + [FRESH] * 6,
    "fresh, all but one bad": [FRESH] + [TORN] * 7,
    "never used": [FRESH] * 8,
    "one transaction": [FULL[0]] + [FRESH] * 7,
    "second torn": [FULL[0], TORN] + [FRESH] * 6,
    "first overwritten": [TORN, FULL[1]] + [FRESH] * 6,
    "gap": [FULL[0], FRESH, FULL[2]] + [FRESH] * 5,
    "slots beyond the count": [block(0, (1237, 9), (65000, 10))] + [FRESH] * 7,
    "extent beyond the device": [block(0, (5, 1000), (6, 3))] + [FRESH] * 7,
    "number wraps": [*WRAPPED, block(0xFFFFFFFE, (2, 20)), block(0xFFFFFFFF, (3, 21))],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_is_judged_alike(drbdmeta, make_image, name):
    """What stops drbdmeta stops us, what it applies we apply; where it guesses we ask for a full sync besides."""
    image = make_image(128 * MIB)
    layout = Layout.internal(image.sectors)
    image.write(*plan_create(layout))
    for flags in (0x13, 0x11):
        sb = replace(Superblock.fresh(layout), la_size_sectors=262064, flags=MdFlag(flags)).marked_unclean()
        applied = both_apply(drbdmeta, image, layout, sb, b"".join(DAMAGED[name]), bytes(4096))
        stopped = name in ("all are lost", "fresh, second block bad", "fresh, all but one bad")
        assert (applied is None) == (stopped and flags == 0x13)


@pytest.mark.parametrize(
    ("kind", "disk_mib", "allowed"), [(INTERNAL, 64, False), (INTERNAL, 80, True), (FLEXIBLE, 80, False)]
)
def test_a_file_system_in_the_way_is_refused_alike(drbdmeta, make_image, need, kind, disk_mib, allowed):
    """An ext4 of 64 MiB: it fills the disk, leaves room at the end, or lies where external meta-data would go."""
    image = make_image(disk_mib * MIB)
    subprocess.run([need("mke2fs"), "-q", "-F", "-t", "ext4", image.path, "64M"], check=True)
    layout = layout_of(kind, image.size_bytes, 0)
    assert (conflicts(detect(image.read, image.sectors), layout) == []) is allowed
    done = drbdmeta.run(image, kind, "create-md")
    assert (done.returncode == 0) is allowed, done.stdout + done.stderr


def test_a_device_that_drbdmeta_refuses_we_refuse_too(drbdmeta, make_image):
    """64 KiB is too small for both. (Ours, as the kernel, wants 1 MiB to attach.)"""
    image = make_image(64 * KIB)
    assert drbdmeta.run(image, INTERNAL, "create-md").returncode != 0
    with pytest.raises(MetaDataError, match="too small"):
        Layout.internal(image.sectors)


@pytest.mark.parametrize(("kind", "stripes", "stripe_size"), [(INTERNAL, 4, 16), (INTERNAL, 1, 64), (FLEXIBLE, 8, 8)])
def test_meta_data_that_got_other_stripes_is_read_by_drbdmeta(drbdmeta, make_image, kind, stripes, stripe_size):
    """resize --al-stripes: the dump is ours, and drbdmeta applies the log that has moved."""
    size_bytes = 24 * MIB
    old = layout_of(kind, size_bytes, 0)
    image = make_image(size_bytes)
    sectors = 16 * MIB // 512
    flags = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.PRIMARY_IND
    sb = replace(Superblock.fresh(old), la_size_sectors=sectors, flags=flags).marked_unclean()
    image.write(*plan_create(old, data_sectors=sectors, superblock=sb))
    log, bitmap = ActivityLog(67), Bitmap.for_sectors(sectors)
    log.commit(log.plan([2], 0))
    bitmap.set_bits(7, 3)
    new = grown_layout(old, size_bytes // 512, (stripes, stripe_size))
    log.restripe(stripes, stripe_size)
    pages = [(page, bitmap.page(page)) for page in range(bitmap.page_count)]
    for stage in plan_move(old, new, with_layout(sb, new), pages, log.rewrite()):
        image.write(*stage)
    theirs = without_header(drbdmeta.check(image, kind, "dump-md", "--force"))
    assert f"al-stripes {stripes};" in theirs and without_flags(theirs) == without_flags(our_dump(image, new))
    drbdmeta.check(image, kind, "apply-al")
    found = Bitmap.for_sectors(sectors)
    found.load(image.read(new.bitmap_offset_bytes, 4096))
    assert sorted(found.runs()) == [(7, 3), (2048, 1024)]
