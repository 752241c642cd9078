"""A node inside of nbdkit: nbdkit is the front, with its filters, its TLS and its sockets; the disk is replicated.

    nbdkit python .../pydrbd/nbdkit_plugin.py config=r0.res resource=r0 [node=alpha] [run-dir=DIR] [primary=true]

The node is `pydrbd serve`'s, without a server of its own: `pydrbd status` and the other verbs reach it, and clients can
open it while it is Primary; with `primary=true` the first one makes it so. Further volumes are exports of their own,
as r0/1. nbdkit embeds a Python of its own, and pydrbd must be installed for that version. `nbdkit -v` shows the log.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

# nbdkit runs this file as it lies there: what it imports is to be found from where it is itself.
sys.path.insert(0, str(Path(os.path.realpath(__file__)).parents[1]))

import nbdkit

try:
    from pydrbd.errors import PydrbdError, UsageError, exit_code_of
    from pydrbd.runtime.build import Blueprint, blueprint
    from pydrbd.runtime.embedded import EmbeddedNode
    from pydrbd.runtime.threads_client import ThreadsClient, keep_thread
    from pydrbd.wire.nbd import Command, CommandFlag, NbdError
except ImportError as error:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise ImportError(
        f"{error}: this nbdkit embeds Python {version}; install pydrbd for it, and say where in PYTHONPATH "
        f"(as .venv/lib/python{version}/site-packages)"
    ) from error

__all__ = ["API_VERSION"]

API_VERSION: Final = 2

_PARAMETERS: Final = {"config": "", "resource": "", "node": "", "run-dir": "", "primary": "false"}
_WRITE: Final = int(Command.WRITE)
_FUA: Final = int(CommandFlag.FUA)
_ERRNO: Final = {
    NbdError.EPERM: errno.EPERM,
    NbdError.EIO: errno.EIO,
    NbdError.ENOMEM: errno.ENOMEM,
    NbdError.EINVAL: errno.EINVAL,
    NbdError.ENOSPC: errno.ENOSPC,
    NbdError.EOVERFLOW: errno.EOVERFLOW,
    NbdError.ENOTSUP: errno.ENOTSUP,
    NbdError.ESHUTDOWN: errno.ESHUTDOWN,
}

_parameters = dict(_PARAMETERS)
_plan: Blueprint
_node: EmbeddedNode


class _Refused(Exception):
    """Only its words are shown."""


class _Debug(logging.Handler):
    """To nbdkit's own log, by `-v`; from warnings on always, by standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        nbdkit.debug(self.format(record))
        if record.levelno >= logging.WARNING:
            sys.stderr.write(f"pydrbd: {self.format(record)}\n")


# --- the life of the plugin ---


def config(key: str, value: str) -> None:
    """nbdkit's: one parameter."""
    key = key.replace("_", "-")
    if key not in _parameters:
        _end(UsageError(f"unknown parameter '{key}': there are {', '.join(_parameters)}"))
    _parameters[key] = value


def config_complete() -> None:
    """nbdkit's: all parameters are there. What is wrong in the configuration is said now, before any fork."""
    global _plan
    try:
        _plan = _blueprint()
    except (PydrbdError, OSError) as error:
        _end(error)


def _blueprint() -> Blueprint:
    """What the parameters ask for. Raises UsageError, ConfigError, DiskError, OSError."""
    for key in ("config", "resource"):
        if not _parameters[key]:
            raise UsageError(f"{key}=... is missing")
    if _parameters["primary"] not in ("true", "false"):
        raise UsageError("primary is true or false")
    _parameters["config"] = str(Path(_parameters["config"]).absolute())
    _parameters["run-dir"] = str(Path(_parameters["run-dir"] or _usual_run_dir()).absolute())
    return blueprint(_parameters["config"], _parameters["resource"], _node_name())


def _end(error: PydrbdError | OSError) -> NoReturn:
    """Say what is wrong, and go: nbdkit would show a traceback around it."""
    sys.stderr.write(f"pydrbd: {error}\n")
    sys.stderr.flush()
    os._exit(exit_code_of(error))


def after_fork() -> None:
    """nbdkit's: threads may begin."""
    global _node
    logging.basicConfig(level=logging.INFO, handlers=[_Debug()], format="%(message)s")
    _node = EmbeddedNode(_plan, Path(_parameters["run-dir"]), _node_name())
    try:
        _node.start(nbdkit.shutdown)
    except (PydrbdError, OSError) as error:
        _end(error)


def cleanup() -> None:
    """nbdkit's: the end, when no client is left."""
    _node.stop()


def thread_model() -> int:
    """nbdkit's: as many requests at a time as it has threads."""
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def _node_name() -> str:
    return _parameters["node"] or socket.gethostname()


def _usual_run_dir() -> str:
    return "/run/pydrbd" if os.geteuid() == 0 else f"{os.environ.get('XDG_RUNTIME_DIR', '/tmp')}/pydrbd"


