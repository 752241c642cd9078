"""A map of devices as a picture: a square for each part, row by row, coloured by what a comparison has found there.

Written as plain SVG, and as PNG with a palette of four colours: zlib of the standard library is all that PNG needs, so
a node has a map without a library for pictures. A PNG has no words in it; `legend` says what its colours mean.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from xml.sax.saxutils import escape

from pydrbd.admin.progress import format_bytes
from pydrbd.core.verify_report import DIFFERENT, NOT_COMPARED, SAME

__all__ = ["CELLS_MAX", "KINDS", "DeviceMap", "draw_png", "draw_svg", "legend"]

COLUMNS: Final = 128
CELLS_MAX: Final = COLUMNS * 64
"""Squares of one device."""

KINDS: Final = (".png", ".svg")
"""What a file's name may end with."""

_CELL_PX: Final = 6
_GAP_PX: Final = 1
_MARGIN_PX: Final = 12
_TITLE_PX: Final = 22
_WIDTH_PX: Final = 2 * _MARGIN_PX + COLUMNS * _CELL_PX

_BACKGROUND: Final = "ffffff"
_COLOURS: Final[Mapping[str, tuple[str, str, str]]] = {
    SAME: ("the same", "blue", "4393c3"),
    DIFFERENT: ("out of sync", "red", "d6291f"),
    NOT_COMPARED: ("not compared", "grey", "d9d9d9"),
}
"""Letter to words, name of the colour, and the colour; they stay apart for who does not see red or green."""


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """One device: its name, its size in bytes, and a letter of `verify_report` for each part."""

    name: str
    size_bytes: int
    letters: str

    @property
    def rows(self) -> list[str]:
        return [self.letters[at : at + COLUMNS] for at in range(0, len(self.letters), COLUMNS)]

    @property
    def height_px(self) -> int:
        return _TITLE_PX + len(self.rows) * _CELL_PX + _MARGIN_PX

    @property
    def title(self) -> str:
        """Its name, and about how much a square stands for."""
        part_bytes = self.size_bytes // max(1, len(self.letters))
        return f"{self.name}, {format_bytes(self.size_bytes)}; a square is {format_bytes(part_bytes)}"


def legend() -> str:
    """What the colours mean, in one line."""
    return ", ".join(f"{colour}: {words}" for words, colour, _rgb in _COLOURS.values())


def draw_svg(maps: Sequence[DeviceMap]) -> str:
    """The picture as the text of an SVG file, with a legend."""
    height = sum(one.height_px for one in maps) + _TITLE_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH_PX}" height="{height}" '
        f'viewBox="0 0 {_WIDTH_PX} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="#{_BACKGROUND}"/>',
    ]
    top = 0
    for one in maps:
        parts.append(f'<text x="{_MARGIN_PX}" y="{top + 16}">{escape(one.title)}</text>')
        for number, row in enumerate(one.rows):
            parts += _svg_row(row, top + _TITLE_PX + number * _CELL_PX)
        top += one.height_px
    left = _MARGIN_PX
    for words, _name, rgb in _COLOURS.values():
        parts.append(f'<rect x="{left}" y="{top + 2}" width="12" height="12" fill="#{rgb}"/>')
        parts.append(f'<text x="{left + 18}" y="{top + 12}">{words}</text>')
        left += 130
    return "\n".join([*parts, "</svg>", ""])


def _svg_row(row: str, top: int) -> list[str]:
    """One rectangle for neighbours of one colour."""
    found, column = [], 0
    for letter, run in groupby(row):
        count = len(list(run))
        left, width = _MARGIN_PX + column * _CELL_PX, count * _CELL_PX - _GAP_PX
        rgb = _COLOURS[letter][2]
        found.append(f'<rect x="{left}" y="{top}" width="{width}" height="{_CELL_PX - _GAP_PX}" fill="#{rgb}"/>')
        column += count
    return found


def draw_png(maps: Sequence[DeviceMap]) -> bytes:
    """The picture as the bytes of a PNG file."""
    numbers = {letter: index for index, letter in enumerate(_COLOURS, start=1)}
    blank = bytes(_WIDTH_PX)
    lines: list[bytes] = []
    for one in maps:
        lines += [blank] * _TITLE_PX
        for row in one.rows:
            cells = b"".join(bytes([numbers[letter]]) * (_CELL_PX - _GAP_PX) + bytes(_GAP_PX) for letter in row)
            line = (bytes(_MARGIN_PX) + cells).ljust(_WIDTH_PX, b"\0")
            lines += [line] * (_CELL_PX - _GAP_PX) + [blank] * _GAP_PX
        lines += [blank] * _MARGIN_PX
    palette = bytes.fromhex(_BACKGROUND + "".join(rgb for _words, _name, rgb in _COLOURS.values()))
    size = struct.pack(">IIBBBBB", _WIDTH_PX, len(lines), 8, 3, 0, 0, 0)  # 8 bits a pixel, each a place in the palette
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines), 9)  # each line begins with its filter: none
    chunks = ((b"IHDR", size), (b"PLTE", palette), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
