"""What a mailbox means to its owner, pure: obey, remove, or leave alone; and whether a node may start at all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .errors import Refused
from .extension import NO_ID, Letter, Record, State, is_kill
from .layout import Command, command_name

__all__ = ["Reading", "Verdict", "check_start", "delay_s", "read_first", "read_running"]


class Verdict(Enum):
    """What happens to a letter."""

    nothing = "nothing"
    obey = "obey"  # it stays: the next boot reads that it was for this one
    take = "take"  # tell the judge, and empty the box
    drop = "drop"  # empty the box, and say why
    doubt = "doubt"  # damaged: look once more


@dataclass(frozen=True, slots=True)
class Reading:
    verdict: Verdict
    why: str = ""


def read_running(letter: Letter, boot: bytes, doubted: bool) -> Reading:
    """A letter that a running daemon finds. `doubted`: it was already damaged at the last look."""
    if letter.ours and not letter.intact and not doubted:
        return Reading(Verdict.doubt, "its checksum is wrong")
    if letter.claims or (letter == Letter(letter.command, letter.sender) and letter.command == Command.clear):
        return Reading(Verdict.nothing)
    if is_kill(letter):
        # A damaged kill is obeyed: its sender may count on it.
        if letter.ours and letter.intact and letter.target_boot not in (NO_ID, boot):
            return Reading(Verdict.drop, f"{command_name(letter.command)} from {letter.sender} is for an earlier boot")
        return Reading(Verdict.obey)
    if letter.command == Command.clear:
        return Reading(Verdict.drop, "a damaged or outdated letter")
    return Reading(Verdict.take)


def read_first(letter: Letter, boot: bytes, record: Record) -> Reading:
    """What lies in the box when a daemon starts.

    SBD's own pills have no boot: one is obeyed if a daemon of ours has run in this boot before (that one emptied the
    box at its start, so the pill came later), else it is from before the boot, and has done its work.
    """
    if letter.command == Command.clear and not letter.ours:
        return Reading(Verdict.nothing)
    if is_kill(letter):
        known = letter.ours and letter.intact
        aimed = letter.target_boot == boot if known else record.boot == boot and record.state is not State.stock
        if aimed:
            return Reading(Verdict.obey)
    return Reading(Verdict.drop, f"{command_name(letter.command)} from {letter.sender or 'nobody'} was left over")


def check_start(letters: list[tuple[str, Letter]], start_clean: bool) -> None:
    """Start mode `clean`: Refused while a box holds more than `clear` or `exit`."""
    for device, letter in letters:
        if start_clean and letter.command not in (Command.clear, Command.exit):
            raise Refused(
                f"{device}: the own mailbox holds {command_name(letter.command)} from {letter.sender}, and the start"
                f" mode is clean: Manual intervention required: pydrbd-sbd -d {device} message LOCAL clear"
            )


def delay_s(wanted: int | None, msgwait_s: int, watchdog_s: int, disks: bool) -> int:
    """How long a start is delayed: `wanted` seconds, or for `yes` as long as a fencing of this node may take."""
    if wanted is not None:
        return wanted
    return msgwait_s if disks else 2 * watchdog_s
