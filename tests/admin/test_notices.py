"""What a configuration says that is no mistake, and not what it seems: verbs that read it tell of it, and go on."""

from __future__ import annotations

import pytest

QUORUM = (
    "r0.res:2:1: resource 'r0' has quorum and protocol {}: a Primary that does not know yet that its peer is gone "
    "answers writes that are lost when the peer is promoted; use protocol C"
)

PROTOCOLS = pytest.mark.parametrize(
    ("protocol", "expected"), [("A", [QUORUM.format("A")]), ("B", [QUORUM.format("B")]), ("C", [])]
)


def ask_for_quorum(place, protocol: str) -> None:
    sections = f"net {{ protocol {protocol}; }} options {{ quorum majority; }}"
    place.config.write_text(place.config.read_text().replace("resource r0 {", f"resource r0 {{ {sections}"))


def warnings(result) -> list[str]:
    """The lines on stderr, without the directory of the file."""
    assert all(line.startswith("pydrbd: /") for line in result.err.splitlines()), result.err
    return [line.partition(": ")[2].rpartition("/")[2] for line in result.err.splitlines()]


@PROTOCOLS
@pytest.mark.parametrize("words", [("dump",), ("dump", "all"), ("dump", "r0"), ("dump-xml",), ("dump-xml", "r0")])
def test_dump_warns_of_quorum_without_protocol_c(place, words, protocol, expected):
    """On stderr: what is printed can still be read again."""
    quiet = place(*words)
    ask_for_quorum(place, protocol)
    told = place(*words)
    assert told.code == 0 and warnings(told) == expected and warnings(quiet) == []
    assert ("quorum" in told.out, "use protocol C" in told.out) == (True, False)


@PROTOCOLS
def test_up_adjust_and_doctor_warn_of_it_too(node, protocol, expected):
    """Whether they start the process or ask the one that runs."""
    ask_for_quorum(node, protocol)
    assert node("create-md", "r0").code == 0
    for verb in ("up", "up", "adjust"):
        told = node(verb, "r0")
        assert told.code == 0 and warnings(told) == expected
    assert warnings(node("adjust", "-d", "r0")) == expected
    found = [line.rpartition("/")[2] for line in node("doctor", "r0").out.splitlines() if "use protocol C" in line]
    assert found == expected


def test_every_notice_is_told_by_dump(place):
    """Also of an option that changes nothing here."""
    place.config.write_text(
        place.config.read_text().replace("resource r0 {", "resource r0 { startup { stacked-timeouts; }")
    )
    assert warnings(place("dump")) == ["r0.res:2:25: option 'stacked-timeouts' has no effect in pydrbd yet"]
