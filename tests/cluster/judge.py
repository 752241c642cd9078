"""The judge: a client that remembers what was acknowledged to it, and eyes on both nodes' roles.

Both run from before the fault until after the repair. They ask for nothing that the cluster would not do by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.cluster.ledger import PORT
from tests.cluster.machine import Machine
from tests.lab.guest import GuestFailed
from tests.lab.waiting import wait_until

SERVICE_ADDRESS = "10.77.0.100"
ANSWER_TIMEOUT_S = 5.0
PAUSE_S = 0.1
"""Between two writes: the machines have other things to do, too."""

LOOK_S = 0.5
ROLE_TIMEOUT_S = 3.0
PATIENT_ROLE_TIMEOUT_S = 15.0
SERVED_TIMEOUT_S = 400.0
CONTROL = "/run/pydrbd/r0.ctl.sock"
STATUS = json.dumps({"verb": "status", "arguments": {}})
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A word that a node said is durable; the times are time.monotonic()'s."""

    word: str
    node: str
    asked_at: float
    answered_at: float


def enter_network(namespace: str) -> None:
    """The calling thread's sockets are of that network namespace from now on."""
    with Path(f"/run/netns/{namespace}").open() as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the network {namespace} can't be entered")


class Client(threading.Thread):
    """Appends one word after the other; no word twice, whatever happens to it."""

    def __init__(self, namespace: str) -> None:
        super().__init__(daemon=True)
        self._namespace = namespace
        self._end = threading.Event()
        self.acknowledged: list[Acknowledged] = []
        self.lost: set[str] = set()
        """Sent, but never acknowledged: they may be there or not."""
        self.trouble: BaseException | None = None

    def run(self) -> None:
        try:
            enter_network(self._namespace)
            while not self._end.is_set():
                with contextlib.suppress(OSError), connect() as stream:
                    while not self._end.wait(PAUSE_S):
                        self._append(stream)
                self._end.wait(PAUSE_S)
        except BaseException as trouble:
            self.trouble = trouble

    def _append(self, stream: Stream) -> None:
        word, asked_at = secrets.token_hex(8), time.monotonic()
        self.lost.add(word)
        done, _, node = stream.ask(f"append {word}").partition(" ")
        if done != "done":
            raise OSError(f"the service said {done!r}")
        self.lost.discard(word)
        self.acknowledged.append(Acknowledged(word, node, asked_at, time.monotonic()))

    def stop(self) -> None:
        self._end.set()
        self.join()
        if self.trouble is not None:
            raise self.trouble

    def first_after(self, moment: float, node: str | None = None) -> Acknowledged | None:
        """The first that was asked for after that moment, and answered (by that node)."""
        found = (ack for ack in list(self.acknowledged) if ack.asked_at > moment and node in (None, ack.node))
        return next(found, None)

    def longest_pause_s(self, since: float) -> float:
        """The longest time without an answer after that moment."""
        answers = [since, *(ack.answered_at for ack in list(self.acknowledged) if ack.answered_at > since)]
        return max((later - sooner for sooner, later in itertools.pairwise(answers)), default=0.0)


class Stream:
    """A conversation with the service."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")

    def ask(self, line: str) -> str:
        """One line there, one back. Raises OSError."""
        self._sock.sendall(f"{line}\n".encode())
        return self.line()

    def line(self) -> str:
        """The next line. Raises OSError when there is none."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise OSError("the service has gone")
        return line.decode().strip()


@contextlib.contextmanager
def connect() -> contextlib.AbstractContextManager[Stream]:
    with socket.create_connection((SERVICE_ADDRESS, PORT), ANSWER_TIMEOUT_S) as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        yield Stream(sock)


def read_ledger(namespace: str) -> list[str]:
    """All words that the service has, from whichever node runs it."""
    words: list[str] = []
    trouble: list[BaseException] = []

    def read() -> None:
        try:
            enter_network(namespace)
            with connect() as stream:
                line = stream.ask("read")
                while line != "end":
                    words.append(line)
                    line = stream.line()
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return words


