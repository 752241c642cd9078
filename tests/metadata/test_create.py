"""What is found on a disk, what of it stands in the way of new meta-data, and what is written."""

from __future__ import annotations

import struct
import subprocess

import pytest

from pydrbd.errors import MetaDataError
from pydrbd.metadata.activity_log import clean_ring
from pydrbd.metadata.create import conflicts, detect, plan_create, plan_wipe
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.signatures import FindingKind
from pydrbd.metadata.superblock import Superblock
from pydrbd.units import MIB

DISK_BYTES = 32 * MIB
SECTORS = DISK_BYTES // 512


def disk_with(*pieces: tuple[int, bytes]) -> bytearray:
    disk = bytearray(DISK_BYTES)
    for offset, data in pieces:
        disk[offset : offset + len(data)] = data
    return disk


def found_on(disk: bytearray):
    return detect(lambda offset, length: bytes(disk[offset : offset + length]), len(disk) // 512)


def xfs(blocks: int) -> tuple[int, bytes]:
    return 0, b"XFSB" + struct.pack(">IQ", 4096, blocks)


def gpt(backup: int) -> tuple[int, bytes]:
    return 512, b"EFI PART" + bytes(24) + struct.pack("<Q", backup)


def mbr(start: int, count: int, kind: int = 0x83) -> tuple[int, bytes]:
    return 446, struct.pack("<B3xB3xII", 0x80, kind, start, count) + bytes(48) + b"\x55\xaa"


def fat32(sectors: int) -> list[tuple[int, bytes]]:
    return [(11, struct.pack("<H", 512)), (32, struct.pack("<I", sectors)), (82, b"FAT32   "), (510, b"\x55\xaa")]


def lvm(size: int) -> tuple[int, bytes]:
    label = b"LABELONE" + bytes(12) + struct.pack("<I", 32) + b"LVM2 001" + bytes(32) + struct.pack("<Q", size)
    return 512, label


def zfs() -> tuple[int, bytes]:
    return 131072 + 5 * 1024, struct.pack("<Q", 0x00BAB10C)


SIGNATURES = {
    "an XFS file system of 8192000 bytes": [xfs(2000)],
    "an ext4 file system of 17592186060800 bytes": [
        (1024 + 4, struct.pack("<I", 4)),
        (1024 + 24, struct.pack("<I", 2)),
        (1024 + 56, b"\x53\xef"),
        (1024 + 96, struct.pack("<I", 0x80)),
        (1024 + 0x150, struct.pack("<I", 1)),
    ],
    "a btrfs file system of 33554432 bytes": [
        (65536 + 64, b"_BHRfS_M"),
        (65536 + 209, struct.pack("<Q", DISK_BYTES)),
    ],
    "an NTFS file system of 1048576 bytes": [
        (3, b"NTFS    \x00\x02"),
        (40, struct.pack("<Q", 2047)),
        (510, b"\x55\xaa"),
    ],
    "a FAT file system of 2097152 bytes": fat32(4096),
    "an exFAT file system of 1048576 bytes": [(3, b"EXFAT   "), (72, struct.pack("<Q", 2048)), (108, b"\x09")],
    "an F2FS file system of 4194304 bytes": [
        (1024, b"\x10\x20\xf5\xf2"),
        (1040, struct.pack("<I", 12)),
        (1060, struct.pack("<Q", 1024)),
    ],
    "a ReiserFS file system of 409600 bytes": [
        (65536, struct.pack("<I", 100)),
        (65536 + 44, struct.pack("<H", 4096)),
        (65536 + 52, b"ReIsEr2Fs"),
    ],
    "a JFS file system": [(32768, b"JFS1")],
    "a bcachefs file system": [(4120, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"))],
    "a bcache device": [(4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"))],
    "a LUKS encrypted volume (version 2)": [(0, b"LUKS\xba\xbe\x00\x02")],
    "an LVM physical volume": [lvm(DISK_BYTES)],
    "a member of an md RAID array (version 1.1 or 1.2)": [(4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0")],
    "a member of an md RAID array (version 1.0)": [(DISK_BYTES - 8192, b"\xfc\x4e\x2b\xa9\x01\0\0\0")],
    "a member of an md RAID array (version 0.90)": [(DISK_BYTES - 65536, b"\xfc\x4e\x2b\xa9")],
    "a member of a ZFS pool": [zfs()],
    "a GPT partition table": [gpt(SECTORS - 1), mbr(1, SECTORS - 1, 0xEE)],
    "an MBR partition table": [mbr(2048, 1000)],
    "some data that is not recognised": [(70000, b"hello")],
}


@pytest.mark.parametrize("text", SIGNATURES)
def test_what_lives_on_a_disk_is_recognised(text):
    """One thing on the disk, one finding, with its size where it says so."""
    assert [finding.text for finding in found_on(disk_with(*SIGNATURES[text]))] == [text]


def test_an_empty_disk_has_no_findings():
    """Nor has one that is shorter than any structure we look for."""
    assert found_on(bytearray(DISK_BYTES)) == []
    assert found_on(bytearray(512)) == []


def test_a_boot_sectors_signature_alone_is_no_partition_table():
    """Boot code without a sensible entry is data that we don't know."""
    kinds = [finding.kind for finding in found_on(disk_with((510, b"\x55\xaa"), (446, b"\x77" * 64)))]
    assert kinds == [FindingKind.UNKNOWN_DATA]


@pytest.mark.interop
@pytest.mark.parametrize(("words", "name"), [(["-t", "ext4"], "ext4"), (["-t", "ext3"], "ext3"), ([], "ext2")])
def test_ext_file_systems_of_mkfs_are_recognised_with_their_size(make_image, need, words, name):
    """Names by features, sizes to the block."""
    image = make_image(DISK_BYTES)
    subprocess.run([need("mke2fs"), "-q", "-F", "-b", "1024", *words, image.path, "20000"], check=True)
    findings = detect(image.read, image.sectors)
    assert [(finding.text, finding.size_bytes) for finding in findings] == [
        (f"an {name} file system of 20480000 bytes", 20480000)
    ]


@pytest.mark.interop
def test_swap_space_of_mkswap_is_recognised_with_its_size(make_image, need):
    """Pages counted from 1."""
    image = make_image(DISK_BYTES)
    image.path.chmod(0o600)
    subprocess.run([need("mkswap"), "-q", image.path], check=True, capture_output=True)
    assert [(finding.text, finding.size_bytes) for finding in detect(image.read, image.sectors)] == [
        ("swap space", DISK_BYTES)
    ]


def test_internal_meta_data_must_not_cut_what_is_there():
    """Up to the usable size all is well, one block more is not; an unknown size counts as the whole disk."""
    layout = Layout.internal(SECTORS)
    usable = layout.usable_sectors // 8
    assert conflicts(found_on(disk_with(xfs(usable))), layout) == []
    (reason,) = conflicts(found_on(disk_with(xfs(usable + 1))), layout)
    assert f"an XFS file system of {(usable + 1) * 4096} bytes" in reason
    assert f"{usable * 4096} would be left" in reason and "external meta-data" in reason
    (reason,) = conflicts(found_on(disk_with((0, b"LUKS\xba\xbe\x00\x01"))), layout)
    assert "not known" in reason and "wipefs" in reason
    assert conflicts(found_on(disk_with(gpt(SECTORS - 1))), layout)
    assert not conflicts(found_on(disk_with(mbr(2048, 1000))), layout)


def test_external_meta_data_must_not_overwrite_what_is_there():
    """It begins at sector 0; a higher index lies behind what is small enough."""
    assert conflicts(found_on(disk_with(xfs(10))), Layout.flexible(SECTORS))
    assert not conflicts(found_on(disk_with((0, b"hello"))), Layout.flexible(SECTORS))
    indexed = Layout.indexed(1, 2 * 262144)
    assert not conflicts(found_on(disk_with(xfs(10))), indexed)
    assert conflicts(found_on(disk_with((0, b"LUKS\xba\xbe\x00\x01"))), indexed)


@pytest.mark.parametrize(
    ("layout", "place"),
    [
        (Layout.internal(SECTORS), "internal meta-data at byte 33550336, 80 sectors"),
        (Layout.flexible(SECTORS), "external flexible meta-data at byte 0, 65536 sectors"),
    ],
)
def test_our_own_meta_data_is_found_again_and_can_be_wiped(layout, place):
    """What plan_create writes, detect finds; after plan_wipe it is gone. It never counts as a conflict."""
    disk = disk_with(*plan_create(layout, superblock=Superblock.fresh(layout).marked_unclean()))
    finding = found_on(disk)[0]
    assert finding.kind is FindingKind.DRBD
    assert finding.text.startswith(f"DRBD v08 {place}, last agreed size 0 sectors, current UUID 0000000000000004")
    assert finding.text.endswith("its activity log is not applied yet")
    assert conflicts(found_on(disk), layout) == []
    for offset, data in plan_wipe(layout):
        disk[offset : offset + len(data)] = data
    assert FindingKind.DRBD not in [finding.kind for finding in found_on(disk)]


@pytest.mark.interop
@pytest.mark.parametrize(("version", "words"), [("v07", []), ("v09", ["3"])])
def test_meta_data_of_other_versions_is_recognised(make_image, drbdmeta, version, words):
    """v07 and v09 as drbdmeta makes them, at the start and at the end of a disk."""
    for kind, place in ((MetaKind.FLEXIBLE, "external"), (MetaKind.INTERNAL, "internal")):
        image = make_image(256 * MIB)
        drbdmeta.check(image, kind, "create-md", *words, version=version)
        texts = [finding.text for finding in detect(image.read, image.sectors) if finding.kind is FindingKind.DRBD]
        assert len(texts) == 1 and texts[0].startswith(f"DRBD {version} {place}"), texts


def test_new_meta_data_becomes_valid_with_its_last_write_only():
    """Whatever was there before: superblock gone, then log and bitmap, then the new superblock."""
    layout = Layout.internal(SECTORS)
    disk = bytearray(b"\xa5" * DISK_BYTES)
    writes = plan_create(layout, device_uuid=0x1234)
    for offset, data in writes[:-1]:
        disk[offset : offset + len(data)] = data
        with pytest.raises(MetaDataError):
            Superblock.decode(bytes(disk[layout.superblock_offset_bytes :][:4096]))
    offset, data = writes[-1]
    disk[offset : offset + len(data)] = data
    assert Superblock.decode(bytes(disk[layout.superblock_offset_bytes :][:4096])).device_uuid == 0x1234
    assert disk[layout.al_offset_bytes :][: layout.al_size_bytes] == clean_ring(8)
    assert not any(disk[layout.bitmap_offset_bytes :][: layout.bitmap_size_bytes])
    assert disk[: layout.bitmap_offset_bytes] == b"\xa5" * layout.bitmap_offset_bytes


def test_the_bitmap_is_zeroed_for_the_data_that_it_is_for():
    """A 128 MiB slot for a disk of 1 GiB needs eight pages; without a size all of it, in pieces."""
    layout = Layout.indexed(0, 262144)
    assert len(plan_create(layout, data_sectors=2097152)[2][1]) == 8 * 4096
    everything = plan_create(layout)
    assert sum(len(data) for _, data in everything[2:-1]) == layout.bitmap_size_bytes
    assert len(everything) == 3 + 128
