"""What a kernel and pydrbd have said to each other, recorded by tests/interop/record.py: golden data for both sides."""

from __future__ import annotations

import lzma
import subprocess

import pytest

from pydrbd.wire.packet_numbers import Packet
from tests.wire.pcap import SESSIONS, capture_paths
from tests.wire.sessions import capture_name, session_of

PATHS = {capture_name(path): path for path in sorted(SESSIONS.glob("*.pcap.xz"))}
KERNEL, PYDRBD = "10.77.0.11", "10.77.0.2"
STORIES = ("everyday", "digests", "diskless")

each_session = pytest.mark.parametrize("name", PATHS)


def test_all_sessions_are_there():
    """Each story with either node as its first Primary."""
    assert PATHS.keys() == {f"{story}-by-{primary}" for story in STORIES for primary in ("kernel", "pydrbd")}


@each_session
def test_every_packet_encodes_to_the_bytes_of_the_session(name):
    """Both directions of all connections, headers included."""
    session = session_of(PATHS[name])
    encoded: dict[tuple[int, str], bytearray] = {}
    for one in session.packets():
        assert one.value.encode() == one.raw.payload, one.command.name
        encoded.setdefault((one.connection, one.sender), bytearray()).extend(one.encode())
    assert encoded and {(number, end[0]) for number, end in session.streams} == encoded.keys()
    for (number, endpoint), stream in session.streams.items():
        assert stream.reader.is_between_packets, f"{endpoint} ends inside of a packet"
        assert encoded[number, endpoint[0]] == stream.received


def test_both_nodes_have_sent_nearly_every_kind_of_packet():
    """Else the sessions prove little: a story that loses its point is noticed."""
    sent: dict[str, set[Packet]] = {KERNEL: set(), PYDRBD: set()}
    for path in PATHS.values():
        for one in session_of(path).packets():
            sent[one.sender].add(one.command)
    common = {
        Packet.P_DATA, Packet.P_BARRIER, Packet.P_WRITE_ACK, Packet.P_RECV_ACK, Packet.P_BARRIER_ACK, Packet.P_TRIM,
        Packet.P_ZEROES, Packet.P_BITMAP, Packet.P_COMPRESSED_BITMAP, Packet.P_SYNC_UUID, Packet.P_RS_DATA_REQUEST,
        Packet.P_RS_DATA_REPLY, Packet.P_RS_WRITE_ACK, Packet.P_CSUM_RS_REQUEST, Packet.P_OV_REQUEST, Packet.P_OV_REPLY,
        Packet.P_OV_RESULT, Packet.P_DATA_REQUEST, Packet.P_DATA_REPLY, Packet.P_PING, Packet.P_PING_ACK,
        Packet.P_CONN_ST_CHG_REQ, Packet.P_CONN_ST_CHG_REPLY, Packet.P_STATE_CHG_REQ, Packet.P_STATE_CHG_REPLY,
        Packet.P_AUTH_CHALLENGE, Packet.P_AUTH_RESPONSE, Packet.P_UUIDS, Packet.P_SIZES, Packet.P_STATE,
        Packet.P_SYNC_PARAM89, Packet.P_PROTOCOL, Packet.P_CONNECTION_FEATURES,
    }  # fmt: skip
    for node, kinds in sent.items():
        assert common <= kinds, f"{node} has not sent {sorted(kind.name for kind in common - kinds)}"


@pytest.mark.interop
@pytest.mark.parametrize("path", [*PATHS.values(), *capture_paths()], ids=capture_name)
def test_wireshark_reads_every_packet(path, need, tmp_path):
    """Its dissector finds as many packets as we do, and none of them malformed."""
    tshark, raw = need("tshark"), tmp_path / "session.pcap"
    raw.write_bytes(lzma.decompress(path.read_bytes()))
    words = [tshark, "-r", str(raw), "--enable-heuristic", "drbd_tcp", "-T", "fields", "-e", "drbd.command"]
    done = subprocess.run([*words, "-Y", "drbd"], capture_output=True, text=True, check=True)
    found = sorted(int(word, 16) for line in done.stdout.splitlines() for word in line.split(","))
    ours = sorted(int(one.command) for one in session_of(path).packets())
    assert found == ours
    bad = subprocess.run([*words, "-Y", "drbd and _ws.malformed"], capture_output=True, text=True, check=True)
    assert not bad.stdout
