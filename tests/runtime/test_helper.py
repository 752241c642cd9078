"""Handlers as processes: their exit codes, their output, their end."""

from __future__ import annotations

import logging
import os
import select
from pathlib import Path

import pytest
import trio

from pydrbd.runtime import helper
from pydrbd.runtime.helper import run_command

END_TIMEOUT_S = 10.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "DRBD_RESOURCE": "r0"}


def run(command: str) -> int | None:
    return trio.run(run_command, command, ENVIRONMENT, "r0: test")


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 4", 4), ("kill -9 $$", 137), ("/no/such/program", 127), ("(exit 7)", 7)]
)
def test_the_exit_code_is_the_answer(command: str, code: int) -> None:
    """As a shell has it: 127 for what is not there, 128 and more for a signal."""
    assert run(command) == code


def test_output_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Both streams, line by line, the last one too; what is too long or too much is cut."""
    caplog.set_level(logging.INFO)
    assert run('echo "one $DRBD_RESOURCE"; echo two >&2; printf three') == 0
    assert [record.message for record in caplog.records] == [f"r0: test: {text}" for text in ("one r0", "two", "three")]
    caplog.clear()
    assert run(f"head -c {3 * helper.HELPER_LINE_BYTES_MAX} /dev/zero | tr '\\0' x; echo; seq 3000") == 0
    assert len(caplog.records) == helper.HELPER_LINES_MAX
    assert max(len(record.message) for record in caplog.records) <= helper.HELPER_LINE_BYTES_MAX + 20


def test_only_its_own_environment_reaches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET", "1")
    assert run(f"env > {tmp_path}/env; readlink /proc/self/fd/0 >> {tmp_path}/env; pwd >> {tmp_path}/env") == 0
    lines = (tmp_path / "env").read_text().splitlines()
    assert "DRBD_RESOURCE=r0" in lines and not any(line.startswith("SECRET") for line in lines)
    assert lines[-2:] == ["/dev/null", "/"]


def test_one_that_does_not_end_is_ended_with_all_its_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ignores SIGTERM, and has a child: no verdict, and nothing is left of either."""
    monkeypatch.setattr(helper, "HELPER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(helper, "HELPER_GRACE_S", 0.2)
    pids = tmp_path / "pids"
    assert run(f"trap '' TERM; sleep 600 & echo $$ $! > {pids}; wait; sleep 600") is None
    assert all(ends(int(pid)) for pid in pids.read_text().split())


def ends(pid: int) -> bool:
    """Whether a process ends, or has ended: one that was killed may take a moment to notice."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], END_TIMEOUT_S)[0])
    finally:
        os.close(process)


def test_what_it_leaves_running_does_not_keep_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A daemon that holds the output open: the verdict counts when the handler itself has ended."""
    monkeypatch.setattr(helper, "HELPER_GRACE_S", 0.2)
    pids = tmp_path / "pids"
    assert run(f"sleep 600 & echo $! > {pids}; exit 4") == 4
    os.kill(int(pids.read_text()), 9)


def test_cancelled_it_is_ended(tmp_path: Path) -> None:
    """The service stops: no handler of it lives on."""
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_command, f"echo $$ > {fifo}; sleep 600", ENVIRONMENT, "x")
            pid = int(await trio.to_thread.run_sync(fifo.read_text))
            nursery.cancel_scope.cancel()
        return pid

    assert ends(trio.run(main))
