"""The text form's details; that it is drbdmeta's is in test_drbdmeta.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydrbd.metadata.dump import bitmap_dump_bytes, dump_md
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MdFlag, Superblock

LAYOUT = Layout.internal(262144)


def bitmap_lines(bitmap: bytes) -> list[str]:
    sb = replace(Superblock.fresh(LAYOUT), la_size_sectors=len(bitmap) * 64)
    assert bitmap_dump_bytes(sb) == len(bitmap)
    text = dump_md(sb, LAYOUT, bitmap)
    return text[text.index("bm {\n") + 5 : text.index("}\n# bits-set")].splitlines()


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers).ljust(4096, b"\0")


def test_a_fresh_set_dumps_without_a_bitmap():
    """Nothing agreed, nothing to show."""
    text = dump_md(Superblock.fresh(LAYOUT), LAYOUT, b"")
    assert text.startswith('version "v08";\n\n# md_size_sect 80\n# md_offset 134213632\n')
    assert text.endswith("# bm-bytes 0;\nbm {\n}\n# bits-set 0;\n")


def test_flags_are_those_of_the_superblock_and_unclean_is_said():
    """A dump that restores to what it was dumped from; an unclean one can't be restored by accident."""
    sb = replace(Superblock.fresh(LAYOUT), flags=MdFlag(0x93))
    assert "    flags 0x00000093;\n" in dump_md(sb, LAYOUT, b"")
    assert "unclean" not in dump_md(sb, LAYOUT, b"")
    assert "This_is_an_unclean_meta_data_dump" in dump_md(sb.marked_unclean(), LAYOUT, b"")


@pytest.mark.parametrize(
    ("numbers", "lines"),
    [
        ([], ["   # at 0kB", "    512 times 0x0000000000000000;"]),
        (
            [1, 2, 3],
            [
                "   # at 0kB",
                "    0x0000000000000001; 0x0000000000000002; 0x0000000000000003; 0x0000000000000000;",
                "    508 times 0x0000000000000000;",
            ],
        ),
        (
            [0x77] * 7 + [8] + [0x0000000900000009] * 8,
            [
                "   # at 0kB",
                "    0x0000000000000077; 0x0000000000000077; 0x0000000000000077; 0x0000000000000077;",
                "    0x0000000000000077; 0x0000000000000077; 0x0000000000000077; 0x0000000000000008;",
                "    8 times 0x0000000900000009;",
                "    496 times 0x0000000000000000;",
            ],
        ),
        (
            [6] * 8 + [0x100000000] * 3 + [1],
            ["   # at 0kB"]
            + ["    " + " ".join(["0x0000000000000006;"] * 4)] * 2
            + ["    " + "0x0000000100000000; " * 3 + "0x0000000000000001;", "    500 times 0x0000000000000000;"],
        ),
        (
            [0x0000000500000005] * 65,
            [
                "   # at 0kB",
                "    64 times 0x0000000500000005;",
                "   # at 16384kB",
                "    0x0000000500000005; 0x0000000000000000; 0x0000000000000000; 0x0000000000000000;",
                "    444 times 0x0000000000000000;",
            ],
        ),
    ],
)
def test_equal_words_are_counted(numbers, lines):
    """Runs of eight or more in fours, if both halves are equal; a mark at lines that begin at 32 words, 64, ..."""
    assert bitmap_lines(words(*numbers)) == lines


def test_a_long_run_is_found_whole():
    """Over many pages, and its end to the word."""
    bitmap = bytearray(b"\xff" * 16384)
    bitmap[8 * 1999] = 0xFE
    assert bitmap_lines(bytes(bitmap))[:3] == [
        "   # at 0kB",
        "    1996 times 0xFFFFFFFFFFFFFFFF;",
        "    0xFFFFFFFFFFFFFFFF; 0xFFFFFFFFFFFFFFFF; 0xFFFFFFFFFFFFFFFF; 0xFFFFFFFFFFFFFFFE;",
    ]
