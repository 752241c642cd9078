"""doctor: each sickness has its words and its commands; split brain above all."""

from __future__ import annotations

import re

import pytest

from pydrbd.admin.doctor import Level, diagnose
from pydrbd.admin.run_log import last_connected, last_error, last_words
from tests.admin.snapshots import a_snapshot, a_volume, alone, syncing

SPLIT = {"volume": 0, "my_bits": 3, "peer_bits": 1024, "my_role": "Primary", "peer_role": "Secondary"}
CASES = [
    (alone("StandAlone") | {"connection_reason": "it is mad"}, "nobody looks for beta: it is mad", "pydrbd connect r0"),
    (
        alone("StandAlone") | {"connection_reason": "I should become SyncTarget, but I am Primary"},
        "alpha's data is to be replaced by beta's, but alpha is Primary: nobody looks for beta",
        "pydrbd secondary r0 && pydrbd connect r0 --discard-my-data",
    ),
    (alone(), "beta at ipv4:10.0.0.2:7788 is not there; not connected since noon", ""),
    (a_snapshot(a_volume(disk="Diskless")), "the disk: /dev/sdx is not attached", "pydrbd attach r0"),
    (
        a_snapshot(a_volume(disk="Inconsistent", peer_disk="Inconsistent")),
        "Inconsistent on both nodes, as new ones are",
        "pydrbd primary --force r0",
    ),
    (alone(disk="Inconsistent"), "the disk is Inconsistent: not all of it was copied", "pydrbd wait-sync r0"),
    (alone(disk="Outdated"), "is known to be older than beta's", "get beta back"),
    (alone(disk="Consistent"), "may be older than beta's", "only if beta is lost for good"),
    (
        a_snapshot(a_volume(out_of_sync_bits=2)),
        "8.0 KiB differ from beta's copy, as a verify has found",
        "pydrbd disconnect r0 && pydrbd connect r0",
    ),
    (
        a_snapshot(a_volume(peer_disk="Diskless", out_of_sync_bits=2)),
        "the disk is UpToDate here, but Diskless on beta: there is only one good copy",
        "on beta: look in its log for why, then pydrbd attach r0",
    ),
    (a_snapshot(suspended_reasons=["user"]), "somebody has said suspend-io", "pydrbd resume-io r0"),
    (a_snapshot(suspended_reasons=["fencing"]), "has given no verdict", "when you know that it is off"),
    (
        alone(fails=True) | {"quorum": "none", "quorum_refusal": "the witness is silent"},
        "all requests fail: there is no quorum (the witness is silent), and on-no-quorum is io-error",
        "get the peer or the witness back",
    ),
    (a_snapshot(suspended_reasons=["no-data"]), "no good data is in reach", "resume-io"),
]


def told(snapshot, level=Level.BAD, **given):
    options = {"handlers": frozenset(), "fencing": frozenset({"dont-care"}), "since": "noon"} | given
    found = [one for one in diagnose(snapshot, **options) if one.level is level]
    return "\n".join(f"{one.text} {' '.join(one.commands)}" for one in found)


@pytest.mark.parametrize(("snapshot", "words", "command"), CASES)
def test_what_is_wrong_and_what_mends_it(snapshot, words, command):
    """One sickness each."""
    text = told(snapshot)
    assert words in text and command in text


def test_a_healthy_pair():
    """Nothing bad; a resync is no sickness; what is not there by configuration is not missing."""
    assert told(a_snapshot()) == told(syncing()) == ""
    assert "a resync runs as SyncSource: 25 %" in told(syncing(), Level.NOTE)
    paused = syncing()
    paused["volumes"][0]["resync_suspended"] = "user"
    assert "held back by: user pydrbd resume-sync r0" in told(paused)
    client = a_snapshot(a_volume(disk="Diskless"), backing_devices={})
    assert told(client) == "" and "all data is beta's" in told(client, Level.NOTE)


def test_a_peer_without_a_disk():
    """Nothing can be copied to it before it has one; a peer that is to have none is no sickness."""
    lost = a_snapshot(a_volume(peer_disk="Diskless", out_of_sync_bits=2))
    assert "disconnect" not in told(lost) and "a verify" not in told(lost)
    assert "8.0 KiB will be copied to beta when it has a disk again" in told(lost, Level.NOTE)
    assert told(lost, peer_diskless=frozenset({0})) == ""
    assert "none on beta, as configured: this is the only copy" in told(lost, Level.NOTE, peer_diskless=frozenset({0}))


