"""events2: drbdsetup's lines, what a later snapshot changes about them, and the stream of real processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pydrbd.admin import events
from pydrbd.admin.colours import coloured
from pydrbd.admin.control_client import ControlClient
from pydrbd.admin.events import Detail, changes, objects
from pydrbd.admin.verbs_events import OldFormat
from pydrbd.limits import EVENTS_WATCHERS_MAX
from tests.admin.snapshots import a_snapshot, a_volume, alone, syncing

PEER = "name:r0 peer-node-id:1 conn-name:beta"


def lines(old, new, detail=Detail.STATE, **options):
    return [str(event) for event in changes(objects(old), objects(new), detail, **options)]


def test_what_is():
    """As seen of DRBD 8.4.11 and drbd-utils 9.22; fence handlers cut these lines apart."""
    assert lines([], [a_snapshot(a_volume(), a_volume(1))], first=True) == [
        "exists resource name:r0 role:Primary suspended:no",
        f"exists connection {PEER} connection:Connected role:Secondary",
        "exists device name:r0 volume:0 minor:0 disk:UpToDate",
        "exists device name:r0 volume:1 minor:1 disk:UpToDate",
        *(
            f"exists peer-device {PEER} volume:{vnr} replication:Established peer-disk:UpToDate resync-suspended:no"
            for vnr in (0, 1)
        ),
    ]


def test_what_changes():
    """Only what has changed, objects that have not are not named; a resource that ends takes its parts along."""
    assert lines([a_snapshot()], [alone()]) == [
        f"change connection {PEER} connection:Connecting role:Unknown",
        f"change peer-device {PEER} volume:0 replication:Off peer-disk:DUnknown",
    ]
    assert lines([alone()], [alone() | {"suspended_reasons": ["fencing"]}]) == [
        "change resource name:r0 suspended:fencing"
    ]
    assert lines([a_snapshot()], [a_snapshot()]) == []
    assert lines([a_snapshot()], []) == [
        f"destroy peer-device {PEER} volume:0",
        "destroy device name:r0 volume:0 minor:0",
        f"destroy connection {PEER}",
        "destroy resource name:r0",
    ]
    assert lines([], [a_snapshot()])[0] == "create resource name:r0 role:Primary suspended:no"


def test_figures_are_told_when_asked_for():
    """They change all the time: with a change of state, or at a poll."""
    before = a_snapshot(a_volume(counters=dict(a_volume()["counters"], written=8)))
    assert lines([a_snapshot()], [before], Detail.STATISTICS) == []
    polled = lines([a_snapshot()], [before], Detail.STATISTICS, figures=True)
    told = lines([], [a_snapshot()], Detail.STATISTICS)
    assert told[0] == "create resource name:r0 role:Primary suspended:no write-ordering:flush"
    assert len(polled) == 1 and " written:4 " in polled[0] and " disk:" not in polled[0]
    assert " done:25.00 " in lines([a_snapshot()], [syncing()], Detail.STATISTICS)[-1]


def test_in_full_is_what_drbd_reactor_reads():
    """Every keyword that its parser knows, with a value of the kind that it takes; a change tells all of an object."""
    places = {"local_address": "ipv4:127.0.0.1:1", "peer_address": "ipv4:127.0.0.1:2", "backing_devices": {"0": "/d"}}
    told = lines([], [a_snapshot() | places], Detail.FULL, first=True)
    words = {line.split()[1]: dict(word.split(":", 1) for word in line.split()[2:]) for line in told}
    assert set(words) == {"resource", "connection", "device", "peer-device", "path"}
    assert set(words["resource"]) >= {"name", "role", "suspended", "write-ordering", "may_promote", "promotion_score"}
    assert set(words["connection"]) >= {"connection", "role", "congested", "ap-in-flight", "rs-in-flight"}
    device = "disk backing_dev client quorum size read written al-writes bm-writes upper-pending lower-pending"
    assert set(words["device"]) >= {*device.split(), "al-suspended", "blocked", "open"}
    peer = "replication peer-disk peer-client resync-suspended received sent out-of-sync pending unacked"
    assert set(words["peer-device"]) >= set(peer.split())
    assert words["path"]["local"] == "ipv4:127.0.0.1:1" and words["path"]["established"] == "yes"
    numbers = ["promotion_score", "ap-in-flight", "size", "read", "al-writes", "upper-pending", "received", "unacked"]
    assert all(given[name].isdigit() for given in words.values() for name in numbers if name in given)
    changed = lines([a_snapshot()], [a_snapshot(a_volume(disk="Inconsistent"))], Detail.FULL)
    assert "may_promote" in changed[0] and " quorum:yes " in changed[1]


def test_diff_tells_what_it_was():
    """OLD->NEW of each state that has changed, as drbdsetup 9.22; of what is new nothing was known. No figures."""
    assert lines([a_snapshot()], [syncing()], diff=True) == [
        f"change peer-device {PEER} volume:0 replication:Established->SyncSource peer-disk:UpToDate->Inconsistent"
    ]
    assert lines([], [a_snapshot()], first=True, diff=True)[:2] == [
        "exists resource name:r0 role:UNKNOWN->Primary suspended:UNKNOWN->no",
        f"exists connection {PEER} connection:UNKNOWN->Connected role:UNKNOWN->Secondary",
    ]
    resource, device = lines([a_snapshot()], [a_snapshot(a_volume(disk="Failed"))], Detail.FULL, diff=True)
    assert " role:Primary suspended:no " in resource and resource.endswith(" promotion_score:10101->101")
    assert " disk:UpToDate->Failed " in device and " size:1024 " in device and " quorum:yes " in device
    assert "write-ordering:flush may_promote:UNKNOWN->no promotion_score:0->10101" in lines(
        [], [a_snapshot()], Detail.FULL, diff=True
    )[0]  # fmt: skip
    (event,) = changes(objects([a_snapshot()]), objects([syncing()]), Detail.STATE, diff=True)
    assert event.as_dict()["old"] == {"replication": "Established", "peer-disk": "UpToDate"}


def test_colours_are_drbdsetups(place, process):
    """Bold for this node, plain for the peer; --color alone is always; without it there are none."""
    bold, plain, stop = "\033[1;", "\033[", "\033[0m"
    process.answer("events", data=syncing())
    text = place("events2", "--now", "--color", "--diff", "r0").out
    assert text == place("events2", "--now", "--color=always", "--diff", "r0").out
    resource, _connection, device, peer, _end = text.splitlines()
    assert f"role:UNKNOWN->{bold}36mPrimary{stop} " in resource
    assert f"disk:UNKNOWN->{bold}32mUpToDate{stop}" in device
    assert f"replication:UNKNOWN->{plain}31mSyncSource{stop}" in peer
    assert f"peer-disk:UNKNOWN->{plain}31mInconsistent{stop}" in peer
    for words in ([], ["--color=never"], ["--color=auto"]):
        assert "\033" not in place("events2", "--now", *words, "r0").out
    process.answer("status", data=alone())
    text = place("status", "--color", "r0").out
    assert text.startswith(f"r0 role:{bold}36mPrimary{stop}\n  disk:{bold}32mUpToDate{stop}\n")
    assert f"  beta connection:{bold}31mConnecting{stop}\n" in text
    process.answer("status", data=syncing("Secondary"))
    text = place("status", "--color=always", "--verbose", "r0").out
    assert f"\n  beta connection:Connected role:{plain}36mPrimary{stop}\n" in text
    assert f"replication:{bold}31mSyncTarget{stop} peer-disk:{plain}32mUpToDate{stop}" in text
    place("status", "--color=red", "r0").complains(64, "--color", "red")


@pytest.mark.parametrize(
    ("key", "value", "of_peer", "code"),
    [
        ("role", "Unknown", False, "1"),
        ("role", "Unknown", True, ""),
        ("connection", "Unconnected", False, "1"),
        ("disk", "Consistent", False, "1"),
        ("disk", "Diskless", False, "1;31"),
        ("replication", "Behind", False, "1"),
        ("replication", "Off", False, ""),
        ("replication", "PausedSyncT", False, "1;31"),
        ("quorum", "no", False, "1;31"),
        ("open", "yes", False, "1;36"),
        ("volume", "0", False, ""),
    ],
)
def test_the_colour_of_a_state(key, value, of_peer, code):
    assert coloured(key, value, of_peer=of_peer) == (f"\033[{code}m{value}\033[0m" if code else value)


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (a_snapshot(), "may_promote:no promotion_score:10101"),
        (a_snapshot(role="Secondary"), "may_promote:yes promotion_score:10101"),
        (a_snapshot(role="Secondary", peer_role="Primary"), "may_promote:no promotion_score:10101"),
        (a_snapshot(a_volume(disk="Diskless"), role="Secondary"), "may_promote:yes promotion_score:101"),
        (a_snapshot(a_volume(disk="Outdated", peer_disk="DUnknown")), "may_promote:no promotion_score:0"),
    ],
)  # fmt: skip
def test_who_may_promote(snapshot, expected):
    """What managers of services go by."""
    assert lines([], [snapshot], Detail.FULL)[0].endswith(expected)


def test_now_says_what_is_and_ends(place, process):
    """With the end marked; as JSON; with the time."""
    process.answer("events", data=a_snapshot())
    text = place("events2", "--now", "r0").out
    assert text.splitlines()[0] == "exists resource name:r0 role:Primary suspended:no"
    assert text.splitlines()[-1] == "exists -" and len(text.splitlines()) == 5
    assert place("events2", "--now").out == text == place("events2", "--now", "all").out
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d"
    assert re.fullmatch(f"({stamp} exists .*\n)*", place("events2", "--now", "--timestamps").out)
    first, *_, last = map(json.loads, place("events2", "--now", "--json").out.splitlines())
    assert first == {"event": "exists", "object": "resource", "name": "r0", "role": "Primary", "suspended": "no"}
    assert last == {"event": "exists", "object": "-"}


def test_nobody_runs(place):
    """Nothing is, and that is said; a name must be right."""
    assert place("events2", "--now").out == "exists -\n"
    place("events2", "--now", "r0").complains(69, "not running")
    place("events2", "--now", "r7").complains(78, "no resource 'r7'")


def test_a_process_that_does_not_know_events(place, process):
    """An older one."""
    process.answer("events", -17, "unknown verb 'events'")
    place("events2", "--now").complains(10, "unknown verb")


def test_the_stream_follows_a_node_through_its_life(node, processes):
    """up, promoted, polled, down: what drbd-reactor starts, and what it is told."""
    words = [sys.executable, "-m", "pydrbd", "events2", "--full", "--poll", "-c", node.config, "--node", "alpha"]
    words += ["--run-dir", node.run_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    stream = processes.start(words, **pipes)

    def until(start: str) -> str:
        for line in stream.stdout:
            if line.startswith(start):
                return line
        raise AssertionError(f"no {start}")

    until("exists -")
    assert node("create-md", "r0").code == 0 and node("up", "r0").code == 0
    assert " may_promote:no " in until("create resource name:r0 role:Secondary")
    until("create path")
    assert node("primary", "--force", "r0").code == 0
    until("change resource name:r0 role:Primary")
    stream.stdin.write("n\n")
    assert node("secondary", "r0").code == 0
    until("change resource name:r0 role:Secondary")
    assert node("down", "r0").code == 0
    until("destroy resource name:r0")
    stream.stdin.write("q\n")
    assert stream.wait(20) == 0
    stream.stdin.close()
    stream.stdout.close()


def test_not_too_many_look_on(node):
    """A bound; the next one is told."""
    assert node("create-md", "r0").code == 0 and node("up", "r0").code == 0
    client = ControlClient("r0", node.run_dir)
    with ExitStack() as looking:
        for _ in range(EVENTS_WATCHERS_MAX):
            sock = looking.enter_context(client.subscribe("events"))
            with sock.makefile() as answers:
                assert json.loads(answers.readline())["code"] == 1
        node("events2", "--now", "r0").complains(10, f"{EVENTS_WATCHERS_MAX} look on already")


def test_events_in_the_words_of_8_4(place, process):
    """A numbered line for each volume: what its states are, why nothing moves."""
    held = a_volume(1, minor=7, resync_suspended="user,peer", cstate="PausedSyncT", disk="Inconsistent")
    process.answer("events", data=a_snapshot(a_volume(), held, suspended=True))
    assert place("events", "--now", "all").out.splitlines() == [
        "0 ST 0,r0[0] { cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate s--- }",
        "1 ST 7,r0[1] { cs:PausedSyncT ro:Primary/Secondary ds:Inconsistent/UpToDate s-pu }",
    ]


def test_the_old_events_tell_each_change_once(capsys):
    """Only of the volumes that it is about; at the end a volume is unconfigured."""
    form = OldFormat()
    before, after = a_snapshot(a_volume(), a_volume(1)), a_snapshot(a_volume(), a_volume(1, disk="Failed"))
    form.tell(None, before, first=True)
    form.tell(before, after)
    form.tell(after, after, figures=True)
    form.tell(after, None)
    told = capsys.readouterr().out.splitlines()
    assert told[2:] == [
        "2 ST 1,r0[1] { cs:Connected ro:Primary/Secondary ds:Failed/UpToDate r--- }",
        "3 ST 0,r0[0] { cs:Unconfigured }",
        "4 ST 1,r0[1] { cs:Unconfigured }",
    ]


SCRIPT = """\
set -e
drbdsetup events2 --now r0 | while read -r event object words; do
    [ "$object" = device ] || [ "$object" = - ] || continue
    for word in $words; do case $word in disk:*) echo "$event disk ${word#disk:}" ;; esac; done
    [ "$object" != - ] || echo done
done
drbdsetup status r0 --json | awk -F '"' '$2 ~ /^(role|disk-state|peer-disk-state|replication-state)$/ {print $2, $4}'
drbdadm role r0
drbdadm status --json | grep -c '"name": "beta"'
"""


def test_a_script_that_was_made_for_drbdsetup_reads_ours(place, process):
    """Line by line with a shell, and the JSON with awk, as people do; by the names that handlers find first."""
    package = Path(events.__file__).parents[1]
    environment = {
        "PATH": f"{package / 'handler_bin'}:/usr/bin:/bin",
        "DRBD_RESOURCE": "r0",
        "DRBD_CONF": str(place.config),
        "PYDRBD_PYTHON": sys.executable,
        "PYDRBD_PACKAGE": str(package.parent),
        "PYDRBD_NODE": "alpha",
        "PYDRBD_RUN_DIR": str(place.run_dir),
    }
    process.answer("events", data=syncing())
    process.answer("status", data=syncing())
    done = subprocess.run(["sh", "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "exists disk UpToDate",
        "done",
        "role Primary",
        "disk-state UpToDate",
        "replication-state SyncSource",
        "peer-disk-state Inconsistent",
        "Primary/Secondary",
        "1",
    ]
