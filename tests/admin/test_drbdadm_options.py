"""What scripts hand to drbdadm besides names: its options mean the same here, or are taken, or are refused."""

from __future__ import annotations

import subprocess

import pytest

from tests.config.drbdadm import find_drbdadm

SECOND = """resource r1 {
on alpha { device minor 1; disk /dev/sdx; meta-disk internal; address ipv4 127.0.0.1:7711; }
on beta { device minor 1; disk /dev/sdx; meta-disk internal; address ipv4 127.0.0.1:7712; }
}
"""


@pytest.mark.parametrize("words", [["--drbdsetup", "/x"], ["-s/x"], ["-m", "/x"], ["-p", "/x"], ["--sh-varname=v"]])
def test_options_about_other_programs_are_taken(place, process, words):
    """Before a command, and behind it; they change nothing."""
    common = ["-c", place.config, "--node", "alpha", "--run-dir", place.run_dir]
    assert place.run(*words, "role", *common, "r0").out == "Primary/Secondary\n"
    assert place("role", *words, "r0").out == "Primary/Secondary\n"


@pytest.mark.parametrize(
    "words", [["-W--force", "primary"], ["--setup-option=--force", "primary"], ["--", "--force", "primary"],
              ["--", "--overwrite-data-of-peer", "primary"], ["primary", "-o"]],
)  # fmt: skip
def test_an_option_for_the_command_behind_it(place, process, words):
    """As drbdadm hands it on to drbdsetup."""
    common = ["-c", place.config, "--node", "alpha", "--run-dir", place.run_dir]
    assert place.run(*words, "r0", *common).code == 0
    assert process.asked == [("primary", {"force": True})]


def test_verbose_says_each_step(place, process):
    """What is asked of the process; nothing of it is said by commands that only look."""
    told = place("-v", "primary", "r0")
    assert told.out == f'{place.run_dir}/r0.ctl.sock: {{"verb": "primary", "arguments": {{"force": false}}}}\n'
    assert place("role", "-v", "r0").out == "Primary/Secondary\n"


def test_verbose_says_how_a_process_is_started(node):
    """The command that may be typed instead, and which meta-data is written."""
    assert "pydrbd create-md r0" in node("create-md", "-v", "r0").out
    started = node("up", "--verbose", "r0").out.splitlines()
    assert " serve r0 " in started[0] and "r0 is up" in started[-1]
    steps = [line.rpartition('"verb": "')[2].partition('"')[0] for line in node("down", "-v", "r0").out.splitlines()]
    assert steps == ["secondary", "disconnect", "detach", "stop"]


def test_stacked_resources_are_refused(place, process):
    """Nobody must take the lower resource's state for the stacked one's."""
    place("role", "-S", "r0").complains(64, "r0: not available in stacked mode")
    place("--stacked", "primary", "r0").complains(64, "not available in stacked mode")
    assert process.asked == []


def test_one_of_several_hosts_is_chosen_as_the_peer(node, ports):
    """By all commands that need one; without the choice, and with a wrong one, they are refused."""
    gamma = "on gamma { volume 0 { device minor 0; disk /dev/sdx; meta-disk internal; } address ipv4 127.0.0.1:17703; }"
    node.config.write_text(node.config.read_text().rstrip().removesuffix("}") + gamma + "\n}\n")
    node("create-md", "r0").complains(78, "has 3 host sections", "--peer NAME says which one is the peer")
    node("up", "-P", "delta", "r0").complains(78, "no host of resource 'r0' matches --peer 'delta'")
    node("up", "-P", "alpha", "r0").complains(78, "--peer 'alpha' is this node itself")
    assert node("create-md", "--peer", "gamma", "r0").code == node("up", "-P", "gamma", "r0").code == 0
    assert "gamma connection:Connecting" in node("status", "--verbose", "r0").out
    assert node("adjust", "-P", "gamma", "r0").out == node("adjust", "-d", "-P", "gamma", "r0").out == ""
    assert node("down", "r0").code == 0


def test_a_peer_that_is_named_must_be_the_peer(place, process):
    """Where there is only one, too."""
    assert place("up", "-d", "-P", "beta", "r0").code == 0
    place("up", "-P", "gamma", "r0").complains(78, "no host of resource 'r0' matches --peer 'gamma'")


def test_a_file_is_tested_beside_the_configuration(place):
    """It is read as if it were included: what is there twice, or is wrong, is said; else it is of the dump, too."""
    more = place.directory / "more.res"
    more.write_text(SECOND)
    common = ["-c", place.config, "--node", "alpha", "--run-dir", place.run_dir]
    assert place.run("-t", more, "sh-nop", *common).code == 0
    assert "resource r1 {" in place("dump", "--config-to-test", more).out
    assert "resource r1 {" not in place("dump").out
    place("sh-nop", "-t", place.directory / "none").complains(78, "can't be read")
    more.write_text(place.config.read_text())
    place("sh-nop", "-t", more).complains(78, "more.res:1")
    place("up", "--config-to-test", more, "r0").complains(64, "unrecognized arguments")


@pytest.mark.interop
def test_drbdadm_judges_the_file_alike(place):
    """Good, in conflict with the configuration, not there: refused by both, or by none."""
    more = place.directory / "more.res"
    for text in (SECOND, place.config.read_text(), None):
        if text is None:
            more.unlink()
        else:
            more.write_text(text)
        words = [find_drbdadm("8.4"), "-c", place.config, "-t", more, "sh-nop"]
        theirs = subprocess.run(words, capture_output=True, text=True, timeout=30)
        assert (place("sh-nop", "-t", more).code == 0) is (theirs.returncode == 0), text


@pytest.mark.interop
def test_drbdadm_has_no_option_that_is_unknown_here(place, process):
    """What its help lists; --version is no option of a command here."""
    text = subprocess.run([find_drbdadm("8.4"), "help"], capture_output=True, text=True, timeout=30)
    lines = (text.stdout + text.stderr).splitlines()
    found = [line.split(",")[0].strip() for line in lines if line.startswith("  --")]
    assert len(found) > 10
    for option in sorted({*found} - {"--version"}):
        name, value, _rest = option.partition("=...")
        verb = "sh-nop" if name == "--config-to-test" else "role"
        result = place(verb, *filter(None, [f"{name}=/x" if value else name]), *(["r0"] if verb == "role" else []))
        assert "unrecognized" not in result.err, option
