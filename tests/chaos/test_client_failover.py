"""What docs/clients.md says of clients when the Primary moves, with the clients themselves."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from pydrbd.admin.nbd_client import RequestFailed
from pydrbd.units import KIB, MIB
from pydrbd.wire.nbd import Command, NbdError
from tests.chaos.conftest import assert_clean_logs

pytestmark = pytest.mark.interop

SIZE_BYTES = 16 * MIB
NET = "protocol C; ping-int 1; connect-int 1;"


@pytest.fixture
def moving(synced_pair, short_tmp):
    """A pair, and a Unix socket's path that leads to the Primary as a moving address does; `move()` takes it along."""
    pair = synced_pair(size_bytes=SIZE_BYTES, net=NET)
    place = short_tmp / "address"
    place.symlink_to(pair.nodes[0].nbd_socket)

    def move():
        place.unlink()
        place.symlink_to(pair.nodes[1].nbd_socket)

    return pair, place, move


def fail_over(pair):
    """The Primary dies; the other node sees it, and takes over."""
    old, new = pair
    old.kill()
    pair.wait_until(lambda: new.volume()["cstate"] != "Connected", "the loss to be seen")
    new.grant("primary")


def test_qemu_goes_on_after_a_fail_over_when_it_may_reconnect(moving, need, processes):
    """With reconnect-delay a guest's write waits for the new Primary; what was answered before is there."""
    pair, place, move = moving
    image = f"driver=nbd,server.type=unix,server.path={place},export=r0,reconnect-delay=60"
    qemu = processes.start(
        [need("qemu-io"), "--image-opts", image],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=processes.env,
    )

    def told(*commands):
        qemu.stdin.write("".join(f"{command}\n" for command in commands))
        qemu.stdin.flush()

    with pair.nodes[0].connect_client() as witness:
        for pattern, offset in ((0x11, 0), (0x22, MIB)):  # one by one: of several lines it would see the first
            told(f"write -f -P {pattern} {offset} 64k")
            written = bytes([pattern]) * 512
            pair.wait_until(lambda: witness.read(offset, 512) == written, "the write to be done")  # noqa: B023
    fail_over(pair)
    told("write -P 0x33 2M 64k")  # it finds its connection dead, and waits
    move()
    told("flush", "read -P 0x11 0 64k", "read -P 0x22 1M 64k", "read -P 0x33 2M 64k", "quit")
    said, _ = qemu.communicate(timeout=90)
    assert qemu.returncode == 0, said
    assert "wrote 65536/65536 bytes at offset 2097152" in said
    assert "read 65536/65536 bytes at offset 2097152" in said
    assert "failed" not in said
    pair.nodes[0].start()
    pair.wait_until(pair.in_sync, "both to be in sync")
    compared = pair.compare(SIZE_BYTES - MIB)
    assert compared.block_count and not compared.difference_count, compared
    assert_clean_logs(pair)


def test_a_tool_of_libnbd_ends_with_an_error_when_its_server_goes(moving, need, processes):
    """It does not connect again: run it again, from the start."""
    pair, place, _move = moving
    copy = processes.start(
        [need("nbdcopy"), "--connections=1", "-", f"nbd+unix:///r0?socket={place}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=processes.env,
    )
    copy.stdin.write(os.urandom(MIB))
    copy.stdin.flush()
    pair.wait_until(lambda: pair.nodes[1].volume()["cstate"] == "Connected", "the pair")
    fail_over(pair)
    try:
        said, _ = copy.communicate(os.urandom(4 * MIB), timeout=60)
    except BrokenPipeError:
        said, _ = copy.communicate(timeout=60)
    assert copy.returncode != 0, said


def test_writes_in_flight_on_a_demoted_node_end_and_later_ones_fail(moving):
    """The peer answers no more, so that they are under way for sure; not one hangs, and none passes afterwards."""
    pair, _place, _move = moving
    primary, peer = pair
    client = primary.connect_client(depth=16)
    client.write(0, b"a" * 4 * KIB)
    os.kill(peer.pid, signal.SIGSTOP)
    try:
        errors = []
        for number in range(8):
            client.submit(
                Command.WRITE,
                number * 64 * KIB,
                payload=b"b" * 4 * KIB,
                on_reply=lambda error, _payload: errors.append(error),
            )
        primary.grant("secondary", force=True)
        client.drain()
        assert len(errors) == 8
        assert set(errors) <= {0, int(NbdError.ESHUTDOWN), int(NbdError.EIO)}
        with pytest.raises(RequestFailed) as caught:
            client.write(0, b"c" * 4 * KIB)
        assert caught.value.error == NbdError.ESHUTDOWN
    finally:
        os.kill(peer.pid, signal.SIGCONT)
    client.close()
    assert_clean_logs(pair)
