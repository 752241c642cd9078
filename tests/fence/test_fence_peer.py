"""pydrbd-fence-peer and pydrbd-unfence-peer: their exit codes in every state of a cluster, played by scripts (C10).

The commands of Pacemaker that they call are stand-ins which answer from a directory, and remember what was changed.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from tests.fence.plays import ACTIVE, HANDLERS, ME, NO_VERDICT, OUTDATED, STONITHED, UNREACHABLE, Play


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


GONE = {"online": False, "expected_up": False}


@pytest.mark.parametrize(
    ("state", "mine", "code", "banned"),
    [
        ({}, "UpToDate", OUTDATED, True),
        ({}, "Consistent", OUTDATED, True),
        ({"role": "Unpromoted"}, "UpToDate", OUTDATED, True),
        ({"role": "Promoted"}, "UpToDate", ACTIVE, False),
        ({"role": "Promoted"}, "Consistent", ACTIVE, False),
        ({**GONE, "shot": "beta"}, "UpToDate", STONITHED, True),
        (GONE, "UpToDate", OUTDATED, True),
        ({**GONE, "shot": "gamma"}, "UpToDate", OUTDATED, True),
        ({**GONE, "shot": "beta"}, "Consistent", NO_VERDICT, False),
        ({"online": False}, "UpToDate", NO_VERDICT, False),
        ({"online": False, "unclean": True}, "UpToDate", NO_VERDICT, False),
        ({"unclean": True}, "UpToDate", NO_VERDICT, False),
        ({"pending": True}, "UpToDate", NO_VERDICT, False),
        ({"quorum": False}, "UpToDate", NO_VERDICT, False),
        ({"dc": False}, "UpToDate", NO_VERDICT, False),
        ({}, "Outdated", NO_VERDICT, False),
        ({}, "Inconsistent", NO_VERDICT, False),
        ({}, "Diskless", NO_VERDICT, False),
    ],
)
def test_the_verdict_is_what_is_known(play: Play, state: dict[str, bool], mine: str, code: int, banned: bool) -> None:
    """And the constraint stands exactly if we may go on."""
    play.node(**state)
    play.disks(mine, "DUnknown")
    assert play.run() == code, play.said
    assert play.is_banned == banned


def test_unreachable_is_never_said_to_be_dead(play: Play) -> None:
    """C10: whatever the cluster shows, 5 is not among the answers, and 7 only with a fencing that has succeeded."""
    choices = itertools.product((True, False), repeat=5)
    for online, unclean, pending, expected_up, shot in choices:
        play.cib()
        play.node(online=online, unclean=unclean, pending=pending, expected_up=expected_up, shot="beta" if shot else "")
        code = play.run()
        assert code != UNREACHABLE
        if code == STONITHED:
            assert shot and not (online or unclean or pending or expected_up)


def test_a_node_that_does_not_answer_is_waited_for_until_it_is_fenced(play: Play) -> None:
    """Online it seems, but it does not answer; then unclean, and then it has been shot: 7, and not a moment before."""
    (play.directory / "answer").unlink()
    play.node("monitor.2", online=False, unclean=True)
    play.node("monitor.3", **GONE, shot="beta")
    assert play.run(patience_s=30) == STONITHED, play.said
    assert len((play.directory / "looks").read_text().split()) == 3


def test_who_comes_second_has_no_verdict(play: Play) -> None:
    """Both lost each other, and the peer's constraint stands: ours is not placed, and the peer's stays."""
    play.cib("beta")
    assert play.run() == NO_VERDICT and "the peer came first" in play.said
    assert not (play.directory / "deleted").exists()


def test_both_at_once_are_told_apart_by_the_cluster(play: Play) -> None:
    """Between the look and the change the peer was quicker: cibadmin says that there is one already."""
    play.put("create.code", "108\n")
    assert play.run() == NO_VERDICT
    play.put("create.code", "105\n")
    assert play.run() == NO_VERDICT and "can't be placed" in play.said


def test_our_own_constraint_is_kept(play: Play) -> None:
    """From an earlier loss: it is not made twice, and a missing verdict does not take it away."""
    play.cib(ME)
    assert play.run() == OUTDATED and not (play.directory / "created").exists()
    play.node(online=False)
    assert play.run() == NO_VERDICT and play.is_banned


def test_a_peer_that_is_back_is_not_fenced(play: Play) -> None:
    """Before, or while the handler looked."""
    play.disks("UpToDate", "UpToDate")
    assert play.run() == NO_VERDICT and not play.is_banned
    play.disks("UpToDate", "DUnknown", "events.next")
    assert play.run() == NO_VERDICT and "has come back" in play.said and not play.is_banned


def test_a_cluster_that_can_not_be_asked_gives_no_verdict(play: Play) -> None:
    """Commands that fail, that are not there, that speak no XML; a resource that is in no clone."""
    for name in ("cibadmin", "crm_mon", "pydrbd"):
        script = (play.bin / name).read_text()
        for broken in ("#!/bin/sh\nexit 102\n", "#!/bin/sh\necho nonsense\n"):
            (play.bin / name).write_text(broken)
            assert play.run() == NO_VERDICT and not play.is_banned
        (play.bin / name).write_text(script)
    play.put("cib", "<cib><configuration><resources/><constraints/></configuration></cib>")
    assert play.run() == NO_VERDICT and "no clone" in play.said


@pytest.mark.parametrize("owner", [ME, "beta"])
def test_unfence_takes_the_constraint_away_when_all_is_well(play: Play, owner: str) -> None:
    """On the source and on the target; as long as something is not UpToDate it stays."""
    play.cib(owner)
    play.disks("UpToDate", "Inconsistent")
    assert play.run("pydrbd-unfence-peer") == 0 and not (play.directory / "deleted").exists()
    play.disks("UpToDate", "UpToDate")
    assert play.run("pydrbd-unfence-peer") == 0 and "rsc_location" not in (play.directory / "cib").read_text()
    assert play.run("pydrbd-unfence-peer") == 0


def test_outside_of_a_handler_it_says_so() -> None:
    done = subprocess.run(
        [HANDLERS / "pydrbd-fence-peer"], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == NO_VERDICT and "not in the environment" in done.stdout


@pytest.mark.interop
def test_the_constraint_is_valid_for_pacemaker(play: Play, need, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is created is accepted by the real cibadmin, on a CIB in a file, by the schema of Pacemaker 2.1."""
    cibadmin = need("cibadmin")
    assert play.run() == OUTDATED
    empty = subprocess.run([cibadmin, "--empty"], capture_output=True, text=True, check=True).stdout
    disk = (
        '<clone id="disk-clone"><meta_attributes id="m"><nvpair id="p" name="promotable" value="true"/>'
        '</meta_attributes><primitive id="disk" class="ocf" provider="pacemaker" type="Stateful"/></clone>'
    )
    play.put("real.xml", empty.replace("<resources/>", f"<resources>{disk}</resources>"))
    environment = {**os.environ, "CIB_file": str(play.directory / "real.xml")}
    created = (play.directory / "created").read_text()
    create = [cibadmin, "--create", "--scope", "constraints", "--xml-text", created]
    done = subprocess.run(create, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(create, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 108, again.stderr
    stub = '<rsc_location id="pydrbd-fence-r0"/>'
    delete = [cibadmin, "--delete", "--scope", "constraints", "--xml-text", stub]
    assert subprocess.run(delete, env=environment, capture_output=True, check=False).returncode == 0
    assert "rsc_location" not in (play.directory / "real.xml").read_text()
