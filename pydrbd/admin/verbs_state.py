"""The verbs that change states, from attach to resume-sync: requests to the running process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydrbd.admin.context import Context, Target
from pydrbd.admin.control_client import Limit
from pydrbd.admin.exit_codes import WorseThanOutdated
from pydrbd.admin.output import complain
from pydrbd.errors import NotRunningError, StateRefused
from pydrbd.limits import HELPER_TIMEOUT_S

__all__ = ["outdate", "request", "request_of_volumes"]

_SS_LOWER_THAN_OUTDATED: Final = -16

_LIMITS: Final[Mapping[str, tuple[Limit, float]]] = {
    "attach": (Limit.LONG, 0.0),
    "primary": (Limit.MEDIUM, HELPER_TIMEOUT_S),
}
"""Before a promotion, the handler fence-peer may have to wait until a node has been shot."""

_HINTS: Final[Mapping[tuple[str, int], str]] = {
    ("primary", -1): "its peer is Primary: pydrbd secondary there first",
    ("primary", -2): "connect it to a peer that has the data, or say --force if this copy is the one to keep",
    ("primary", -7): "the peer may be Primary too: fence or outdate it first, or say --force",
    ("secondary", -12): "an NBD client is connected: end it first, or say --force (it will get errors)",
    ("disconnect", -10): "the peer needs this disk: demote it there first, or say --force",
    ("invalidate-remote", -15): "connect it to the peer first",
    ("verify", -14): "set verify-alg on both nodes",
    ("detach", -2): "this is the only good copy in use: pydrbd secondary first",
}
"""What to do about a refusal, by verb and DRBD's code."""


_WITH_NOTES: Final = frozenset({"resize"})
"""Verbs that may have been granted only in part, and say so."""

_REFUSED_BY_PEER: Final = -10


def _has_lost_peer(context: Context, resource: str) -> bool:
    """Whether it was silence that counts as the peer's refusal."""
    data = context.running(resource)
    return data is not None and data["connection"] != "Connected"


def request(context: Context, resource: str, verb: str, arguments: dict[str, Any]) -> int:
    """Have the process carry out a verb. Raises StateRefused with DRBD's words, CommandFailed, NotRunningError."""
    limit, more_s = _LIMITS.get(verb, (Limit.MEDIUM, 0.0))
    try:
        answer = context.client(resource).grant(verb, arguments, limit, more_s)
    except NotRunningError:
        context.check_name(resource)
        raise
    except StateRefused as error:
        hint = _HINTS.get((verb, error.code))
        if error.code == _REFUSED_BY_PEER and _has_lost_peer(context, resource):
            hint = "the peer did not answer, and the connection is lost now: ask again"
        if hint is None:
            raise
        raise StateRefused(error.code, f"{error}: {hint}") from None
    if verb in _WITH_NOTES and answer.text:
        complain(f"{resource}: {answer.text}")
    return 0


def outdate(context: Context, resource: str) -> int:
    """Have the process mark its data; where none runs, say so in the meta-data of its disks.

    Raises WorseThanOutdated, and as `request` or verbs_metadata.outdate.
    """
    try:
        return request(context, resource, "outdate", {})
    except NotRunningError:
        from pydrbd.admin import verbs_metadata

        return verbs_metadata.outdate(context, Target(resource, None))
    except StateRefused as error:
        if error.code == _SS_LOWER_THAN_OUTDATED:
            raise WorseThanOutdated(str(error)) from None
        raise


def request_of_volumes(context: Context, target: Target, verb: str, arguments: dict[str, Any]) -> int:
    """The same for a verb that may name a single volume, RES/VNR. Raises UsageError if there is no such volume."""
    if target.vnr is not None:
        from pydrbd.admin.verbs_show import volumes_of

        volumes_of(context.ask_running(target.resource), target)
        arguments = {**arguments, "volume": target.vnr}
    return request(context, target.resource, verb, arguments)