def test_why_a_disk_is_not_attached():
    """Its last error of this run, and where all of it is to be read."""
    lost, log = a_snapshot(a_volume(disk="Diskless")), "/run/r0.log"
    assert "/dev/sdx is not attached (why, says /run/r0.log)" in told(lost, log=log)
    assert "/dev/sdx is not attached: no such file (/run/r0.log)" in told(lost, log=log, errors={0: "no such file"})


def test_only_what_this_run_has_said_counts(tmp_path):
    """An error before the last `up` is of a run that is over, as after a kill that left no word."""
    log = tmp_path / "r0.log"
    assert last_words(log) == last_error(log, 0) == ""
    said = "2026-01-02 03:04:05,678 {} {}\n".format
    log.write_text(said("INFO", "r0: starts as alpha") + said("ERROR", "r0: volume 0: old") + "pydrbd: older\n")
    assert last_words(log) == "older" and last_error(log, 0) == "r0: volume 0: old"
    log.write_text(log.read_text() + said("INFO", "r0: starts as alpha"))
    assert last_words(log) == last_error(log, 0) == ""
    lines = [said("ERROR", f"r0: {text}") for text in ("volume 1: one", "volume 0: two", "the network")]
    log.write_text(log.read_text() + "".join(lines))
    assert [last_error(log, vnr) for vnr in (0, 1, 2)] == ["r0: volume 0: two", "r0: volume 1: one", "r0: the network"]


def test_split_brain_says_who_has_what_since_when_and_both_ways_out():
    """The two commands for either choice, each with its node."""
    text = told(alone("StandAlone") | {"split_brain": SPLIT})
    assert "(since noon). alpha, Primary when they met, has 12.0 KiB of changes; beta, Secondary, has 4.0 MiB" in text
    give_up = "pydrbd secondary r0 && pydrbd connect r0 --discard-my-data"
    assert f"to keep alpha's data:  on beta: {give_up}   on alpha: pydrbd connect r0" in text
    assert f"to keep beta's data:  on alpha: {give_up}   on beta: pydrbd connect r0" in text


def test_fencing_without_anybody_to_ask():
    """A policy needs its handler; no policy is a choice, and said to be one."""
    assert "no handler fence-peer" in told(a_snapshot(), fencing=frozenset({"resource-and-stonith"}))
    good = {"fencing": frozenset({"resource-only"}), "handlers": frozenset({"fence-peer"})}
    assert told(a_snapshot(), **good) == "" and "no fencing" not in told(a_snapshot(), Level.NOTE, **good)
    assert "no fencing" in told(a_snapshot(), Level.NOTE)


def test_when_they_were_connected_last(tmp_path):
    """The last time that a line says so, over restarts of the process."""
    log = tmp_path / "r0.log"
    assert last_connected(log) == "a time that only the journal knows"
    start = "2026-01-02 03:04:{:02},000 INFO r0: volume 0: {}"
    states = [
        "conn( WFConnection -> WFReportParams )",
        "conn( WFReportParams -> Connected ) pdsk( DUnknown -> UpToDate )",
        "conn( Connected -> SyncSource )",
        "conn( SyncSource -> NetworkFailure )",
        "conn( NetworkFailure -> Unconnected )",
    ]
    log.write_text("".join(start.format(at, state) + "\n" for at, state in enumerate(states)))
    assert last_connected(log) == "2026-01-02 03:04:03"
    log.write_text("")
    assert last_connected(log) == "a time before the log begins"


