"""TLS between two nodes: only the peer that the configuration names gets as far as DRBD's first packet."""

from __future__ import annotations

import logging
import random
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pydrbd.errors import ConfigError
from pydrbd.runtime.link_tls import LinkTls
from pydrbd.runtime.rendezvous import meet, try_address
from pydrbd.runtime.tls import TlsFiles
from tests.certificates import Authority
from tests.runtime.test_rendezvous import LIMIT_S, TIMES, carries, endpoints, meet_both


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def node(authority: Authority, directory: Path, name: str, peer: str, *, expired: bool = False) -> LinkTls:
    """A node's files, and whom it expects."""
    place = authority.save(directory / name, name, expired=expired, side="node")
    return LinkTls(TlsFiles(*(str(place / f"{file}.pem") for file in ("node-cert", "node-key", "ca-cert"))), peer)


@pytest.mark.parametrize("head_start_s", [0.0, 0.2])
async def test_two_nodes_meet_in_tls(
    seed: int, nursery: trio.Nursery, authority: Authority, short_tmp: Path, head_start_s: float
) -> None:
    """Both connect at once, and still shake hands; data meets data, and one may end what it says and still hear."""
    sides = node(authority, short_tmp, "alpha", "beta"), node(authority, short_tmp, "beta", "alpha")
    a, b = await meet_both(seed, nursery, head_start_s, sides)
    try:
        assert a.resolve_conflicts is not b.resolve_conflicts
        assert await carries(a.data, b.data)
        assert await carries(b.meta, a.meta)
        a.data.shutdown(socket.SHUT_WR)
        with trio.fail_after(LIMIT_S):
            assert await b.data.recv(1) == b""
        assert await carries(b.data, a.data)
    finally:
        a.close()
        b.close()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "certificate has expired"),
        ("wrong authority", "its certificate is refused"),
        ("wrong name", "its certificate names gamma: not allowed here"),
        ("without TLS", "the TLS handshake failed"),
    ],
)
async def test_who_is_not_the_peer_does_not_meet_us(
    seed: int, authority: Authority, short_tmp: Path, caplog: pytest.LogCaptureFixture, kind: str, reason: str
) -> None:
    """Neither by connecting nor by being connected to; the log says why, once, and no secret."""
    caplog.set_level(logging.WARNING)
    name = "gamma" if kind == "wrong name" else "beta"
    theirs_by = Authority() if kind == "wrong authority" else authority
    theirs: LinkTls | None = node(theirs_by, short_tmp, name, "alpha", expired=kind == "expired")
    if kind == "without TLS":
        theirs = None
    ours = node(authority, short_tmp, "alpha", "beta")
    met: list[str] = []
    said = trio.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if reason in record.getMessage():
                said.set()

    handler = Notice()
    logging.getLogger("pydrbd").addHandler(handler)
    a, b = (replace(where, tls=own) for where, own in zip(endpoints(), (ours, theirs), strict=True))
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:

                async def run(who: str) -> None:
                    pair = await meet(a if who == "a" else b, TIMES, random.Random(f"{seed}/{who}"), nursery)
                    met.append(who)
                    pair.close()

                nursery.start_soon(run, "a")
                nursery.start_soon(run, "b")
                await said.wait()
                nursery.cancel_scope.cancel()
    finally:
        logging.getLogger("pydrbd").removeHandler(handler)
    assert "a" not in met
    assert "PRIVATE" not in caplog.text


def test_files_that_cannot_be_used_are_said_before_any_disk_is_touched(authority: Authority, short_tmp: Path) -> None:
    """As a busy port is."""
    tls = node(authority, short_tmp, "alpha", "beta")
    (short_tmp / "alpha" / "node-key.pem").unlink()
    with pytest.raises(ConfigError, match=r"can't read .*node-key\.pem"):
        try_address(replace(endpoints()[0], tls=tls), must_be_ours=True)
