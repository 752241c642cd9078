"""wait-connect, wait-sync and the progress that is shown meanwhile."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pydrbd.admin.options import parse
from pydrbd.admin.progress import Progress, format_bytes, format_duration
from pydrbd.admin.verbs_wait import Patience
from pydrbd.config.load import parse_config
from tests.admin.conftest import config_text
from tests.admin.snapshots import a_snapshot, a_volume, alone, syncing

TIMED_OUT = {"code": 0, "text": "timed out", "data": None}
GRANTED = {"code": 1, "text": "", "data": None}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def slow(process, verb: str, states: list[dict]):
    """The process answers `verb` in time only when the last of `states` has been shown."""

    def answer(arguments):
        if not states:
            return GRANTED
        process.answer("status", data=states.pop(0))
        if arguments["timeout_s"] > 0:
            process_wait.wait(arguments["timeout_s"])
        return TIMED_OUT

    import threading

    process_wait = threading.Event()
    process.answers[verb] = answer


@pytest.mark.parametrize("verb", ["wait-connect", "wait-sync"])
def test_what_is_there_already_is_not_waited_for(place, process, verb):
    """Connected, in sync: exit 0 at once, without a word."""
    result = place(verb, "r0")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize("verb", ["wait-connect", "wait-sync"])
def test_time_is_up(place, process, verb):
    """Exit code 5, as drbdsetup's, and the state in which it still is."""
    slow(process, verb, [alone()] * 100)
    place(verb, "-t", "0.1", "r0").complains(5, f"r0: {verb}: not within 0.1 s (WFConnection)")


def test_the_time_of_the_configuration(place, process):
    """Without -t it is the startup section's wfc-timeout."""
    text = place.config.read_text()
    place.config.write_text(text.replace("resource r0 {", "resource r0 { startup { wfc-timeout 1; }"))
    slow(process, "wait-connect", [alone()] * 100)
    place("wait-connect", "r0").complains(5, "not within 1 s")


def test_nobody_looks_for_the_peer(place, process):
    """StandAlone will not end by itself: no waiting for ever."""
    slow(process, "wait-connect", [alone("StandAlone")] * 100)
    place("wait-connect", "r0").complains(10, "r0: is StandAlone", "pydrbd connect r0")


@pytest.mark.parametrize(
    ("disks", "words"),
    [({"disk": "Diskless"}, "r0/0: there is no disk here"), ({"peer_disk": "Diskless"}, "r0/0: the peer has no disk")],
)
def test_a_disk_that_is_missing_is_not_synced(place, process, disks, words):
    """Nor does one come by itself: wait-sync ends, and says what to do. wait-connect asks for no disk."""
    slow(process, "wait-sync", [a_snapshot(a_volume(**disks))] * 100)
    place("wait-sync", "r0").complains(74, words, "pydrbd attach r0")
    assert place("wait-connect", "r0").code == 0


def test_a_process_that_does_not_wait(place, process):
    """An answer of nonsense must not become a busy loop."""
    process.answers["wait-sync"] = {"code": 0, "text": "what?", "data": None}
    place("wait-sync", "r0").complains(10, "wait-sync: what?")


def test_progress_of_a_resync_in_lines(place, process):
    """Without a terminal: a line when it is first seen and one at the end, on stderr."""
    slow(process, "wait-sync", [syncing(done=25), syncing(done=50)])
    result = place("wait-sync", "r0")
    first, last = result.err.splitlines()
    assert (result.code, result.out) == (0, "")
    assert first == "r0 resync: 25.0%  100 KiB of 400 KiB"
    assert last.startswith("r0 resync: 400 KiB done, ")


def test_quiet_shows_nothing(place, process):
    slow(process, "wait-sync", [syncing(done=25)])
    assert place("wait-sync", "--quiet", "r0").err == ""


def test_a_bar_on_a_terminal():
    """The bar grows, the rate is that of the last seconds, and in the end one line is left."""
    stream, clock = Terminal(), Clock()
    progress = Progress("r0 resync", 1000 << 20, stream, clock)
    progress.update(100 << 20)
    clock.now += 2
    progress.update(300 << 20)
    shown = stream.getvalue().split("\r")[-1]
    assert progress.bytes_per_s == 100 << 20
    assert "[=" in shown and " 30.0%  300 MiB of 1000 MiB  100 MiB/s  7.0 s left" in shown
    clock.now += 7
    progress.update(1000 << 20)
    progress.finish()
    assert stream.getvalue().endswith("\rr0 resync: 1000 MiB done, 100 MiB/s\n")


