"""README's pictures are what the programs show now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_pictures_are_made_from_the_code_as_it_is(tmp_path):
    """`make pictures` would change nothing: compared by their words, which another version of rich draws alike."""
    subprocess.run([sys.executable, ROOT / "tools/pictures.py", tmp_path], check=True)
    for name in ("top.svg", "doctor.svg"):
        made, kept = (words(path / name) for path in (tmp_path, ROOT / "docs/pictures"))
        assert made == kept, f"make pictures: {name} is not what the program shows"


def words(path: Path) -> list[str]:
    from xml.etree import ElementTree

    return [element.text or "" for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")]
