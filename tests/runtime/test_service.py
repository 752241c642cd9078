"""A whole node in this process, met by peers and operators that misbehave: it says so, and lives on."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pydrbd.core.states import ConnState, DiskState
from pydrbd.errors import BusyError, ConfigError
from pydrbd.limits import DISK_THREADS
from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import INDEXED_SLOT_SECTORS, Layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.runtime.build import blueprint
from pydrbd.runtime.disk_ops import WriteBatch
from pydrbd.runtime.service import Service
from pydrbd.units import sectors_to_bytes
from pydrbd.wire.framing import encode_packet
from pydrbd.wire.nbd import Command, Option, ReplyType, encode_request
from pydrbd.wire.packets import Features, Packet
from tests.certificates import Authority
from tests.nbd.raw_client import FIXED, RawClient, info_request, option
from tests.runtime.test_link import dial
from tests.runtime.test_rendezvous import free_ports

LIMIT_S = 60.0
SIZE_BYTES = 8 << 20


def make_pair(directory: Path, name: str = "r0") -> Path:
    """A `.res` file with two nodes on loopback, and a formatted disk for `a`."""
    ports = free_ports(2)
    disk = directory / "a.img"
    disk.write_bytes(bytes(SIZE_BYTES))
    with disk.open("r+b") as file:
        for offset, data in plan_create(Layout.internal(SIZE_BYTES // 512)):
            file.seek(offset)
            file.write(data)
    hosts = "".join(
        f"on {node} {{ device minor {minor}; disk {directory}/{node}.img; meta-disk internal;"
        f" address 127.0.0.1:{port}; }}\n"
        for minor, (node, port) in enumerate(zip("ab", ports, strict=True))
    )
    path = directory / "r0.res"
    path.write_text(
        f"resource {name} {{ net {{ ping-int 1; ping-timeout 2; connect-int 1; timeout 10; }}\n{hosts}}}\n"
    )
    return path


@asynccontextmanager
async def running(
    config: Path, directory: Path, priority_directory: Path | None = None, node: str = "a", limit_s: float = LIMIT_S
) -> AsyncIterator[Service]:
    """One node of the resource, from its start to its orderly end."""
    service = Service(blueprint(config, "r0", node), directory)
    service.fence_priority.directory = priority_directory
    ready = trio.Event()
    with trio.fail_after(limit_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.serve, ready.set)
            await ready.wait()
            yield service
            service.stopping.set()


async def ask(service: Service, line: bytes) -> dict[str, object]:
    """One line to the control socket, its answer."""
    stream = await trio.open_unix_socket(str(service.run_dir / "r0.ctl.sock"))
    async with stream:
        await stream.send_all(line + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            data += await stream.receive_some()
    answer = json.loads(data)
    assert isinstance(answer, dict)
    return answer


async def test_a_fresh_disk_is_attached_inconsistent(short_tmp: Path) -> None:
    """Start, look, stop: the simplest life of a node."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        volume = service.node.volumes[0]
        assert volume.state.disk is DiskState.Inconsistent
        assert service.node.cstate is ConnState.WFConnection
    assert not (short_tmp / "r0.ctl.sock").exists()
    assert not (short_tmp / "r0.nbd.sock").exists()


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 64, b"\xff" * 64, b"GET / HTTP/1.0\r\n\r\n" * 8, bytes(range(256))],
    ids=["zeros", "ones", "http", "counting"],
)
async def test_garbage_from_the_peer_costs_only_the_link(short_tmp: Path, garbage: bytes) -> None:
    """The node drops the connection, keeps its disk, and waits for a better peer."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        pair = await dial(service.plan.endpoints.local)
        await pair.data.send(garbage)
        while await pair.data.recv(4096):
            pass
        pair.close()
        await service.wait_for(lambda: service.node.cstate is ConnState.WFConnection)
        assert service.node.volumes[0].state.disk is DiskState.Inconsistent


async def test_a_stranger_at_the_port_is_named_in_the_log(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever connects and is no node is dropped, and an operator can find out who it was."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        stranger = await trio.open_tcp_stream(*service.plan.endpoints.local)
        port = stranger.socket.getsockname()[1]
        await stranger.send_all(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            assert not await stranger.receive_some(1)
        await stranger.aclose()
    assert f"whoever connected from 127.0.0.1 port {port} is no DRBD node: the peer sent a wrong" in caplog.text


async def test_garbage_after_the_features_costs_only_the_link(short_tmp: Path) -> None:
    """Also in the middle of the handshake, with the new headers."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        pair = await dial(service.plan.endpoints.local)
        features = Features(86, 15, 101).encode()
        await pair.data.send(encode_packet(Packet.P_CONNECTION_FEATURES, features, apv=80))
        await pair.data.send(encode_packet(Packet.P_DATA, bytes(24), apv=101))
        while await pair.data.recv(4096):
            pass
        pair.close()
        await service.wait_for(lambda: service.node.cstate is ConnState.WFConnection)


