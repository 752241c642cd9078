"""What two live nodes must refuse: garbage on every socket, a busy port, a peer of the wrong size, a split brain."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess

import pytest

from pydrbd.admin.nbd_handshake import ExportRefused
from pydrbd.units import KIB, MIB
from tests.chaos.conftest import assert_clean_logs

SIZE_BYTES = 32 * MIB
DRBD_MAGICS = (b"\x83\x74\x02\x67", b"\x83\x75", b"\x86\x20\xec\x20")
"""The beginnings of headers of the three kinds."""


def addresses(pair):
    """Where the nodes listen for each other."""
    text = pair.config_path.read_text()
    return [("127.0.0.1", int(line.split(":")[1].strip(" ;"))) for line in text.splitlines() if "address" in line]


def throw(address, rubbish):
    """Connect, send, read a little, go away; the other side may slam the door at any time."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
        sock.settimeout(0.3)
        sock.connect(address)
        sock.sendall(rubbish)
        sock.recv(4096)


def rubbish_for(rng):
    """Random bytes, some of which begin as a real packet does."""
    start = rng.choice((*DRBD_MAGICS, b"", b"IHAVEOPT", b'{"verb":', b"[" * 500))
    return start + rng.randbytes(rng.choice((0, 7, 60, 3000)))


def assert_alive(node):
    """The process is the same and answers."""
    node.check()
    assert node.status()["pid"] == node.pid


def ended(node, pair):
    """Start a node that must not come up: (exit code, its words)."""
    process = pair.spawn(node.command("serve"), node.log_path)
    code = process.wait(30)
    return code, node.log_path.read_text()


def test_garbage_on_every_socket_of_a_pair_disturbs_nobody(synced_pair, seed):
    """Peer port, NBD socket and control socket get rubbish; the pair stays connected, and still writes."""
    pair = synced_pair(size_bytes=SIZE_BYTES)
    rng = random.Random(seed)
    primary = pair.nodes[0]
    with primary.connect_client() as client:
        for _ in range(8):
            node = rng.choice(pair.nodes)
            for path in (node.nbd_socket, node.run_dir / "r0.ctl.sock"):
                throw(str(path), rubbish_for(rng))
            client.write(rng.randrange(1000) * 4096, rng.randbytes(4096))
        for address in addresses(pair):
            throw(address, rubbish_for(rng))
        client.flush()
        size_bytes = client.size_bytes
    for node in pair:
        assert_alive(node)
    assert pair.in_sync()
    assert not pair.compare(size_bytes).difference_count
    assert_clean_logs(pair)


def test_garbage_on_the_port_of_a_node_that_waits_for_its_peer_is_no_peer(make_pair, seed):
    """The node goes on waiting, and meets its real peer afterwards."""
    pair = make_pair(size_bytes=SIZE_BYTES, net="protocol C; connect-int 1;")
    alpha, beta = pair.nodes
    alpha.start()
    rng = random.Random(seed)
    for _ in range(6):
        throw(addresses(pair)[0], rubbish_for(rng))
    assert_alive(alpha)
    assert alpha.volume()["cstate"] == "WFConnection"
    alpha.grant("primary", force=True)
    beta.start()
    pair.wait_until(pair.in_sync, "the real peer")


def test_a_bad_request_on_the_control_socket_gets_an_answer_that_says_so(make_pair):
    """JSON or not, the answer is a line with a code that is no success."""
    node = make_pair(size_bytes=SIZE_BYTES).nodes[0]
    node.start()
    for request in (b"{}", b"[]", b'{"verb": 3}', b"\xff", b'{"verb": "primary", "x"', b"[" * 5000):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(node.run_dir / "r0.ctl.sock"))
            sock.sendall(request + b"\n")
            with sock.makefile() as answers:
                answer = json.loads(answers.readline())
        assert answer["code"] < 1
        assert "not a request" in answer["text"]
    assert_alive(node)


WRONG_ARGUMENTS = [
    ("wait-sync", {"timeout_s": "x"}),
    ("wait-connect", {"timeout_s": [1]}),
    ("wait-sync", {"timeout_s": float("nan")}),
    ("resize", {"size_sectors": "x"}),
    ("resize", {"size_sectors": -1}),
    ("resize", {"volume": 7}),
    ("invalidate", {"volume": "a"}),
    ("detach", {"volume": [1]}),
    ("new-current-uuid", {"volume": "zz"}),
    ("primary", {"Force": True}),
    ("primary", {"force": "no"}),
    ("verify", {"start_sector": None}),
]


def test_wrong_arguments_on_the_control_socket_are_refused_and_do_nothing(make_pair):
    """A verb is right, its arguments are not: words that say which, no success, and the node is as it was."""
    node = make_pair(size_bytes=SIZE_BYTES).nodes[0]
    node.start()
    before = node.volume()
    for verb, arguments in WRONG_ARGUMENTS:
        answer = node.ask(verb, **arguments)
        assert answer.code < 1, (verb, arguments)
        (name,) = arguments
        assert name in answer.text, answer.text
    assert_alive(node)
    assert node.volume() == before


