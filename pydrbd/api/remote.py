"""A resource that another process of this machine runs (`pydrbd up`, nbdkit), by its control socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio

from pydrbd.api.resource import Resource
from pydrbd.api.status import Status
from pydrbd.errors import NotRunningError
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX

__all__ = ["Remote"]

_RECEIVE_BYTES = 65536


class Remote(Resource):
    """`Remote("r0")`: nothing is held open between two calls, so that it survives restarts of the other process."""

    def __init__(self, name: str, run_dir: str | Path = "/run/pydrbd") -> None:
        self.name = name
        self.path = Path(run_dir) / f"{name}.ctl.sock"

    async def changes(self) -> AsyncGenerator[Status, None]:
        """The state as it is, and again after each change, until the other process ends (NotRunningError).

        Use it in `async with contextlib.aclosing(...)`, as every asynchronous generator.
        """
        async with aclosing(self._lines("events", {})) as lines:
            async for line in lines:
                yield Status.from_snapshot(json.loads(line)["data"])
        raise self._gone()

    async def wait_until(self, condition: Callable[[Status], bool]) -> Status:
        """See Resource. Raises NotRunningError if the other process ends meanwhile."""
        async with aclosing(self.changes()) as changes:
            async for status in changes:
                if condition(status):
                    return status
        raise self._gone()

    async def _ask(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        async with aclosing(self._lines(verb, arguments)) as lines:
            async for line in lines:
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise self._gone()

    async def _lines(self, verb: str, arguments: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """What is answered, a line each."""
        request = json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n"
        try:
            stream = await trio.open_unix_socket(str(self.path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise self._gone() from error
        async with stream:
            try:
                await stream.send_all(request)
                received = b""
                while data := await stream.receive_some(_RECEIVE_BYTES):
                    *lines, received = (received + data).split(b"\n")
                    assert len(received) <= CONTROL_RESPONSE_BYTES_MAX, "an answer without end"
                    for line in lines:
                        yield line
            except trio.BrokenResourceError as error:
                raise self._gone() from error

    def _gone(self) -> NotRunningError:
        return NotRunningError(f"{self.name} does not run here: no answer on {self.path}")
