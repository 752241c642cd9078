"""Words for the user: results on stdout, complaints on stderr, one line each."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import ClassVar

from pydrbd.errors import PydrbdError

__all__ = ["OutputError", "complain", "say", "warn"]


class OutputError(PydrbdError):
    """A result could not be written; no words if nobody reads any more."""

    exit_code: ClassVar[int] = 1


def say(text: str) -> None:
    """A result. Raises OutputError."""
    try:
        print(text.removesuffix("\n"), flush=True)
    except BrokenPipeError as error:
        raise OutputError("") from error
    except OSError as error:
        raise OutputError(f"can't write the output: {error.strerror}") from error


def complain(text: str) -> None:
    """One line about what is wrong."""
    print(f"pydrbd: {' '.join(text.splitlines())}", file=sys.stderr)


def warn(notices: Iterable[object]) -> None:
    """What a configuration says that is no mistake, and not what it seems."""
    for notice in notices:
        complain(str(notice))
