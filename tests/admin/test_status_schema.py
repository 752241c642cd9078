"""docs/status.schema.json holds for what we print, and for the shape of what drbdsetup of DRBD 9 prints."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pydrbd.admin.status_json import status_json
from pydrbd.core.states import ConnState, DiskState, Role, connection_text, replication_text
from tests.admin.snapshots import a_resync, a_snapshot, a_volume, alone, syncing

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs/status.schema.json").read_text())
KINDS: dict[str, type | tuple[type, ...]] = {
    "array": list, "object": dict, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip


def mistakes(value: Any, schema: dict[str, Any], place: str = "$") -> list[str]:
    """Where a value breaks a schema, by the words of JSON Schema that ours uses."""
    unknown = set(schema) - {
        "$schema", "title", "description", "type", "enum", "pattern", "minimum", "maximum", "items", "required",
        "properties", "additionalProperties",
    }  # fmt: skip
    assert not unknown, f"this checker does not know {unknown}"
    kind = schema.get("type")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind and (not isinstance(value, KINDS[kind]) or (kind in ("integer", "number") and not is_number)):
        return [f"{place}: {value!r} is no {kind}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value!r} is not in {schema['enum']}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{place}: {value!r}")
    if is_number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{place}: {value}")
    if isinstance(value, list):
        for index, inner in enumerate(value):
            found += mistakes(inner, schema["items"], f"{place}[{index}]")
    if isinstance(value, dict):
        known = schema["properties"]
        found += [f"{place}: no {name}" for name in schema["required"] if name not in value]
        found += [f"{place}: {name}?" for name in value if name not in known]
        for name in value.keys() & known.keys():
            found += mistakes(value[name], known[name], f"{place}.{name}")
    return found


VERIFY = a_resync() | {
    "start_sector": 0, "stop_sector": 2048, "position_sector": 200, "left_bits": 75, "skipped_bits": 0
}  # fmt: skip
SNAPSHOTS = {
    "connected": a_snapshot(), "two volumes": a_snapshot(a_volume(), a_volume(1)), "source": syncing("Primary"),
    "target": syncing("Secondary"), "alone": alone("StandAlone"),
    "verify": a_snapshot(a_volume(cstate="VerifyS", replication="VerifyS", verify=VERIFY)),
    "held": a_snapshot(suspended=True, suspended_reasons=["user", "fencing"]),
    "paused": a_snapshot(a_volume(resync_suspended="user,peer,dependency")),
}  # fmt: skip


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_what_is_printed_fits_the_schema(name):
    """In each kind of state."""
    assert mistakes(json.loads(json.dumps([status_json(SNAPSHOTS[name])])), SCHEMA) == []


def test_every_state_fits():
    """Whatever the connection, the disk and the role are."""
    for conn in ConnState:
        for disk in DiskState:
            volume = a_volume(
                cstate=conn.name, disk=disk.name, peer_disk=disk.name, replication=replication_text(conn),
                connection=connection_text(conn),
            )  # fmt: skip
            for role in Role:
                data = a_snapshot(volume, connection=connection_text(conn), role=role.name, peer_role=role.name)
                assert mistakes([status_json(data)], SCHEMA) == []


def test_the_shape_of_drbdsetup_9_fits():
    """The keys of each level as drbd-utils 9.22 prints them, with another node id, and a peer without a disk."""
    theirs = json.loads("""[{
      "name": "other", "node-id": 2, "role": "Secondary", "suspended": false, "write-ordering": "flush",
      "devices": [{"volume": 0, "minor": 3, "disk-state": "UpToDate", "client": false, "quorum": true, "size": 10200,
        "read": 0, "written": 546, "al-writes": 1, "bm-writes": 0, "upper-pending": 0, "lower-pending": 0}],
      "connections": [
        {"peer-node-id": 1, "name": "one", "connection-state": "Connecting", "congested": false, "peer-role": "Unknown",
         "ap-in-flight": 0, "rs-in-flight": 0, "peer_devices": [{"volume": 0, "replication-state": "Off",
         "peer-disk-state": "DUnknown", "peer-client": false, "resync-suspended": "no", "received": 0, "sent": 0,
         "out-of-sync": 0, "pending": 0, "unacked": 0, "has-sync-details": false, "has-online-verify-details": false,
         "percent-in-sync": 100.00}]},
        {"peer-node-id": 0, "name": "two", "connection-state": "Connected", "congested": false, "peer-role": "Primary",
         "ap-in-flight": 0, "rs-in-flight": 0, "peer_devices": [{"volume": 0, "replication-state": "Established",
         "peer-disk-state": "Diskless", "peer-client": true, "resync-suspended": "no", "received": 546, "sent": 0,
         "out-of-sync": 0, "pending": 0, "unacked": 0, "has-sync-details": false, "has-online-verify-details": false,
         "percent-in-sync": 100.00}]}]}]""")
    assert mistakes(theirs, SCHEMA) == []


def test_the_checker_finds_mistakes():
    """Else it would prove nothing."""
    good = [status_json(a_snapshot())]
    for change, expected in (
        ({"role": "Master"}, "$[0].role: 'Master' is not in"), ({"suspended": 0}, "$[0].suspended: 0 is no boolean"),
        ({"node-id": True}, "is no integer"), ({"node-id": -1}, "$[0].node-id: -1"), ({"more": 1}, "$[0]: more?"),
        ({"devices": [{}]}, "$[0].devices[0]: no volume"),
    ):  # fmt: skip
        assert any(expected in one for one in mistakes([good[0] | change], SCHEMA)), change


# --- drbdsetup 9 itself ---

CONVERSION = re.compile(rb'[\n\0]( {2}| {6}| {10})"([a-z0-9/_ \[\]MiBs-]+)": ("?%[a-z.0-9]+"?|\[)')
TYPES = {'"%s"': "string", "%s": "boolean", "%d": "integer", "%u": "integer", "%lu": "integer", "%ld": "integer",
         "%.2f": "number", "%.0f": "integer", "[": "array"}  # fmt: skip
WITHIN = {"devices": 6, "connections": 6, "peer_devices": 10}


def properties(schema: dict[str, Any], depth: int = 2) -> dict[tuple[int, str], str]:
    """Every key of the schema with its type, by how deep drbdsetup indents it."""
    found = {}
    for key, value in schema["properties"].items():
        found[depth, key] = value.get("type", "string")  # an enumeration of words
        if key in WITHIN:
            found |= properties(value["items"], WITHIN[key])
    return found


@pytest.mark.interop
def test_drbdsetup_9_prints_these_keys_and_no_others(need):
    """The words that the installed program prints JSON with: the schema has each of them, with its type, and no more.

    A kernel of DRBD 9 is not needed for that, and is none to be had here; values of one are those of the test above.
    """
    need("drbdsetup")
    program = shutil.which("drbdsetup")
    assert program is not None
    theirs = {
        (len(indent), key.decode()): TYPES[conversion.decode()]
        for indent, key, conversion in CONVERSION.findall(Path(program).read_bytes())
    }
    assert len(theirs) > 50
    assert properties(SCHEMA["items"]) == theirs
