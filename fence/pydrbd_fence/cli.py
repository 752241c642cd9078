"""The command line: sbd's commands, options, texts and exit codes (0 or 1), with more said where sbd is silent."""

from __future__ import annotations

import os
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .disk import SbdDisk
from .errors import SbdError, UsageError
from .extension import NO_ID, State
from .identity import boot_of_this_node, priority_of_this_node
from .layout import MINOR_VERSION, SLOTS, VERSION, Command, Header, check_name, command_name
from .panel import DevicePanel, Panel, good_answers, majority_of
from .power import Power
from .sender import Errand, run_to_end, send
from .settings import CONFIG_FILES, Settings, read_settings
from .timeouts import WATCHDOG_S, Timeouts, derive_timeouts
from .usage import COMMANDS, usage_text
from .watch import watch
from .watchdog import SOFTDOG, Watchdog, list_watchdogs

__all__ = ["run"]

IO_S = 3
"""For one I/O of a command, as long as no device has said otherwise."""

Say = Callable[[str], object]


class Shell:
    """One call of the program; `out` and `err` take text."""

    def __init__(self, settings: Settings, power: Power, out: Say, err: Say, sleep: Callable[[float], None]) -> None:
        self.settings = settings
        self.power = power
        self.err = err
        self.sleep = sleep
        self._out = out

    def say(self, line: str) -> None:
        self._out(line + "\n")

    def panel(self) -> Panel:
        if not self.settings.devices:
            raise UsageError("no device: say -d, or SBD_DEVICE in /etc/default/sbd")
        return DevicePanel(self.settings.devices, self.settings.io_s or IO_S)

    def times(self, panel: Panel) -> Timeouts:
        """The devices' own times, which must be the same on all that answer."""
        answers = panel.each(lambda disk: disk.read_times(self.settings.io_s))
        good = good_answers(panel, answers, majority_of(len(panel.names)), "the header can be read")
        if any(times != good[0] for times in good):
            raise SbdError("the devices were created with different times: create them again, all with the same")
        return good[0]

    def create(self) -> None:
        chosen = self.settings
        times = derive_timeouts(
            WATCHDOG_S if chosen.watchdog_s is None else chosen.watchdog_s,
            chosen.allocate_s,
            chosen.loop_s,
            chosen.msgwait_s,
            chosen.io_s,
        )
        if complaints := times.complaints():
            raise UsageError("; ".join(complaints))
        panel = self.panel()
        for name in panel.names:
            self.say(f"Initializing device {name}")
        answers = panel.each(lambda disk: disk.create(times, secrets.token_bytes(16)))
        for name, answer in zip(panel.names, answers, strict=True):
            if isinstance(answer, Header):
                self.say(f"Creating version {VERSION}.{MINOR_VERSION} header (uuid: {uuid.UUID(bytes=answer.uuid)})")
                self.say(f"Initializing {SLOTS} slots")
                self.say(f"Device {name} is initialized.")
        good_answers(panel, answers, len(panel.names), "created")
        self.say(f"Times: watchdog {times.watchdog_s} s, loop {times.loop_s} s, io {times.io_s} s, "
                 f"msgwait {times.msgwait_s} s")  # fmt: skip
        self._pacemaker(times)

    def _pacemaker(self, times: Timeouts) -> None:
        for key, value in times.pacemaker_values().items():
            self.say(f"For Pacemaker: {key}={value}")

    def dump(self) -> None:
        panel = self.panel()

        def look(disk: SbdDisk) -> tuple[Header, Timeouts]:
            return disk.read_header(), disk.read_times(self.settings.io_s)

        answers = panel.each(look)
        for name, answer in zip(panel.names, answers, strict=True):
            self.say(f"==Dumping header on disk {name}")
            if isinstance(answer, SbdError):
                self.say(f"==Header on disk {name} NOT dumped")
                continue
            header, times = answer
            self.say(f"Header version     : {VERSION}.{header.minor_version}")
            if header.minor_version:
                self.say(f"UUID               : {uuid.UUID(bytes=header.uuid)}")
            self.say(f"Number of slots    : {header.slot_count}")
            self.say(f"Sector size        : {header.sector_bytes}")
            self.say(f"Timeout (watchdog) : {header.watchdog_s}")
            self.say(f"Timeout (allocate) : {header.allocate_s}")
            self.say(f"Timeout (loop)     : {header.loop_s}")
            self.say(f"Timeout (msgwait)  : {header.msgwait_s}")
            if self.settings.verbosity:
                self.say(f"Timeout (io)       : {times.io_s}")
                self._pacemaker(times)
                for complaint in times.complaints():
                    self.say(f"Bad: {complaint}")
            self.say(f"==Header on disk {name} is dumped")
        good_answers(panel, answers, len(panel.names), "dumped")

    def list(self) -> None:
        panel = self.panel()

        def look(disk: SbdDisk) -> list[str]:
            lines = []
            for index, record in disk.slots():
                letter = disk.read_letter(index)
                line = f"{index}\t{record.name}\t{command_name(letter.command)}\t{letter.sender}"
                if self.settings.verbosity and record.state is not State.stock:
                    line += f"\t{record.state.name} boot={record.boot.hex()} priority={record.priority}"
                lines.append(line)
            return lines

        answers = panel.each(look)
        for name, answer in zip(panel.names, answers, strict=True):
            if isinstance(answer, SbdError):
                self.say(f"== disk {name} unreadable!")
            else:
                for line in answer:
                    self.say(line)
        good_answers(panel, answers, len(panel.names), "listed")

    def check(self) -> None:
        """Whether messages could be sent: the times are good, and a majority can be written."""
        panel = self.panel()
        if complaints := self.times(panel).complaints():
            raise SbdError("; ".join(complaints))
        answers = panel.each(lambda disk: disk.check_writable())
        for name, answer in zip(panel.names, answers, strict=True):
            self.say(f"{name}: {answer or 'good'}")
        good_answers(panel, answers, majority_of(len(panel.names)), "could be written")

    def allocate(self, node: str) -> None:
        name = check_name(node)
        panel = self.panel()
        times = self.times(panel)
        for device in panel.names:
            self.say(f"Trying to allocate slot for {name} on device {device}.")
        answers = panel.each(lambda disk: disk.allocate(name, times.allocate_s, self.sleep))
        for device, answer in zip(panel.names, answers, strict=True):
            if not isinstance(answer, SbdError):
                self.say(f"slot {answer} is owned by {name}")
                self.say(f"Slot for {name} has been allocated on {device}.")
        good_answers(panel, answers, len(panel.names), "allocated")

    def message(self, node: str, word: str) -> None:
        settings = self.settings
        if word not in Command.__members__:
            raise UsageError(f"{word!r} is no message: {', '.join(Command.__members__)}")
        target = settings.node if node == "LOCAL" else check_name(node)
        command = Command[word]
        boot = NO_ID if target == settings.node else boot_of_this_node()
        errand = Errand(
            settings.node,
            boot,
            priority_of_this_node(settings.priority_directory),
            target,
            command,
            time.monotonic,
            lambda: secrets.token_bytes(16),
        )
        panel = self.panel()
        proof = run_to_end(send(panel, errand, self.times(panel)), self.sleep)
        self.say(f"{target}: {word}: {proof.value}")

    def ping(self, node: str) -> None:
        self.message(node, "test")

    def query_watchdog(self) -> None:
        found = list_watchdogs()
        self.say(f"\nDiscovered {len(found)} watchdog devices:")
        for number, info in enumerate(found, 1):
            self.say(f"\n[{number}] {info.path}\nIdentity: {info.identity}\nDriver: {info.driver or '<unknown>'}")
            if info.identity == SOFTDOG:
                self.say("CAUTION: Not recommended for use with sbd.")

    def test_watchdog(self) -> None:
        """Arm it and wait for the reset; only a watchdog that does not work lets this return."""
        settings = self.settings
        if not settings.watchdog:
            raise UsageError("no watchdog to test: say -w")
        if not settings.simulate and sys.stdin.isatty():
            self.say(f"This arms {settings.watchdog}: if it works, this machine is reset. Write 'proceed' to go on.")
            if sys.stdin.readline().strip() != "proceed":
                raise UsageError("not tested")
        wait_s = settings.watchdog_s or settings.diskless_watchdog_s
        watchdog = Watchdog(settings.watchdog, wait_s, settings.set_watchdog_time)
        watchdog.arm()
        self.say(f"{settings.watchdog} is armed: it must act within {wait_s} s")
        self.sleep(wait_s + 1)
        watchdog.disarm()
        raise SbdError(f"{settings.watchdog} did not act within {wait_s} s: it is no protection")

    def watch(self) -> int:
        return watch(self.settings, self.power)

    def go(self) -> int:
        """The command; its exit code."""
        settings = self.settings
        words = settings.words
        if settings.help:
            self._out(usage_text())
            return 0
        if not words:
            raise UsageError(f"Not enough arguments.\n{usage_text()}")
        if words[0] not in COMMANDS or len(words) - 1 != COMMANDS[words[0]].count:
            raise UsageError(f"{' '.join(words)!r} is no command (pydrbd-sbd -h lists them)")
        code: int | None = getattr(self, words[0].replace("-", "_"))(*words[1:])
        return code or 0


def run(
    argv: Sequence[str],
    *,
    power: Power,
    environ: Mapping[str, str] = os.environ,
    files: Sequence[Path] = CONFIG_FILES,
    out: Say | None = None,
    err: Say | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """The program with these words; 0 if all was done, else 1, as sbd has it."""
    tell = err or sys.stderr.write
    try:
        settings = read_settings(argv, environ, files)
        code = Shell(settings, power, out or sys.stdout.write, tell, sleep).go()
        sys.stdout.flush()
    except SbdError as error:
        sys.stdout.flush()
        tell(f"pydrbd-sbd: {error}\n")
        return 1
    except BrokenPipeError:
        return 1
    return code
