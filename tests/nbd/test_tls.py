"""Who gets in with TLS, and who does not: libnbd and QEMU with right, wrong, expired and no certificates."""

from __future__ import annotations

import logging
import os
import ssl
import struct
import subprocess

import pytest
import trio

from pydrbd.errors import ConfigError
from pydrbd.limits import TLS_CLOSE_TIMEOUT_S
from pydrbd.runtime.nbd_handshake import Admission
from pydrbd.runtime.nbd_server import NbdServer
from pydrbd.runtime.tls import TlsFiles, TlsIdentity
from pydrbd.wire.nbd import Command, Option, ReplyType
from pydrbd.wire.nbd_negotiation import Policy, TlsMode
from tests.certificates import Authority
from tests.nbd.conftest import DISK_SIZE_BYTES
from tests.nbd.raw_client import FIXED, RawClient, info_request, option, until

ALLOWED = "backup.example"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def files(authority, short_tmp):
    """The server's own."""
    directory = authority.save(short_tmp / "server", "127.0.0.1", "server.example", side="server")
    return TlsFiles(*(str(directory / f"{name}.pem") for name in ("server-cert", "server-key", "ca-cert")))


@pytest.fixture
async def serve(engine, files, nursery):
    """`await serve("require")` starts a server on TCP and on a Unix socket; (server, port)."""

    async def serve(mode, *names, files=files, may_list=True, unix_path=None):
        identity = TlsIdentity(files, names) if mode != "off" else None
        server = NbdServer(engine, admission=Admission(Policy(TlsMode(mode), may_list), identity))
        _, port = server.listen_tcp("127.0.0.1", 0)
        if unix_path is not None:
            server.listen_unix(unix_path)
        await nursery.start(server.serve)
        return server, port

    return serve


@pytest.fixture
def run(processes, need, short_tmp):
    """`await run("nbdcopy", ...)`: (exit code, what it said)."""

    async def run(command, *words):
        with trio.fail_after(60):
            done = await trio.run_process(
                [need(command), *map(str, words)],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                env=processes.env,
                cwd=short_tmp,
            )
        return done.returncode, done.stdout.decode()

    return run


def qemu_words(port, directory):
    """qemu-img's words for a TLS connection with the certificates of a directory."""
    credentials = f"tls-creds-x509,id=t,endpoint=client,verify-peer=on,dir={directory}"
    image = f"driver=nbd,host=127.0.0.1,port={port},export=disk,tls-creds=t"
    return "info", "--object", credentials, "--image-opts", image


@pytest.mark.interop
async def test_an_allowed_client_copies_the_whole_disk_there_and_back(serve, authority, run, engine, short_tmp):
    """nbdcopy on several connections, byte for byte; qemu-img opens the export, too."""
    server, port = await serve("require", "other.example", ALLOWED)
    client = authority.save(short_tmp / "client", ALLOWED)
    uri = f"nbds://127.0.0.1:{port}/disk?tls-certificates={client}"
    data = os.urandom(1 << 20) * (DISK_SIZE_BYTES >> 20)
    (short_tmp / "in").write_bytes(data)
    assert await run("nbdcopy", "--flush", "in", uri) == (0, "")
    assert engine.contents(0, DISK_SIZE_BYTES) == data
    assert await run("nbdcopy", uri, "out") == (0, "")
    assert (short_tmp / "out").read_bytes() == data
    code, said = await run("qemu-img", *qemu_words(port, client))
    assert code == 0, said
    assert server.statistics().failed == 0


@pytest.mark.interop
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "peer did not return a certificate"),
        ("expired", "certificate has expired"),
        ("wrong authority", "certificate is refused"),
        ("wrong name", "its certificate names stranger.example: not allowed here"),
    ],
)
async def test_who_is_not_allowed_does_not_get_in(serve, authority, run, short_tmp, caplog, kind, reason, engine):
    """Neither with nbdcopy nor with qemu-img; the log says why, and no session was opened."""
    _, port = await serve("require", ALLOWED)
    if kind == "missing":
        client = authority.save(short_tmp / "client")
    elif kind == "wrong name":
        client = authority.save(short_tmp / "client", "stranger.example")
    elif kind == "expired":
        client = authority.save(short_tmp / "client", ALLOWED, expired=True)
    else:
        client = Authority().save(short_tmp / "client", ALLOWED)
        authority.save(client)  # it believes the server
    code, _ = await run("nbdcopy", f"nbds://127.0.0.1:{port}/disk?tls-certificates={client}", "null:")
    assert code != 0
    code, _ = await run("qemu-img", *qemu_words(port, client))
    assert code != 0
    assert engine.closed_count == 0
    assert not engine.sessions
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert all(reason in warning for warning in warnings), warnings
    assert warnings or kind == "expired"  # QEMU and GnuTLS look at their own certificate before they show it


