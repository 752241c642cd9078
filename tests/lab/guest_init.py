#!/usr/bin/python3
"""The first process of a guest: makes the read-only root of the host usable, then runs commands for the host.

Runs inside of the guest with the system's python3 and nothing but its standard library. A request is a file in the
folder that both sides share, `N.request`; its answer is `N.answer`. A serial line carries only "N\\n" each way, once
the file is there: it needs no network (a guest that is cut off can still be asked), but more than its small buffer in
flight would stop it for good.

    {"argv": ["uname", "-n"], "input": "", "timeout_s": 10} -> {"code": 0, "output": "a\\n"}   code null: too slow
    {"write": "/etc/drbd.d/r0.res", "text": "..."}          -> {"code": 0, "output": ""}
    {"play": "/dev/drbd0", "text": "[...]"}                 -> {"code": 0, "output": ""}             see load.py
    {"read": "/proc/drbd"}                                  -> {"code": 0, "output": "version: 8.4..."}
    {"socket": "/run/pydrbd/r0.ctl.sock", "text": "{...}"}  -> {"code": 0, "output": "{...}"}        a line, its answer

Requests run side by side. Output is stdout and stderr together, at most OUTPUT_BYTES_MAX of its end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Sequence
from pathlib import Path

LINE = "/dev/ttyS0"
SHARE = Path("/mnt/share")
OUTPUT_BYTES_MAX = 256 * 1024
TMPFS = (
    "/run",
    "/mnt",
    "/var/log",
    "/var/tmp",
    "/var/lib/drbd",
    "/var/lib/pacemaker",
    "/var/lib/corosync",
    "/etc/corosync",
    "/etc/drbd.d",
    "/root",
)
"""What a node writes to; those that the host does not have are left out."""

ENVIRONMENT = {
    # the last one is where drbdadm finds drbdsetup-84
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/lib/drbd",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "TMPDIR": "/var/tmp",
}


def mount(kind: str, where: str, options: str = "defaults", source: str = "none") -> bool:
    """Whether it could be mounted."""
    return subprocess.run(["/bin/mount", "-n", "-t", kind, "-o", options, source, where], check=False).returncode == 0


def ip(*words: str) -> None:
    """The command of that name; it must succeed."""
    subprocess.run(["ip", *words], check=True, env=ENVIRONMENT)


def prepare(tmpfs: Sequence[str] = TMPFS) -> None:
    """Mounts, host name, network; what the guest is to be comes by the kernel's command line."""
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    if not Path("/dev/null").exists():
        mount("devtmpfs", "/dev")
    for directory in tmpfs:
        if Path(directory).is_dir():
            mount("tmpfs", directory, "mode=755")
    for directory in ("/dev/shm", "/dev/pts", "/run/lock"):
        Path(directory).mkdir(exist_ok=True)
    mount("tmpfs", "/dev/shm", "mode=1777")
    mount("devpts", "/dev/pts")
    socket.sethostname(os.environ["LAB_NAME"])
    ip("link", "set", "lo", "up")
    for index, address in enumerate(os.environ["LAB_ADDRESS"].split(",")):
        ip("addr", "add", address, "dev", f"vec{index}")
        ip("link", "set", f"vec{index}", "up")
    SHARE.mkdir()
    mount("hostfs", str(SHARE), os.environ["LAB_SHARE"])


class Server:
    """Reads requests from the line; each is answered by a thread of its own."""

    def __init__(self) -> None:
        self.line = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.line, termios.TCSANOW)

    def answer(self, number: str, code: int | None, output: str) -> None:
        (SHARE / f"{number}.answer").write_text(json.dumps({"code": code, "output": output}))
        os.write(self.line, number.encode() + b"\n")

    def serve(self) -> None:
        self.answer("0", 0, os.uname().release)
        received = b""
        while True:
            received += os.read(self.line, 4096)
            *numbers, received = received.split(b"\n")
            for number in numbers:
                threading.Thread(target=self.handle, args=(number.decode(),), daemon=True).start()

    def handle(self, number: str) -> None:
        request = json.loads((SHARE / f"{number}.request").read_text())
        code: int | None
        try:
            if "write" in request:
                Path(request["write"]).write_text(request["text"])
                code, output = 0, b""
            elif "play" in request:
                # a module beside this one; as a program of its own it would take longer to start than to run
                code, output = 0, b""
                __import__("load").play(request["play"], request["text"])
            elif "read" in request:
                code, output = 0, Path(request["read"]).read_bytes()
            elif "socket" in request:
                code, output = 0, converse(request["socket"], request["text"])
            else:
                code, output = execute(request["argv"], request["input"], request["timeout_s"])
        except Exception as error:  # whatever it is: the host waits for an answer
            code, output = 127, (str(error) or repr(error)).encode()
        self.answer(number, code, output[-OUTPUT_BYTES_MAX:].decode(errors="replace"))


def converse(path: str, text: str) -> bytes:
    """Say a line to a Unix socket; the line that comes back."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(text.encode() + b"\n")
        with sock.makefile("rb") as stream:
            return stream.readline()


def execute(argv: list[str], text: str, timeout_s: float) -> tuple[int | None, bytes]:
    """The exit code (None: killed after the time limit) and what it printed."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(text.encode(), timeout_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return None, process.communicate(timeout=2)[0]
    except subprocess.TimeoutExpired:
        return None, b""  # it hangs in the kernel: what it printed is lost with it


if __name__ == "__main__":
    try:
        prepare()
        Server().serve()
    except BaseException as error:
        print(f"lab: the guest's init failed: {error!r}", file=sys.stderr, flush=True)
        raise
