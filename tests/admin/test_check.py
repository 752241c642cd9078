"""check --against-peer: what it asks for, what it says, how it ends, and the picture that it draws."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pydrbd.admin.device_map import COLUMNS, DeviceMap, draw_png, draw_svg
from pydrbd.units import MIB
from tests.admin.snapshots import a_snapshot
from tests.admin.test_verify_verb import follow, verifying

WORDS = ("check", "--against-peer")


def a_report(**changes: Any) -> dict[str, Any]:
    return {
        "running": False,
        "complete": True,
        "start_bytes": 0,
        "end_bytes": MIB,
        "compared_blocks": 256,
        "different_blocks": 0,
        "skipped_blocks": 0,
        "marked_blocks": 0,
        "ranges": [],
        "ranges_complete": True,
        "map": "=" * 256,
    } | changes


def a_difference(**changes: Any) -> dict[str, Any]:
    return a_report(
        different_blocks=3, marked_blocks=3, ranges=[[4096, 8192], [40960, 4096]],
        map="=!!=======!" + "=" * 245, **changes,
    )  # fmt: skip


def reports(process, *found: dict[str, Any] | None) -> None:
    """The process has these reports, one of each volume."""
    volumes = [{"vnr": vnr, "size_bytes": MIB, "report": report} for vnr, report in enumerate(found)]
    process.answer("verify-report", data={"volumes": volumes})


def test_equal_copies(place, process):
    """The whole device from its first sector on; 0, and a line that says how much was compared."""
    follow(process, verifying(), verifying(50), a_snapshot())
    reports(process, a_report())
    result = place(*WORDS, "r0")
    assert (result.code, result.out) == (0, "r0/0: 256 blocks of 4 KiB (1.0 MiB) compared: all are the same\n")
    assert "r0 check: 25.0%" in result.err
    assert process.asked[0] == ("verify", {"start_sector": 0})
    assert process.asked[-1][0] == "verify-report"


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["--start", "800"], {"start_sector": 800}),
        (["--start=1M", "--stop=4096"], {"start_sector": 2048, "stop_sector": 4096}),
        (["--stop", "16M"], {"start_sector": 0, "stop_sector": 32768}),
    ],
)
def test_a_part_of_it(place, process, words, arguments):
    """Sectors, as for verify; without a start from the beginning, not from where another one was cut off."""
    reports(process, a_report())
    assert place(*WORDS, *words, "r0").code == 0
    assert process.asked[0] == ("verify", arguments)


def test_copies_that_differ(place, process):
    """6, and each range in bytes."""
    reports(process, a_difference(), a_report())
    result = place(*WORDS, "r0")
    assert result.code == 6 and result.out.splitlines() == [
        "r0/0: 256 blocks of 4 KiB (1.0 MiB) compared: 3 of them differ",
        "  differs: offset 4096, 8192 bytes",
        "  differs: offset 40960, 4096 bytes",
        "r0/1: 256 blocks of 4 KiB (1.0 MiB) compared: all are the same",
    ]
    result.complains(6, "r0: the copies differ in 12.0 KiB", "pydrbd disconnect r0")


@pytest.mark.parametrize("ranges_complete", [True, False])
def test_many_ranges_are_not_all_listed(place, process, ranges_complete):
    """A hundred lines of them, and where the others are."""
    count = 101 if ranges_complete else 3
    ranges = [[8192 * number, 4096] for number in range(count)]
    reports(process, a_report(different_blocks=count, ranges=ranges, ranges_complete=ranges_complete))
    lines = place(*WORDS, "r0").out.splitlines()
    assert len(lines) == min(count, 100) + 2 and lines[-1] == "  ... and more: --json tells of them"


def test_json(place, process):
    """One object, sizes in bytes; the exit code is the same."""
    reports(process, a_difference())
    result = place(*WORDS, "--json", "r0")
    assert result.code == 6 and json.loads(result.out) == {
        "name": "r0",
        "volumes": [
            {
                "volume": 0,
                "size": MIB,
                "start": 0,
                "end": MIB,
                "complete": True,
                "block-size": 4096,
                "compared-blocks": 256,
                "different-blocks": 3,
                "skipped-blocks": 0,
                "out-of-sync-blocks": 3,
                "different": [{"offset": 4096, "length": 8192}, {"offset": 40960, "length": 4096}],
                "different-complete": True,
            }
        ],
    }


def test_one_that_did_not_get_to_its_end(place, process):
    """10, also if all that was compared is the same; what it has found is 6."""
    reports(process, a_report(complete=False, end_bytes=65536, compared_blocks=15, skipped_blocks=1))
    result = place(*WORDS, "r0")
    result.complains(10, "r0: not all could be compared")
    assert result.out == "r0/0: 15 blocks of 4 KiB (64.0 KiB) compared: all are the same; 1 could not be read\n"
    reports(process, a_difference(complete=False))
    assert place(*WORDS, "r0").code == 6


def test_one_of_which_nothing_is_known(place, process):
    """Its process was restarted meanwhile."""
    reports(process, None)
    place(*WORDS, "r0").complains(10, "has no report")


def test_a_refusal(place, process):
    """What verify is refused for, with what to do."""
    process.answer("verify", -14, "State change failed: (-14) Need a verify algorithm to start online verify")
    place(*WORDS, "r0").complains(17, "(-14)", "set verify-alg on both nodes")
    assert [verb for verb, _ in process.asked] == ["verify"]


def test_a_dry_run_compares_nothing(place, process):
    assert place(*WORDS, "-d", "r0").out.endswith(" --against-peer r0\n")
    assert process.asked == []


def test_it_does_not_run(place):
    place(*WORDS, "r0").complains(69, "r0", "not running")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "r0"], "say so, check --against-peer"),
        ([*WORDS, "--map", "r0.jpg", "r0"], "'r0.jpg' is neither .png nor .svg"),
        ([*WORDS, "--map", "r0.png", "r0", "r1"], "--json and --map are for one resource"),
        ([*WORDS, "--json", "r0", "r1"], "--json and --map are for one resource"),
        ([*WORDS, "--start", "x", "r0"], "--start"),
    ],
)
def test_wrong_words(place, process, words, message):
    """64, before anything is compared."""
    place(*words).complains(64, message)
    assert process.asked == []


def test_a_map_that_can_not_be_written_is_said_at_once(place, process):
    """Not after hours of work."""
    place(*WORDS, "--map", place.directory / "none/r0.png", "r0").complains(74, "none/r0.png", "No such file")
    assert process.asked == []


def test_the_map_is_drawn_whatever_was_found(place, process):
    """In the format that its name asks for, with a line that says what the colours mean."""
    reports(process, a_difference())
    for name, begins in (("m.png", b"\x89PNG\r\n"), ("m.SVG", b"<svg ")):
        path: Path = place.directory / name
        result = place(*WORDS, "--map", path, "r0")
        assert result.code == 6 and path.read_bytes().startswith(begins)
        assert result.out.endswith(f"{path}: blue: the same, red: out of sync, grey: not compared\n")


# --- the picture ---

TWO = [DeviceMap("r0/0", 2 * MIB, "=!?" + "=" * (COLUMNS + 2)), DeviceMap("r0/1 <&>", MIB, "!")]


def pixels(png: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a PNG, a byte a pixel, and its palette; every chunk has its right checksum."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + data) == int.from_bytes(png[at + 8 + length : at + 12 + length], "big")
        chunks[kind] = data
        at += 12 + length
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0] and list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    raw = zlib.decompress(chunks[b"IDAT"])
    lines = [raw[at : at + width + 1] for at in range(0, len(raw), width + 1)]
    assert len(lines) == height and all(len(line) == width + 1 and line[0] == 0 for line in lines)
    return [line[1:] for line in lines], chunks[b"PLTE"]


def test_a_png_has_a_square_for_each_part():
    """Row below row, volume below volume, each in its colour of the palette."""
    lines, palette = pixels(draw_png(TWO))
    assert palette.hex() == "ffffff4393c3d6291fd9d9d9"

    def square(row: int, column: int, top: int = 22) -> int:
        return lines[top + 6 * row][12 + 6 * column]

    assert [square(0, column) for column in range(4)] == [1, 2, 3, 1]
    assert [square(1, column) for column in range(6)] == [1, 1, 1, 1, 1, 0]
    assert square(0, 0, 22 + TWO[0].height_px) == 2


def test_an_svg_has_the_same_with_words():
    """It is XML; neighbours of one colour are one rectangle; title and legend are readable."""
    root = ElementTree.fromstring(draw_svg(TWO))
    space = "{http://www.w3.org/2000/svg}"
    rectangles = [(each.get("x"), each.get("width"), each.get("fill")) for each in root.iter(f"{space}rect")]
    assert rectangles[1:5] == [
        ("12", "5", "#4393c3"),
        ("18", "5", "#d6291f"),
        ("24", "5", "#d9d9d9"),
        ("30", str(6 * (COLUMNS - 3) - 1), "#4393c3"),
    ]
    words = [each.text for each in root.iter(f"{space}text")]
    assert words[0] == "r0/0, 2.0 MiB; a square is 15.4 KiB" and words[1].startswith("r0/1 <&>, 1.0 MiB")
    assert words[2:] == ["the same", "out of sync", "not compared"]
