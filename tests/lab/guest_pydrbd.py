"""A node that is pydrbd in a guest: a machine of its own, that can lose power, whose disk can hang."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydrbd.admin.control_client import Answer
from pydrbd.errors import NotRunningError
from tests.lab import load
from tests.lab.guest import Guest, GuestFailed, Running
from tests.lab.nodes import RESOURCE, STRESS, Refused
from tests.lab.pydrbd_node import PydrbdVerbs
from tests.lab.waiting import wait_until

RUN_DIR = "/run/node"
"""Not the usual place: what is kept for a reboot would go to a folder that the host does not have."""

CONFIG = f"/run/{RESOURCE}.res"

_REPOSITORY = Path(__file__).resolve().parents[2]
_HOLDER = "/run/holder"
_VERB_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 40.0
_LOAD_TIMEOUT_S = 120.0


class GuestPydrbdNode(PydrbdVerbs):
    """The guest has the host's files: this repository, and the Python that runs us."""

    def __init__(self, guest: Guest, disk_name: str = "/dev/ubda", disk_index: int = 0) -> None:
        """`disk_index`: which of the guest's disks is below `disk_name`."""
        self.guest = guest
        self.name = guest.name
        self.address = guest.address
        self.disk_path: Path = guest.disks[disk_index]
        self.disk_name = disk_name
        self._config = ""
        self._old_log = ""
        self._is_meant_to_run = False

    def _python(self, *words: str) -> list[str]:
        return ["env", f"PYTHONPATH={_REPOSITORY}", sys.executable, "-P", "-m", *words]

    def command(self, verb: str, *words: str) -> str:
        """A pydrbd command line, as a user of the guest types it; its output. Raises Refused."""
        where = ("-c", CONFIG, "--node", self.name, "--run-dir", RUN_DIR)
        argv = self._python("pydrbd", verb, *words, RESOURCE, *where)
        done = self.guest.run(*argv, timeout_s=_VERB_TIMEOUT_S, check=False)
        if done.code != 0:
            raise Refused(f"{self.name}: pydrbd {verb}: {done.output.strip()} ({done.code})")
        return done.output

    def boot(self) -> None:
        self.guest.start()
        self.prepare()

    def prepare(self) -> None:
        """What a guest that has just been started needs."""
        if self._config:
            self.configure(self._config)

    def configure(self, text: str) -> None:
        self._config = text
        self.guest.write_file(CONFIG, text)

    def create_md(self) -> None:
        self.command("create-md", "--force")

    def up(self) -> None:
        self.command("up")
        self._is_meant_to_run = True

    def down(self) -> None:
        self._is_meant_to_run = False
        self.command("down")

    def crash(self) -> None:
        self._is_meant_to_run = False
        self._old_log = self.log()
        self.guest.power_off()

    def _ask(self, verb: str, arguments: dict[str, Any]) -> Answer:
        request = json.dumps({"verb": verb, "arguments": arguments})
        try:
            line = self.guest.ask_socket(f"{RUN_DIR}/{RESOURCE}.ctl.sock", request, _ANSWER_TIMEOUT_S)
        except GuestFailed as error:
            raise NotRunningError(str(error)) from error
        return Answer(**json.loads(line))

    def _must_not_have_ended(self) -> None:
        if self._is_meant_to_run:
            raise GuestFailed(f"{self.name} ended by itself:\n{self.log()[-3000:]}")

    @contextlib.contextmanager
    def held_open(self) -> Iterator[None]:
        words = ("tests.lab.nbd_load", f"{RUN_DIR}/{RESOURCE}.nbd.sock", RESOURCE, _HOLDER)
        holder = self.guest.begin(*self._python(*words), timeout_s=_LOAD_TIMEOUT_S)
        wait_until(lambda: self.guest.run("test", "-s", _HOLDER, check=False).code == 0, "the export to be open")
        try:
            yield
        finally:
            self.guest.shell(f"kill $(cat {_HOLDER}); rm {_HOLDER}")
            holder.wait(check=False)

    def freeze(self) -> None:
        self.guest.freeze()

    def unfreeze(self) -> None:
        self.guest.unfreeze()

    def load(self, plan: load.Plan) -> None:
        words = ("tests.lab.nbd_load", f"{RUN_DIR}/{RESOURCE}.nbd.sock", RESOURCE)
        self.guest.run(*self._python(*words), text=load.to_text(plan), timeout_s=_LOAD_TIMEOUT_S)

    def begin_answered(self, plan: load.Plan, answers: str) -> Running:
        """Begin a plan of answered_load.py; `answers` is its file in the guest. It may end with the guest."""
        words = ("tests.lab.answered_load", f"{RUN_DIR}/{RESOURCE}.nbd.sock", RESOURCE, answers)
        return self.guest.begin(*self._python(*words), text=load.to_text(plan), timeout_s=_LOAD_TIMEOUT_S)

    def stress(self, seconds: int = 3) -> None:
        uri = f"nbd+unix:///{RESOURCE}?socket={RUN_DIR}/{RESOURCE}.nbd.sock"
        self.guest.run("fio", *STRESS, f"--runtime={seconds}", "--ioengine=nbd", f"--uri={uri}")

    def log(self) -> str:
        if not self.guest.runs:
            return self._old_log
        with contextlib.suppress(GuestFailed):
            return self._old_log + self.guest.read_file(f"{RUN_DIR}/{RESOURCE}.log")
        return self._old_log

    def forget_log(self) -> None:
        self._old_log = ""
        if self.guest.runs:
            self.guest.run("truncate", "--no-create", "--size=0", f"{RUN_DIR}/{RESOURCE}.log")
