"""Messages that few will ever see, each by its words and its exit code: what no other test happens to meet."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace

import pytest

from pydrbd.admin import demo_pair, nbd_device, snapshots, verbs_events, verbs_nbd
from pydrbd.admin.demo_client import _Writer
from pydrbd.admin.demo_compare import compare_files
from pydrbd.admin.demo_pair import LocalNode, LocalPair, free_port
from pydrbd.admin.exit_codes import CommandFailed, WaitTimedOut
from pydrbd.admin.meta_disk import MetaDisk
from pydrbd.admin.nbd_device import NbdDevice
from pydrbd.core.refusals import StateCode, failure, refusal
from pydrbd.errors import (
    BusyError,
    ConfigError,
    DiskError,
    DiskForbidden,
    DiskTooSmall,
    MetaDataError,
    NotRunningError,
    UsageError,
)
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX
from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.opening import open_meta_data
from pydrbd.runtime import lease_files, nbd_server, witness_client
from pydrbd.runtime.block_open import open_disk
from pydrbd.runtime.build import blueprint
from pydrbd.runtime.control import ControlServer
from pydrbd.runtime.lease_files import LeaseFiles
from pydrbd.runtime.nbd_server import NbdServer
from tests.harness.scene import pair

# --- what a process refuses, in drbdsetup's words ---

REFUSALS = {
    0: "unknown error.",
    -1: "Multiple primaries not allowed by config",
    -2: "Need access to UpToDate data",
    -4: "Can not resync without local disk",
    -5: "Can not resync without remote disk",
    -6: "Refusing to be Outdated while Connected",
    -7: "Refusing to be Primary while peer is not outdated",
    -8: "Can not start OV/resync since it is already active",
    -9: "Can not disconnect a StandAlone device",
    -10: "State change was refused by peer node",
    -11: "Device is diskless, the requested operation requires a disk",
    -12: "Device is held open by someone",
    -13: "Have no net/connection configuration",
    -14: "Need a verify algorithm to start online verify",
    -15: "Need a connection to start verify or resync",
    -16: "Disk state is lower than outdated",
    -17: "Peer does not support protocol",
    -18: "In transient state, retry after next state change",
    -19: "Concurrent state changes detected and aborted",
    -20: "Other vol primary on peer not allowed by config",
    -21: "Need a connection to outdate the peer",
    -25: "No quorum",
}
FAILURES = {
    123: "--discard-my-data not allowed when primary.",
    125: "Device has a net-config (use disconnect first)",
    130: "Resize not allowed during resync.",
    131: "Need one Primary node to resize.",
    138: "Device does not have a disk-config",
    151: "Need to be StandAlone",
    166: "DRBD need to be connected for online MD layout change",
    167: "Resulting AL area too big",
    168: "Resulting AL are too small",
    169: "Resulting layout does not fit into the device:",
    170: "Implicit device shrinking not allowed.",
}


def test_each_refusal_of_a_state_change_has_drbdsetups_words(place, process):
    """17, or 10 for what has no number; there is no refusal beside these."""
    assert {int(code) for code in StateCode if not code.granted} == set(REFUSALS)
    for number, words in REFUSALS.items():
        process.answer("primary", number, str(refusal(StateCode(number))))
        code = 17 if number else 10
        place("primary", "r0").complains(code, f"r0: State change failed: ({number}) {words}")


@pytest.mark.parametrize("number", FAILURES)
def test_each_other_refusal_has_drbdsetups_words(place, process, number):
    """10."""
    process.answer("resize", 0, failure(number))
    place("resize", "r0").complains(10, f"r0: Failure: ({number}) {FAILURES[number]}")


def test_an_answer_that_is_too_long(place, process):
    """10."""
    process.raw = b"x" * (CONTROL_RESPONSE_BYTES_MAX + 1)
    path = place.run_dir / "r0.ctl.sock"
    place("primary", "r0").complains(10, f"r0: {path} sends more than an answer may hold")


def test_a_stream_of_events_that_is_no_good(monkeypatch):
    """10 for a line without an end, 69 for the end of it."""
    source = object.__new__(verbs_events._Source)
    source.name, source._pending = "r0", b"x" * CONTROL_RESPONSE_BYTES_MAX
    source.sock, other = socket.socketpair()
    with source.sock, other:
        other.send(b"x")
        with pytest.raises(CommandFailed, match="r0: sends a longer line than an event may be") as caught:
            source.read()
        assert caught.value.exit_code == 10
        other.shutdown(socket.SHUT_WR)
        with pytest.raises(NotRunningError, match="r0 has stopped") as ended:
            source.read()
        assert ended.value.exit_code == 69


def test_a_verify_of_no_sectors():
    """Only who speaks with the process himself can say so."""
    world, _client = pair(0)
    request = world.b.command("verify", start_sector=-1)
    world.run(0.1)
    assert world.b.answers[request] == (0, "not sectors: [-1, 0]")


# --- the configuration ---


@pytest.mark.parametrize("symbol", ["{", "}", ";"])
def test_a_symbol_where_a_keyword_belongs(place, symbol):
    """78."""
    place.config.write_text(symbol)
    words = {"{": "unexpected '{': a keyword is expected here"}.get(symbol, f"unexpected '{symbol}': no ")
    place("dump").complains(78, f"{place.config}:1:1: {words}")


def test_an_algorithm_that_is_not_known(place):
    """78, with those that are."""
    text = place.config.read_text()
    for option, words in (
        (
            "cram-hmac-alg none-such; shared-secret x",
            "resource 'r0': cram-hmac-alg 'none-such' is not known here; sha1",
        ),
        ("verify-alg none-such", "resource 'r0': verify-alg 'none-such' is not known here; crc32c"),
    ):
        place.config.write_text(text.replace("resource r0 {", f"resource r0 {{ net {{ {option}; }}"))
        place("serve", "r0").complains(78, words)


def test_names_that_are_too_long_for_a_witness(place):
    """78."""
    name = "r" * 600
    place.config.write_text(place.config.read_text().replace("resource r0", f"resource {name}"))
    (place.directory / "pydrbd.toml").write_text(f"[resource.{name}]\nwitness = 'unix:/w'\n")
    plan = blueprint(place.config, name, "alpha")
    with pytest.raises(ConfigError, match=f"the names of resource '{name}' and its hosts are too long for a witness"):
        witness_client.WitnessClient(plan, lambda *_words: None)


def test_a_key_of_a_witness_that_is_none(run, short_tmp):
    """78."""
    key, state, place = short_tmp / "key", short_tmp / "leases", f"unix:{short_tmp}/w"
    for content, words in (
        (b" \n", f"the key of the witness, {key}, is empty"),
        (b"x" * 5000, f"the key of the witness, {key}, is longer than 4096 bytes"),
    ):
        key.write_bytes(content)
        run("witness", "--state", state, "--listen", place, "--key-file", key).complains(78, words)


# --- sockets ---


def test_where_a_witness_can_not_listen(run, short_tmp):
    """64 for a name that nobody knows, 69 for a place that is taken, or can't be had."""
    state = short_tmp / "leases"
    run("witness", "--state", state, "--listen", "tcp:no such host:1").complains(
        64, "can't listen at tcp:no such host:1: Name or service not known"
    )
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(short_tmp / "w"))
        other.listen()
        words = f"can't listen at unix:{short_tmp}/w: somebody does already"
        run("witness", "--state", state, "--listen", f"unix:{short_tmp}/w").complains(69, words)
    path = short_tmp / "none" / "w"
    run("witness", "--state", state, "--listen", f"unix:{path}").complains(
        69, f"can't listen at unix:{path}: No such file or directory"
    )


