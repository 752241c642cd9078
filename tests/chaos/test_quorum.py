"""Quorum between real processes: two nodes and a witness."""

from __future__ import annotations

import pytest

from pydrbd.admin.demo_pair import PROGRAM
from pydrbd.errors import StateRefused
from pydrbd.units import MIB
from pydrbd.wire.nbd import Command
from tests.chaos.conftest import assert_clean_logs

SIZE_BYTES = 16 * MIB
BLOCK = 4096


@pytest.fixture
def trio_of(make_pair, processes, short_tmp):
    """`trio_of(options)` is a pair in sync, the first node Primary, and a function that starts their witness."""
    (short_tmp / "key").write_text("a secret of three\n")
    place = f"unix:{short_tmp}/w"

    def start_witness():
        words = ["witness", "--listen", place, "--state", short_tmp / "leases", "--key-file", short_tmp / "key"]
        log = (short_tmp / "witness.log").open("ab")
        with log:
            return processes.start([*PROGRAM, *words], stdout=log, stderr=log)

    def make(options):
        pair = make_pair(size_bytes=SIZE_BYTES, net="protocol C; connect-int 1; ping-int 1;")
        text = pair.config_path.read_text()
        pair.config_path.write_text(text.replace("resource r0 {", f"resource r0 {{ options {{ {options} }}", 1))
        settings = f'[resource.r0]\nwitness = "{place}"\nwitness-key = "{short_tmp}/key"\n'
        (pair.directory / "pydrbd.toml").write_text(settings)
        for node in pair:
            node.start()
        pair.wait_until(lambda: all(stands(node, "peer") for node in pair), "the connection")
        pair.nodes[0].grant("primary", force=True)
        pair.wait_until(pair.in_sync, "the first sync")
        return pair

    return make, start_witness


def stands(node, *words):
    return node.status()["quorum"] in words


def test_who_wins_the_vote_goes_on_and_the_other_one_is_refused(trio_of):
    """The Primary's peer is killed, the Primary writes on; after a crash of both the old copy is not promoted."""
    make, start_witness = trio_of
    start_witness()
    pair = make("quorum majority;")
    alpha, beta = pair.nodes
    with alpha.connect_client() as client:
        client.write(0, b"1" * BLOCK)
        beta.kill()
        client.write(BLOCK, b"2" * BLOCK)
        assert stands(alpha, "lease") and alpha.volume()["quorum"]
    alpha.kill()
    beta.start()
    with pytest.raises(StateRefused, match=r"\(-25\) No quorum: "):
        beta.grant("primary")
    alpha.start()
    pair.wait_until(pair.in_sync, "the resync")
    beta.grant("primary")
    with beta.connect_client() as client:
        assert client.read(BLOCK, BLOCK) == b"2" * BLOCK
    assert_clean_logs(pair)


def test_without_witness_and_peer_io_fails_until_one_is_back(trio_of):
    """on-no-quorum io-error: an error instead of a write that might be lost; the witness returns, and writes go on."""
    make, start_witness = trio_of
    pair = make("quorum majority; on-no-quorum io-error;")
    alpha, beta = pair.nodes
    with alpha.connect_client() as client:
        client.write(0, b"1" * BLOCK)
        beta.kill()
        pair.wait_until(lambda: stands(alpha, "none", "asking"), "the loss of quorum")
        errors = []
        client.submit(Command.WRITE, BLOCK, payload=b"2" * BLOCK, on_reply=lambda error, _data: errors.append(error))
        client.drain()
        assert errors == [5]
        start_witness()
        pair.wait_until(lambda: stands(alpha, "lease"), "the vote")
        client.write(BLOCK, b"3" * BLOCK)
    beta.start()
    pair.wait_until(pair.in_sync, "the resync")
    assert not pair.compare(8 * MIB).difference_count
    assert_clean_logs(pair)
