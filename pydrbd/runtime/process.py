"""The process of one resource: `pydrbd serve`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import trio

from pydrbd.errors import BusyError, InternalError
from pydrbd.runtime.build import blueprint
from pydrbd.runtime.log_file import LogFile
from pydrbd.runtime.run_directory import make_run_directory
from pydrbd.runtime.service import Service
from pydrbd.runtime.systemd import notify

__all__ = ["first_of", "run"]

_log = logging.getLogger(__name__)


def run(
    config_path: str,
    resource_name: str,
    node_name: str,
    run_dir: str,
    log_file: str | None = None,
    *,
    peer_name: str = "",
    bare: bool = False,
) -> int:
    """`pydrbd serve`: the whole life of the process; its exit code. Raises PydrbdError before it has begun."""
    if not __debug__:
        raise InternalError("pydrbd needs its assertions: run Python without -O")
    handler = LogFile(Path(log_file)) if log_file else logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(message)s")
    plan = blueprint(config_path, resource_name, node_name, peer_name)
    _log.info("%s: starts as %s", resource_name, node_name)  # admin/run_log looks for it
    for notice in plan.config.notices:
        _log.warning("%s", notice)
    directory = Path(run_dir)
    make_run_directory(directory)
    pid_file = directory / f"{resource_name}.pid"
    is_ours = False

    def ready() -> None:
        nonlocal is_ours
        is_ours = True
        try:
            pid_file.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(pid_file)) from error  # a full disk does not say which
        notify("READY=1")
        _log.info("%s: up as %s", resource_name, node_name)

    async def main() -> None:
        service = Service(plan, directory, node_name)
        await service.serve(ready, bare=bare)

    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        busy, _rest = group.split(BusyError)
        if busy is not None:
            raise first_of(busy) from None
        raise
    finally:
        if is_ours:  # else it is that of the process that keeps us from starting
            pid_file.unlink(missing_ok=True)
    return 0


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The innermost exception of a group that holds the same news several times."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
