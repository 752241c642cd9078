"""A lab to play with: `python -m tests.lab` (or `make lab`) starts two guests and keeps them until Ctrl-C.

    python -m tests.lab run NAME COMMAND...    runs a command in a guest of that lab; without one: a simple shell

Of several such labs the newest one is asked, or the one that PYDRBD_LAB names. The lab's process listens on a Unix
socket: one JSON object in, one out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import threading
from pathlib import Path

from tests.lab import names
from tests.lab.kernel_node import KernelNode
from tests.lab.lab import Lab, why_not
from tests.lab.network import LabFailed
from tests.lab.nodes import RESOURCE, resource_text

COMMAND_TIMEOUT_S = 600.0
GUESTS = ("a", "b")

_SOCKET = "run.sock"


def keep() -> int:
    """Start a lab, serve commands, end it."""
    reason = why_not()
    if reason is not None:
        print(f"no lab here: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), Lab() as lab:
        print("starting two guests...", flush=True)
        nodes = [KernelNode(guest) for guest in lab.start_guests(*GUESTS)]
        for node in nodes:
            node.prepare()
            node.configure(resource_text(nodes))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(lab.directory / _SOCKET))
            listener.listen()
            print(_welcome(lab), flush=True)
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=_serve, args=(lab, connection), daemon=True).start()
    print("\nthe lab is gone")
    return 0


def _welcome(lab: Lab) -> str:
    lines = [f"guest {guest.name}: Linux {guest.release}, {guest.address}" for guest in lab.guests.values()]
    lines += [
        f"drbd.ko is loaded, and {RESOURCE} is configured on /dev/ubda of both.",
        "Commands in a guest, from this directory:",
        *(f"  {shlex.quote(sys.executable)} -m tests.lab run {name} {what}"
          for name, what in (("a", "uname -a"), ("a", f"drbdadm --force create-md {RESOURCE}"), ("b", "(a shell)"))),
        f"Both end with this process (Ctrl-C). Their consoles, disks, and shared folders: {lab.directory}",
    ]  # fmt: skip
    return "\n".join(lines).replace("(a shell)", "           # a shell")


def _serve(lab: Lab, connection: socket.socket) -> None:
    with connection, connection.makefile("rw") as stream:
        request = json.loads(stream.readline())
        try:
            done = lab.guests[request["guest"]].run(*request["argv"], timeout_s=COMMAND_TIMEOUT_S, check=False)
            answer = {"code": done.code, "output": done.output}
        except KeyError:
            answer = {"code": 2, "output": f"no guest of that name; there are: {', '.join(lab.guests)}\n"}
        except LabFailed as error:
            answer = {"code": 1, "output": f"{error}\n"}
        stream.write(json.dumps(answer) + "\n")


def run(name: str, argv: list[str]) -> int:
    """Have the running lab run a command; its exit code."""
    which = os.environ.get("PYDRBD_LAB", "pydrbd-lab-*")
    places = [path for path in names.WORKPLACE.glob(f"{which}/{_SOCKET}") if names.in_use(path.parent.name)]
    places.sort(key=lambda path: path.stat().st_mtime)
    if not places:
        print("no lab is running: start one with 'make lab' (or python -m tests.lab)", file=sys.stderr)
        return 1
    if argv:
        return _ask(places[-1], name, argv)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        print("each line is a shell of its own; exit, or Ctrl-D, leaves")
        while (line := input(f"{name}# ")).strip() != "exit":
            _ask(places[-1], name, ["sh", "-c", line])
    return 0


def _ask(place: Path, name: str, argv: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(place))
        with sock.makefile("rw") as stream:
            stream.write(json.dumps({"guest": name, "argv": argv}) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
    print(answer["output"], end="", flush=True)
    if answer["code"] is None:
        print(f"(killed after {COMMAND_TIMEOUT_S:g} s)", file=sys.stderr)
    return 124 if answer["code"] is None else int(answer["code"])


if __name__ == "__main__":
    words = sys.argv[1:]
    if not words:
        sys.exit(keep())
    if words[0] != "run" or len(words) < 2:
        sys.exit("usage: python -m tests.lab [run NAME [COMMAND...]]")
    sys.exit(run(words[1], words[2:]))
