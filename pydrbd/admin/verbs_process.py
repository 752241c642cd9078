"""serve, up, down: the life of a resource's process."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from pydrbd.admin.context import Context
from pydrbd.admin.control_client import ControlClient, Limit
from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.admin.output import complain, say, warn
from pydrbd.admin.verbs_adjust import take_over
from pydrbd.errors import NotRunningError, PydrbdError
from pydrbd.runtime.run_directory import make_run_directory

__all__ = ["down", "new_resource", "serve", "stop", "up"]

UP_TIMEOUT_S: Final = 60.0
"""How long a new process may take to answer."""

STOP_TIMEOUT_S: Final = 60.0
"""How long a process may take to end."""

_POLL_S: Final = 0.02
_STANDALONE_GRACE_S: Final = 0.5
_EXIT_INTERNAL: Final = 70
_EXIT_FAILED: Final = 10


def serve(context: Context, resource: str, log_file: str | None, *, bare: bool) -> int:
    """Be the process of a resource, in the foreground, until a signal or `down`; its exit code.

    `bare`: it attaches and connects only when it is told to.
    """
    from pydrbd.runtime import process

    path, run_dir = str(context.config_path), str(context.run_dir)
    return process.run(path, resource, context.node, run_dir, log_file, peer_name=context.peer, bare=bare)


def up(context: Context, resource: str) -> int:
    """Start the process of a resource in the background, and wait until it answers and its disk is attached.

    One that runs already takes the configuration over, so that a corrected file needs no `down`.
    """
    context.resource(resource)
    client = context.client(resource)
    if context.running(resource) is not None:
        take_over(context, client)
        return _wait_attached(context, client)
    warn(context.config.notices)
    with _Start(context, resource, client) as start:
        try:
            start.wait_answer()
            code = _wait_attached(context, client)
        except NotRunningError:
            return start.complain_of_death()
        return code if start.is_alive() else start.complain_of_death()


def new_resource(context: Context, resource: str) -> int:
    """Start the process of a resource, and let it attach and connect nothing. One that runs already is left alone."""
    context.resource(resource)
    client = context.client(resource)
    if context.running(resource) is not None:
        return 0
    with _Start(context, resource, client, "--bare") as start:
        try:
            start.wait_answer()
        except NotRunningError:
            return start.complain_of_death()
        return 0


def stop(context: Context, resource: str) -> int:
    """End a process, whatever it has. Raises NotRunningError."""
    client = context.client(resource)
    pid = client.status().get("pid")
    process = _open_process(pid)
    try:
        client.grant("stop")
        return _wait_ended(resource, pid, process)
    finally:
        if process >= 0:
            os.close(process)


def down(context: Context, resource: str, *, force: bool) -> int:
    """Demote, disconnect, detach, stop. A resource that does not run is down already.

    Refused while a client has the device open, or when the peer needs this node's disk, unless `force`.
    """
    client = context.client(resource)
    try:
        pid = client.status().get("pid")
    except NotRunningError:
        context.check_name(resource)
        return 0
    process = _open_process(pid)
    try:
        try:
            for verb in ("secondary", "disconnect", "detach"):
                client.grant(verb, {"force": force})
            client.grant("stop")
        except NotRunningError:
            pass  # somebody else asked it to stop meanwhile
        return _wait_ended(resource, pid, process)
    finally:
        if process >= 0:
            os.close(process)


# --- starting ---


class _Start:
    """A process that is being started; the block around it ends when it lives on without us, or has died."""

    def __init__(self, context: Context, resource: str, client: ControlClient, *options: str) -> None:
        self._client = client
        self._log_path = context.run_dir / f"{resource}.log"
        argv = [sys.executable, "-P", "-m", "pydrbd", "serve", resource, *options]
        argv += ["-c", str(context.config_path.absolute()), "--node", context.node]
        argv += ["--run-dir", str(context.run_dir.absolute()), "--log-file", str(self._log_path.absolute())]
        if context.peer:
            argv += ["--peer", context.peer]
        context.tell(shlex.join(argv))
        # The same pydrbd as this one, wherever we are: -P keeps the current directory out of the search.
        package = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        make_run_directory(context.run_dir)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._log_path, flags, 0o600), "ab") as log:  # noqa: PTH123 - a descriptor, not a path
            self._begin = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": search},
            )

    def __enter__(self) -> _Start:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.is_alive():
            self._process.returncode = 0  # it outlives us: nothing to wait for

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_answer(self) -> None:
        """Wait until the process answers. Raises NotRunningError (it died), CommandFailed (it never answered)."""
        deadline = time.monotonic() + UP_TIMEOUT_S
        while True:
            try:
                self._client.status()
                return
            except NotRunningError:
                if not self.is_alive():
                    raise
            if time.monotonic() >= deadline:
                self._process.kill()
                self._process.wait()
                raise CommandFailed(
                    f"{self._client.resource}: its process did not answer within {UP_TIMEOUT_S:g} s, and was stopped: "
                    f"look into {self._log_path}"
                )
            time.sleep(_POLL_S)

    def complain_of_death(self) -> int:
        """Repeat the last words of the process; its exit code."""
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code == _EXIT_INTERNAL:
            complain(f"{self._client.resource}: its process ended by an error in pydrbd itself: see {self._log_path}")
        else:
            complain(_last_words(self._log_path, self._begin, self._client.resource))
        return code if code > 0 else _EXIT_INTERNAL


def _last_words(log_path: Path, begin: int, resource: str) -> str:
    """Why a process ended, in its own words: its `pydrbd: ...` line, else its last line, if it could say any."""
    with log_path.open("rb") as log:
        if log.seek(0, os.SEEK_END) >= begin:  # else it is a new file: the old one was full
            log.seek(begin)
        else:
            log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith("pydrbd: "):
            return line.removeprefix("pydrbd: ")
    if not lines:
        return f"{resource}: its process ended without a word: can {log_path} be written, is there room?"
    last = f": {lines[-1].strip()}"
    return f"{resource}: its process ended{last} (all of it: {log_path})"


def _wait_attached(context: Context, client: ControlClient) -> int:
    """Wait until the disks are attached and the peer is looked for; say what is there, or why a disk is not."""
    me, _peer = context.resource(client.resource).pair(context.node)
    with_disk = {volume.vnr for volume in me.volumes.values() if not volume.is_diskless}
    deadline = time.monotonic() + context.limit_s(Limit.LONG)
    data = client.status()
    while time.monotonic() < deadline and any(volume["disk"] == "Attaching" for volume in data["volumes"]):
        time.sleep(_POLL_S)
        data = client.status()
    if any(volume["disk"] == "Diskless" and volume["vnr"] in with_disk for volume in data["volumes"]):
        try:
            client.grant("attach", limit=Limit.LONG)
        except NotRunningError:
            raise
        except PydrbdError as error:
            complain(f"{error}; it runs without its disk")
            return error.exit_code
        data = client.status()
    # Between attaching and connecting there is a moment in which a new process is StandAlone.
    grace = time.monotonic() + _STANDALONE_GRACE_S
    while data["connection"] == "StandAlone" and time.monotonic() < grace:
        time.sleep(_POLL_S)
        data = client.status()
    say(_summary(client.resource, data))
    return 0


def _summary(resource: str, data: dict[str, Any]) -> str:
    disks = ", ".join(sorted({str(volume["disk"]) for volume in data["volumes"]}))
    places = " ".join(data.get("nbd", ()))
    return f"{resource} is up: {data['role']}, {disks}, {data['connection']}; NBD: {places}"


# --- stopping ---


def _open_process(pid: object) -> int:
    """A descriptor that tells when a process has ended; -1 if it has already."""
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return -1
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _wait_ended(resource: str, pid: object, process: int) -> int:
    if process < 0:
        return 0
    waiter = select.poll()
    waiter.register(process, select.POLLIN)
    if waiter.poll(int(STOP_TIMEOUT_S * 1000)):
        return 0
    complain(f"{resource}: its process (pid {pid}) did not end within {STOP_TIMEOUT_S:g} s")
    return _EXIT_FAILED