def test_wait_sync_waits_for_a_resync_that_has_not_begun_yet(make_pair):
    """`primary --force` is granted, and the peer has not answered: the copies are not the same, so it waits."""
    pair = make_pair(size_bytes=SIZE_BYTES)
    for node in pair.nodes:
        node.start()
    alpha = pair.nodes[0]
    alpha.grant("wait-connect")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(alpha.run_dir / "r0.ctl.sock"))
        requests = [{"verb": "primary", "arguments": {"force": True}}, {"verb": "wait-sync"}, {"verb": "status"}]
        sock.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        with sock.makefile() as answers:
            found = [json.loads(answers.readline()) for _request in requests]
    assert [answer["code"] for answer in found] == [1, 1, 1]
    (volume,) = found[2]["data"]["volumes"]
    assert (volume["disk"], volume["peer_disk"]) == ("UpToDate", "UpToDate")


def test_a_busy_port_ends_serve_with_a_clear_error(make_pair):
    """Exit code 69, and words that name the address."""
    pair = make_pair(size_bytes=SIZE_BYTES)
    host, port = addresses(pair)[0]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, port))
        other.listen()
        code, said = ended(pair.nodes[0], pair)
    assert code == 69
    assert f"can't listen on {host} port {port}" in said
    assert "Traceback" not in said


def test_a_second_process_of_the_same_resource_is_refused(make_pair):
    """It ends with 69 and says who is there; the first one does not notice."""
    pair = make_pair(size_bytes=SIZE_BYTES)
    node = pair.nodes[0]
    node.start()
    code, said = ended(node, pair)
    assert code == 69
    assert "is running here already" in said
    assert_alive(node)


def test_a_peer_with_a_smaller_disk_than_the_primary_uses_is_refused(synced_pair):
    """Both say which sizes don't fit; the Primary goes StandAlone and goes on with its data; the peer gets nothing."""
    pair = synced_pair(size_bytes=SIZE_BYTES)
    alpha, beta = pair.nodes
    beta.stop()
    with beta.disk_path.open("r+b") as disk:
        disk.truncate(SIZE_BYTES // 2)
    created = pair.spawn(beta.command("create-md", "--force"), beta.log_path)
    assert created.wait(60) == 0, beta.log_end()
    beta.start()
    pair.wait_until(lambda: alone(alpha), "the Primary to be StandAlone")
    assert "the peer's disk is too small: 32688 sectors, this device has 65456" in alpha.log_path.read_text()
    said = "the peer's device has 65456 sectors, and with our disk it could have 32688 only"
    pair.wait_until(lambda: said in beta.log_path.read_text(), "the smaller node to say so, too")
    assert alpha.volume()["size_sectors"] == 65456
    assert beta.volume()["disk"] == "Inconsistent"
    assert beta.volume()["cstate"] in ("StandAlone", "Unconnected", "WFConnection")
    with alpha.connect_client() as client:
        client.write(client.size_bytes - 4096, b"x" * 4096)
        client.flush()
    assert_clean_logs(pair)


def alone(node):
    return node.volume()["cstate"] == "StandAlone"


def data_of(node, size_bytes):
    return node.disk_path.read_bytes()[:size_bytes]


def test_a_split_brain_is_refused_on_both_sides_and_changes_nothing(synced_pair):
    """Each wrote alone: both go StandAlone, keep their data and their identifiers, and stay Primary."""
    pair = synced_pair(size_bytes=SIZE_BYTES)
    alpha, beta = pair.nodes
    alpha.grant("disconnect")
    pair.wait_until(lambda: beta.volume()["cstate"] != "Connected", "beta to be left")
    beta.ask("disconnect")
    beta.grant("primary", force=True)
    for node, letter in ((alpha, b"a"), (beta, b"b")):
        with node.connect_client() as client:
            client.write(64 * KIB, letter * 4096)
            client.flush()
            size_bytes = client.size_bytes
    before = [(data_of(node, size_bytes), node.volume()["gi"].split(":")[:4]) for node in pair]
    for node in pair:
        node.grant("connect")
    pair.wait_until(lambda: alone(alpha) and alone(beta), "both to be StandAlone")
    after = [(data_of(node, size_bytes), node.volume()["gi"].split(":")[:4]) for node in pair]
    assert [data for data, _ in after] == [data for data, _ in before]
    assert [gi for _, gi in after] == [gi for _, gi in before]
    assert [node.volume()["role"] for node in pair] == ["Primary", "Primary"]
    assert all("Split-Brain detected" in node.log_path.read_text() for node in pair)

    alpha.grant("secondary")
    alpha.grant("connect", discard_my_data=True)
    beta.grant("connect")
    pair.wait_until(pair.in_sync, "the repair")
    assert data_of(alpha, size_bytes) == data_of(beta, size_bytes) == before[1][0]


def test_a_secondary_refuses_nbd_clients_in_words(synced_pair, need):
    """The client is told why, and where to go (this nbdinfo's libnbd may keep the words to itself)."""
    pair = synced_pair(size_bytes=SIZE_BYTES)
    beta = pair.nodes[1]
    with pytest.raises(ExportRefused, match=r"Secondary on beta: promote it here \(pydrbd primary r0\)"):
        beta.connect_client()
    uri = f"nbd+unix:///r0?socket={beta.nbd_socket}"
    done = subprocess.run([need("nbdinfo"), uri], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "export" in done.stderr
