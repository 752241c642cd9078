"""wait-connect and wait-sync: until the peer is there, until both copies are the same."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydrbd.admin.context import Context
from pydrbd.admin.control_client import ControlClient
from pydrbd.admin.exit_codes import CommandFailed, StandAloneError, WaitTimedOut
from pydrbd.admin.output import complain, say
from pydrbd.admin.progress import Progress
from pydrbd.errors import DiskError, PydrbdError, StateRefused
from pydrbd.units import BIT_SIZE_BYTES

if TYPE_CHECKING:
    from argparse import Namespace

    from pydrbd.config.sections import StartupOptions

__all__ = ["Patience", "connect_tentatively", "wait_at_start", "wait_connect", "wait_sync"]

_SLICE_S: Final = 0.25
"""How long the process is asked to wait at a time; in between we look at its state."""

_TENTATIVE_S: Final = 60.0
"""How long `connect --tentative` looks for the peer."""

_LOOK_EVERY_S: Final = 0.1
_GRACE_S: Final = 1.0
"""How long what will not end by itself is borne: a process that just starts is StandAlone for a moment."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds; 0 is for ever. As DRBD's `startup` section: not longer for a worse case.

    `degraded_s`: after this node was a Primary that was alone. `outdated_s`: while the peer's disk is outdated.
    `after_split_brain`: also while it is StandAlone.
    """

    usual_s: float = 0.0
    degraded_s: float = 0.0
    outdated_s: float = 0.0
    after_split_brain: bool = False

    @classmethod
    def of(cls, startup: StartupOptions, given: Namespace) -> Patience:
        """What the command line says; else, unless it has a time for every case, the configuration."""
        if given.timeout_s is not None:
            startup = replace(startup, wfc_timeout_s=0, degr_wfc_timeout_s=0, outdated_wfc_timeout_s=0)
        times = (
            (given.timeout_s, startup.wfc_timeout_s),
            (given.degr_wfc_timeout_s, startup.degr_wfc_timeout_s),
            (given.outdated_wfc_timeout_s, startup.outdated_wfc_timeout_s),
        )
        usual_s, degraded_s, outdated_s = (wanted if said is None else said for said, wanted in times)
        return cls(usual_s, degraded_s, outdated_s, given.wait_after_sb or startup.wait_after_sb)

    def timeout_s(self, data: dict[str, Any]) -> float:
        """The one that counts for a resource."""
        degraded_s = _shorter(self.degraded_s, self.usual_s)
        if any(volume["peer_disk"] == "Outdated" for volume in data["volumes"]):
            return _shorter(self.outdated_s, degraded_s)
        return degraded_s if any(volume["degraded"] for volume in data["volumes"]) else self.usual_s


def _shorter(wanted_s: float, limit_s: float) -> float:
    return min(wanted_s or limit_s, limit_s) if limit_s else wanted_s


class Companion(Protocol):
    """What goes with a wait: it is shown each look at the process."""

    def show(self, data: dict[str, Any]) -> None: ...
    def explain(self, data: dict[str, Any]) -> None: ...
    def end(self, *, good: bool) -> None: ...


def wait_connect(context: Context, resource: str, patience: Patience, companion: Companion | None = None) -> int:
    """Wait until every volume is connected. Raises WaitTimedOut, StandAloneError."""
    return _wait(context, resource, "wait-connect", patience, companion)


def wait_at_start(context: Context, resource: str, patience: Patience) -> int:
    """The same, and who sits at the terminal may end it (wait-con-int)."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return wait_connect(context, resource, patience)
    from pydrbd.admin.dialog import Dialog

    refresh_s = context.config.global_.dialog_refresh_s if context.has_config else 1
    return wait_connect(context, resource, patience, Dialog(resource, patience, refresh_s, (sys.stdin, sys.stdout)))


def wait_sync(context: Context, resource: str, patience: Patience, *, quiet: bool = False) -> int:
    """Wait until every volume is connected and UpToDate on both nodes, and show how far it is.

    Raises WaitTimedOut, StandAloneError, DiskError (a disk is missing, on either node).
    """
    return _wait(context, resource, "wait-sync", patience, None if quiet else _Bar(resource))


def connect_tentatively(context: Context, resource: str, *, discard_my_data: bool) -> int:
    """Meet the peer, say what a connection would sync, and part. Raises CommandFailed, WaitTimedOut."""
    data = context.ask_running(resource)
    if data["connection"] != "StandAlone":
        raise CommandFailed(f"{resource}: is {data['connection']}: pydrbd disconnect {resource} first")
    client = context.client(resource)
    client.grant("connect", {"discard_my_data": discard_my_data, "tentative": True})
    deadline = time.monotonic() + _TENTATIVE_S
    while (data := client.status())["connection"] != "StandAlone":
        if time.monotonic() >= deadline:
            client.grant("disconnect", {"force": True})
            raise WaitTimedOut(f"{resource}: the peer was not there within {_TENTATIVE_S:g} s ({_state(data)})")
        time.sleep(_LOOK_EVERY_S)
    say(f"{resource}: {data['connection_reason']}")
    return 0