def test_where_metrics_can_not_be_served(place):
    """69."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = f"can't serve metrics at tcp:127.0.0.1:{port}: Address already in use"
        place("metrics", f"--listen=tcp:127.0.0.1:{port}").complains(69, words)
    path = place.directory / "m"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        words = f"can't serve metrics at unix:{path}: somebody does already"
        place("metrics", f"--listen=unix:{path}").complains(69, words)


def test_a_control_socket_that_can_not_be_made(short_tmp):
    """69 if something else has its name, 64 if there is no place for it."""
    path = short_tmp / "r0.ctl.sock"
    path.write_text("")
    with pytest.raises(BusyError, match=f"{path} is in the way and is no socket: remove it") as caught:
        ControlServer(SimpleNamespace(), path).listen()
    assert caught.value.exit_code == 69
    path = short_tmp / "none" / "r0.ctl.sock"
    with pytest.raises(UsageError, match=f"can't make the control socket {path}: No such file or directory") as caught:
        ControlServer(SimpleNamespace(), path).listen()
    assert caught.value.exit_code == 64


def test_where_nbd_can_not_be_served(monkeypatch):
    """64: an address that this kernel has no family for, or that no socket may have."""
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(UsageError) as caught:
        nbd_server._listen(sock, "/nonexistent/s", "a place")
    assert str(caught.value) == "can't serve NBD on a place: No such file or directory"

    def no_vsock(*_words):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(nbd_server.socket, "socket", no_vsock)
    with pytest.raises(UsageError) as caught:
        NbdServer(SimpleNamespace()).listen_vsock(10809)
    words = "can't serve NBD on vsock:10809: this kernel has no vsock: Address family not supported by protocol"
    assert (caught.value.exit_code, str(caught.value)) == (64, words)


# --- disks ---


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EROFS, DiskError, ": lies on a read-only file system, or is read-only itself"),
        (errno.EINVAL, DiskError, ": can't open it: Invalid argument"),
        (
            errno.EPERM,
            DiskForbidden,
            ": no permission to read and write: run as a user who may, or change its owner or mode",
        ),
    ],
)
def test_a_disk_that_can_not_be_opened(place, monkeypatch, number, kind, words):
    """74, 77 if we may not."""

    def refuse(path, flags, *_args, **_options):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("pydrbd.runtime.block_open.os.open", refuse)
    disk = place.disk("alpha")
    with pytest.raises(kind) as caught:
        open_disk(str(disk), "auto", read_only=False)
    assert str(caught.value) == f"{disk}{words}" and caught.value.exit_code == kind.exit_code


def test_no_room_for_meta_data(place, monkeypatch):
    """74, from whichever part of it one looks."""
    assert place("create-md", "r0").code == 0
    with place.disk("alpha").open("r+b") as disk:
        disk.truncate(4096 - 512)
    place("dump-md", "r0").complains(74, "is too small: 3584 bytes")
    places = {"target": "r0/0", "place": SimpleNamespace(kind=MetaKind.INTERNAL, index=0, md_path="/dev/x")}
    small = MetaDisk(**places, data=SimpleNamespace(size_bytes=512), meta=SimpleNamespace(size_bytes=512))
    with pytest.raises(DiskTooSmall) as caught:
        small.superblock()
    assert str(caught.value) == "r0/0 (/dev/x): is too small for internal meta-data"
    with pytest.raises(DiskTooSmall, match="a device of 7 sectors is too small for internal meta-data"):
        open_meta_data(lambda _at, length: bytes(length), MetaKind.INTERNAL, 0, 7, 7)
    with pytest.raises(DiskTooSmall, match=r"of 2\d\d\d sectors leaves no room for data on a device of 2048 sectors"):
        Layout.internal(2048, 1, 256)
    words = "an activity log of 0 stripes of 8 blocks of 4 KiB is not allowed: both numbers at least 1, and"
    with pytest.raises(MetaDataError, match=words) as caught:
        Layout.internal(1 << 20, 0, 8)
    assert (caught.value.exit_code, DiskTooSmall.exit_code) == (65, 74)
    layout = Layout.internal(1 << 20)
    monkeypatch.setattr(Layout, "usable_sectors", property(lambda _self: 1 << 40))
    with pytest.raises(DiskTooSmall, match=r": no room for \d+ bytes of bitmap; use a larger device"):
        plan_create(layout, data_sectors=1 << 40)


def test_a_device_whose_server_does_not_take_what_was_written(tmp_path, monkeypatch):
    """74, at once or after the time for it."""
    device = NbdDevice(0)
    monkeypatch.setattr(NbdDevice, "path", property(lambda _self: str(tmp_path)))  # a folder can't be opened to write
    with pytest.raises(DiskError) as caught:
        device.flush(60.0)
    assert (caught.value.exit_code, str(caught.value)) == (74, f"{tmp_path}: its server did not take what was written")
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(NbdDevice, "path", property(lambda _self: str(tmp_path / "fifo")))
    monkeypatch.setattr(nbd_device.os, "fsync", lambda _fd: nbd_device.signal.pause())
    with pytest.raises(DiskError) as caught:
        device.flush(0.01)
    assert str(caught.value) == f"{tmp_path}/fifo: its server did not take what was written within 0.01 s"


def test_a_device_that_somebody_has_open_stays(place, monkeypatch):
    """69."""
    device = SimpleNamespace(
        path="/dev/nbd7", name="nbd7", index=7, is_attached=True, backend=verbs_nbd.BACKEND_PREFIX + "r0",
        check_unused=lambda: None, flush=lambda _timeout_s: None,
    )  # fmt: skip

    class Kernel:
        def __enter__(self):
            return SimpleNamespace(disconnect=lambda _index: None)

        def __exit__(self, *_words):
            pass

    monkeypatch.setattr(verbs_nbd, "_attached", lambda _names: device)
    monkeypatch.setattr(verbs_nbd, "_kernel", Kernel)
    monkeypatch.setattr(verbs_nbd, "_DETACH_TIMEOUT_S", 0.0)
    place("nbd-detach", "/dev/nbd7").complains(69, "/dev/nbd7 is still attached: somebody has it open")


def test_a_block_device_without_lvm(monkeypatch):
    """74."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DiskError) as caught:
        snapshots._lvm("lvs", "/dev/sdx")
    words = "/dev/sdx: is a block device, and there is no lvs (LVM) for snapshots"
    assert (caught.value.exit_code, str(caught.value)) == (74, words)


