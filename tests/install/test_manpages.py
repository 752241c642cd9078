"""The manual pages say all that the programs know, and groff has nothing to complain of."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydrbd_fence import usage

from pydrbd.admin.command_table import COMMANDS
from pydrbd.admin.exit_codes import EXIT_CODES
from pydrbd.admin.options import parser_of
from pydrbd.config.options import OPTIONS
from pydrbd.config.settings import SETTINGS_KEYS
from pydrbd.limits import WITNESS_REQUESTS_MAX, WITNESS_SESSION_S, WITNESS_SESSIONS_MAX

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "fence_pydrbd.8",
    "ocf_pydrbd_disk.7",
    "ocf_pydrbd_nbd.7",
    "pydrbd-sbd.8",
    "pydrbd-witness.8",
    "pydrbd.8",
    "pydrbd.conf.5",
    "pydrbd.toml.5",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All pages, made as `make man` makes them, in the layout that `man` wants."""
    place = tmp_path_factory.mktemp("man")
    words = [sys.executable, ROOT / "tools" / "manpages.py", place]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (place / "man5").symlink_to(".")
    yield place


def text_of(pages: Path, name: str) -> str:
    """What a reader sees: no hyphens at the ends of lines, no formatting."""
    words = ["groff", "-man", "-Tascii", "-P-cbou", "-rHY=0", "-rLL=1000n", "-ww", pages / name]
    done = subprocess.run(words, capture_output=True, text=True, cwd=pages, timeout=120, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_every_page_is_made(pages: Path, need) -> None:
    """And groff warns of nothing in any of them."""
    need("groff")
    assert sorted(path.name for path in pages.iterdir() if path.is_file()) == PAGES
    for name in PAGES:
        text = text_of(pages, name)
        assert "@@" not in text and len(text.splitlines()) > 20
        assert re.search(rf"^{re.escape(name[:-2].replace('toml', 'conf'))}\(\d\)", text)


def test_every_verb_and_option_of_pydrbd(pages: Path, need) -> None:
    """From the parser itself; exit codes too."""
    need("groff")
    text = text_of(pages, "pydrbd.8")
    for verb in COMMANDS:
        assert re.search(rf"^ +{verb}( |$)", text, re.MULTILINE), verb
        for action in parser_of(verb)._actions:
            for name in action.option_strings:
                assert name in ("-h", "--help") or re.search(rf"{name}( |,|$)", text, re.MULTILINE), (verb, name)
    for code in EXIT_CODES:
        assert re.search(rf"^ +{code} ", text, re.MULTILINE), code


def test_every_command_option_and_key_of_pydrbd_sbd(pages: Path, need) -> None:
    """Those of /etc/default/sbd, too."""
    need("groff")
    text = text_of(pages, "pydrbd-sbd.8")
    for word in [*usage.COMMANDS, *usage.KEYS, *(option.name for option in usage.OPTIONS)]:
        assert re.search(rf"^ +{word}( |$)", text, re.MULTILINE), word


def test_every_option_and_limit_of_the_witness(pages: Path, need) -> None:
    """Those of the parser, and the numbers of pydrbd/limits.py."""
    need("groff")
    text = text_of(pages, "pydrbd-witness.8")
    for action in parser_of("witness")._actions:
        for name in action.option_strings:
            if name in ("--listen", "--state", "--key-file", "--forget"):
                assert re.search(rf"^ +{name}( |,|$)", text, re.MULTILINE), name
    words = f"{WITNESS_SESSIONS_MAX} connections are served at a time, each for {WITNESS_SESSION_S:g} seconds"
    assert words in text and f"with {WITNESS_REQUESTS_MAX} questions" in text


def test_every_option_of_the_configuration(pages: Path, need) -> None:
    """By its name, with the keys of pydrbd.toml."""
    need("groff")
    text = text_of(pages, "pydrbd.conf.5")
    for word in [*(option.name for option in OPTIONS), *SETTINGS_KEYS]:
        assert re.search(rf"^ +{re.escape(word)}( |$)", text, re.MULTILINE), word


@pytest.mark.parametrize(
    ("page", "agent", "action", "library"),
    [
        ("fence_pydrbd.8", "fence/agents/fence_pydrbd", ("-o", "metadata"), "/usr/share/fence/fencing.py"),
        ("ocf_pydrbd_disk.7", "fence/ocf/disk", ("meta-data",), "/usr/lib/ocf/lib/heartbeat/ocf.py"),
        ("ocf_pydrbd_nbd.7", "fence/ocf/nbd", ("meta-data",), "/usr/lib/ocf/lib/heartbeat/ocf.py"),
    ],
)
def test_every_parameter_and_action_of_an_agent(pages: Path, need, page, agent, action, library) -> None:
    """What the agent itself prints, with the cluster's own library, is in its page."""
    need("groff")
    if not Path(library).exists():
        pytest.skip(f"not installed: {library} (make test installs it as root)")
    metadata = subprocess.run(
        ["/usr/bin/python3", ROOT / agent, *action], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    names = re.findall(r'<(?:parameter|action) name="([^"]+)"', metadata)
    assert len(names) > 8
    text = text_of(pages, page)
    for name in names:
        assert re.search(rf"(^|[ ,({{]){re.escape(name)}[ ,.:;)\n]", text, re.MULTILINE), name
