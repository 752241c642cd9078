"""The commands of the command line: what each is for, what it names, and its own options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydrbd.admin import command_options as own

__all__ = ["COMMANDS", "COMMON_OPTIONS", "DRBDADM_OPTIONS", "GROUPS", "NAMES", "Command"]


@dataclass(frozen=True, slots=True)
class Command:
    """One verb: what it is for, what it names, and its own options."""

    summary: str
    names: str
    """`one` resource, `some` (or all) of them, `volumes` (RES or RES/VNR), `any` (none means all), `none`,
    `device` (RES or RES/VNR, and perhaps a device), `handler` (as volumes; none means those of the handler)."""
    add_options: own.Adder = lambda _parser: None
    group: str = "state"
    reads: bool = False
    """It only looks, whatever its group."""

    @property
    def of_volumes(self) -> bool:
        """Whether RES/VNR names one volume of a resource."""
        return self.names in ("volumes", "handler")

    @property
    def changes(self) -> bool:
        """Whether it changes something: --dry-run then only says so."""
        return not self.reads and self.group in ("process", "state", "meta-data", "run-time")


COMMANDS: Final[Mapping[str, Command]] = {
    "up": Command("start a resource's process in the background", "some", group="process"),
    "adjust": Command("make it what the configuration says, also while it runs", "some", own.adjust, "process"),
    "adjust-with-progress": Command("the same: adjust says what it does", "some", own.adjust, "process"),
    "down": Command("stop it", "some", own.force("although clients have it open"), "process"),
    "serve": Command("be that process, in the foreground", "one", own.serve, "process"),
    "witness": Command("decide, on a third machine, who of two nodes goes on alone", "none", own.witness, "process"),
    "demo": Command("two nodes on this machine, and what can happen to them", "none", group="process"),
    "new-resource": Command("start its process with nothing attached nor connected", "some", group="process"),
    "new-minor": Command("the volumes of such a process: is it there?", "volumes", group="process"),
    "sh-new-minor": Command("the same", "volumes", group="process"),
    "del-minor": Command("may this volume go: is it Secondary, and detached?", "volumes", group="process"),
    "del-resource": Command("end a process with nothing attached nor connected", "some", group="process"),
    "primary": Command("make it writable here", "some", own.primary),
    "secondary": Command("give that up", "some", own.force("although clients have it open")),
    "connect": Command("look for the peer", "some", own.connect),
    "disconnect": Command("leave the peer", "some", own.force("without asking the peer")),
    "attach": Command("take up the local disk", "some"),
    "detach": Command("give up the local disk", "some", own.force("without asking the peer")),
    "invalidate": Command("forget the local data: sync all of it from the peer", "some"),
    "invalidate-remote": Command("forget the peer's data: sync all of it to the peer", "some"),
    "outdate": Command("mark the local data as out of date", "some"),
    "suspend-io": Command("hold back what clients ask for", "some"),
    "resume-io": Command("let them go on, also if the peer could not be fenced", "some"),
    "pause-sync": Command("hold its resync, this one and those to come", "some"),
    "verify": Command("compare both copies while they are in use", "some", own.verify),
    "check": Command("tell which blocks differ from the peer's, in words or as a picture", "some", own.check),
    "resume-sync": Command("go on with it", "some"),
    "new-current-uuid": Command("begin a new generation of the data by hand", "volumes", own.new_current_uuid),
    "resize": Command("grow it to what its disks have grown to", "volumes", own.resize),
    "net-options": Command(
        "other options of the connection, until the next adjust", "some", own.section_options("net"), "run-time"
    ),
    "disk-options": Command(
        "other options of the disk, until the next adjust", "volumes", own.section_options("disk"), "run-time"
    ),
    "resource-options": Command(
        "other options of the resource, until the next adjust", "some", own.section_options("options"), "run-time"
    ),
    "snapshot-resync-target": Command(
        "a snapshot of the disk, as handler before-resync-target", "handler", own.snapshot, "state"
    ),
    "unsnapshot-resync-target": Command("remove it, as after-resync-target", "handler", own.unsnapshot, "state"),
    "nbd-attach": Command("make its export /dev/nbdN, and keep it so", "device", own.nbd_attach, "nbd"),
    "nbd-detach": Command(
        "write what is buffered, detach it", "device", own.force("although it is in use, or can't be written"), "nbd"
    ),
    "status": Command("what is running, and how it is", "any", own.status, "show"),
    "doctor": Command("what is wrong, in plain words, and which command mends it", "some", group="show"),
    "events2": Command(
        "what is, and each change from then on, as drbdsetup events2 tells it", "any", own.events2, "show"
    ),
    "events": Command("the same in the words of DRBD 8.4's drbdsetup events", "any", own.events, "show"),
    "top": Command("all that runs here at a glance, refreshed; q ends it", "none", own.top, "show"),
    "metrics": Command("an exporter for Prometheus, of all that runs here", "none", own.metrics, "show"),
    "proc": Command("the same in the words of /proc/drbd", "any", group="show"),
    "proc-drbd": Command("the long name of proc", "any", group="show"),
    "role": Command("Primary/Secondary", "volumes", group="show"),
    "state": Command("the old name of role", "volumes", group="show"),
    "cstate": Command("the connection, as in Connected", "volumes", group="show"),
    "dstate": Command("the disks, as in UpToDate/UpToDate", "volumes", group="show"),
    "wait-connect": Command("wait for the peer", "some", own.timeout, "show"),
    "wait-con-int": Command("the same, of all resources, as at the start of a machine", "any", own.timeout, "show"),
    "wait-sync": Command("wait until both copies are the same", "some", own.wait_sync, "show"),
    "show": Command("what a running resource was configured with", "some", own.show, "show"),
    "dump-xml": Command("the same as dump, as drbdadm's XML", "any", group="show"),
    "dump": Command("the configuration as it is understood", "any", own.to_test, "show"),
    "create-md": Command("write fresh meta-data to a disk", "volumes", own.create_md, "meta-data"),
    "dump-md": Command(
        "print the meta-data as text", "volumes", own.force("although its log is unapplied"), "meta-data", reads=True
    ),
    "check-resize": Command("note the size of its disks, before they grow", "volumes", group="meta-data"),
    "wipe-md": Command("remove the meta-data from a disk", "volumes", own.force("yes, do it (needed)"), "meta-data"),
    "apply-al": Command("apply the activity log after a crash (attach does it too)", "volumes", group="meta-data"),
    "get-gi": Command("the generation identifiers", "volumes", group="meta-data", reads=True),
    "show-gi": Command("the same, explained", "volumes", group="meta-data", reads=True),
    "set-gi": Command("write other generation identifiers", "volumes", own.set_gi, "meta-data"),
    "sh-nop": Command("nothing: is the configuration good?", "any", own.to_test, "scripts"),
    "sh-status": Command("how it is, as variables of a shell", "any", group="scripts"),
    "sh-resources": Command("the names of all resources of this node", "any", group="scripts"),
    "sh-resource": Command("the name", "some", group="scripts"),
    "sh-mod-parms": Command("parameters for the kernel's module", "any", group="scripts"),
    "sh-dev": Command("the name of the device node, were it the kernel's", "volumes", group="scripts"),
    "sh-udev": Command("what udev's rules ask for", "volumes", group="scripts"),
    "sh-minor": Command("the minor number", "volumes", group="scripts"),
    "sh-ll-dev": Command("the disk", "volumes", group="scripts"),
    "sh-md-dev": Command("where its meta-data is", "volumes", group="scripts"),
    "sh-md-idx": Command("the index of its meta-data", "volumes", group="scripts"),
    "sh-ip": Command("this node's address", "some", group="scripts"),
    "sh-lr-of": Command("the resource below a stacked one", "some", group="scripts"),
    "sh-b-pri": Command("promote it if become-primary-on says so", "some", group="scripts"),
}
"""Every verb, in the order of the help."""

GROUPS: Final = (
    ("process", "The process of a resource"),
    ("state", "Changes of state"),
    ("nbd", "As a block device of this machine"),
    ("show", "Looking and waiting"),
    ("meta-data", "Meta-data on disk"),
    ("run-time", "Options of what is running"),
    ("scripts", "For scripts (minor-N names a volume, too)"),
)
NAMES: Final = {
    "none": "",
    "one": "RES",
    "some": "{all|RES...}",
    "volumes": "{all|RES[/VNR]...}",
    "any": "[all|RES...]",
    "handler": "[RES[/VNR]...]",
    "device": "RES[/VNR] [/dev/nbdN]",
}
"""What a command names, as it is shown."""

COMMON_OPTIONS: Final = (
    (
        ("-c", "--config-file"),
        "FILE",
        "config_path",
        "the configuration (default: /etc/pydrbd.conf, else /etc/drbd.conf)",
    ),
    (("--node",), "NAME", "node", "which 'on' section of it this node is (default: the host's name)"),
    (
        ("--run-dir",),
        "DIR",
        "run_dir",
        "where sockets, logs and pid files are (default: /run/pydrbd for root, $XDG_RUNTIME_DIR/pydrbd otherwise)",
    ),
    (("-d", "--dry-run"), "", "dry_run", "say what would be done, and don't do it"),
    (("-v", "--verbose"), "", "verbose", "say each step before it is done"),
    (
        ("-W", "--setup-option"),
        "OPTION",
        "setup_options",
        "an option of the command, as drbdadm hands one on: -W--force is --force (as is '-- --force' before a command)",
    ),
)
"""What every command takes, before or after it: names, metavar ("": it takes no value), attribute, help."""

DRBDADM_OPTIONS: Final = (
    (("-S", "--stacked"), "", "stacked", "refused: resources are not stacked"),
    (("-P", "--peer"), "NAME", "peer", "which of several hosts is the peer (said to up, it holds until down)"),
    (("-n", "--sh-varname"), "NAME", "unused", "not used, as by drbdadm"),
    (("-s", "--drbdsetup"), "FILE", "unused", "not used: there is no other program"),
    (("-m", "--drbdmeta"), "FILE", "unused", "not used: there is no other program"),
    (("-p", "--drbd-proxy-ctl"), "FILE", "unused", "not used: there is no other program"),
)
"""What every command takes besides, for scripts that were written for drbdadm."""
