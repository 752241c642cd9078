"""A node whose DRBD is the kernel's own, in a guest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.lab import kernel_log, load
from tests.lab.guest import PYTHON, Guest
from tests.lab.nodes import RESOURCE, STRESS, Generations, Node, Refused, States

_STATES = re.compile(r" 0: cs:(\S+) ro:(\w+)/(\w+) ds:(\w+)/(\w+)")
_MODULES = ("lru_cache", "hmac", "drbd")
_COMMON = "global { usage-count no; }\n"


class KernelNode(Node):
    """drbd.ko and drbdadm in a guest whose first disk is the node's."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.name = guest.name
        self.address = guest.address
        self.disk_path: Path = guest.disks[0]
        self.disk_name = "/dev/ubda"
        self._config = ""
        self._old_log = ""

    def boot(self) -> None:
        self.guest.start()
        self.prepare()

    def prepare(self) -> None:
        """What a guest that has just been started needs."""
        self.guest.load(*_MODULES)
        if self._config:
            self.configure(self._config)

    def configure(self, text: str) -> None:
        self._config = text
        self.guest.write_file("/etc/drbd.d/global_common.conf", _COMMON)
        self.guest.write_file(f"/etc/drbd.d/{RESOURCE}.res", text)

    def _adm(self, *words: str, text: str = "", timeout_s: float = 40.0) -> str:
        done = self.guest.run("drbdadm", *words, RESOURCE, text=text, timeout_s=timeout_s, check=False)
        if done.code != 0:
            raise Refused(f"{self.name}: drbdadm {' '.join(words)}: {done.output.strip()} ({done.code})")
        return done.output

    def create_md(self) -> None:
        # drbdadm does the same, after two seconds of thought
        self.guest.run("drbdmeta", "--force", "0", "v08", self.disk_name, "internal", "create-md")

    def up(self) -> None:
        self._adm("up")

    def down(self) -> None:
        self._adm("down")

    def crash(self) -> None:
        self._old_log += self.guest.dmesg()
        self.guest.power_off()

    def primary(self, *, force: bool = False) -> None:
        self._adm("primary", *(["--force"] if force else []))

    def secondary(self) -> None:
        self._adm("secondary")

    def connect(self, *, discard_my_data: bool = False) -> None:
        self._adm("connect", *(["--discard-my-data"] if discard_my_data else []))

    def disconnect(self) -> None:
        self._adm("disconnect")

    def states(self) -> States:
        found = _STATES.search(self.guest.read_file("/proc/drbd"))
        return States(*found.groups()) if found else States("Unconfigured", *["Unknown"] * 4)

    def generations(self) -> Generations:
        return Generations.parse(self._adm("get-gi"))

    def size_bytes(self) -> int:
        return int(self.guest.read_file("/sys/block/drbd0/size")) * 512

    def load(self, plan: load.Plan) -> None:
        self.guest.run(PYTHON, load.__file__, "/dev/drbd0", text=load.to_text(plan), timeout_s=60)

    def stress(self, seconds: int = 3) -> None:
        self.guest.run("fio", *STRESS, f"--runtime={seconds}", "--ioengine=libaio", "--filename=/dev/drbd0")

    def log(self) -> str:
        return self._old_log + (self.guest.dmesg() if self.guest.runs else "")

    def forget_log(self) -> None:
        self._old_log = ""
        self.guest.run("dmesg", "--clear")

    def complaints(self, allowed: Sequence[str] = ()) -> list[str]:
        return kernel_log.complaints(self.log(), allowed)