def test_a_node_from_nothing_to_a_split_brain(node):
    """Before create-md, before up, alone, and after both were Primary apart: each time the way on."""
    run_dir = node.directory / "run-b"

    def beta(verb, *words):
        return node.run(verb, "-c", node.config, "--node", "beta", "--run-dir", run_dir, *words)

    first = node("doctor", "r0")
    assert first.code == 10 and "it does not run here" in first.out and "A new disk needs create-md" in first.out
    for name in ("alpha", "beta"):
        assert node("create-md", "r0", node=name).code == 0
    assert "alpha0.img has meta-data: Inconsistent" in node("doctor", "r0").out
    assert node("up", "r0").code == 0
    up = node("doctor", "r0").out
    assert "nobody listens" in up and "it is not up there, or StandAlone" in up
    assert "on beta: pydrbd cstate r0" in up and "pydrbd up r0, or pydrbd connect r0 if it is StandAlone" in up
    assert beta("up", "r0").code == 0
    try:
        assert node("wait-connect", "-t", "20", "r0").code == 0
        assert node("new-current-uuid", "--clear-bitmap", "r0").code == 0
        healthy = node("doctor", "r0")
        assert (healthy.code, healthy.out.splitlines()[0]) == (0, "r0 on alpha: nothing is wrong")
        for ask in (node, beta):
            assert ask("disconnect", "r0").code == 0
        for ask in (node, beta):
            assert ask("primary", "--force", "r0").code == 0
            assert ask("secondary", "r0").code == 0
        for ask in (node, beta):
            assert ask("connect", "r0").code == 0
        node("wait-connect", "r0").complains(10, "is StandAlone")
        assert beta("connect", "r0").code == 0
        assert "split brain" in node("connect", "--tentative", "r0").out
        assert node("connect", "r0").code == 0
        node("wait-connect", "r0").complains(10, "is StandAlone")
        split = node("doctor", "r0")
        assert split.code == 10 and "split brain: both copies were written to" in split.out
        assert re.search(r"apart \(since \d{4}-\d\d-\d\d [\d:]+\)", split.out)
        assert node("connect", "--discard-my-data", "r0").code == 0 and node("primary", "--force", "r0").code == 0
        assert beta("connect", "r0").code == 0
        node("wait-connect", "r0").complains(10, "is StandAlone")
        wrong = node("doctor", "r0")
        assert wrong.code == 10 and "but alpha is Primary" in wrong.out
        assert node("secondary", "r0").code == 0 and node("connect", "--discard-my-data", "r0").code == 0
        assert beta("connect", "r0").code == 0
        assert node("wait-sync", "-t", "20", "r0").code == 0
        assert node("doctor", "r0").code == 0
    finally:
        beta("down", "--force", "r0")


def test_a_changed_configuration_is_noticed(node):
    """Not taken over by looking."""
    assert node("create-md", "r0").code == 0 and node("up", "r0").code == 0
    text = node.config.read_text()
    node.config.write_text(text.replace("resource r0 {", "resource r0 { net { ko-count 3; }"))
    for _ in range(2):
        assert "the configuration has changed since this runs: net: ko-count 7 -> 3" in node("doctor", "r0").out


def test_an_error_while_it_starts_is_quoted(node):
    """The disk fails before the process says that it is up; the next run has no such error."""
    assert node("create-md", "r0").code == 0
    disk, kept = node.disk("alpha"), node.directory / "kept"
    disk.rename(kept)
    up = node("up", "r0")
    assert up.code != 0
    told = node("doctor", "r0").out
    assert f"{disk} is not attached: r0: volume 0: can't attach: " in told and f"({node.run_dir}/r0.log)" in told
    node("down", "--force", "r0")
    kept.rename(disk)
    assert node("up", "r0").code == 0 and node("detach", "--force", "r0").code == 0
    assert f"{disk} is not attached (why, says {node.run_dir}/r0.log)" in node("doctor", "r0").out


def test_what_adjust_refuses_takes_a_restart(place, process):
    """It takes over nothing then: the other changes wait for the restart, too."""
    changes = [{"text": "net: ko-count 7 -> 3", "when": "now"}, {"text": "nbd: a -> b", "when": "restart"}]
    process.answer("adjust", data={"changes": changes})
    told = place("doctor", "r0").out
    assert told.count("pydrbd down r0 && pydrbd up r0 (under systemd: systemctl restart pydrbd@r0)") == 2
    assert "pydrbd adjust r0" not in told
    process.answer("adjust", data={"changes": changes[:1]})
    assert "pydrbd adjust r0" in place("doctor", "r0").out


def test_a_name_that_nobody_knows(place):
    place("doctor", "r7").complains(78, "no resource 'r7'")
