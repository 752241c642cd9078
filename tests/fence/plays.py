"""Clusters for the handlers pydrbd-fence-peer and pydrbd-unfence-peer, played by scripts.

The commands of Pacemaker that they call are stand-ins which answer from a directory, and remember what was changed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["ACTIVE", "HANDLERS", "ME", "NO_VERDICT", "OUTDATED", "STONITHED", "UNREACHABLE", "Play"]

HANDLERS = Path(__file__).resolve().parents[2] / "fence" / "handlers"
LIMIT_S = 60
ME = os.uname().nodename
NO_VERDICT, OUTDATED, UNREACHABLE, ACTIVE, STONITHED = 1, 4, 5, 6, 7

CIB = """<cib><configuration><resources>
  <clone id="other"><primitive id="o" class="ocf" provider="pydrbd" type="disk"><instance_attributes id="a">
    <nvpair id="x" name="drbd_resource" value="r1"/></instance_attributes></primitive></clone>
  <clone id="disk-clone"><primitive id="d" class="ocf" provider="pydrbd" type="disk"><instance_attributes id="b">
    <nvpair id="y" name="drbd_resource" value="r0"/></instance_attributes></primitive></clone>
</resources><constraints>{constraints}</constraints></configuration></cib>
"""
COMMANDS = {
    "pydrbd": 'for f in "$PLAY"/events.next "$PLAY"/events; do [ -e $f ] && break; done\n'
    'cat $f; [ $f = "$PLAY/events" ] || mv $f $f.used',
    "crm_mon": 'echo looked >> "$PLAY"/looks\n'
    'n=$(wc -l < "$PLAY"/looks); [ -e "$PLAY"/monitor.$n ] && exec cat "$PLAY"/monitor.$n\nexec cat "$PLAY"/monitor',
    "crmadmin": '[ -e "$PLAY"/answer ] && exec cat "$PLAY"/answer\nexit 124',
    "cibadmin": """case $1 in
--query) exec cat "$PLAY"/cib ;;
--create) [ -e "$PLAY"/create.code ] && exit $(cat "$PLAY"/create.code)
  printf '%s' "$5" > "$PLAY"/created; sed -i "s|<constraints>|<constraints>$5|" "$PLAY"/cib ;;
--delete) touch "$PLAY"/deleted; sed -i 's#<rsc_location.*</rsc_location>##' "$PLAY"/cib ;;
esac""",
}


class Play:
    """A cluster as the handlers see it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name, script in COMMANDS.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
            (self.bin / name).chmod(0o755)
        self.disks("UpToDate", "DUnknown")
        self.cib()
        self.node()
        self.put("answer", '<pacemaker-result><crmd node_name="beta" state="S_NOT_DC" result="ok"/></pacemaker-result>')

    def put(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def disks(self, mine: str, theirs: str, name: str = "events") -> None:
        words = f"exists device name:r0 volume:0 minor:0 disk:{mine}\nexists peer-device name:r0 peer-disk:{theirs}\n"
        self.put(name, f"{words}exists -\n")

    def cib(self, owner: str = "") -> None:
        found = (
            f'<rsc_location id="pydrbd-fence-r0" rsc="disk-clone"><rule id="r" role="Promoted" score="-INFINITY">'
            f'<expression id="e" attribute="#uname" operation="ne" value="{owner}"/></rule></rsc_location>'
        )
        self.put("cib", CIB.format(constraints=found if owner else ""))

    def node(self, name: str = "monitor", *, role: str = "", shot: str = "", quorum: bool = True, dc: bool = True,
             **flags: bool) -> None:  # fmt: skip
        """How the cluster sees beta: online and clean unless said otherwise."""
        states = {"online": True, "unclean": False, "pending": False, "expected_up": True} | flags
        words = " ".join(f'{flag}="{str(value).lower()}"' for flag, value in states.items())
        event = f'<fence_event action="reboot" target="{shot}" status="success"/>' if shot else ""
        on = f'<resource id="disk" role="{role}"><node name="beta"/></resource>' if role else ""
        self.put(
            name,
            f'<pacemaker-result><summary><current_dc present="{str(dc).lower()}" with_quorum="{str(quorum).lower()}"/>'
            f'</summary><nodes><node name="{ME}" online="true"/><node name="beta" {words}/></nodes>'
            f'<resources><clone id="disk-clone">{on}</clone></resources><fence_history>{event}</fence_history>'
            "</pacemaker-result>",
        )

    def run(self, handler: str = "pydrbd-fence-peer", patience_s: float = 0.0) -> int:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin", "PLAY": str(self.directory),
            "DRBD_RESOURCE": "r0", "DRBD_PEER": "beta",
            "PYDRBD_RUN_DIR": str(self.directory), "PYDRBD_FENCE_PATIENCE_S": str(patience_s),
        }  # fmt: skip
        done = subprocess.run(
            [HANDLERS / handler], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        self.said = done.stdout + done.stderr
        return done.returncode

    @property
    def is_banned(self) -> bool:
        """Whether the cluster may promote the resource here only."""
        return f'value="{ME}"' in (self.directory / "cib").read_text()
