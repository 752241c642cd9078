"""The caller's side of the control socket: one JSON line there, one back, in bounded time.

{"verb": "primary", "arguments": {"force": true}}  ->  {"code": 1, "text": "", "data": null}
{"verb": "attach", "arguments": {}}                ->  {"code": -8, "text": "...", "data": {"exit_code": 65}}
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydrbd.admin.exit_codes import CommandFailed, blamed
from pydrbd.errors import NotRunningError, StateRefused, UsageError
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX

__all__ = ["SOCKET_SUFFIX", "STATUS_TIMEOUT_S", "VERB_TIMEOUT_S", "Answer", "ControlClient"]

SOCKET_SUFFIX: Final = ".ctl.sock"
"""RUN-DIR/RES.ctl.sock."""

STATUS_TIMEOUT_S: Final = 10.0
"""How long a process may take to say how it is."""

VERB_TIMEOUT_S: Final = 121.0
"""How long a change of state may take, the peer's word included: DRBD's cmd-timeout-medium."""

_CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A process's answer: `code` 1 and more is granted, negative DRBD's refusal, 0 failed for another reason."""

    code: int
    text: str
    data: dict[str, Any] | None


class ControlClient:
    """Talks to the process of one resource; every request is a connection of its own."""

    def __init__(self, resource: str, run_dir: Path) -> None:
        self.resource = resource
        self.path = run_dir / f"{resource}{SOCKET_SUFFIX}"

    def ask(self, verb: str, arguments: dict[str, Any] | None = None, timeout_s: float = VERB_TIMEOUT_S) -> Answer:
        """Send one request and wait for its answer.

        Raises NotRunningError (nobody answers), CommandFailed (no answer in time, or nonsense), PermissionError.
        """
        request = json.dumps({"verb": verb, "arguments": arguments or {}}).encode() + b"\n"
        deadline = time.monotonic() + timeout_s
        with self._connect() as sock:
            try:
                sock.sendall(request)
                line = self._read_line(sock, deadline)
            except TimeoutError as error:
                raise CommandFailed(
                    f"{self.resource}: no answer to '{verb}' within {timeout_s:g} s: look into "
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

    def grant(self, verb: str, arguments: dict[str, Any] | None = None, timeout_s: float = VERB_TIMEOUT_S) -> Answer:
        """As `ask`, but raises unless it was granted: StateRefused, CommandFailed, or what the process says it met."""
        answer = self.ask(verb, arguments, timeout_s)
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
        data = self.grant("status", timeout_s=STATUS_TIMEOUT_S).data
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
                raise UsageError(f"{self.path}: the path is too long for a Unix socket: shorten --run-dir") from error
            raise CommandFailed(f"{self.resource}: no connection to {self.path}: {error.strerror or error}") from error
        return sock

    def _read_line(self, sock: socket.socket, deadline: float) -> bytes:
        """The answer, or nothing if the process closed the connection."""
        pieces: list[bytes] = []
        size = 0
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            sock.settimeout(left_s)
            piece = sock.recv(65536)
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


def _decode(line: bytes, path: Path) -> Answer:
    try:
        response = json.loads(line)
        code, text, data = response["code"], response["text"], response.get("data")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CommandFailed(f"{path} answers what no pydrbd process answers: {line[:60]!r}") from error
    if not isinstance(code, int) or not isinstance(text, str) or not (data is None or isinstance(data, dict)):
        raise CommandFailed(f"{path} answers what no pydrbd process answers: {line[:60]!r}")
    return Answer(code, text, data)
