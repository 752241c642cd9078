"""status, role, cstate, dstate: drbdsetup's text, drbdsetup 9's JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pydrbd.admin.status_json import status_json
from pydrbd.admin.status_kernel import proc_text
from pydrbd.admin.status_text import status_text
from tests.admin.snapshots import a_resync, a_snapshot, a_volume, alone, syncing

GOLDEN = {
    "connected": (
        a_snapshot(),
        """\
r0 role:Primary
  disk:UpToDate
  beta role:Secondary
    replication:Established peer-disk:UpToDate
""",
    ),
    "looking for the peer": (
        alone(),
        """\
r0 role:Primary
  disk:UpToDate
  beta connection:Connecting
""",
    ),
    "alone, peer known to be outdated": (
        alone("StandAlone", peer_disk="Outdated"),
        """\
r0 role:Primary
  disk:UpToDate
  beta connection:StandAlone
    peer-disk:Outdated
""",
    ),
    "source of a resync": (
        syncing("Primary"),
        """\
r0 role:Primary
  disk:UpToDate
  beta role:Secondary
    replication:SyncSource peer-disk:Inconsistent done:25.00
""",
    ),
    "target of a resync that waits": (
        a_snapshot(
            a_volume(
                replication="PausedSyncT", disk="Inconsistent", resync_suspended="peer,user", resync=a_resync(1, 3)
            ),
            role="Secondary",
            peer_role="Primary",
        ),
        """\
r0 role:Secondary
  disk:Inconsistent
  beta role:Primary
    replication:PausedSyncT peer-disk:UpToDate done:33.33 resync-suspended:peer,user
""",
    ),
    "suspended": (
        a_snapshot(suspended=True, suspended_reasons=["user", "no-data"]),
        """\
r0 role:Primary suspended:user,no-data
  disk:UpToDate
  beta role:Secondary
    replication:Established peer-disk:UpToDate
""",
    ),
    "diskless": (
        a_snapshot(a_volume(disk="Diskless", gi=None, device_uuid=None)),
        """\
r0 role:Primary
  disk:Diskless
  beta role:Secondary
    replication:Established peer-disk:UpToDate
""",
    ),
    "two volumes": (
        a_snapshot(a_volume(0), a_volume(1, peer_disk="Inconsistent", replication="SyncSource", resync=a_resync())),
        """\
r0 role:Primary
  volume:0 disk:UpToDate
  volume:1 disk:UpToDate
  beta role:Secondary
    volume:0 replication:Established peer-disk:UpToDate
    volume:1 replication:SyncSource peer-disk:Inconsistent done:25.00
""",
    ),
}
VERBOSE = """\
r0 role:Primary suspended:no
    write-ordering:flush
  volume:0 minor:0 disk:UpToDate open:yes blocked:no
      size:1024 read:2 written:3 al-writes:4 bm-writes:5
      upper-pending:6 lower-pending:7 al-suspended:no blocked:no
  beta connection:Connected role:Secondary
      congested:no ap-in-flight:8 rs-in-flight:9
    volume:0 replication:Established peer-disk:UpToDate resync-suspended:no
        received:10 sent:11 out-of-sync:48 pending:13 unacked:14
  nbd:nbd+unix:///r0?socket=/run/pydrbd/r0.nbd.sock