async def test_a_peer_that_speaks_only_old_protocols_is_refused_for_good(short_tmp: Path) -> None:
    """Trying again would not help: StandAlone."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        pair = await dial(service.plan.endpoints.local)
        features = Features(86, 15, 96).encode()
        await pair.data.send(encode_packet(Packet.P_CONNECTION_FEATURES, features, apv=80))
        await service.wait_for(lambda: service.node.cstate is ConnState.StandAlone)
        pair.close()


async def test_a_peer_that_falls_silent_is_left(short_tmp: Path) -> None:
    """A handshake that does not go on ends by a time-out, and the node waits for a connection again."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        pair = await dial(service.plan.endpoints.local)
        while await pair.data.recv(4096):
            pass
        await service.wait_for(lambda: service.node.cstate is ConnState.WFConnection)
        pair.close()


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'"status"', b'{"verb": 3}', b'{"verb": "status", "arguments": 7}'])
async def test_garbage_on_the_control_socket_is_answered(short_tmp: Path, line: bytes) -> None:
    """Each wrong line gets an answer that says so; the next right one works."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        answer = await ask(service, line)
        assert answer["code"] == 0 and "not a request" in str(answer["text"])
        assert (await ask(service, b'{"verb": "status"}'))["code"] == 1


async def test_an_unknown_verb_is_refused(short_tmp: Path) -> None:
    """With DRBD's `not supported`."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        answer = await ask(service, b'{"verb": "frobnicate"}')
        assert answer["code"] == -17 and "frobnicate" in str(answer["text"])


async def test_promotion_without_good_data_is_refused_in_drbds_words(short_tmp: Path) -> None:
    """SS_NO_UP_TO_DATE_DISK, as drbdsetup prints it."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        answer = await ask(service, b'{"verb": "primary"}')
        assert answer["code"] == -2 and "Need access to UpToDate data" in str(answer["text"])


async def test_a_second_process_for_the_same_resource_is_refused(short_tmp: Path) -> None:
    """It must not take the sockets of the first one away."""
    config = make_pair(short_tmp)
    async with running(config, short_tmp) as service:
        second = Service(blueprint(config, "r0", "a"), short_tmp)
        with pytest.raises(BusyError, match="running here already"):
            second.listen()
        assert (await ask(service, b'{"verb": "status"}'))["code"] == 1


async def test_a_port_in_use_ends_the_start_with_its_reason(short_tmp: Path) -> None:
    """The process ends, and says which port it was."""
    config = make_pair(short_tmp)
    plan = blueprint(config, "r0", "a")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(plan.endpoints.local)
        other.listen()
        with pytest.raises(BusyError, match=f"port {plan.endpoints.local[1]} "), trio.fail_after(LIMIT_S):
            await Service(plan, short_tmp).serve()


async def test_flushes_that_are_needed_are_not_left_out(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`no` with a file: the log says once that it is not followed, and why, and the core flushes."""
    config = make_pair(short_tmp)
    text = config.read_text()
    config.write_text(text.replace("{ net {", "{ disk { disk-flushes no; md-flushes no; }\nnet {"))
    async with running(config, short_tmp) as service:
        volume = service.node.volumes[0]
        assert not volume.options.disk_flushes and volume.flushes_disk
    (said,) = (record.getMessage() for record in caplog.records if "is not followed" in record.getMessage())
    for name in ("disk-flushes", "md-flushes"):
        assert f"{name} no is not followed: {short_tmp}/a.img is " in said


