"""The witness and its nodes over real sockets: what is durable, and what bad input leads to."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pydrbd.admin.verbs_witness import witness as verb
from pydrbd.config.settings import Listen
from pydrbd.core.effects import AskWitness
from pydrbd.core.lease import Lease
from pydrbd.errors import BusyError, ConfigError, MetaDataError, UsageError
from pydrbd.limits import (
    WITNESS_KEY_BYTES_MAX,
    WITNESS_REQUESTS_MAX,
    WITNESS_SESSION_S,
    WITNESS_SESSIONS_MAX,
    WITNESS_TIMEOUT_S,
)
from pydrbd.runtime import witness_server
from pydrbd.runtime.build import Blueprint, blueprint, lease_name
from pydrbd.runtime.lease_files import LeaseFiles
from pydrbd.runtime.witness_client import WitnessClient, read_frame, read_key
from pydrbd.runtime.witness_server import WitnessServer
from pydrbd.wire.witness import (
    Kind,
    Verb,
    Verdict,
    WitnessRequest,
    decode_answer,
    encode_frame,
    encode_request,
)

RES = """resource r0 {
    device minor 0; disk none;
    on alpha { address 127.0.0.1:7001; }
    on beta { address 127.0.0.1:7002; }
}
"""


def plan(directory: Path, node: str, place: Listen, key: str = "") -> Blueprint:
    (directory / "r0.res").write_text(RES)
    found = blueprint(directory / "r0.res", "r0", node)
    return dataclasses.replace(found, settings=dataclasses.replace(found.settings, witness=place, witness_key=key))


@asynccontextmanager
async def running(place: Listen, directory: Path, key: bytes = b"") -> AsyncIterator[WitnessServer]:
    server = WitnessServer(place, directory, key)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        yield server
        nursery.cancel_scope.cancel()


async def ask(at: Blueprint, verb: Verb = Verb.ACQUIRE, **more: Any) -> AskWitness:
    effect = AskWitness(verb, lambda _failed, _errno: None, **more)
    ended = []
    await WitnessClient(at, lambda *end: ended.append(end)).ask(effect)
    assert ended == [(effect, 0, 0)]
    return effect


def holder(effect: AskWitness) -> str:
    assert effect.answer is not None, effect.error
    return f"{effect.answer.verdict.name} {effect.answer.holder} {effect.answer.term}"


async def test_one_of_two_gets_the_lease_and_a_restart_forgets_nothing(short_tmp: Path) -> None:
    """What was said is on disk, and another process of the witness says the same."""
    place = Listen(path=str(short_tmp / "w"))
    alpha, beta = (plan(short_tmp, node, place) for node in ("alpha", "beta"))
    async with running(place, short_tmp / "leases"):
        assert holder(await ask(alpha, generation=7)) == "GRANTED alpha 1"
        assert holder(await ask(beta)) == "HELD alpha 1"
    assert not (short_tmp / "w").exists()
    async with running(place, short_tmp / "leases"):
        assert holder(await ask(beta)) == "HELD alpha 1"
        assert holder(await ask(alpha, Verb.LOOK)) == "GRANTED alpha 1"
        assert holder(await ask(alpha, Verb.RELEASE, term=1)) == "GRANTED  1"
        assert holder(await ask(beta)) == "GRANTED beta 2"
        assert holder(await ask(alpha)) == "HELD beta 2"


async def test_keys_that_differ_are_told_apart(short_tmp: Path) -> None:
    """A node with another key, or none, changes nothing, and hears why."""
    place = Listen(path=str(short_tmp / "w"))
    (short_tmp / "good").write_text("one\n")
    (short_tmp / "bad").write_text("two\n")
    async with running(place, short_tmp / "leases", b"one"):
        for key in ("bad", ""):
            effect = await ask(plan(short_tmp, "alpha", place, str(short_tmp / key) if key else ""))
            assert effect.answer is None and effect.error.endswith("has another key")
        assert holder(await ask(plan(short_tmp, "beta", place, str(short_tmp / "good")))) == "GRANTED beta 1"


@pytest.mark.parametrize(
    "noise", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(4096), b"pdqw\x01\x00\x02\x00\xff\xff\xff\xff"]
)
async def test_noise_ends_its_own_connection_only(short_tmp: Path, noise: bytes) -> None:
    """Whoever speaks another protocol is left; the next one is served."""
    place = Listen(path=str(short_tmp / "w"))
    async with running(place, short_tmp / "leases"):
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.connect(place.path)
        async with trio.SocketStream(sock) as stream:
            await stream.send_all(noise)
            await stream.send_eof()
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        assert holder(await ask(plan(short_tmp, "alpha", place))) == "GRANTED alpha 1"


async def test_nobody_there_is_an_answer_in_words(short_tmp: Path) -> None:
    """A witness that can't be reached, on a Unix socket and on TCP."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        places = (Listen(path=str(short_tmp / "w")), Listen(host="127.0.0.1", port=unused.getsockname()[1]))
        for place in places:
            effect = await ask(plan(short_tmp, "alpha", place))
            assert effect.answer is None and effect.error.startswith(f"the witness at {place} can't be reached: ")


