"""pydrbd-fence-peer and pydrbd-unfence-peer: their exit codes in every state of a cluster, played by scripts (C10).

The commands of Pacemaker that they call are stand-ins which answer from a directory, and remember what was changed.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

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


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


GONE = {"online": False, "expected_up": False}


@pytest.mark.parametrize(
    ("state", "mine", "code", "banned"),
    [
        ({}, "UpToDate", OUTDATED, True),
        ({}, "Consistent", OUTDATED, True),
        ({"role": "Unpromoted"}, "UpToDate", OUTDATED, True),
        ({"role": "Promoted"}, "UpToDate", ACTIVE, False),
        ({"role": "Promoted"}, "Consistent", ACTIVE, False),
        ({**GONE, "shot": "beta"}, "UpToDate", STONITHED, True),
        (GONE, "UpToDate", OUTDATED, True),
        ({**GONE, "shot": "gamma"}, "UpToDate", OUTDATED, True),
        ({**GONE, "shot": "beta"}, "Consistent", NO_VERDICT, False),
        ({"online": False}, "UpToDate", NO_VERDICT, False),
        ({"online": False, "unclean": True}, "UpToDate", NO_VERDICT, False),
        ({"unclean": True}, "UpToDate", NO_VERDICT, False),
        ({"pending": True}, "UpToDate", NO_VERDICT, False),
        ({"quorum": False}, "UpToDate", NO_VERDICT, False),
        ({"dc": False}, "UpToDate", NO_VERDICT, False),
        ({}, "Outdated", NO_VERDICT, False),
        ({}, "Inconsistent", NO_VERDICT, False),
        ({}, "Diskless", NO_VERDICT, False),
    ],
)
def test_the_verdict_is_what_is_known(play: Play, state: dict[str, bool], mine: str, code: int, banned: bool) -> None:
    """And the constraint stands exactly if we may go on."""
    play.node(**state)
    play.disks(mine, "DUnknown")
    assert play.run() == code, play.said
    assert play.is_banned == banned


def test_unreachable_is_never_said_to_be_dead(play: Play) -> None:
    """C10: whatever the cluster shows, 5 is not among the answers, and 7 only with a fencing that has succeeded."""
    choices = itertools.product((True, False), repeat=5)
    for online, unclean, pending, expected_up, shot in choices:
        play.cib()
        play.node(online=online, unclean=unclean, pending=pending, expected_up=expected_up, shot="beta" if shot else "")
        code = play.run()
        assert code != UNREACHABLE
        if code == STONITHED:
            assert shot and not (online or unclean or pending or expected_up)


def test_a_node_that_does_not_answer_is_waited_for_until_it_is_fenced(play: Play) -> None:
    """Online it seems, but it does not answer; then unclean, and then it has been shot: 7, and not a moment before."""
    (play.directory / "answer").unlink()
    play.node("monitor.2", online=False, unclean=True)
    play.node("monitor.3", **GONE, shot="beta")
    assert play.run(patience_s=30) == STONITHED, play.said
    assert len((play.directory / "looks").read_text().split()) == 3


def test_who_comes_second_has_no_verdict(play: Play) -> None:
    """Both lost each other, and the peer's constraint stands: ours is not placed, and the peer's stays."""
    play.cib("beta")
    assert play.run() == NO_VERDICT and "the peer came first" in play.said
    assert not (play.directory / "deleted").exists()


def test_both_at_once_are_told_apart_by_the_cluster(play: Play) -> None:
    """Between the look and the change the peer was quicker: cibadmin says that there is one already."""
    play.put("create.code", "108\n")
    assert play.run() == NO_VERDICT
    play.put("create.code", "105\n")
    assert play.run() == NO_VERDICT and "can't be placed" in play.said


def test_our_own_constraint_is_kept(play: Play) -> None:
    """From an earlier loss: it is not made twice, and a missing verdict does not take it away."""
    play.cib(ME)
    assert play.run() == OUTDATED and not (play.directory / "created").exists()
    play.node(online=False)
    assert play.run() == NO_VERDICT and play.is_banned


def test_a_peer_that_is_back_is_not_fenced(play: Play) -> None:
    """Before, or while the handler looked."""
    play.disks("UpToDate", "UpToDate")
    assert play.run() == NO_VERDICT and not play.is_banned
    play.disks("UpToDate", "DUnknown", "events.next")
    assert play.run() == NO_VERDICT and "has come back" in play.said and not play.is_banned


def test_a_cluster_that_can_not_be_asked_gives_no_verdict(play: Play) -> None:
    """Commands that fail, that are not there, that speak no XML; a resource that is in no clone."""
    for name in ("cibadmin", "crm_mon", "pydrbd"):
        script = (play.bin / name).read_text()
        for broken in ("#!/bin/sh\nexit 102\n", "#!/bin/sh\necho nonsense\n"):
            (play.bin / name).write_text(broken)
            assert play.run() == NO_VERDICT and not play.is_banned
        (play.bin / name).write_text(script)
    play.put("cib", "<cib><configuration><resources/><constraints/></configuration></cib>")
    assert play.run() == NO_VERDICT and "no clone" in play.said


@pytest.mark.parametrize("owner", [ME, "beta"])
def test_unfence_takes_the_constraint_away_when_all_is_well(play: Play, owner: str) -> None:
    """On the source and on the target; as long as something is not UpToDate it stays."""
    play.cib(owner)
    play.disks("UpToDate", "Inconsistent")
    assert play.run("pydrbd-unfence-peer") == 0 and not (play.directory / "deleted").exists()
    play.disks("UpToDate", "UpToDate")
    assert play.run("pydrbd-unfence-peer") == 0 and "rsc_location" not in (play.directory / "cib").read_text()
    assert play.run("pydrbd-unfence-peer") == 0


def test_outside_of_a_handler_it_says_so() -> None:
    done = subprocess.run(
        [HANDLERS / "pydrbd-fence-peer"], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == NO_VERDICT and "not in the environment" in done.stdout


@pytest.mark.interop
def test_the_constraint_is_valid_for_pacemaker(play: Play, need, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is created is accepted by the real cibadmin, on a CIB in a file, by the schema of Pacemaker 2.1."""
    cibadmin = need("cibadmin")
    assert play.run() == OUTDATED
    empty = subprocess.run([cibadmin, "--empty"], capture_output=True, text=True, check=True).stdout
    disk = (
        '<clone id="disk-clone"><meta_attributes id="m"><nvpair id="p" name="promotable" value="true"/>'
        '</meta_attributes><primitive id="disk" class="ocf" provider="pacemaker" type="Stateful"/></clone>'
    )
    play.put("real.xml", empty.replace("<resources/>", f"<resources>{disk}</resources>"))
    environment = {**os.environ, "CIB_file": str(play.directory / "real.xml")}
    created = (play.directory / "created").read_text()
    create = [cibadmin, "--create", "--scope", "constraints", "--xml-text", created]
    done = subprocess.run(create, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(create, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 108, again.stderr
    stub = '<rsc_location id="pydrbd-fence-r0"/>'
    delete = [cibadmin, "--delete", "--scope", "constraints", "--xml-text", stub]
    assert subprocess.run(delete, env=environment, capture_output=True, check=False).returncode == 0
    assert "rsc_location" not in (play.directory / "real.xml").read_text()
