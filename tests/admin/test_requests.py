"""Requests to the running process: what is sent, and what its answers come to."""

from __future__ import annotations

import socket
import threading

import pytest

from pydrbd.admin.control_client import ControlClient
from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.core.refusals import StateCode
from pydrbd.errors import NotRunningError, StateRefused, UsageError
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX

REQUESTS = [
    (["primary"], "primary", {"force": False}),
    (["primary", "--force"], "primary", {"force": True}),
    (["secondary"], "secondary", {"force": False}),
    (["secondary", "--force"], "secondary", {"force": True}),
    (["connect"], "connect", {"discard_my_data": False}),
    (["connect", "--discard-my-data"], "connect", {"discard_my_data": True}),
    (["disconnect"], "disconnect", {"force": False}),
    (["disconnect", "--force"], "disconnect", {"force": True}),
    (["attach"], "attach", {}),
    (["detach"], "detach", {"force": False}),
    (["detach", "--force"], "detach", {"force": True}),
    (["invalidate"], "invalidate", {}),
    (["outdate"], "outdate", {}),
    (["invalidate-remote"], "invalidate-remote", {}),
    (["pause-sync"], "pause-sync", {}),
    (["resume-sync"], "resume-sync", {}),
    (["new-current-uuid"], "new-current-uuid", {"clear_bitmap": False}),
    (["new-current-uuid", "--clear-bitmap"], "new-current-uuid", {"clear_bitmap": True}),
    (["resize"], "resize", {"size_sectors": None, "assume_clean": False, "assume_peer_has_space": False}),
    (
        ["resize", "--size", "3G", "--assume-clean", "--assume-peer-has-space"],
        "resize",
        {"size_sectors": 6 << 20, "assume_clean": True, "assume_peer_has_space": True},
    ),
    (
        ["resize", "--al-stripes", "4", "--al-stripe-size-kB=64"],
        "resize",
        {"size_sectors": None, "assume_clean": False, "assume_peer_has_space": False}
        | {"al_stripes": 4, "al_stripe_size_kib": 64},
    ),
    (
        ["resize", "--al-stripe-size=4"],
        "resize",
        {"size_sectors": None, "assume_clean": False, "assume_peer_has_space": False, "al_stripe_size_kib": 4},
    ),
    (["resize", "--size=99s"], "resize", {"size_sectors": 99, "assume_clean": False, "assume_peer_has_space": False}),
]


@pytest.mark.parametrize(("words", "verb", "arguments"), REQUESTS)
def test_a_verb_is_one_request(place, process, words, verb, arguments):
    """Each verb sends its request; granted is exit code 0 and silence."""
    result = place(*words, "r0")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert process.asked == [(verb, arguments)]


def test_what_is_granted_but_can_not_be_had_yet_is_told(place, process):
    """0, and a line on stderr; what a verb answers else is nobody's news."""
    process.answer("resize", 1, "volume 0: 99 sectors are wanted, this disk has room for 8")
    result = place("resize", "--size=99s", "r0")
    assert (result.code, result.out) == (0, "")
    assert result.err == "pydrbd: r0: volume 0: 99 sectors are wanted, this disk has room for 8\n"
    process.answer("connect", 1, "already connecting or connected")
    assert place("connect", "r0").err == ""


@pytest.mark.parametrize("code", [code for code in StateCode if code < 0])
def test_a_refusal_is_17_with_drbds_words(place, process, code):
    """Scripts look for the number, the words and the exit code; they are drbdadm's."""
    words = f"State change failed: ({int(code)}) {code.message}"
    process.answer("primary", int(code), words)
    place("primary", "r0").complains(17, f"pydrbd: r0: {words}")


def test_some_refusals_say_what_to_do(place, process):
    """Behind DRBD's words stands what helps."""
    process.answer("primary", -2, "State change failed: (-2) Need access to UpToDate data")
    place("primary", "r0").complains(17, "Need access to UpToDate data: connect it to a peer", "--force")
    process.answer("secondary", -12, "State change failed: (-12) Device is held open by someone")
    place("secondary", "r0").complains(17, "held open by someone: an NBD client is connected")


def test_a_failure_without_a_code_is_10(place, process):
    """Code 0 is neither granted nor one of DRBD's refusals."""
    process.answer("attach", 0, "something else")
    place("attach", "r0").complains(10, "r0: something else")
    process.answer("attach", 0, "")
    place("attach", "r0").complains(10, "r0: attach failed")