@pytest.mark.interop
async def test_a_client_turns_away_from_a_server_of_another_authority(serve, run, short_tmp):
    """The client's check of us works: our certificate is shown, and refused."""
    _, port = await serve("require")
    client = Authority().save(short_tmp / "client", ALLOWED)
    code, said = await run("nbdcopy", f"nbds://127.0.0.1:{port}/disk?tls-certificates={client}", "null:")
    assert code != 0
    assert "certificate" in said


@pytest.mark.interop
async def test_without_tls_nobody_gets_in_where_it_is_required(serve, run):
    """libnbd and QEMU say so in their own words."""
    _, port = await serve("require")
    code, said = await run("nbdinfo", f"nbd://127.0.0.1:{port}/disk")
    assert code != 0, said
    code, said = await run("qemu-img", "info", f"nbd://127.0.0.1:{port}/disk")
    assert code != 0
    assert "TLS" in said


@pytest.mark.interop
async def test_where_it_is_allowed_both_get_in(serve, run, authority, short_tmp):
    """With certificates and without, at one port."""
    _, port = await serve("allow")
    client = authority.save(short_tmp / "client", ALLOWED)
    for uri in (f"nbd://127.0.0.1:{port}/disk", f"nbds://127.0.0.1:{port}/disk?tls-certificates={client}"):
        code, said = await run("nbdinfo", "--size", uri)
        assert (code, said) == (0, f"{DISK_SIZE_BYTES}\n")


@pytest.fixture
async def raw_client():
    """`await raw_client(port)` is a client past the greeting."""
    streams = []

    async def raw_client(port):
        streams.append(await trio.open_tcp_stream("127.0.0.1", port))
        client = RawClient(streams[-1])
        assert len(await client.receive(18)) == 18
        await client.send(FIXED)
        return client

    yield raw_client
    for stream in streams:
        stream.socket.close()


async def encrypted(client, authority, short_tmp):
    """The raw client, in TLS, with an allowed certificate."""
    await client.send(option(Option.STARTTLS))
    assert await client.option_reply() == (Option.STARTTLS, ReplyType.ACK, b"")
    mine = authority.save(short_tmp / "raw", ALLOWED)
    context = ssl.create_default_context(cafile=mine / "ca-cert.pem")
    context.load_cert_chain(mine / "client-cert.pem", mine / "client-key.pem")
    stream = trio.SSLStream(client.stream, context, server_hostname="127.0.0.1")
    await stream.do_handshake()
    return RawClient(stream)


async def test_every_option_before_tls_is_refused_but_abort(serve, raw_client):
    """TLS_REQD, for unknown options, too, and the handshake goes on; EXPORT_NAME, which knows no error, ends it."""
    _, port = await serve("require")
    client = await raw_client(port)
    for number in (Option.LIST, Option.INFO, Option.GO, Option.STRUCTURED_REPLY, Option.SET_META_CONTEXT, 999):
        await client.send(option(number, info_request(b"disk")))
        answered, reply, _ = await client.option_reply()
        assert (answered, reply) == (number, ReplyType.ERR_TLS_REQD)
    await client.send(option(Option.ABORT))
    assert await client.option_reply() == (Option.ABORT, ReplyType.ACK, b"")
    client = await raw_client(port)
    await client.send(option(Option.EXPORT_NAME, b"disk"))
    assert await client.at_end()


async def test_starttls_is_unknown_where_it_is_off_and_comes_once(serve, raw_client, authority, short_tmp):
    """With data it is refused; a second time inside TLS, too."""
    _, port = await serve("off")
    client = await raw_client(port)
    await client.send(option(Option.STARTTLS))
    assert (await client.option_reply())[1] == ReplyType.ERR_UNSUP
    _, port = await serve("require")
    client = await raw_client(port)
    await client.send(option(Option.STARTTLS, b"x"))
    assert (await client.option_reply())[1] == ReplyType.ERR_INVALID
    inside = await encrypted(client, authority, short_tmp)
    await inside.send(option(Option.STARTTLS))
    assert (await inside.option_reply())[1] == ReplyType.ERR_INVALID


async def test_words_slipped_in_behind_starttls_end_the_connection(serve, raw_client, caplog, engine):
    """Somebody in between could have them taken for encrypted ones."""
    _, port = await serve("allow")
    client = await raw_client(port)
    await client.send(option(Option.STARTTLS) + option(Option.GO, info_request(b"disk")))
    assert await client.at_end()
    assert "in the clear behind STARTTLS" in caplog.text
    assert not engine.sessions