async def test_a_foreign_disk_is_not_attached(short_tmp: Path) -> None:
    """No meta-data, no disk: the node runs diskless and tells why."""
    config = make_pair(short_tmp)
    (short_tmp / "a.img").write_bytes(b"foreign!" * (SIZE_BYTES // 8))
    async with running(config, short_tmp) as service:
        assert service.node.volumes[0].state.disk is DiskState.Diskless
        answer = await ask(service, b'{"verb": "attach"}')
        assert int(str(answer["code"])) < 1 and "meta-data" in str(answer["text"])


async def test_a_truncated_disk_is_not_attached(short_tmp: Path) -> None:
    """With its end its internal meta-data are gone: nobody is told to create new ones, and the disk stays as it is."""
    config = make_pair(short_tmp)
    async with running(config, short_tmp):
        pass
    os.truncate(short_tmp / "a.img", SIZE_BYTES // 2)
    before = (short_tmp / "a.img").read_bytes()
    async with running(config, short_tmp) as service:
        answer = await ask(service, b'{"verb": "attach"}')
        assert service.node.volumes[0].state.disk is DiskState.Diskless
    text = str(answer["text"])
    assert int(str(answer["code"])) < 1 and "create" not in text
    assert f"{SIZE_BYTES // 1024} sectors, which had {SIZE_BYTES // 512}" in text and "has been truncated" in text
    assert (short_tmp / "a.img").read_bytes() == before


async def test_a_truncated_disk_with_external_meta_data_is_not_attached(short_tmp: Path) -> None:
    """The meta-data know how large the device was."""
    config, meta = make_pair(short_tmp), short_tmp / "meta.img"
    layout = Layout.flexible(2048)
    used = replace(
        Superblock.fresh(layout), la_size_sectors=SIZE_BYTES // 512, flags=MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE
    )
    meta.write_bytes(bytes(2048 * 512))
    with meta.open("r+b") as file:
        for offset, data in plan_create(layout, superblock=used):
            file.seek(offset)
            file.write(data)
    config.write_text(config.read_text().replace("meta-disk internal", f"flexible-meta-disk {meta}", 1))
    os.truncate(short_tmp / "a.img", SIZE_BYTES // 2)
    async with running(config, short_tmp) as service:
        answer = await ask(service, b'{"verb": "attach"}')
        assert service.node.volumes[0].state.disk is DiskState.Diskless
    assert int(str(answer["code"])) < 1 and "has been truncated" in str(answer["text"])


async def test_two_volumes_share_a_meta_data_device_with_indexes(short_tmp: Path) -> None:
    """`meta-disk FILE [0]` and `[1]`: both disks are attached at the same time."""
    meta = short_tmp / "meta.img"
    with meta.open("wb") as file:
        file.truncate(2 * sectors_to_bytes(INDEXED_SLOT_SECTORS))
    volumes = ""
    for index in (0, 1):
        (short_tmp / f"{index}.img").write_bytes(bytes(SIZE_BYTES))
        layout = Layout.indexed(index, 2 * INDEXED_SLOT_SECTORS)
        with meta.open("r+b") as file:
            for offset, data in plan_create(layout):
                file.seek(offset)
                file.write(data)
        volumes += (
            f"volume {index} {{ device minor {index}; disk {short_tmp}/{index}.img; meta-disk {meta} [{index}]; }}\n"
        )
    ports = free_ports(2)
    hosts = "".join(f"on {name} {{ address 127.0.0.1:{port}; }}\n" for name, port in zip("ab", ports, strict=True))
    path = short_tmp / "r0.res"
    path.write_text(f"resource r0 {{\n{volumes}{hosts}}}\n")
    async with running(path, short_tmp) as service:
        assert [volume.state.disk for volume in service.node.volumes.values()] == [DiskState.Inconsistent] * 2


async def test_tls_of_the_settings_file_is_required_of_clients_on_the_network(short_tmp: Path) -> None:
    """Its address says so; a client in the clear is told; one with a certificate hears what the export has to say."""
    config = make_pair(short_tmp)
    files = Authority().save(short_tmp / "pki", "127.0.0.1", side="server")
    (port,) = free_ports(1)
    settings = short_tmp / "pydrbd.toml"
    settings.write_text(
        f'[resource.r0]\nnbd = ["tcp:127.0.0.1:{port}"]\ntls = "require"\ntls-certificate = "pki/server-cert.pem"\n'
        'tls-key = "pki/server-key.pem"\n'
    )
    async with running(config, short_tmp) as service:
        assert service.nbd_uris == [f"nbds://127.0.0.1:{port}/r0"]
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", port))
        assert len(await client.receive(18)) == 18
        await client.send(FIXED + option(Option.INFO, info_request(b"r0")))
        assert (await client.option_reply())[1] == ReplyType.ERR_TLS_REQD
        await client.send(option(Option.STARTTLS))
        assert (await client.option_reply())[1] == ReplyType.ACK
        trust = ssl.create_default_context(cafile=files / "ca-cert.pem")
        inside = RawClient(trio.SSLStream(client.stream, trust, server_hostname="127.0.0.1"))
        await inside.send(option(Option.INFO, info_request(b"r0")))
        assert (await inside.option_reply())[1] == ReplyType.ERR_POLICY  # it is Secondary
        await inside.close()
    (files / "server-key.pem").unlink()
    with pytest.raises(ConfigError, match=r"can't read .*server-key.pem"):
        Service(blueprint(config, "r0", "a"), short_tmp)


async def test_a_cancelled_node_does_not_call_its_own_end_a_disk_error(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Writes that had not begun come to nothing; the disk has not failed, and nobody is to look for a new one."""
    goes_on, under_way = threading.Event(), threading.Semaphore(0)
    execute = WriteBatch.execute

    def slow(self: WriteBatch, *arguments: Any) -> tuple[int, int]:
        under_way.release()
        assert goes_on.wait(LIMIT_S)
        return execute(self, *arguments)

    monkeypatch.setattr(WriteBatch, "execute", slow)
    for limit in ("DISK_INLINE_BYTES_MAX", "DIRECT_INLINE_BYTES_MAX"):
        monkeypatch.setattr(f"pydrbd.runtime.disk.{limit}", 0)
    service, ready = Service(blueprint(make_pair(short_tmp), "r0", "a"), short_tmp), trio.Event()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            nursery.start_soon(service.serve, ready.set)
            await ready.wait()
            assert (await ask(service, b'{"verb": "primary", "arguments": {"force": true}}'))["code"] == 1
            client = RawClient(await trio.open_unix_socket(str(short_tmp / "r0.nbd.sock")))
            await client.go("r0")
            for block in range(2 * DISK_THREADS):
                await client.send(encode_request(Command.WRITE, block, block * 4096, 4096) + bytes(4096))
                if block < DISK_THREADS:
                    await trio.to_thread.run_sync(under_way.acquire)
            await trio.testing.wait_all_tasks_blocked()
            assert service.node.writes.busy
            nursery.cancel_scope.cancel()

            async def let_go() -> None:
                await trio.testing.wait_all_tasks_blocked()
                goes_on.set()

            outer.start_soon(let_go)
            await client.close()
    assert "failed" not in caplog.text