# --- exports and clients ---


def list_exports(readonly: bool, is_tls: bool) -> list[tuple[str, str]]:
    """nbdkit's."""
    return [(info.name, info.description) for info in _node.exports()]


def default_export(readonly: bool, is_tls: bool) -> str:
    """nbdkit's: volume 0."""
    return _parameters["resource"]


def open(readonly: bool) -> ThreadsClient:
    """nbdkit's: a client. One that can't be let in is told why in the log; NBD's own words are nbdkit's."""
    try:
        return _node.open(nbdkit.export_name(), promote=_parameters["primary"] == "true")
    except PydrbdError as error:
        nbdkit.set_error(errno.ESHUTDOWN)
        raise _Refused(str(error)) from None


def close(client: ThreadsClient) -> None:
    """nbdkit's."""
    client.close()


def get_size(client: ThreadsClient) -> int:
    """nbdkit's."""
    return client.info.size_bytes


def export_description(client: ThreadsClient) -> str:
    """nbdkit's."""
    return client.info.description


def block_size(client: ThreadsClient) -> tuple[int, int, int]:
    """nbdkit's."""
    info = client.info
    return info.block_minimum, info.block_preferred, info.block_maximum


def is_rotational(client: ThreadsClient) -> bool:
    """nbdkit's."""
    return False


def can_multi_conn(client: ThreadsClient) -> bool:
    """nbdkit's: a flush is one of all clients' writes."""
    return client.info.can_multi_conn


def can_write(client: ThreadsClient) -> bool:
    """nbdkit's."""
    return not client.info.read_only


def can_flush(client: ThreadsClient) -> bool:
    """nbdkit's."""
    return client.info.can_flush


def can_trim(client: ThreadsClient) -> bool:
    """nbdkit's."""
    return client.info.can_trim


def can_zero(client: ThreadsClient) -> bool:
    """nbdkit's."""
    return client.info.can_zero


def can_fast_zero(client: ThreadsClient) -> bool:
    """nbdkit's."""
    return client.info.can_fast_zero


def can_fua(client: ThreadsClient) -> int:
    """nbdkit's."""
    return int(nbdkit.FUA_NATIVE if client.info.can_fua else nbdkit.FUA_EMULATE)


def can_cache(client: ThreadsClient) -> int:
    """nbdkit's."""
    return int(nbdkit.CACHE_NATIVE if client.info.can_cache else nbdkit.CACHE_NONE)


def can_extents(client: ThreadsClient) -> bool:
    """nbdkit's."""
    return True


# --- requests, from many threads ---


def pread(client: ThreadsClient, buffer: memoryview, offset: int, flags: int) -> None:
    """nbdkit's. Its filters heed no least block: luks reads a header of 592 bytes."""
    keep_thread()
    if error := client.read(offset, buffer):
        _fail(error)


def pwrite(client: ThreadsClient, buffer: memoryview, offset: int, flags: int) -> None:
    """nbdkit's."""
    keep_thread()
    if error := client.call(_WRITE, offset, len(buffer), _fua(flags), buffer):
        _fail(error)


def flush(client: ThreadsClient, flags: int) -> None:
    """nbdkit's."""
    if error := client.call(Command.FLUSH, 0, 0):
        _fail(error)


def trim(client: ThreadsClient, count: int, offset: int, flags: int) -> None:
    """nbdkit's."""
    if error := client.call(Command.TRIM, offset, count, _fua(flags)):
        _fail(error)


def zero(client: ThreadsClient, count: int, offset: int, flags: int) -> None:
    """nbdkit's."""
    ours = _fua(flags) | (0 if flags & nbdkit.FLAG_MAY_TRIM else int(CommandFlag.NO_HOLE))
    ours |= int(CommandFlag.FAST_ZERO) if flags & nbdkit.FLAG_FAST_ZERO else 0
    if error := client.call(Command.WRITE_ZEROES, offset, count, ours):
        _fail(error)


def cache(client: ThreadsClient, count: int, offset: int, flags: int) -> None:
    """nbdkit's."""
    if error := client.call(Command.CACHE, offset, count):
        _fail(error)


def extents(client: ThreadsClient, count: int, offset: int, flags: int) -> list[tuple[int, int, int]]:
    """nbdkit's: (offset, length, kind), and kind's two bits are NBD's."""
    error, found = client.extents(offset, count, int(CommandFlag.REQ_ONE) if flags & nbdkit.FLAG_REQ_ONE else 0)
    if error:
        _fail(error)
    placed = []
    for length, kind in found:
        placed.append((offset, length, kind))
        offset += length
    return placed


def _fua(flags: int) -> int:
    return _FUA if flags & nbdkit.FLAG_FUA else 0


def _fail(error: int) -> NoReturn:
    """nbdkit takes the number only from here; it prints the exception, whatever it is."""
    nbdkit.set_error(_ERRNO.get(NbdError(error), errno.EIO))
    raise _Refused(NbdError(error).name)