def test_the_rate_forgets_what_was_long_ago():
    """A disk that becomes slow is seen within seconds."""
    clock = Clock()
    progress = Progress("x", 1 << 40, io.StringIO(), clock)
    for done in (0, 1 << 30, 2 << 30):
        progress.update(done)
        clock.now += 1
    for _ in range(10):
        clock.now += 1
        progress.update(progress.done_bytes + (1 << 20))
    assert progress.bytes_per_s == 1 << 20


def test_lines_are_few_in_a_pipe():
    """Whoever waits sees soon that it moves; the log of a long one gets a line a minute, not ten a second."""
    stream, clock = io.StringIO(), Clock()
    progress = Progress("x", 1000, stream, clock)
    lines = {}
    for second in range(3601):
        progress.update(second // 4)
        lines[second] = len(stream.getvalue().splitlines())
        clock.now += 1
    assert (lines[0], lines[1], lines[5], lines[3600] - lines[3000]) == (1, 2, 4, 10)


def test_nothing_to_do_is_all_done():
    assert Progress("x", 0, io.StringIO()).percent == 100.0


def test_a_narrow_terminal(monkeypatch):
    """The line is never longer than the terminal."""
    monkeypatch.setenv("COLUMNS", "50")
    stream, clock = Terminal(), Clock()
    progress = Progress("a long title of something", 1 << 30, stream, clock)
    progress.update(1 << 20)
    clock.now += 1
    progress.update(1 << 21)
    assert all(len(line) < 50 for line in stream.getvalue().split("\r"))


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"), (812 << 10, "812 KiB")]
)
def test_sizes(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (42, "42 s"), (119.4, "119 s"), (200, "3:20 min"), (7500, "2:05:00 h")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_snapshot_without_a_resync_shows_no_bar(place, process):
    """Waiting for a peer that is not there shows nothing."""
    slow(process, "wait-sync", [alone(), a_snapshot()])
    assert place("wait-sync", "r0").err == ""


@pytest.mark.parametrize(
    ("startup", "words", "volume", "expected"),
    [
        ("", [], {}, 0),
        ("wfc-timeout 9;", [], {}, 9),
        ("wfc-timeout 9; degr-wfc-timeout 5;", [], {}, 9),
        ("wfc-timeout 9; degr-wfc-timeout 5;", [], {"degraded": True}, 5),
        ("wfc-timeout 9; degr-wfc-timeout 50;", [], {"degraded": True}, 9),
        ("wfc-timeout 9;", [], {"degraded": True}, 9),
        ("degr-wfc-timeout 5;", [], {"degraded": True}, 5),
        ("wfc-timeout 9; outdated-wfc-timeout 2;", [], {"peer_disk": "Outdated"}, 2),
        ("wfc-timeout 9; outdated-wfc-timeout 2;", [], {"peer_disk": "Outdated", "degraded": True}, 2),
        ("wfc-timeout 9; outdated-wfc-timeout 20;", [], {"peer_disk": "Outdated"}, 9),
        ("wfc-timeout 9; degr-wfc-timeout 5;", ["-t", "7"], {"degraded": True}, 7),
        ("wfc-timeout 9; degr-wfc-timeout 5;", ["--degr-wfc-timeout", "3"], {"degraded": True}, 3),
    ],
)
def test_how_long_depends_on_what_has_happened(startup, words, volume, expected):
    """Section startup of the configuration, and what the command line says instead."""
    text = config_text(Path("/d")).replace("resource r0 {", f"resource r0 {{ startup {{ {startup} }}")
    resource = parse_config(text).resource("r0")
    patience = Patience.of(resource.startup, parse("wait-connect", [*words, "r0"]))
    assert patience.timeout_s(a_snapshot(a_volume(**volume))) == expected


def test_a_split_brain_ends_the_wait_unless_one_waits_for_its_end(place, process):
    """`wait-after-sb`: until somebody has mended it."""
    process.answer("wait-connect", 0, "wait-connect: timed out")
    process.answer("status", data=alone("StandAlone"))
    place("wait-connect", "--wait-after-sb", "-t", "0.000001", "r0").complains(5, "(StandAlone)")
    place("wait-con-int", "-t", "0.000001", "--wait-after-sb").complains(5, "(StandAlone)")
