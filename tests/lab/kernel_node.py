"""A node whose DRBD is the kernel's own, in a guest."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import kernel_log, load
from tests.lab.guest import Guest
from tests.lab.nodes import RESOURCE, STRESS, Generations, Node, Refused, States
from tests.lab.waiting import wait_until

_STATES = re.compile(r" 0: cs:(\S+) ro:(\w+)/(\w+) ds:(\w+)/(\w+)")
_OUT_OF_SYNC = re.compile(r" oos:(\d+)")
_MODULES = ("lru_cache", "hmac", "drbd", "sch_tbf")
_ADM_TIMEOUT_S = 60.0
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

    def _adm(self, *words: str) -> str:
        """What drbdadm would do, without its own time limit of five seconds: a busy machine needs more."""
        script = f'commands=$(drbdadm --dry-run {" ".join(words)} {RESOURCE}); eval "$commands"'
        done = self.guest.run("sh", "-ec", script, timeout_s=_ADM_TIMEOUT_S, check=False)
        if done.code != 0:
            raise Refused(f"{self.name}: drbdadm {' '.join(words)}: {done.output.strip()} ({done.code})")
        return done.output

    def create_md(self) -> None:
        # drbdadm does the same, after two seconds of thought
        self.guest.run("drbdmeta", "--force", "0", "v08", self.disk_name, "internal", "create-md")

    def up(self) -> None:
        self._adm("up")

    def down(self) -> None:
        """Refused in the middle of a handshake, as a kernel does: then again."""
        wait_until(self._is_downed, f"{self.name} to go down")

    def _is_downed(self) -> bool:
        try:
            self._adm("down")
        except Refused as refusal:
            if "(-18)" not in str(refusal):
                raise
            return False
        return True

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

    def order(self, verb: str, *words: str) -> None:
        if verb == "attach":
            self._adm(verb)
            return
        done = self.guest.run("drbdsetup", verb, "0", *words, timeout_s=_ADM_TIMEOUT_S, check=False)
        if done.code != 0:
            raise Refused(f"{self.name}: {verb}: {done.output.strip()} ({done.code})")

    @contextlib.contextmanager
    def held_open(self) -> Iterator[None]:
        holder = self.guest.begin("sh", "-c", "exec 3<>/dev/drbd0; echo $$ >/run/holder; exec sleep 60", timeout_s=70)
        wait_until(lambda: self.guest.run("test", "-s", "/run/holder", check=False).code == 0, "the device to be open")
        try:
            yield
        finally:
            self.guest.shell("kill $(cat /run/holder); rm /run/holder")
            holder.wait(check=False)

    def skip_first_sync(self) -> None:
        """Both disks are fresh and connected: declare them equal. The peer, of whatever kind, is told."""
        self.guest.run("drbdsetup", "new-current-uuid", "--clear-bitmap", "0")

    def freeze(self) -> None:
        self.guest.freeze()

    def unfreeze(self) -> None:
        self.guest.unfreeze()

    def out_of_sync_kib(self) -> int:
        found = _OUT_OF_SYNC.search(self.guest.read_file("/proc/drbd"))
        return int(found[1]) if found else 0

    def states(self) -> States:
        found = _STATES.search(self.guest.read_file("/proc/drbd"))
        return States(*found.groups()) if found else States("Unconfigured", *["Unknown"] * 4)

    def details(self) -> str:
        return self.guest.read_file("/proc/drbd")

    def generations(self) -> Generations:
        return Generations.parse(self.guest.run("drbdsetup", "get-gi", "0").output)

    def size_bytes(self) -> int:
        return int(self.guest.read_file("/sys/block/drbd0/size")) * 512

    def load(self, plan: load.Plan) -> None:
        self.guest.play("/dev/drbd0", load.to_text(plan))

    def stress(self, seconds: int = 3) -> None:
        self.guest.run("fio", *STRESS, f"--runtime={seconds}", "--ioengine=libaio", "--filename=/dev/drbd0")

    def log(self) -> str:
        return self._old_log + (self.guest.dmesg() if self.guest.runs else "")

    def forget_log(self) -> None:
        self._old_log = ""
        self.guest.run("dmesg", "--clear")

    def complaints(self, allowed: Sequence[str] = ()) -> list[str]:
        return kernel_log.complaints(self.log(), allowed)
