"""The words of the command line, as tables: `-h`, the option parser and the manual page are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["COMMANDS", "KEYS", "LONG", "OPTIONS", "SHORT", "Command", "Option", "usage_text"]


@dataclass(frozen=True, slots=True)
class Option:
    """`name` as it is typed; `argument` is "" for a switch. `group`: any, create, watch, or sbd (taken, no effect)."""

    name: str
    argument: str
    words: str
    group: str = "any"


@dataclass(frozen=True, slots=True)
class Command:
    """`arguments` as they are shown; `words` say what it does."""

    arguments: str
    words: str

    @property
    def count(self) -> int:
        """How many words follow the command."""
        return len(self.arguments.split())


OPTIONS: Final = (
    Option("-d", "DEVICE", "A block device, nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH (1 to 3 times)"),
    Option("-n", "NODE", "Local node name (default: uname -n)"),
    Option("-h", "", "This text"),
    Option("-v", "", "Say more (list: the daemons; dump: values for Pacemaker)"),
    Option("-I", "S", "Time for one I/O, in seconds like all times"),
    Option("-1", "S", "Watchdog time; all other times follow it", "create"),
    Option("-2", "S", "Time after which a slot that was taken is looked at again", "create"),
    Option("-3", "S", "Time between two looks at a device", "create"),
    Option("-4", "S", "Msgwait: time after which a pill without an acknowledgement counts as taken", "create"),
    Option("-P", "", "Look at Pacemaker and Corosync; given twice: don't", "watch"),
    Option("-z", "", "Devices and cluster must both be well", "watch"),
    Option("-w", "DEV", "Watchdog device", "watch"),
    Option("-W", "", "Given twice: no watchdog", "watch"),
    Option("-T", "", "Leave the watchdog's time alone", "watch"),
    Option("-S", "0|1", "Start mode: 1 = only with an empty mailbox", "watch"),
    Option("-s", "S", "Wait so long for a device at the start", "watch"),
    Option("-5", "S", "Warn after this time without news", "watch"),
    Option("-t", "S", "Pause before a lost device is tried again", "watch"),
    Option("-r", "ACTION", "Time-out action: flush|noflush, reboot|off|crashdump", "watch"),
    Option("-C", "S", "Watchdog time for a crash dump; 0: the watchdog is switched off for it", "watch"),
    Option("-R", "", "No real-time priority, no locked memory", "watch"),
    Option("-p", "FILE", "Pid file", "watch"),
    Option("--foreground", "", "Don't become a daemon", "watch"),
    Option("--help", "", "This text"),
    Option("--priority-dir", "DIR", "Files with numbers: their sum says how much this node is worth in a split"),
    Option("--simulate", "", "Decide and log everything, stop nothing; pills for this node are refused then", "watch"),
    Option("-c", "", "sbd's; no effect: the daemon always looks at Corosync, too", "sbd"),
    Option("-D", "", "sbd's; no effect: watch becomes a daemon", "sbd"),
    Option("-F", "N", "sbd's; no effect: a lost device is tried for ever", "sbd"),
    Option("-Z", "", "sbd's; no effect: see --simulate", "sbd"),
)
"""Every option. sbd has those of one letter, and they mean the same here."""

COMMANDS: Final[Mapping[str, Command]] = {
    "create": Command("", "make empty SBD devices; prints the values for Pacemaker"),
    "dump": Command("", "show the headers"),
    "list": Command("", "show the slots: number, node, message, its sender"),
    "check": Command("", "whether messages could be sent: good times, a majority of the devices can be written"),
    "allocate": Command("NODE", "take a slot for a node"),
    "message": Command("NODE|LOCAL test|reset|off|crashdump|clear|exit", "send a message, and prove that it was taken"),
    "ping": Command("NODE", "the same as message NODE test"),
    "watch": Command("", "be this node's daemon"),
    "query-watchdog": Command("", "show the watchdogs of this machine"),
    "test-watchdog": Command("", "arm the watchdog and don't feed it: a good one resets this machine"),
}

KEYS: Final[Mapping[str, str]] = {
    "SBD_DEVICE": "One to three devices, with ; between them. Empty: only the cluster is looked at (disk-less).",
    "SBD_PACEMAKER": "yes (default): look at Pacemaker and Corosync.",
    "SBD_STARTMODE": "always (default), or clean: don't start while the mailbox holds more than clear or exit.",
    "SBD_DELAY_START": "no (default), yes (as long as a fencing may take), or seconds. A pill of ours is aimed at one"
    " boot, so that no delay is needed among nodes with pydrbd-sbd.",
    "SBD_WATCHDOG_DEV": "The watchdog; default /dev/watchdog. /dev/null: none.",
    "SBD_WATCHDOG_TIMEOUT": "The watchdog's time without devices, in seconds; default 5. Pacemaker reads it, too.",
    "SBD_TIMEOUT_ACTION": "flush (default) or noflush; reboot (default), off or crashdump.",
    "SBD_SYNC_RESOURCE_STARTUP": "Read by Pacemaker: it waits for the daemon before it starts resources. With"
    " SBD_PACEMAKER=no it must be no.",
    "SBD_OPTS": "Further options for watch.",
    "SBD_PIDFILE": "The pid file; default /run/pydrbd-sbd.pid. It must not be /run/sbd.pid.",
    "SBD_WATCHDOG": "no: no watchdog at all (an old key of sbd).",
    "SBD_MOVE_TO_ROOT_CGROUP": "auto (default) or yes: leave a cpu cgroup that has no real-time budget; no.",
}
"""What /etc/default/sbd (or /etc/sysconfig/sbd) and the environment may hold."""

SHORT: Final = "".join(
    option.name[1] + ":" * bool(option.argument) for option in OPTIONS if not option.name.startswith("--")
)
LONG: Final = [
    option.name[2:] + "=" * bool(option.argument) for option in OPTIONS if option.name.startswith("--")
]
_TITLES: Final = {"any": "Options:", "create": "For create:", "watch": "For watch:", "sbd": "Taken for sbd's sake:"}


def usage_text() -> str:
    """`pydrbd-sbd -h`."""
    lines = [
        "Storage-based fencing: slots and mailboxes on shared devices, as SBD 2.1 has them.",
        "Syntax:\n\tpydrbd-sbd <options> <command> <cmdarguments>",
    ]
    for group, title in _TITLES.items():
        lines.append(title)
        for option in OPTIONS:
            if option.group == group:
                lines.append(f"{option.name + ' ' + option.argument:<21}{option.words}")
    lines.append("Commands:")
    for name, command in COMMANDS.items():
        shown = f"{name} {command.arguments}".rstrip()
        lines.append(f"{shown:<21}{command.words}" if len(shown) < 21 else f"{shown}\n{'':21}{command.words}")
    return "\n".join(lines) + "\n"