class _Bar:
    """The progress of all resyncs of a resource together."""

    def __init__(self, resource: str) -> None:
        self._title = f"{resource} resync"
        self._progress: Progress | None = None
        self._explained = False

    def show(self, data: dict[str, Any]) -> None:
        running = [volume["resync"] for volume in data["volumes"] if volume["resync"]]
        if not running:
            return
        total = sum(resync["total_bits"] for resync in running) * BIT_SIZE_BYTES
        left = sum(resync["left_bits"] for resync in running) * BIT_SIZE_BYTES
        if self._progress is None:
            self._progress = Progress(self._title, total)
        self._progress.update(max(0, total - left), total)

    def explain(self, data: dict[str, Any]) -> None:
        """Say once why nothing moves, if it takes somebody to begin it."""
        if not self._explained and any(_lacks_good_data(volume) for volume in data["volumes"]):
            self._explained = True
            complain(
                f"{data['name']}: neither copy is UpToDate: waiting until one is chosen "
                f"('pydrbd primary --force {data['name']}' on the node that has the good data)"
            )

    def end(self, *, good: bool) -> None:
        if self._progress is not None and good:
            self._progress.update(self._progress.total_bytes)
            self._progress.finish()
        elif self._progress is not None:
            self._progress.clear()


def _wait(context: Context, resource: str, verb: str, patience: Patience, bar: Companion | None) -> int:
    timeout_s = patience.timeout_s(context.ask_running(resource))
    client = context.client(resource)
    deadline = time.monotonic() + timeout_s if timeout_s > 0 else float("inf")
    good = False
    try:
        _wait_in_slices(client, verb, timeout_s, deadline, bar, stays=patience.after_split_brain)
        good = True
    finally:
        if bar is not None:
            bar.end(good=good)
    return 0


def _wait_in_slices(
    client: ControlClient, verb: str, timeout_s: float, deadline: float, bar: Companion | None, *, stays: bool
) -> None:
    stuck_since: float | None = None
    while True:
        now = time.monotonic()
        slice_s = max(0.0, min(_SLICE_S, deadline - now))
        answer = client.ask(verb, {"timeout_s": slice_s})
        if answer.code > 0:
            return
        if answer.code < 0:
            raise StateRefused(answer.code, f"{client.resource}: {answer.text}")
        data = client.status()
        if bar is not None:
            bar.show(data)
        stuck = _stuck(data, verb, stays=stays)
        if stuck is None:
            stuck_since = None
        elif stuck_since is None:
            stuck_since = now
        elif now - stuck_since >= _GRACE_S:
            raise stuck
        if bar is not None:
            bar.explain(data)
        if time.monotonic() >= deadline:
            raise WaitTimedOut(f"{client.resource}: {verb}: not within {timeout_s:g} s ({_state(data)})")
        if time.monotonic() - now < slice_s / 2:
            raise CommandFailed(f"{client.resource}: {verb}: {answer.text or 'the process does not wait'}")


def _stuck(data: dict[str, Any], verb: str, *, stays: bool) -> PydrbdError | None:
    """Why what is waited for does not come by itself."""
    name = data["name"]
    if data["connection"] == "StandAlone" and not stays:
        reason = data.get("connection_reason") or "disconnected"
        return StandAloneError(f"{name}: is StandAlone: {reason}: when that is mended, pydrbd connect {name}")
    for volume in data["volumes"] if verb == "wait-sync" else ():
        place = f"{name}/{volume['vnr']}"
        if volume["cstate"] == "Connected" and volume["disk"] == "Diskless":
            return DiskError(f"{place}: there is no disk here: when that is mended, pydrbd attach {name}")
        if volume["cstate"] == "Connected" and volume["peer_disk"] == "Diskless":
            return DiskError(f"{place}: the peer has no disk: when that is mended, pydrbd attach {name} there")
    return None


def _state(data: dict[str, Any]) -> str:
    states = ", ".join(sorted({str(volume["cstate"]) for volume in data["volumes"]}))
    reason = data.get("connection_reason")
    if any(_lacks_good_data(volume) for volume in data["volumes"]):
        reason = "neither copy is UpToDate"
    return f"{states}: {reason}" if reason else states


def _lacks_good_data(volume: dict[str, Any]) -> bool:
    """Connected, and nobody has what could be copied: a new pair, before one copy is chosen."""
    return bool(volume["cstate"] == "Connected" and volume["disk"] == volume["peer_disk"] == "Inconsistent")
