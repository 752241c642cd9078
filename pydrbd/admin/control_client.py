"""The caller's side of the control socket: one JSON line there, one back, in bounded time.

{"verb": "primary", "arguments": {"force": true}}  ->  {"code": 1, "text": "", "data": null}
{"verb": "attach", "arguments": {}}                ->  {"code": -8, "text": "...", "data": {"exit_code": 65}}
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pydrbd.admin.exit_codes import CommandFailed, blamed
from pydrbd.errors import NotRunningError, StateRefused, UsageError
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX

__all__ = ["SOCKET_SUFFIX", "Answer", "ControlClient", "Limit", "usual_limit_s"]

SOCKET_SUFFIX: Final = ".ctl.sock"
"""RUN-DIR/RES.ctl.sock."""


class Limit(Enum):
    """How long an answer may take: DRBD's options for it, and our value in seconds where the configuration has none."""

    SHORT = ("cmd-timeout-short", 10.0)
    """To say how it is."""
    MEDIUM = ("cmd-timeout-medium", 121.0)
    """To change a state, the peer's word included."""
    LONG = ("cmd-timeout-long", 600.0)
    """To attach: an activity log is applied, a large bitmap read."""


def usual_limit_s(limit: Limit) -> float:
    """Its own value, in seconds."""
    return limit.value[1]


_UNHURRIED_S: Final = 1.0
"""Nearly all answers are there by then: only after it is the configuration read for how long to wait."""

_LOOKS: Final = ("status", "show", "wait-connect", "wait-sync", "verify-report")
"""What is no step of anything."""

_CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A process's answer: `code` 1 and more is granted, negative DRBD's refusal, 0 failed for another reason."""

    code: int
    text: str
    data: dict[str, Any] | None


class ControlClient:
    """Talks to the process of one resource; every request is a connection of its own."""

    def __init__(
        self,
        resource: str,
        run_dir: Path,
        limit_s: Callable[[Limit], float] = usual_limit_s,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.resource = resource
        self._limit_s = limit_s
        self._tell = tell
        self.path = run_dir / f"{resource}{SOCKET_SUFFIX}"

    def ask(
        self, verb: str, arguments: dict[str, Any] | None = None, limit: Limit = Limit.MEDIUM, more_s: float = 0.0
    ) -> Answer:
        """Send one request and wait for its answer, `more_s` seconds longer than the limit.

        Raises NotRunningError (nobody answers), CommandFailed (no answer in time, or nonsense), PermissionError.
        """
        request = json.dumps({"verb": verb, "arguments": arguments or {}}).encode() + b"\n"
        if self._tell is not None and verb not in _LOOKS:
            self._tell(f"{self.path}: {request.decode().rstrip()}")
        with self._connect() as sock:
            try:
                sock.sendall(request)
                line = self._read_line(sock, _Patience(lambda: self._limit_s(limit) + more_s))
            except TimeoutError as error:
                raise CommandFailed(
                    f"{self.resource}: no answer to '{verb}' within {self._limit_s(limit) + more_s:g} s: look into "
                    f"{self.path.parent / self.resource}.log"
                ) from error
            except (BrokenPipeError, ConnectionResetError) as error:
                raise self._gone(verb) from error
        if not line:
            raise self._gone(verb)
        return _decode(line, self.path)

    def subscribe(self, verb: str) -> socket.socket:
        """A connection on which answers come, a line each, until it is closed. Raises as `ask`."""
        sock = self._connect()
        try:
            sock.sendall(json.dumps({"verb": verb, "arguments": {}}).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError) as error:
            sock.close()
            raise self._gone(verb) from error
        return sock

    def grant(
        self, verb: str, arguments: dict[str, Any] | None = None, limit: Limit = Limit.MEDIUM, more_s: float = 0.0
    ) -> Answer:
        """As `ask`, but raises unless it was granted: StateRefused, CommandFailed, or what the process says it met."""
        answer = self.ask(verb, arguments, limit, more_s)
        if answer.code < 1 and answer.data is not None:
            met = blamed(answer.data.get("exit_code"), f"{self.resource}: {answer.text}")
            if met is not None:
                raise met
        if answer.code < 0:
            raise StateRefused(answer.code, f"{self.resource}: {answer.text or f'refused ({answer.code})'}")
        if answer.code == 0:
            raise CommandFailed(f"{self.resource}: {answer.text or f'{verb} failed'}")
        return answer

    def status(self) -> dict[str, Any]:
        """The process's snapshot. Raises as `ask`."""
        data = self.grant("status", limit=Limit.SHORT).data
        if data is None or not isinstance(data.get("volumes"), list):
            raise CommandFailed(f"{self.resource}: {self.path} answers, but not as a pydrbd process does")
        return data

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect(str(self.path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            sock.close()
            raise NotRunningError(
                f"{self.resource} is not running here (no answer on {self.path}): "
                f"start it with 'pydrbd up {self.resource}'"
            ) from error
        except PermissionError as error:
            sock.close()
            raise PermissionError(error.errno, error.strerror, str(self.path)) from error
        except OSError as error:
            sock.close()
            if "too long" in str(error):
                raise UsageError(
                    f"{self.path}: the path is too long for a Unix socket: "
                    "shorten --run-dir, or the name of the resource"
                ) from error
            raise CommandFailed(f"{self.resource}: no connection to {self.path}: {error.strerror or error}") from error
        return sock

    def _read_line(self, sock: socket.socket, patience: _Patience) -> bytes:
        """The answer, or nothing if the process closed the connection. Raises TimeoutError."""
        pieces: list[bytes] = []
        size = 0
        while True:
            piece = patience.receive(sock)
            if not piece:
                return b""
            pieces.append(piece)
            size += len(piece)
            if piece.endswith(b"\n"):
                return b"".join(pieces)
            if size > CONTROL_RESPONSE_BYTES_MAX:
                raise CommandFailed(f"{self.resource}: {self.path} sends more than an answer may hold")

    def _gone(self, verb: str) -> NotRunningError:
        return NotRunningError(
            f"{self.resource} stopped while it was asked to '{verb}': look into {self.path.parent / self.resource}.log"
        )


class _Patience:
    """Receives until a time is over, which is asked for only when it begins to matter."""

    def __init__(self, limit_s: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._begun = time.monotonic()
        self._end: float | None = None

    def receive(self, sock: socket.socket) -> bytes:
        """What comes next. Raises TimeoutError."""
        while True:
            end = self._begun + _UNHURRIED_S if self._end is None else self._end
            left_s = end - time.monotonic()
            if left_s > 0:
                sock.settimeout(None if left_s == float("inf") else left_s)
                with suppress(TimeoutError):
                    return sock.recv(65536)
            if self._end is not None:
                raise TimeoutError
            self._end = self._begun + self._limit_s()


def _decode(line: bytes, path: Path) -> Answer:
    try:
        response = json.loads(line)
        code, text, data = response["code"], response["text"], response.get("data")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CommandFailed(f"{path} answers what no pydrbd process answers: {line[:60]!r}") from error
    if not isinstance(code, int) or not isinstance(text, str) or not (data is None or isinstance(data, dict)):
        raise CommandFailed(f"{path} answers what no pydrbd process answers: {line[:60]!r}")
    return Answer(code, text, data)
