"""A node's questions to its witness (core/quorum): a connection each, and a time limit on all of it."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import trio

from pydrbd.config.settings import Listen
from pydrbd.core.effects import AskWitness
from pydrbd.errors import ConfigError, PeerProtocolError
from pydrbd.limits import WITNESS_KEY_BYTES_MAX, WITNESS_NAME_BYTES_MAX, WITNESS_TIMEOUT_S
from pydrbd.runtime.build import Blueprint, lease_name
from pydrbd.wire.witness import (
    CHALLENGE_BYTES,
    HEADER_BYTES,
    NONCE_BYTES,
    Kind,
    Verdict,
    WitnessAnswer,
    WitnessRequest,
    decode_answer,
    decode_header,
    encode_frame,
    encode_request,
)

__all__ = ["WitnessClient", "read_frame", "read_key"]

_log = logging.getLogger(__name__)


def read_key(path: str) -> bytes:
    """The key in a file, without white space around it; "": none. Raises ConfigError."""
    if not path:
        return b""
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(WITNESS_KEY_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"the key of the witness, {path}, can't be read: {error.strerror}") from error
    key = content.strip()
    if not key:
        raise ConfigError(f"the key of the witness, {path}, is empty")
    if len(content) > WITNESS_KEY_BYTES_MAX:
        raise ConfigError(f"the key of the witness, {path}, is longer than {WITNESS_KEY_BYTES_MAX} bytes")
    return key


async def read_frame(stream: trio.abc.ReceiveStream, kind: Kind) -> bytes:
    """The payload of the next frame. Raises PeerProtocolError, trio.BrokenResourceError, EOFError at the end."""
    return await _read(stream, decode_header(await _read(stream, HEADER_BYTES), kind))


async def _read(stream: trio.abc.ReceiveStream, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        piece = await stream.receive_some(size_bytes - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


class WitnessClient:
    """Asks for one resource's lease."""

    def __init__(self, plan: Blueprint, ended: Callable[[AskWitness, int, int], None]) -> None:
        """Raises ConfigError if the key can't be read."""
        self._place = plan.settings.witness
        self._key = read_key(plan.settings.witness_key)
        self._node, self._lease = plan.me.name, lease_name(plan.resource, plan.me, plan.peer)
        self._ended = ended
        if self._place is not None and len(self._lease.encode()) > WITNESS_NAME_BYTES_MAX:
            raise ConfigError(f"the names of resource '{plan.resource.name}' and its hosts are too long for a witness")

    async def ask(self, effect: AskWitness) -> None:
        """Put the answer into the effect, or words on why there is none, and end it."""
        place = self._place
        assert place is not None, "a question without a witness"
        request = WitnessRequest(effect.verb, self._lease, self._node, effect.generation, effect.term)
        effect.error = f"the witness at {place} does not answer within {WITNESS_TIMEOUT_S:g} s"
        try:
            with trio.move_on_after(WITNESS_TIMEOUT_S):
                effect.answer = await self._exchange(place, request)
                effect.error = ""
        except PeerProtocolError as error:
            effect.error = f"the witness at {place} is none of ours: {error}"
        except EOFError:
            effect.error = f"the witness at {place} has closed the connection"
        except (OSError, trio.BrokenResourceError, UnicodeError) as error:  # the last: no name that can be looked up
            effect.error = f"the witness at {place} can't be reached: {_reason(error)}"
        if effect.answer is not None and effect.answer.verdict is Verdict.WRONG_KEY:
            effect.answer, effect.error = None, f"the witness at {place} has another key"
        self._ended(effect, 0, 0)

    async def _exchange(self, place: Listen, request: WitnessRequest) -> WitnessAnswer:
        stream = await _connect(place)
        async with stream:
            challenge = await read_frame(stream, Kind.CHALLENGE)
            if len(challenge) != CHALLENGE_BYTES:
                raise PeerProtocolError(f"a challenge of {len(challenge)} bytes")
            payload = encode_request(request, self._key, challenge, 0, secrets.token_bytes(NONCE_BYTES))
            await stream.send_all(encode_frame(Kind.REQUEST, payload))
            return decode_answer(await read_frame(stream, Kind.ANSWER), self._key, payload)


async def _connect(place: Listen) -> trio.SocketStream:
    """Raises OSError."""
    if place.path:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await sock.connect(place.path)
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)
    return await trio.open_tcp_stream(place.host, place.port)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error or type(error).__name__)