def role_of(machine: Machine, timeout_s: float) -> str:
    """What pydrbd says there: `Primary`, `Secondary`; else `Off`, `Down`, or `Silent` when nothing answers."""
    if not machine.runs:
        return "Off"
    try:
        answer = json.loads(machine.ask_socket(CONTROL, STATUS, timeout_s, grace_s=0.0))
        return str(answer["data"]["volumes"][0]["role"])
    except GuestFailed as error:
        if not machine.runs:
            return "Off"
        return "Down" if "refused" in str(error) or "No such file" in str(error) else "Silent"
    except (ValueError, TypeError, KeyError, IndexError):
        return "Down"  # it ended in the middle of its answer


class Eyes(threading.Thread):
    """Looks at the roles again and again. One that does not answer is still what it was last."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        super().__init__(daemon=True)
        self._machines = machines
        self._end = threading.Event()
        self._roles = {machine.name: "Down" for machine in machines}
        self.seen: list[tuple[float, str, str]] = []
        """When, who, which role: the changes."""
        self.two_primaries: list[str] = []
        self.looks = 0

    def run(self) -> None:
        while not self._end.wait(LOOK_S):
            if all(self._look(machine, ROLE_TIMEOUT_S) == "Primary" for machine in self._machines):
                # The first one may have been demoted while the second one was looked at.
                again = self._look(self._machines[0], PATIENT_ROLE_TIMEOUT_S)
                if again == "Primary" and self._roles[self._machines[1].name] == "Primary":
                    self.two_primaries.append(f"{time.monotonic():.1f}: {self.seen[-4:]}")
            self.looks += 1

    def _look(self, machine: Machine, timeout_s: float) -> str:
        role, before = role_of(machine, timeout_s), self._roles[machine.name]
        if role == "Silent":
            role = before
        if role != before:
            self.seen.append((time.monotonic(), machine.name, role))
            self._roles[machine.name] = role
        return role

    def stop(self) -> None:
        self._end.set()
        self.join()


class Judge:
    """Client and eyes for the time of one case."""

    def __init__(self, namespace: str, machines: Sequence[Machine], describe: Callable[[], str]) -> None:
        self.client = Client(namespace)
        self.eyes = Eyes(machines)
        self._namespace = namespace
        self._describe = describe

    def __enter__(self) -> Self:
        self.client.start()
        self.eyes.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.eyes.stop()
        self.client.stop()

    def wait_answers(self, count: int, timeout_s: float = SERVED_TIMEOUT_S) -> None:
        """Wait until so many more words are acknowledged."""
        goal = len(self.client.acknowledged) + count
        what = f"{count} more answers of the service"
        wait_until(lambda: len(self.client.acknowledged) >= goal, what, timeout_s, self._describe)

    def wait_served(self, moment: float, node: str | None = None, timeout_s: float = SERVED_TIMEOUT_S) -> float:
        """Wait for the first answer (of that node) to a question after that moment; the seconds in between."""
        what = f"the service on {node or 'any node'}"
        wait_until(lambda: self.client.first_after(moment, node), what, timeout_s, self._describe)
        first = self.client.first_after(moment, node)
        assert first is not None
        return first.answered_at - moment

    def verdict(self) -> None:
        """Nothing acknowledged is missing or in another order, and there was one Primary at most."""
        assert not self.eyes.two_primaries, f"two Primaries: {self.eyes.two_primaries}"
        assert self.eyes.looks > 5, "the eyes saw nothing"
        words = read_ledger(self._namespace)
        wanted = [ack.word for ack in self.client.acknowledged]
        assert len(wanted) == len(set(wanted)) > 0
        known = set(wanted)
        missing = known - set(words)
        assert not missing, f"{len(missing)} of {len(wanted)} acknowledged words are missing: {sorted(missing)[:5]}"
        assert [word for word in words if word in known] == wanted, "acknowledged words are in another order"
