"""A node in one's own Trio program."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from pydrbd.api.resource import Resource
from pydrbd.api.status import Status
from pydrbd.errors import InternalError
from pydrbd.runtime.build import blueprint
from pydrbd.runtime.process import first_of
from pydrbd.runtime.run_directory import make_run_directory
from pydrbd.runtime.service import Service

__all__ = ["Node", "open_node"]


class Node(Resource):
    """One resource that this program runs; from `open_node`."""

    def __init__(self, service: Service) -> None:
        self.name = service.plan.resource.name
        self._service = service

    async def wait_until(self, condition: Callable[[Status], bool]) -> Status:
        """See Resource."""
        last: list[Status] = []

        def holds() -> bool:
            last[:] = [Status.from_snapshot(self._service.control.look())]
            return condition(last[0])

        await self._service.wait_for(holds)
        return last[0]

    async def _ask(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self._service.control.command(verb, arguments)


@asynccontextmanager
async def open_node(
    config: str | Path,
    resource: str,
    *,
    node: str = "",
    run_dir: str | Path = "/run/pydrbd",
    serves_nbd: bool = True,
) -> AsyncIterator[Node]:
    """Run a resource of a configuration as long as the block lasts: `pydrbd serve`, inside of this program.

    `node` is which `on` section this node is (as the host is called). Its control socket is in `run_dir`, so `pydrbd
    status` and the other verbs reach it, and with `serves_nbd` its NBD socket. The disks must have their meta-data
    (`pydrbd create-md`). At the end it is demoted, the peer is told, the disk closed; clients lose their connection.

    Signals are left to the program. Raises ConfigError, BusyError (it runs already, or a port is taken), UsageError;
    what the block raises comes out as it is. A broken invariant of the node cancels the block: AssertionError.
    """
    if not __debug__:
        raise InternalError("pydrbd needs its assertions: run Python without -O")
    service = Service(
        blueprint(config, resource, node or socket.gethostname()),
        Path(run_dir),
        node,
        owns_process=False,
        serves_nbd=serves_nbd,
    )
    make_run_directory(service.run_dir)
    ready = trio.Event()
    raised: BaseException | None = None

    async def serve() -> None:
        with trio.CancelScope(shield=True):  # a program that is cancelled still lets its node end in good order
            await service.serve(ready.set)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                await ready.wait()
                yield Node(service)
            except BaseException as error:
                raised = error
                raise
            finally:
                service.stopping.set()
    except BaseExceptionGroup as group:
        if raised is not None and not isinstance(raised, trio.Cancelled):
            raise raised from None
        raise first_of(group) from None
