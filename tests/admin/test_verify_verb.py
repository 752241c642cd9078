"""verify: from where to where, and what is shown until it is over."""

from __future__ import annotations

import pytest

from pydrbd.admin.status_json import status_json
from pydrbd.admin.status_text import status_text
from tests.admin.snapshots import a_snapshot, a_volume


def a_verify(done: int = 25, of: int = 100):
    """A verify of `of` blocks from sector 800 on."""
    return {
        "total_bits": of,
        "left_bits": of - done,
        "found_bits": 1,
        "skipped_bits": 2,
        "start_sector": 800,
        "stop_sector": 800 + 8 * of,
        "position_sector": 800 + 8 * done,
        "percent_done": 100.0 * done / of,
        "elapsed_s": 2.0,
        "bytes_per_s": done * 4096 / 2.0,
        "seconds_left": 6.0,
    }


def verifying(done: int = 25):
    return a_snapshot(a_volume(cstate="VerifyS", replication="VerifyS", verify=a_verify(done)))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], {}),
        (["--start", "800"], {"start_sector": 800}),
        (["--start=800s", "--stop=4096"], {"start_sector": 800, "stop_sector": 4096}),
        (["--stop", "16M"], {"stop_sector": 32768}),
    ],
)
def test_where_to_verify(place, process, words, arguments):
    """Sectors, with an s or without; K, M and G are bytes, as drbdsetup has it; what is not said is left to DRBD."""
    result = place("verify", *words, "r0")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert process.asked == [("verify", arguments)]


@pytest.mark.parametrize("word", ["x", "-1", "1.5", ""])
def test_a_place_that_is_no_number_is_a_wrong_command_line(place, word):
    """64, and the option is named."""
    place("verify", f"--start={word}", "r0").complains(64, "--start")


def test_a_refusal_says_what_to_do(place, process):
    """Behind DRBD's words."""
    process.answer("verify", -14, "State change failed: (-14) Need a verify algorithm to start online verify")
    place("verify", "r0").complains(17, "(-14)", "set verify-alg on both nodes")


def follow(process, *states):
    """The process shows these snapshots, one at each look, and then the last one for ever."""
    left = list(states)
    process.answers["status"] = lambda _arguments: {
        "code": 1, "text": "", "data": left.pop(0) if len(left) > 1 else left[0]
    }  # fmt: skip


def test_wait_comes_back_at_the_end(place, process):
    """Copies that are the same: 0, after a line that says how far it was."""
    follow(process, verifying(), verifying(50), a_snapshot())
    result = place("verify", "--wait", "r0")
    assert (result.code, result.out) == (0, "") and "r0 verify:  25.0%" in result.err.replace(": 25", ":  25")


def test_wait_tells_that_copies_differ(place, process):
    """6, how much it is, and how to repair it."""
    follow(process, a_snapshot(a_volume(out_of_sync_bits=3)))
    place("verify", "--wait", "r0").complains(6, "12 KiB are out of sync", "pydrbd disconnect r0")


def test_wait_tells_that_the_link_broke(place, process):
    """10: nobody knows yet."""
    follow(process, a_snapshot(a_volume(cstate="WFConnection")))
    place("verify", "--wait", "r0").complains(10, "the connection was lost: start it again and it goes on where it was")


def test_status_shows_how_far_a_verify_is():
    """The percentage in the text; in the JSON drbdsetup's ov-... keys, in sectors."""
    assert "replication:VerifyS peer-disk:UpToDate done:25.00\n" in status_text(verifying())
    (device,) = status_json(verifying())["connections"][0]["peer_devices"]
    assert device["has-sync-details"] and device["has-online-verify-details"]
    assert [device[f"ov-{name}"] for name in ("start-sector", "stop-sector", "position", "left", "skipped")] == [
        800, 1600, 1000, 600, 16
    ]  # fmt: skip
    assert device["percent-resync-done"] == 25.0
