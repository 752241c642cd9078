"""Section global: what each option of it changes in what the commands do."""

from __future__ import annotations

import os
import pty
import socket
import subprocess

import pytest

from pydrbd.admin.context import Context
from pydrbd.admin.control_client import Limit
from pydrbd.admin.dialog import Dialog
from pydrbd.admin.exit_codes import CommandFailed, WaitTimedOut
from pydrbd.admin.verbs_wait import Patience, wait_connect
from tests.admin.snapshots import a_snapshot, a_volume
from tests.config.drbdadm import find_drbdadm

NOT_OURS = "192.0.2.1"


def with_global(place, words: str) -> None:
    place.config.write_text(place.config.read_text().replace("usage-count no;", f"usage-count no; {words}"))


@pytest.mark.parametrize("word", ["yes", "no", "ask"])
def test_nobody_is_counted_or_asked(place, word):
    """drbdadm would ask its makers' server, or the user."""
    place.config.write_text(place.config.read_text().replace("usage-count no", f"usage-count {word}"))
    result = place("sh-resources")
    assert (result.code, result.out, result.err) == (0, "r0\n", "")


@pytest.mark.parametrize("given", [True, False])
def test_the_number_of_a_volume_in_udevs_names(place, given):
    """Also where it is the only one, and has no section of its own; as drbdadm prints it."""
    text = f"global {{ usage-count no; {'udev-always-use-vnr;' if given else ''} }}\n" + (
        "resource r0 { device minor 5; disk /dev/sdx; meta-disk internal;"
        " on alpha { address 127.0.0.1:7001; } on beta { address 127.0.0.1:7002; } }"
    )
    place.config.write_text(text)
    ours = place("sh-udev", "minor-5").out
    assert ours == f"RESOURCE=r0{'/0' if given else ''}\nDEVICE=drbd5\nDISK=sdx\n"


@pytest.mark.interop
def test_drbdadm_prints_the_same_names(place):
    """Byte for byte, as drbdadm of 8.4."""
    place.config.write_text(
        "global { usage-count no; udev-always-use-vnr; }\n"
        "resource r0 { device minor 5; disk /dev/sdx; meta-disk internal;"
        f" on {socket.gethostname()} {{ address 127.0.0.1:7001; }} on beta {{ address 127.0.0.1:7002; }} }}"
    )
    words = [find_drbdadm("8.4"), "-c", place.config, "sh-udev", "minor-5"]
    theirs = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert place("sh-udev", "minor-5", node=socket.gethostname()).out == theirs.stdout


def test_how_long_an_answer_may_take(place):
    """Each of the three; 0 is no limit; without a word, or a configuration that can be read, ours."""
    with_global(place, "cmd-timeout-short 3; cmd-timeout-medium 0;")
    context = Context(str(place.config), "alpha", str(place.run_dir))
    assert [context.limit_s(limit) for limit in Limit] == [3.0, float("inf"), 600.0]
    place.config.write_text("global {")
    broken = Context(str(place.config), "alpha", str(place.run_dir))
    assert [broken.limit_s(limit) for limit in Limit] == [10.0, 121.0, 600.0]


def test_a_process_that_does_not_answer_is_given_up_when_the_configuration_says(place):
    """cmd-timeout-medium, here one second instead of two minutes."""
    with_global(place, "cmd-timeout-medium 1;")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.run_dir / "r0.ctl.sock"))
        listener.listen()
        place("pause-sync", "r0").complains(10, "no answer to 'pause-sync' within 1 s")


def test_an_address_that_is_not_this_machines(node, ports):
    """It is an error at the start, unless the check is disabled: then it runs, and waits for its address."""
    node.config.write_text(node.config.read_text().replace(f"127.0.0.1:{ports[0]}", f"{NOT_OURS}:{ports[0]}"))
    assert node("create-md", "r0").code == 0
    node("up", "r0").complains(69, f"can't listen on {NOT_OURS}", "none of this machine's")
    with_global(node, "disable-ip-verification;")
    up = node("up", "r0")
    assert up.code == 0, up.err
    assert node("primary", "--force", "r0").code == 0
    assert node("cstate", "r0").out == "WFConnection\n"
    assert NOT_OURS in (node.run_dir / "r0.log").read_text()


@pytest.fixture
def terminal():
    """(keyboard, screen, what a program has as its input and output)."""
    keyboard, slave = pty.openpty()
    with open(slave, "r+b", buffering=0) as raw:  # noqa: PTH123 - a descriptor, not a path
        screen_read, screen_write = os.pipe()
        with open(screen_write, "w") as screen:  # noqa: PTH123
            yield keyboard, screen_read, (raw, screen)
    os.close(keyboard)
    os.close(screen_read)


def test_the_dialog_counts_and_takes_yes_for_an_answer(terminal):
    """Every `dialog-refresh` seconds; any other word is no answer; with 0 nothing is counted."""
    keyboard, screen, ours = terminal
    now = [100.0]
    data = a_snapshot(a_volume(cstate="WFConnection"))
    dialog = Dialog("r0", Patience(usual_s=30.0), 2.0, ours, lambda: now[0])
    dialog.show(data)
    told = os.read(screen, 4096).decode()
    assert told == (
        "r0: waiting for the peer beta, 30 seconds at most (section startup)\n To abort waiting enter 'yes' [ -- ]: "
    )
    now[0] = 101.5
    dialog.show(data)
    os.write(keyboard, b"no\n")
    now[0] = 102.5
    dialog.show(data)
    assert os.read(screen, 4096).decode() == "\x1b[s\x1b[31G[   2]\x1b[u To abort waiting enter 'yes' [ -- ]: "
    os.write(keyboard, b"yes\n")
    with pytest.raises(WaitTimedOut, match="the answer was yes"):
        dialog.show(data)
    silent = Dialog("r0", Patience(), 0.0, ours, lambda: now[0])
    silent.show(data)
    now[0] = 1000.0
    silent.show(data)
    assert "\x1b[s" not in os.read(screen, 4096).decode()


def test_the_dialog_ends_a_wait(place, process, terminal):
    """wait-con-int is over at once when somebody has said yes."""
    keyboard, _screen, ours = terminal
    process.answer("status", data=a_snapshot(a_volume(cstate="WFConnection"), connection="Connecting"))
    process.answer("wait-connect", 0, "timed out")
    os.write(keyboard, b"yes\n")
    context = Context(str(place.config), "alpha", str(place.run_dir))
    with pytest.raises((WaitTimedOut, CommandFailed), match="the answer was yes"):
        wait_connect(context, "r0", Patience(), Dialog("r0", Patience(), 1.0, ours))
