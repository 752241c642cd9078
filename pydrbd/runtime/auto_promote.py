"""`auto-promote` for those who open an export: the node is made Primary before, and kept so until they have.

A refusal that may pass (the peer is Primary still, a handshake is under way) is tried again at each change of state,
for `auto-promote-timeout`: whoever follows a client that has just left the other node finds its role still there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from pydrbd.core.auto_promote import CLIENT_COMES, CLIENT_SETTLED
from pydrbd.core.events import Command
from pydrbd.core.refusals import StateCode

if TYPE_CHECKING:
    from pydrbd.runtime.service import Service

__all__ = ["promoted"]

_MAY_PASS: Final = frozenset(
    {
        *(StateCode.SS_TWO_PRIMARIES, StateCode.SS_O_VOL_PEER_PRI, StateCode.SS_NO_UP_TO_DATE_DISK),
        *(StateCode.SS_IN_TRANSIENT_STATE, StateCode.SS_CONCURRENT_ST_CHG, StateCode.SS_CW_FAILED_BY_PEER),
    }
)
_DECISECOND_S: Final = 0.1


@asynccontextmanager
async def promoted(service: Service) -> AsyncIterator[str]:
    """While this is open the role is not taken away again; gives why it could not be had, "" if it was."""
    deadline = trio.current_time() + service.plan.me.options.auto_promote_timeout_ds * _DECISECOND_S
    while True:
        changed = service.changed
        async with _attempt(service) as (code, text):
            if code >= StateCode.SS_SUCCESS or code not in _MAY_PASS or trio.current_time() >= deadline:
                yield text if code < StateCode.SS_SUCCESS else ""
                return
        with trio.move_on_at(deadline):
            await changed.wait()


@asynccontextmanager
async def _attempt(service: Service) -> AsyncIterator[tuple[int, str]]:
    """DRBD's code and words."""
    answered = trio.Event()
    answers: list[tuple[int, str]] = []

    def answer(code: int, text: str) -> None:
        answers.append((code, text))
        answered.set()

    service.feed(Command(answer, CLIENT_COMES))
    try:
        await answered.wait()
        yield answers[0]
    finally:
        service.feed(Command(lambda _code, _text: None, CLIENT_SETTLED, {"of": answer}))
