"""Devices by path and by NBD address: what works, what is refused, how a loss looks."""

from __future__ import annotations

import pytest
from pydrbd_fence.device import PathDevice, open_device
from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.errors import DeviceError, DeviceTimeout, UsageError
from pydrbd_fence.extension import Letter
from pydrbd_fence.nbd import NbdAddress, NbdDevice, parse_address
from pydrbd_fence.timeouts import derive_timeouts

from tests.fence.harness import DEVICE_BYTES, NbdServer
from tests.fence.test_daemon import wait_until
from tests.runtime.test_rendezvous import free_ports


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("nbd://10.0.0.3/sbd", NbdAddress("sbd", "10.0.0.3", 10809)),
        ("nbd://[::1]:7777/a%20b", NbdAddress("a b", "::1", 7777)),
        ("nbd://witness", NbdAddress("", "witness", 10809)),
        ("nbd+unix:///sbd?socket=/run/x", NbdAddress("sbd", path="/run/x")),
    ],
)
def test_addresses_are_understood(text, meant):
    """The forms that other NBD clients take."""
    assert parse_address(text) == meant


@pytest.mark.parametrize(
    "text",
    ["nbd://", "nbd://h:no/x", "nbd://u@h/x", "nbd://h/x?socket=/y", "nbd+unix:///x", "nbd+unix://h/x?socket=/y"],
)
def test_bad_addresses_are_refused(text):
    """With words, before anything is connected."""
    with pytest.raises(UsageError):
        parse_address(text)


def test_an_nbd_export_is_a_device(nbd):
    """Created, written with FUA, read by a second connection."""
    disk = SbdDisk(open_device(nbd.address, 2))
    disk.create(derive_timeouts(), b"u" * 16)
    assert nbd.data[:8] == b"SBD_SBD_"
    assert all(flags == 1 for command, flags, _ in nbd.requests if command == 1)
    other = SbdDisk(open_device(nbd.address, 2))
    assert other.read_header().uuid == b"u" * 16
    disk.close()
    other.close()


def test_without_fua_every_write_is_flushed(short_tmp):
    """FLUSH follows each WRITE; a server that has neither, or is read-only, or small, is refused."""
    server = NbdServer(short_tmp / "s", flags=1 | 4)
    device = NbdDevice(server.address, 2)
    device.write_sector(3, b"x" * 512)
    assert [command for command, _, _ in server.requests] == [1, 3]
    device.close()
    server.stop()
    for options, words in (({"flags": 1}, "neither"), ({"flags": 15}, "read-only"), ({"size": 99}, "too small")):
        server = NbdServer(short_tmp / "s", **options)
        with pytest.raises(DeviceError, match=words):
            NbdDevice(server.address, 2)
        server.stop()


def test_a_server_with_large_blocks_makes_large_sectors(short_tmp):
    """4096 bytes are addressed as 4096 bytes."""
    server = NbdServer(short_tmp / "s", size=DEVICE_BYTES * 4, minimum_block=4096)
    disk = SbdDisk(NbdDevice(server.address, 2))
    disk.create(derive_timeouts(), b"u" * 16)
    assert disk.read_header().sector_bytes == 4096
    disk.claim_slot("alpha")
    assert server.data[4096:4102] == b"\x01alpha"
    disk.close()
    server.stop()


def test_an_unknown_export_is_refused_in_the_servers_words(nbd):
    """The user reads which export, and why."""
    with pytest.raises(DeviceError, match="'other': no such export"):
        NbdDevice(nbd.address.replace("/sbd?", "/other?"), 2)


def test_a_server_that_hangs_is_a_time_out(nbd):
    """The call ends in its time; afterwards the device is lost until it is opened again."""
    device = NbdDevice(nbd.address, 0.2)
    nbd.running.clear()
    with pytest.raises(DeviceTimeout, match=r"0\.2 s"):
        device.read_sector(0)
    nbd.running.set()
    with pytest.raises(DeviceError, match="lost before"):
        device.read_sector(0)
    again = NbdDevice(nbd.address, 2)
    assert again.read_sector(0) == bytes(512)
    again.close()


def test_a_server_that_goes_away_is_an_error(nbd):
    """A connection that ends, and one that is never made."""
    device = NbdDevice(nbd.address, 2)
    nbd.stop()
    with pytest.raises(DeviceError):
        device.read_sector(0)
    with pytest.raises(DeviceError):
        NbdDevice(nbd.address, 2)


def test_a_servers_error_leaves_the_connection(nbd):
    """EIO is told; the next request may do better."""
    device = NbdDevice(nbd.address, 2)
    nbd.error = 5
    with pytest.raises(DeviceError, match="error 5"):
        device.write_sector(1, bytes(512))
    nbd.error = 0
    device.write_sector(1, bytes(512))
    device.close()


def test_a_file_is_no_device(tmp_path):
    """Other nodes would not see it; nor does a missing path work."""
    (tmp_path / "f").write_bytes(bytes(DEVICE_BYTES))
    with pytest.raises(DeviceError, match="no block device"):
        PathDevice(str(tmp_path / "f"))
    with pytest.raises(DeviceError, match="can't be opened"):
        PathDevice(str(tmp_path / "g"))


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_a_block_device_works_in_its_own_sectors(loops, sector_bytes):
    """O_DIRECT, one sector an I/O, and past the end is an error."""
    device = PathDevice(loops(sector_bytes))
    assert device.sector_bytes == sector_bytes
    device.write_sector(5, b"z" * sector_bytes)
    assert device.read_sector(5) == b"z" * sector_bytes
    with pytest.raises(DeviceError, match="can't be written"):
        device.write_sector(1 << 30, bytes(sector_bytes))
    device.close()
    device.close()


@pytest.fixture
def servers(short_tmp, processes, need):
    """`servers(NAME)`: somebody else's small NBD server on a TCP port of loopback, over a file; (start, address)."""
    file = short_tmp / "disk"
    file.write_bytes(bytes(DEVICE_BYTES))
    port = free_ports(1)[0]

    def choose(name):
        command = need(name)
        words = {
            "nbdkit": ["-f", "-i", "127.0.0.1", "-p", port, "-e", "sbd", "file", file],
            "qemu-nbd": ["-b", "127.0.0.1", "-p", port, "-x", "sbd", "-e", "5", "-t", "-f", "raw", file],
        }[name]
        return lambda: processes.start([command, *map(str, words)]), f"nbd://127.0.0.1:{port}/sbd"

    return choose


@pytest.mark.interop
@pytest.mark.parametrize("name", ["nbdkit", "qemu-nbd"])
def test_any_small_server_on_a_third_machine_will_do(servers, name):
    """Over TCP, for two nodes at once; gone and back like a disk, with all that was written."""
    start, address = servers(name)

    made = []

    def reach():
        try:
            made.append(SbdDisk(open_device(address, 5)))
        except DeviceError:
            return None
        return made[-1]

    server = start()
    wait_until(reach, "the server answers")
    alpha, beta = reach(), reach()
    alpha.create(derive_timeouts(), b"u" * 16)
    assert alpha.allocate("alpha", 0, lambda s: None) == 0 and beta.allocate("beta", 0, lambda s: None) == 1
    beta.write_letter(0, Letter(2, "beta"))
    server.kill()
    server.wait(30)
    with pytest.raises(DeviceError):
        alpha.read_letter(0)
    assert reach() is None
    start()
    wait_until(reach, "the server answers again")
    alpha = reach()
    assert alpha.read_letter(0) == Letter(2, "beta") and alpha.find_slot("beta") == 1
    for disk in made:
        disk.close()