def test_more_leases_than_a_witness_keeps(short_tmp, monkeypatch):
    """65."""
    monkeypatch.setattr(lease_files, "WITNESS_LEASES_MAX", 0)
    (short_tmp / "x.lease").write_text("")
    with pytest.raises(MetaDataError, match=f"{short_tmp} has more than 0 leases"):
        LeaseFiles(short_tmp)


# --- demo ---


def test_a_demo_of_no_size(run):
    """64."""
    run("demo", "--size", "much").complains(64, "--size much: not a size; write it as 512M or 2G")
    run("demo", "--size", "1M").complains(64, "--size 1M: too small for the story; at least ")


def test_a_demo_in_too_deep_a_place(run, tmp_path):
    """64, and nothing is left there."""
    place = tmp_path / ("x" * 100)
    place.mkdir()
    run("demo", "--dir", place).complains(64, f"{place} is too long a path for Unix sockets: give another --dir")
    assert not list(place.iterdir())


def test_what_may_go_wrong_in_a_demo(tmp_path, monkeypatch):
    """10, and 5 for what takes too long."""
    with pytest.raises(CommandFailed, match="the files have grown while they were packed: the image does not fit"):
        _Writer(SimpleNamespace(), 1).write(b"two")
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(CommandFailed, match="a disk file is shorter than its device: 4096 bytes wanted"):
        compare_files(tmp_path / "short", tmp_path / "short", 4096)
    monkeypatch.setattr(demo_pair, "_PORTS", range(1000, 1200))
    with pytest.raises(CommandFailed, match=r"100 ports of 127\.0\.0\.1 were tried, and none is free"):
        free_port(range(1000, 1200))
    node = LocalNode(SimpleNamespace(directory=tmp_path, config_path=tmp_path), "alpha")
    node.process = SimpleNamespace(poll=lambda: 70, returncode=70)
    node.log_path = tmp_path / "none"
    with pytest.raises(CommandFailed, match=r"alpha ended by itself \(exit code 70\); its log says:"):
        node.check()
    assert (CommandFailed.exit_code, WaitTimedOut.exit_code) == (10, 5)

    class Pair(LocalPair):
        def __init__(self):
            pass

        def __iter__(self):
            return iter(())

        def describe(self):
            return "as it is"

    with pytest.raises(WaitTimedOut, match="waited 0 s for the end\nas it is"):
        Pair().wait_until(lambda: False, "the end", 0)