async def test_a_name_that_can_not_be_looked_up_does_not_end_the_node(short_tmp: Path) -> None:
    """It would end when its peer is lost, since nobody asks before: an empty label, a label that is too long."""
    for host in ("witness..example", "w" * 70):
        effect = await ask(plan(short_tmp, "alpha", Listen(host=host, port=7799)))
        assert effect.answer is None and effect.error.startswith(f"the witness at tcp:{host}:7799 can't be reached: ")


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"220 mail ESMTP\r\n", "none of ours: this is not the protocol"), (b"", "has closed the connection")],
)
async def test_another_service_is_no_witness(short_tmp: Path, answer: bytes, words: str) -> None:
    """What it says grants nothing."""

    async def other(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, other, [listener])
        port = listener.socket.getsockname()[1]
        effect = await ask(plan(short_tmp, "alpha", Listen(host="127.0.0.1", port=port)))
        assert effect.answer is None and words in effect.error
        nursery.cancel_scope.cancel()


async def test_a_silent_witness_is_waited_for_no_longer_than_said(
    short_tmp: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Its socket takes the connection, and that is all."""
    place = Listen(path=str(short_tmp / "w"))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(place.path)
        silent.listen()
        effect = await ask(plan(short_tmp, "alpha", place))
    assert effect.answer is None and effect.error.endswith("does not answer within 5 s")


async def test_a_lease_that_can_not_be_written_is_not_given(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of the witness is full: it says no, and goes on."""
    place = Listen(path=str(short_tmp / "w"))
    async with running(place, short_tmp / "leases"):
        with monkeypatch.context() as broken:
            broken.setattr(LeaseFiles, "write", _no_space)
            assert holder(await ask(plan(short_tmp, "alpha", place))) == "FULL  0"
        assert holder(await ask(plan(short_tmp, "beta", place))) == "GRANTED beta 1"


# --- limits ---


async def test_connections_that_say_nothing_are_left_in_time(
    short_tmp: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """As many as it takes at a time keep the next one out for WITNESS_SESSION_S, and no longer."""
    place = Listen(path=str(short_tmp / "w"))
    async with running(place, short_tmp / "leases"):
        sockets = [trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(WITNESS_SESSIONS_MAX)]
        for sock in sockets:
            await sock.connect(place.path)
            await trio.testing.wait_all_tasks_blocked()
        late = await ask(plan(short_tmp, "alpha", place), Verb.LOOK)
        assert late.answer is None and late.error.endswith("does not answer within 5 s")
        await trio.sleep(WITNESS_SESSION_S - WITNESS_TIMEOUT_S + 1)
        assert holder(await ask(plan(short_tmp, "alpha", place), Verb.LOOK)) == "GRANTED  0"
        for sock in sockets:
            sock.close()


async def test_a_connection_may_ask_so_often_and_then_ends(short_tmp: Path) -> None:
    """WITNESS_REQUESTS_MAX, each with its place in the session."""
    place = Listen(path=str(short_tmp / "w"))
    async with running(place, short_tmp / "leases"):
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.connect(place.path)
        async with trio.SocketStream(sock) as stream:
            challenge = await read_frame(stream, Kind.CHALLENGE)
            for count in range(WITNESS_REQUESTS_MAX):
                asked = encode_request(WitnessRequest(Verb.LOOK, "r0", "alpha"), b"", challenge, count, bytes(16))
                await stream.send_all(encode_frame(Kind.REQUEST, asked))
                assert decode_answer(await read_frame(stream, Kind.ANSWER), b"", asked).verdict is Verdict.GRANTED
            assert await stream.receive_some() == b""


async def test_it_keeps_so_many_leases_and_no_more(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes later is told so; those that it has go on."""
    monkeypatch.setattr(witness_server, "WITNESS_LEASES_MAX", 1)
    place = Listen(path=str(short_tmp / "w"))
    async with running(place, short_tmp / "leases") as server:
        assert holder(await ask(plan(short_tmp, "alpha", place))) == "GRANTED alpha 1"
        other = WitnessRequest(Verb.ACQUIRE, "r1:alpha,beta", "alpha")
        assert (await server._decide(other)).verdict is Verdict.FULL
        assert holder(await ask(plan(short_tmp, "alpha", place))) == "GRANTED alpha 2"


# --- clocks ---


@pytest.mark.parametrize("years", [-60, 60])
async def test_the_wall_clock_says_nothing(short_tmp: Path, years: int) -> None:
    """It jumps, before and after a restart: whose the lease is depends on no time."""
    place = Listen(path=str(short_tmp / "w"))
    now, (alpha, beta) = time.time(), (plan(short_tmp, node, place) for node in ("alpha", "beta"))
    async with running(place, short_tmp / "leases"):
        assert holder(await ask(alpha)) == "GRANTED alpha 1"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: now + years * 365 * 86400)
            assert holder(await ask(beta)) == "HELD alpha 1"
    (file,) = (short_tmp / "leases").glob("*.lease")
    os.utime(file, (max(0, now + years * 365 * 86400),) * 2)
    async with running(place, short_tmp / "leases"):
        assert holder(await ask(beta)) == "HELD alpha 1"


async def test_nor_does_the_one_that_only_goes_forward(short_tmp: Path, mock_clock: trio.testing.MockClock) -> None:
    """It jumps by years at once, as after a suspended machine: connections end, leases do not."""
    place = Listen(path=str(short_tmp / "w"))
    async with running(place, short_tmp / "leases"):
        assert holder(await ask(plan(short_tmp, "alpha", place))) == "GRANTED alpha 1"
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.connect(place.path)
        async with trio.SocketStream(sock) as stream:
            await read_frame(stream, Kind.CHALLENGE)
            mock_clock.jump(30 * 365 * 86400)
            assert await stream.receive_some() == b""
        assert holder(await ask(plan(short_tmp, "beta", place))) == "HELD alpha 1"


def _no_space(_files: LeaseFiles, _name: str, _lease: Lease) -> None:
    raise OSError(28, "No space left on device")


def test_a_directory_has_one_witness_and_good_files(short_tmp: Path) -> None:
    """Two would each give the lease away; a damaged file could hide who has it."""
    directory = short_tmp / "leases"
    first = LeaseFiles(directory)
    first.write("r0:alpha,beta", Lease("alpha", 2**64 - 1, 7))
    with pytest.raises(BusyError, match="another witness keeps its leases"):
        LeaseFiles(directory)
    first.close()
    again = LeaseFiles(directory)
    assert again.leases == {"r0:alpha,beta": Lease("alpha", 2**64 - 1, 7)}
    again.close()
    (file,) = directory.glob("*.lease")
    whole = file.read_text()
    worse = ("[" * 8000, whole.replace('"alpha"', '"\\ud800"'), whole.replace('"alpha"', f'"{"a" * 1000}"'))
    for text in (
        "", "{", "[]", whole[:-2], whole.replace("7", "-7"), whole.replace("alpha", "\x00", 1), "x" * 9000, *worse,
    ):  # fmt: skip
        if text != whole:
            file.write_text(text)
            with pytest.raises(MetaDataError, match="is no lease"):
                LeaseFiles(directory)


def test_a_place_that_is_taken_or_not_ours(short_tmp: Path) -> None:
    """Exit codes 69 and 64; the directory is free again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match="Address already in use"):
            WitnessServer(Listen(host="127.0.0.1", port=port), short_tmp / "leases", b"")
    with pytest.raises(UsageError, match="can't listen at tcp:no such host:1"):
        WitnessServer(Listen(host="no such host", port=1), short_tmp / "leases", b"")
    LeaseFiles(short_tmp / "leases").close()


def test_keys_that_can_not_be_used(short_tmp: Path) -> None:
    """Missing, empty, too long: said with the file's name."""
    (short_tmp / "empty").write_text(" \n")
    (short_tmp / "long").write_bytes(b"x" * (WITNESS_KEY_BYTES_MAX + 1))
    for name, words in (("none", "can't be read: No such file"), ("empty", "is empty"), ("long", "is longer than")):
        with pytest.raises(ConfigError, match=f"{name}.* {words}"):
            read_key(str(short_tmp / name))
    assert read_key("") == b""


def test_two_pairs_may_each_have_a_resource_of_one_name(short_tmp: Path) -> None:
    """The lease is the pair's; both nodes call it the same."""
    plans = [plan(short_tmp, node, Listen(path="w")) for node in ("alpha", "beta")]
    names = {lease_name(each.resource, each.me, each.peer) for each in plans}
    assert names == {"r0:alpha,beta"}


def test_a_lease_whose_holder_is_lost_for_ever_is_forgotten(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By an operator, while no witness runs; terms only grow, and the name must be one that is held."""
    files = LeaseFiles(short_tmp / "leases")
    files.write("r0:alpha,beta", Lease("alpha", 9, 7))
    with pytest.raises(BusyError, match="another witness keeps its leases"):
        verb(None, str(short_tmp / "leases"), None, "r0:alpha,beta")
    files.close()
    with pytest.raises(UsageError, match="nobody has the lease of r1, but of: r0:alpha,beta"):
        verb(None, str(short_tmp / "leases"), None, "r1")
    assert verb(None, str(short_tmp / "leases"), None, "r0:alpha,beta") == 0
    assert "alpha has the lease of r0:alpha,beta no more" in capsys.readouterr().out
    again = LeaseFiles(short_tmp / "leases")
    assert again.leases == {"r0:alpha,beta": Lease("", 9, 8)}
    again.close()
    with pytest.raises(UsageError, match="there is no directory"):
        verb(None, str(short_tmp / "none"), None, "r0:alpha,beta")
    with pytest.raises(UsageError, match="--listen says where"):
        verb(None, str(short_tmp / "none"), None, None)