def test_all_goes_on_behind_a_failure(place, process):
    """`all` is each resource of the configuration that is on this node; the first failure's code counts."""
    text = place.config.read_text()
    second = text.split("\n", 1)[1].replace("r0", "r1").replace("1770", "1771").replace("minor 0", "minor 1")
    place.config.write_text(text + second.replace("0.img", "1.img"))
    result = place("primary", "all")
    assert result.code == 69 and "r1 is not running here" in result.err
    assert process.asked == [("primary", {"force": False})]
    process.answer("primary", -2, "State change failed: (-2) Need access to UpToDate data")
    result = place("primary", "all")
    assert result.code == 17 and len(result.err.splitlines()) == 2


@pytest.mark.parametrize("verb", ["primary", "role", "wait-sync", "detach"])
def test_nobody_is_running(place, verb):
    """No process: exit code 69, the socket's path, and how to start it; a name that nobody knows is 78."""
    place(verb, "r0").complains(69, "r0 is not running here", f"{place.run_dir}/r0.ctl.sock", "'pydrbd up r0'")
    place(verb, "r7").complains(78, "no resource 'r7'")


def test_a_socket_that_a_dead_process_left(place):
    """It is as if there were none."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.run_dir / "r0.ctl.sock"))
    place("primary", "r0").complains(69, "r0 is not running here")


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"", 69, "r0 stopped while it was asked"),
        (b'{"code": 1', 69, "r0 stopped while it was asked"),
        (b"garbage\n", 10, "answers what no pydrbd process answers: b'garbage"),
        (b"[]\n", 10, "answers what no pydrbd process answers"),
        (b'{"code": "1", "text": "", "data": null}\n', 10, "answers what no pydrbd process answers"),
        (b'{"code": 1, "text": null, "data": null}\n', 10, "answers what no pydrbd process answers"),
        (b'{"code": 1, "text": "", "data": 5}\n', 10, "answers what no pydrbd process answers"),
        (b"[" * 100000 + b"\n", 10, "answers what no pydrbd process answers"),
    ],
)
def test_nonsense_on_the_socket(place, process, raw, code, words):
    """Whoever answers there: one line, no traceback."""
    process.raw = raw
    place("primary", "r0").complains(code, words)


def test_status_of_something_else(place, process):
    """An answer that is well formed and no status."""
    process.answer("status", data={"name": "r0"})
    place("role", "r0").complains(10, "answers, but not as a pydrbd process does")


def test_an_endless_answer_is_cut_off(place, process):
    """A bound on what is taken in."""
    process.raw = b"x" * (CONTROL_RESPONSE_BYTES_MAX + 65536)
    place("primary", "r0").complains(10, "sends more than an answer may hold")


def test_silence_is_bounded(short_tmp):
    """A process that takes a request and does not answer is given up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp / "r0.ctl.sock"))
        listener.listen()
        with pytest.raises(CommandFailed, match=r"no answer to 'primary' within 0.05 s: look into .*/r0.log"):
            ControlClient("r0", short_tmp, lambda _limit: 0.05).ask("primary")


def test_a_trickle_is_bounded_too(short_tmp):
    """The time-out is for the whole answer, not for each piece of it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp / "r0.ctl.sock"))
        listener.listen()
        ended = threading.Event()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                while not ended.wait(0.01):
                    connection.send(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with pytest.raises(CommandFailed, match="no answer"):
                ControlClient("r0", short_tmp, lambda _limit: 0.1).ask("primary")
        finally:
            ended.set()
            thread.join()


def test_paths_that_can_not_be(tmp_path):
    """Too long for a Unix socket; through a file."""
    with pytest.raises(UsageError, match="too long for a Unix socket: shorten --run-dir, or the name"):
        ControlClient("r0", tmp_path / ("x" * 100)).ask("status")
    (tmp_path / "file").touch()
    with pytest.raises(NotRunningError):
        ControlClient("r0", tmp_path / "file").ask("status")


def test_no_permission(place, run, monkeypatch):
    """The socket is its owner's alone."""
    import errno

    def refuse(_self, _path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    place("primary", "r0").complains(77, f"{place.run_dir}/r0.ctl.sock: Permission denied: ask as a user who may")


def test_outdate_of_worse_data_has_the_code_that_fencing_scripts_know(place, process):
    """5, as from drbdadm; every other refusal stays 17."""
    process.answer("outdate", -16, "State change failed: (-16) Disk state is lower than outdated")
    place("outdate", "r0").complains(5, "Disk state is lower than outdated")
    process.answer("outdate", -10, "State change failed: (-10) State change was refused by peer node")
    place("outdate", "r0").complains(17, "refused by peer")


def test_the_client_raises_what_the_demo_relies_on(place, process):
    """`ask` gives the answer, `grant` raises for what is not granted."""
    client = ControlClient("r0", place.run_dir)
    process.answer("primary", -1, "State change failed: (-1) Multiple primaries not allowed by config")
    assert client.ask("primary").code == -1
    with pytest.raises(StateRefused) as caught:
        client.grant("primary")
    assert caught.value.code == -1
    assert client.status()["name"] == "r0"
