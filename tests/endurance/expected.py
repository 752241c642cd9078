"""What the device may hold: one content for each sector, and others for those whose last write was never answered."""

from __future__ import annotations

from collections import defaultdict

from tests.lab.load import SECTOR, Op


class Expected:
    """`image` holds what was acknowledged."""

    def __init__(self, size_bytes: int) -> None:
        self.image = bytearray(size_bytes)
        self._unanswered: defaultdict[int, set[bytes]] = defaultdict(set)

    def done(self, op: Op) -> None:
        """It was acknowledged."""
        for sector, content in _sectors(op):
            self._unanswered.pop(sector, None)
            self.image[sector * SECTOR : (sector + 1) * SECTOR] = content

    def perhaps_done(self, op: Op) -> None:
        """Its Primary died before it said so: it may have happened, or in part."""
        for sector, content in _sectors(op):
            self._unanswered[sector].add(content)

    def is_certain(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether there is only one content that a range may have."""
        return self._unanswered.keys().isdisjoint(
            range(offset_bytes // SECTOR, (offset_bytes + length_bytes) // SECTOR)
        )

    def settle(self, found: bytes) -> list[int]:
        """Compare; what was uncertain is now as it was found. The sectors that hold what they must not."""
        assert len(found) == len(self.image)
        wrong = []
        if found != self.image:
            for sector in range(len(found) // SECTOR):
                place = slice(sector * SECTOR, (sector + 1) * SECTOR)
                if found[place] != self.image[place] and found[place] not in self._unanswered.get(sector, ()):
                    wrong.append(sector)
        self.adopt(found)
        return wrong

    def adopt(self, found: bytes) -> None:
        """Whatever it is, it is right: after writes whose order is nobody's business."""
        self.image = bytearray(found)
        self._unanswered.clear()


def _sectors(op: Op) -> list[tuple[int, bytes]]:
    if op.kind in ("write", "fua"):
        content = op.content()
    elif op.kind in ("discard", "zero"):
        content = bytes(op.length_bytes)
    else:
        return []
    first = op.offset_bytes // SECTOR
    return [(first + at // SECTOR, content[at : at + SECTOR]) for at in range(0, len(content), SECTOR)]
