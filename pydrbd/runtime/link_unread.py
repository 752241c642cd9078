"""What the peer has been sent and does not read: memory that it could make grow by asking, and never listening.

Two bounds, one for each socket. Data that it asked for stays in the data socket's queue: beyond
LINK_UNREAD_ANSWERS_BYTES_MAX no more of what it says is read there. (Our own writes in that queue don't count: two
Primaries that wait for each other to read would wait for ever. No honest node asks for so much at a time.) The meta
socket carries acknowledgements only: a peer that leaves LINK_UNREAD_ACKS_BYTES_MAX of them unread is left.
"""

from __future__ import annotations

from collections import deque

from pydrbd.limits import LINK_UNREAD_ACKS_BYTES_MAX, LINK_UNREAD_ANSWERS_BYTES_MAX

__all__ = ["Unread"]


class Unread:
    """Counts for one connection; `queued_bytes` are those of a socket that it has not taken yet."""

    def __init__(self) -> None:
        self._said_bytes = 0
        self._answers: deque[tuple[int, int]] = deque()  # where one ends in all that was said, and its length
        self._answer_bytes = 0

    def say(self, byte_count: int, *, answer: bool) -> None:
        """So much more is for the data socket."""
        self._said_bytes += byte_count
        if answer:
            self._answers.append((self._said_bytes, byte_count))
            self._answer_bytes += byte_count

    def too_many_answers(self, queued_bytes: int) -> bool:
        """Whether the peer must read before we do."""
        if not self._answers:
            return False
        taken_bytes = self._said_bytes - queued_bytes
        while self._answers and self._answers[0][0] <= taken_bytes:
            self._answer_bytes -= self._answers.popleft()[1]
        return self._answer_bytes > LINK_UNREAD_ANSWERS_BYTES_MAX

    @staticmethod
    def too_many_acks(queued_bytes: int) -> bool:
        """Whether the peer has stopped to read what it wrote for."""
        return queued_bytes > LINK_UNREAD_ACKS_BYTES_MAX
