"""The handshake of one NBD connection: wire.nbd_negotiation on a socket, in time, and in TLS if the client asks for it.

TLS lies in front of everything else: what follows STARTTLS goes through a socket pair to the task that encrypts
(runtime.tls), and is spoken as before.
"""

from __future__ import annotations

import logging
import math
import socket
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import trio

from pydrbd.errors import ClientProtocolError
from pydrbd.limits import NBD_HANDSHAKE_TIMEOUT_S
from pydrbd.runtime.nbd_extended import speak_extended
from pydrbd.runtime.tls import Identity, TlsFailed, accept_tls
from pydrbd.units import KIB
from pydrbd.wire.nbd import ExportUnavailable
from pydrbd.wire.nbd_extended import ExtendedTranslator
from pydrbd.wire.nbd_negotiation import (
    ExportSource,
    Negotiation,
    Opened,
    Outcome,
    Policy,
    StartTls,
    TlsMode,
    Waits,
)

__all__ = ["Admission", "ClientGone", "Handshake", "PatientSource"]

_READ_BYTES: Final = 64 * KIB
_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The socket failed or ended. Not an OSError, so that an engine's failure is never taken for a client's."""


@dataclass(frozen=True, slots=True)
class Admission:
    """How clients of one listening socket get in."""

    policy: Policy = field(default_factory=Policy)
    identity: Identity | None = None
    """What TLS shows to clients and asks of them; there unless TLS is off."""
    timeout_s: float = NBD_HANDSHAKE_TIMEOUT_S
    """How long a client may take for the whole handshake."""

    def __post_init__(self) -> None:
        assert self.policy.tls is TlsMode.OFF or self.identity is not None, "TLS needs a certificate or keys"


class PatientSource(ExportSource, Protocol):
    """Exports that may take their time to become ready."""

    def make_ready(self, name: str) -> AbstractAsyncContextManager[ExportUnavailable | None]:
        """See engine.Engine."""
        ...


class Handshake:
    """One handshake. `socket` is the one that the connection goes on with: another one after STARTTLS."""

    def __init__(self, sock: socket.socket, peer: str, source: PatientSource, admission: Admission) -> None:
        self.socket = sock
        self._source = source
        self._time = trio.CancelScope()
        self._peer = peer
        self._admission = admission
        self._negotiation = Negotiation(source, admission.policy)

    async def run(self, nursery: trio.Nursery) -> Opened | None:
        """The open export, or None if the client left in good order. Raises ClientProtocolError, ClientGone."""
        timeout_s = self._admission.timeout_s
        self._time.deadline = trio.current_time() + timeout_s
        try:
            with self._time:
                return await self._exchange(nursery)
        except ClientGone as gone:
            if self._negotiation.spoke:
                raise
            # A monitor that connects and goes, without a word, is no news.
            _log.debug("NBD client %s only looked in: %s", self._peer, gone)
            return None
        raise ClientProtocolError(f"the handshake was not finished within {timeout_s:g} s")

    async def _exchange(self, nursery: trio.Nursery) -> Opened | None:
        negotiation = self._negotiation
        await self._send_all(negotiation.take_outgoing())
        while True:
            data = await self._receive_some()
            if not data:
                raise ClientGone("it closed the connection in the handshake")
            try:
                outcome = negotiation.receive(data)
                while isinstance(outcome, Waits):
                    outcome = await self._make_ready(outcome.name)
            finally:
                await self._send_all(negotiation.take_outgoing())
            if isinstance(outcome, StartTls):
                await self._encrypt(nursery)
            elif outcome is not None:
                return self._translated(outcome, nursery) if isinstance(outcome, Opened) else None

    async def _make_ready(self, name: str) -> Outcome | None:
        """What comes of it when the export is ready. The time that takes is not the client's."""
        left_s = self._time.deadline - trio.current_time()
        self._time.deadline = math.inf
        try:
            async with self._source.make_ready(name) as refusal:
                return self._negotiation.go_on(refusal)
        finally:
            self._time.deadline = trio.current_time() + left_s

    def _translated(self, opened: Opened, nursery: trio.Nursery) -> Opened:
        if not opened.extended:
            return opened
        info = opened.info
        block_bytes = 1 if opened.any_alignment else info.block_minimum
        translator = ExtendedTranslator(info.size_bytes, block_bytes, [number for number, _ in opened.contexts])
        try:
            self.socket = speak_extended(self.socket, translator, opened.unread, nursery)
        except OSError as error:
            raise ClientProtocolError(f"it can't be served with extended headers: {error.strerror}") from error
        return replace(opened, unread=b"")

    async def _encrypt(self, nursery: trio.Nursery) -> None:
        assert self._admission.identity is not None, "TLS was offered"
        try:
            self.socket, names = await accept_tls(self.socket, self._admission.identity, nursery)
        except TlsFailed as failed:
            raise ClientProtocolError(str(failed)) from failed
        self._negotiation.encrypted()
        _log.info("NBD client %s speaks TLS%s", self._peer, f" as {', '.join(names)}" if names else "")

    async def _receive_some(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return self.socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClientGone(error.strerror) from error

    async def _send_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as error:
                raise ClientGone(error.strerror) from error
