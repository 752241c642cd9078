"""An engine over anonymous memory: everything the NBD server needs to be tried with real clients."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from pydrbd import native
from pydrbd.limits import NBD_REQUEST_BYTES_MAX
from pydrbd.native import Batch, Buffer
from pydrbd.runtime.engine import Client, ExportInfo, ExportNotReady, ExportUnavailable
from pydrbd.wire.nbd import Command, CommandFlag, NbdError, ReplyType

__all__ = ["MemoryEngine", "MemorySession"]

_WRITES = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_FLAGS = {
    Command.READ: CommandFlag.FUA | CommandFlag.DF,
    Command.WRITE: CommandFlag.FUA,
    Command.FLUSH: CommandFlag.FUA,
    Command.TRIM: CommandFlag.FUA,
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE,
}


class MemoryEngine:
    """One disk of memory under several names: "" and "disk", "ro" (read-only), "secondary" (refused), and "slow" (opens
    after `ready`, unless there is a `refusal`).

    With `held` a list, batches wait in it until `carry_out_held`.
    """

    def __init__(self, size_bytes: int) -> None:
        self.fd = os.memfd_create("disk", os.MFD_CLOEXEC)
        os.truncate(self.fd, size_bytes)
        self.size_bytes = size_bytes
        self.sessions: list[MemorySession] = []
        self.closed_count = 0
        self.flush_count = 0
        self.fua_count = 0
        self.held: list[tuple[MemorySession, Batch]] | None = None
        self.ready = trio.Event()
        self.refusal: ExportUnavailable | None = None
        self.waiting = 0

    def exports(self) -> Sequence[ExportInfo]:
        return [self._info("disk"), self._info("ro")]

    def describe(self, name: str) -> ExportInfo:
        if name == "secondary":
            raise ExportUnavailable("secondary is Secondary here: promote it or connect to its peer")
        if name not in ("", "disk", "ro", "slow"):
            raise ExportUnavailable(f"there is no export {name!r}", ReplyType.ERR_UNKNOWN)
        return self._info(name or "disk")

    @asynccontextmanager
    async def make_ready(self, name: str) -> AsyncIterator[ExportUnavailable | None]:
        self.waiting += 1
        try:
            await self.ready.wait()
            yield self.refusal
        finally:
            self.waiting -= 1

    def open(self, name: str, client: Client) -> MemorySession:
        if name == "slow" and not self.ready.is_set():
            raise ExportNotReady(name)
        session = MemorySession(self, self.describe(name), client)
        self.sessions.append(session)
        return session

    def contents(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def carry_out_held(self) -> None:
        """Answer what was held, and hold no more."""
        held, self.held = self.held or [], None
        for session, batch in held:
            session.carry_out(batch)

    def close(self) -> None:
        os.close(self.fd)

    def _info(self, name: str) -> ExportInfo:
        return ExportInfo(
            name=name,
            size_bytes=self.size_bytes,
            description="a disk of memory",
            read_only=name == "ro",
            can_multi_conn=True,
        )


class MemorySession:
    """One client's view of the disk."""

    def __init__(self, engine: MemoryEngine, info: ExportInfo, client: Client) -> None:
        self.info = info
        self.lane = None
        self.contexts: Sequence[tuple[int, str]] = ()
        self.any_alignment = False
        self.client = client
        self._engine = engine

    def submit(self, batch: Batch) -> None:
        if self._engine.held is not None:
            self._engine.held.append((self, batch))
        else:
            self.carry_out(batch)

    def close(self) -> None:
        self._engine.sessions.remove(self)
        self._engine.closed_count += 1

    def carry_out(self, batch: Batch) -> None:
        """Good READs and WRITEs together, everything else one by one."""
        commands = native.nbd_commands(batch, batch.all)
        simple = batch.all & ~native.records_out_of_bounds(batch, batch.all, self.info.size_bytes)
        simple &= ~native.records_with_flags(batch, batch.all, 0xFFFF)
        reads = commands.read & simple
        if native.records_length_sum(batch, reads) > NBD_REQUEST_BYTES_MAX:
            reads = 0  # not all in one buffer
        writes = 0 if self.info.read_only else commands.write & simple
        if writes:
            failed, _ = native.pwrite_records(self._engine.fd, base_bytes=0, batch=batch, mask=writes)
            assert not failed
            self.client.send([native.nbd_replies(batch, writes, NbdError.OK)])
        for index in range(batch.count):
            if not (reads | writes) >> index & 1:
                self._carry_out_one(batch, index)
        if reads:  # last, because their records are changed
            out = native.nbd_read_replies(batch, reads)
            failed, _ = native.pread_records(self._engine.fd, base_bytes=0, batch=batch, mask=reads, buffer=out)
            assert not failed
            self.client.send([out])
        self.client.done(batch)

    def _carry_out_one(self, batch: Batch, index: int) -> None:
        record: Any = batch.records[index]
        payload = (
            memoryview(batch.buffer)[record.data : record.data + record.length]
            if record.command == Command.WRITE
            else b""
        )
        error, data = self._answer(record.command, record.flags, record.offset, record.length, payload)
        if record.command != Command.READ or error:
            self.client.send([native.nbd_replies(batch, 1 << index, error)])
        else:
            reply = native.nbd_read_replies(batch, 1 << index)
            reply[record.data :] = data
            self.client.send([reply])

    def _answer(self, command: int, flags: int, offset: int, length: int, payload: Buffer) -> tuple[NbdError, bytes]:
        engine = self._engine
        if command not in _FLAGS or flags & ~_FLAGS[Command(command)]:
            return NbdError.EINVAL, b""
        if command in _WRITES:
            if self.info.read_only:
                return NbdError.EPERM, b""
            if offset + length > engine.size_bytes:
                return NbdError.ENOSPC, b""
            assert os.pwrite(engine.fd, payload or bytes(length), offset) == length
            engine.fua_count += bool(flags & CommandFlag.FUA)
        elif command == Command.FLUSH:
            engine.flush_count += 1
        elif length > NBD_REQUEST_BYTES_MAX or offset + length > engine.size_bytes:
            return NbdError.EINVAL, b""
        else:
            return NbdError.OK, os.pread(engine.fd, length, offset)
        return NbdError.OK, b""