"""


def counting() -> dict:
    """A snapshot in which every number is another."""
    counters = {"read": 4, "written": 6, "al_writes": 4, "bm_writes": 5, "received": 20, "sent": 22, "resynced": 0}
    pending = {"upper": 6, "lower": 7, "peer": 13, "unacked": 14}
    volume = a_volume(counters=counters, pending=pending, clients=1, out_of_sync_bits=12)
    return a_snapshot(volume, ap_in_flight_sectors=8, rs_in_flight_sectors=9)


@pytest.mark.parametrize("name", GOLDEN)
def test_text_is_drbdsetups(name):
    """Each state of a node gives the lines that drbdsetup prints for it."""
    data, expected = GOLDEN[name]
    assert status_text(data) == expected


def test_verbose_and_statistics_say_everything():
    """Every number of the snapshot has its place, in KiB where drbdsetup has KiB."""
    assert status_text(counting(), verbose=True, statistics=True) == VERBOSE


def keys_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(keys_of(inner) for inner in value.values()))
    return set().union(*(keys_of(inner) for inner in value)) if isinstance(value, list) else set()


def test_json_has_drbdsetups_keys_and_no_others(need):
    """Every key of ours is one that drbdsetup 9 prints."""
    program = Path(need("drbdsetup")).read_bytes()
    keys = keys_of(status_json(syncing()))
    assert len(keys) > 50
    assert [key for key in sorted(keys) if f'"{key}":'.encode() not in program] == []


def test_json_levels_hold_what_documents_say():
    """The levels of the schema: resource, devices, connections, peer_devices; types as a reader expects them."""
    resource = json.loads(json.dumps(status_json(counting())))
    (device,), (connection,) = resource["devices"], resource["connections"]
    (peer_device,) = connection["peer_devices"]
    assert (resource["name"], resource["role"], resource["suspended"]) == ("r0", "Primary", False)
    assert (device["volume"], device["disk-state"], device["size"], device["read"]) == (0, "UpToDate", 1024, 2)
    assert (device["upper-pending"], device["lower-pending"]) == (6, 7)
    assert (connection["name"], connection["connection-state"], connection["peer-role"]) == (
        "beta",
        "Connected",
        "Secondary",
    )
    assert (connection["ap-in-flight"], connection["rs-in-flight"]) == (8, 9)
    assert (peer_device["replication-state"], peer_device["peer-disk-state"]) == ("Established", "UpToDate")
    assert (peer_device["received"], peer_device["sent"], peer_device["out-of-sync"]) == (10, 11, 48)
    assert (peer_device["pending"], peer_device["unacked"], peer_device["has-sync-details"]) == (13, 14, False)
    assert peer_device["percent-in-sync"] == 95.31  # 12 of 256 blocks are not


def test_json_tells_how_far_a_resync_is():
    """What is there only while a resync runs."""
    details = status_json(syncing())["connections"][0]["peer_devices"][0]
    assert details["has-sync-details"] is True
    assert (details["rs-total"], details["rs-db0-sectors"], details["rs-dt-start-ms"]) == (800, 200, 2000)
    assert (details["percent-resync-done"], details["estimated-seconds-to-finish"]) == (25.0, 6)


def test_status_of_a_named_resource(place, process):
    """`status r0` and `status --json r0` show what the process says."""
    assert place("status", "r0").out == GOLDEN["connected"][1]
    assert json.loads(place("status", "--json", "r0").out)[0]["name"] == "r0"


def test_status_without_a_name_shows_what_runs(place, process):
    """Without a name, or with `all`, everything that runs is shown; the configuration is not even read."""
    place.config.write_text("nonsense")
    for names in ([], ["all"]):
        result = place("status", *names)
        assert (result.code, result.out) == (0, GOLDEN["connected"][1])


def test_status_when_nothing_runs(place):
    """Nothing running is no error, unless a resource was named."""
    result = place("status")
    assert (result.code, result.out) == (0, "# No resource is running here.\n")
    assert place("status", "--json").out == "[]\n"
    place("status", "r0").complains(69, "r0 is not running here", str(place.run_dir / "r0.ctl.sock"), "pydrbd up r0")


@pytest.mark.parametrize(
    ("data", "role", "cstate", "dstate"),
    [
        (a_snapshot(), "Primary/Secondary\n", "Connected\n", "UpToDate/UpToDate\n"),
        (alone(), "Primary/Unknown\n", "WFConnection\n", "UpToDate/DUnknown\n"),
        (syncing("Secondary"), "Secondary/Secondary\n", "SyncTarget\n", "Inconsistent/UpToDate\n"),
        (
            a_snapshot(a_volume(0), a_volume(1, cstate="SyncSource", peer_disk="Inconsistent")),
            "Primary/Secondary\nPrimary/Secondary\n",
            "Connected\nSyncSource\n",
            "UpToDate/UpToDate\nUpToDate/Inconsistent\n",
        ),
    ],
)
def test_one_word_for_each_volume(place, process, data, role, cstate, dstate):
    """role, cstate and dstate print what drbdadm 8.4 prints: this node and its peer, a line for each volume."""
    process.answer("status", data=data)
    assert (place("role", "r0").out, place("cstate", "r0").out, place("dstate", "r0").out) == (role, cstate, dstate)
    assert place("state", "r0").out == role


def test_one_volume_of_several(place, process):
    """RES/VNR names one; one that is not there is a wrong command line."""
    process.answer("status", data=a_snapshot(a_volume(0), a_volume(7, cstate="SyncSource")))
    assert place("cstate", "r0/7").out == "SyncSource\n"
    place("cstate", "r0/3").complains(64, "r0 has no volume 3", "0, 7")


def test_a_reader_that_leaves_is_no_error_to_talk_about(place, process):
    """`pydrbd status | true` says nothing: exit 1, no traceback."""
    import sys

    words = [sys.executable, "-m", "pydrbd", "status", "--run-dir", place.run_dir, "-c", place.config]
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    done = subprocess.run(words, stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=30)
    reader.stdin.close()
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_under_the_output_is_said(place, process):
    """What can't be written is not lost in silence."""
    import sys

    words = [sys.executable, "-m", "pydrbd", "status", "--run-dir", place.run_dir]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - it is about the file object
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "pydrbd: can't write the output: No space left on device\n")


def test_as_the_kernel_and_drbdsetup_show_it(process, run, place):
    """The lines that fence handlers and old monitoring cut apart, as seen of DRBD 8.4.11 and drbd-utils 9.22."""
    frozen = alone() | {"suspended": True, "suspended_reasons": ["fencing"]}
    assert proc_text([frozen]).splitlines()[1] == " 0: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C s-----"
    paused = a_volume(3, cstate="PausedSyncT", resync_suspended="user,peer", out_of_sync_bits=5)
    assert proc_text([a_snapshot(paused), alone("StandAlone")]).splitlines() == [
        "version: 8.4.11 (api:1/proto:86-101)",
        " 0: cs:StandAlone ro:Primary/Unknown ds:UpToDate/DUnknown   r-----",
        "    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0",
        " 3: cs:PausedSyncT ro:Primary/Secondary ds:UpToDate/UpToDate C r-pu--",
        "    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:20",
    ]
    process.answer("status", data=a_snapshot())
    assert place("proc").out == place("proc-drbd").out == proc_text([a_snapshot()])