async def test_what_was_agreed_on_in_the_clear_counts_no_more(serve, raw_client, authority, short_tmp):
    """Structured replies that were agreed on before TLS are not, afterwards: a READ gets a simple reply."""
    _, port = await serve("allow", ALLOWED)
    client = await raw_client(port)
    await client.send(option(Option.STRUCTURED_REPLY))
    assert (await client.option_reply())[1] == ReplyType.ACK
    inside = await encrypted(client, authority, short_tmp)
    await inside.send(option(Option.GO, info_request(b"disk")))
    while (await inside.option_reply())[1] != ReplyType.ACK:
        pass
    assert await inside.request(Command.READ, 0, 512) == (0, bytes(512))


async def test_the_lone_handshake_inside_tls_has_its_time(serve, raw_client, authority, short_tmp, autojump_clock):
    """A client that falls silent in the TLS handshake is dropped like any other."""
    server, port = await serve("require")
    client = await raw_client(port)
    await client.send(option(Option.STARTTLS))
    assert (await client.option_reply())[1] == ReplyType.ACK
    await client.send(b"\x16\x03\x01")
    await trio.sleep(31)
    assert server.statistics().connections == 0
    assert server.statistics().failed == 1


async def test_garbage_instead_of_tls_drops_only_this_client(serve, raw_client, authority, short_tmp, caplog):
    """And the next one gets in."""
    server, port = await serve("require")
    client = await raw_client(port)
    await client.send(option(Option.STARTTLS))
    assert (await client.option_reply())[1] == ReplyType.ACK
    await client.send(b"GET / HTTP/1.1\r\n\r\n")
    await until(lambda: server.statistics().failed == 1)
    assert "the TLS handshake failed" in caplog.text
    inside = await encrypted(await raw_client(port), authority, short_tmp)
    await inside.send(option(Option.ABORT))
    assert await inside.option_reply() == (Option.ABORT, ReplyType.ACK, b"")


async def test_an_encrypted_client_that_does_not_read_is_left_in_time(
    serve, raw_client, authority, short_tmp, engine, autojump_clock, monkeypatch
):
    """Its connection ends, and the task that encrypts ends with it a little later."""
    server, port = await serve("require", ALLOWED)
    inside = await encrypted(await raw_client(port), authority, short_tmp)
    await inside.send(option(Option.GO, info_request(b"disk")))
    while (await inside.option_reply())[1] != ReplyType.ACK:
        pass
    for _ in range(2):
        await inside.send(struct.pack(">IHHQQI", 0x25609513, 0, Command.READ, 1, 0, 32 << 20))
    await until(lambda: len(engine.sessions) == 1 and server.statistics().requests == 2)
    engine.sessions[0].client.abort("a test")
    await trio.sleep(TLS_CLOSE_TIMEOUT_S + 1)
    assert server.statistics().connections == 0


async def test_a_unix_socket_needs_no_tls(serve, socket_path):
    """Only its owner can open it, and nobody can listen in."""
    await serve("require", unix_path=socket_path)
    client = RawClient(await trio.open_unix_socket(str(socket_path)))
    await client.go("disk")
    assert await client.request(Command.FLUSH) == (0, b"")
    await client.close()


async def test_a_closed_list_still_opens_what_is_named(serve, raw_client):
    """LIST is a matter of policy; GO is answered."""
    _, port = await serve("off", may_list=False)
    client = await raw_client(port)
    await client.send(option(Option.LIST))
    assert (await client.option_reply())[1] == ReplyType.ERR_POLICY
    await client.send(option(Option.GO, info_request(b"disk")))
    assert (await client.option_reply())[1] == ReplyType.INFO


def test_renewed_files_count_and_broken_ones_do_not(authority, files, short_tmp, caplog):
    """Renewal needs no restart; half a renewal leaves things as they are, with an error in the log."""
    identity = TlsIdentity(files)
    first = identity.context(server_side=True)
    assert identity.context(server_side=True) is first
    authority.save(short_tmp / "server", "127.0.0.1", side="server")
    second = identity.context(server_side=True)
    assert second is not first
    (short_tmp / "server" / "server-key.pem").write_text("no key")
    assert identity.context(server_side=True) is second
    assert "those from before still count" in caplog.text


def test_files_that_cannot_be_used_are_the_users_error(files, short_tmp):
    """Which file, and why; nothing of a key is said."""
    with pytest.raises(ConfigError, match=r"TLS can't read /nowhere: No such file"):
        TlsIdentity(TlsFiles(files.certificate, "/nowhere", files.authority))
    wrong = short_tmp / "wrong"
    wrong.write_text("-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError) as caught:
        TlsIdentity(TlsFiles(files.certificate, str(wrong), files.authority))
    assert "SECRET" not in str(caught.value)
    assert str(wrong) in str(caught.value)
