"""Scenarios: what an operator may ask for, what is refused, and with which code."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from pydrbd.core.handshake import Handshake, NetOptions, Phase
from pydrbd.core.states import ConnState, DiskState
from pydrbd.wire.packet_numbers import WireProtocol
from pydrbd.wire.packets import AuthChallenge, Packet
from tests.harness.scene import BLOCK, MIB, order, pair, read, sent, sent_bytes, state, wait, write
from tests.harness.world import Client, World

SEEDS = range(4)
AUTH = NetOptions(cram_hmac_alg="sha256", shared_secret="open sesame")


def unlike(ours: NetOptions, theirs: NetOptions) -> World:
    """A pair whose configurations differ; both have tried to connect."""
    world = World(1, net=ours)
    world.a.start()
    world.net = theirs
    world.b.start()
    world.run(30)
    return world


def test_a_demotion_is_refused_while_clients_are_there() -> None:
    """SS_DEVICE_IN_USE; with force the clients get errors."""
    world, client = pair()
    assert order(world, world.a, "secondary") == -12
    assert order(world, world.a, "secondary", force=True) == 1
    assert wait(client, client.write(0, b"x" * BLOCK), client.read(0, BLOCK), client.flush()) == [108, 108, 108]


def test_a_second_primary_is_refused() -> None:
    """C2: SS_TWO_PRIMARIES while the peer is Primary; granted after it has become Secondary."""
    world, _client = pair()
    assert order(world, world.b, "primary") == -1
    assert order(world, world.a, "secondary", force=True) == 1
    world.run(0.1)
    assert order(world, world.b, "primary") == 1
    world.run(0.1)
    assert state(world.a) == "Connected Secondary/Primary UpToDate/UpToDate"


@pytest.mark.parametrize("seed", SEEDS)
def test_two_promotions_at_the_same_time_leave_one_primary(seed: int) -> None:
    """C2, when both ask at once: one is told -19 or -1."""
    world, _client = pair(seed)
    assert order(world, world.a, "secondary", force=True) == 1
    world.run(0.1)
    requests = [(machine, machine.command("primary")) for machine in (world.a, world.b)]
    world.run(1)
    codes = sorted(machine.answers[request][0] for machine, request in requests)
    assert codes in ([-19, 1], [-1, 1], [-19, -1]) and not world.protocol_errors
    assert [machine.volume.state.role.name for machine in (world.a, world.b)].count("Primary") == codes.count(1)


def test_no_data_no_promotion() -> None:
    """C1: SS_NO_UP_TO_DATE_DISK for fresh disks, for a sync target that has lost its source; force overrides."""
    world = World(1)
    world.start()
    assert order(world, world.b, "primary") == -2
    assert order(world, world.a, "primary", force=True) == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    world.a.stop()
    world.run(1)
    assert order(world, world.b, "primary") == -2
    world.b.lose_power(world.rng)
    world.b.start()
    world.run(1)
    assert order(world, world.b, "primary") == -2
    assert order(world, world.b, "primary", force=True) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_disconnect_and_connect_again(seed: int) -> None:
    """In good order: StandAlone here, waiting there; back in sync after what was written meanwhile was copied."""
    world, client = pair(seed)
    assert order(world, world.b, "disconnect") == 1
    world.run(1)
    assert [machine.volume.state.conn.name for machine in (world.a, world.b)] == ["WFConnection", "StandAlone"]
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.b, "connect") == 1
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == BLOCK and world.copies_equal()


@pytest.mark.parametrize("seed", range(8))
def test_a_primary_without_a_disk_works_through_its_peer_and_attaches_again(seed: int) -> None:
    """Reads and writes go to the peer; after attach only what was written meanwhile, and its log, is copied."""
    world, client = pair(seed, size_bytes=40 * MIB)
    assert write(client, 0, b"1" * BLOCK) == 0
    assert order(world, world.a, "detach") == 1
    cookies = [client.write(n * 600 * 1024, bytes([n + 2]) * BLOCK) for n in range(60)]
    assert set(wait(client, *cookies)) == {0}
    assert read(client, 600 * 1024, BLOCK) == bytes([3]) * BLOCK
    assert len(sent(world.a, Packet.P_DATA_REQUEST)) == 1
    more = [client.write(n * BLOCK, b"m" * BLOCK) for n in range(20)]
    request = world.a.command("attach")
    assert set(wait(client, *more)) == {0}
    world.run_until(world.is_in_sync)
    assert world.a.answers[request][0] == 1 and world.copies_equal() and not world.protocol_errors
    assert 60 * BLOCK <= sent_bytes(world.b, Packet.P_RS_DATA_REPLY) <= 4 * MIB + 80 * BLOCK
    assert state(world.a) == "Connected Primary/Secondary UpToDate/UpToDate"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_diskless_primary_wrote_survives_the_crash_of_its_peer(seed: int) -> None:
    """WIRE 9.5: the serving Secondary keeps the log, so that after both crashed the old disk catches up."""
    world, client = pair(seed, size_bytes=40 * MIB)
    assert order(world, world.a, "detach") == 1
    cookies = [client.write(n * 2 * MIB, bytes([n + 2]) * BLOCK) for n in range(15)]
    assert set(wait(client, *cookies, )) == {0} and wait(client, client.flush()) == [0]
    world.b.lose_power(world.rng)
    world.a.lose_power(world.rng)
    for machine in (world.a, world.b):
        machine.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()
    assert world.a.disks[0].data[2 * MIB : 2 * MIB + BLOCK] == bytes([3]) * BLOCK


def test_a_secondary_detaches_and_attaches() -> None:
    """The Primary goes on alone, and what it wrote is copied."""
    world, client = pair()
    assert order(world, world.b, "detach") == 1
    assert write(client, 0, b"x" * BLOCK) == 0
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"
    assert order(world, world.b, "attach") == 1
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == BLOCK and world.copies_equal()


def test_the_last_disk_can_not_be_detached() -> None:
    world, _client = pair()
    world.b.stop()
    assert order(world, world.a, "detach") == -2


@pytest.mark.parametrize(
    "theirs",
    [
        AUTH,
        dataclasses.replace(AUTH, shared_secret="guess"),
        dataclasses.replace(AUTH, cram_hmac_alg="sha1"),
        NetOptions(),
    ],
)
def test_only_the_right_secret_connects(theirs: NetOptions) -> None:
    """Right: Connected. Wrong: StandAlone on the node that found out. One-sided: never Connected."""
    world = unlike(AUTH, theirs)
    if theirs == AUTH:
        assert world.is_linked() and not world.protocol_errors
    else:
        assert world.a.volume.state.conn == ConnState.StandAlone and not world.is_linked()


def test_a_peer_that_sends_our_own_challenge_back_is_refused() -> None:
    """Else it would let us answer it ourselves, by a second connection, and need no secret."""
    reasons: list[str] = []
    node: Any = SimpleNamespace(net=AUTH, give_up_connection=reasons.append)
    handshake = Handshake(node, b"c" * 64, discard_my_data=False)
    handshake.phase = Phase.CHALLENGE
    handshake.on_packet(Packet.P_AUTH_CHALLENGE, AuthChallenge(b"c" * 64).encode())
    assert len(reasons) == 1 and "reflection" in reasons[0] and handshake.phase is Phase.DONE


@pytest.mark.parametrize(
    "theirs", [NetOptions(protocol=WireProtocol.A), NetOptions(allow_two_primaries=True), NetOptions(after_sb_0pri=6)]
)
def test_different_settings_do_not_connect(theirs: NetOptions) -> None:
    """C7: StandAlone on both, nothing written."""
    world = unlike(NetOptions(), theirs)
    assert [machine.volume.state.conn for machine in (world.a, world.b)] == [ConnState.StandAlone] * 2


def test_a_peer_with_a_smaller_disk_is_refused_when_the_data_does_not_fit() -> None:
    """C7: a device of 16 MiB does not shrink to 8 MiB."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    small = World(2, size_bytes=8 * MIB)
    world.b.stop()
    world.b.disks = small.b.disks
    world.b.start()
    world.run(5)
    assert world.a.volume.state.conn == ConnState.StandAlone and world.a.volume.size_bytes > 15 * MIB
    assert [line for line in world.b.log if "with our disk it could have" in line]
    assert read(client, 0, BLOCK) == b"x" * BLOCK


def test_a_smaller_disk_is_not_attached_beside_a_connected_peer() -> None:
    """C7: it is refused here, in words; the peer neither leaves nor notices."""
    world, client = pair()
    assert order(world, world.b, "detach") == 1
    world.b.disks[0] = World(2, size_bytes=8 * MIB).b.disks[0]
    attach = world.b.command("attach")
    world.run(5)
    code, text = world.b.answers[attach]
    assert code < 0 and "offers 16304 sectors, but the peer's device has 32688" in text
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"
    assert state(world.b) == "Connected Secondary/Primary Diskless/UpToDate"
    assert write(client, 0, b"x" * BLOCK) == 0


def test_clients_of_both_volumes_follow_one_promotion() -> None:
    """A resource is promoted and demoted as a whole."""
    world, _client = pair(volumes=2)
    assert order(world, world.a, "secondary", force=True) == 1
    world.run(0.1)
    assert order(world, world.b, "primary") == 1
    client = Client(world, world.b, 1)
    assert write(client, 0, b"x" * BLOCK) == 0 and world.copies_equal()
    assert state(world.b, 0) == state(world.b, 1) == "Connected Primary/Secondary UpToDate/UpToDate"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_detach_whose_answer_is_lost_is_no_split_brain(seed: int) -> None:
    """The peer has agreed, the link breaks before we hear of it: nothing has happened."""
    world, client = pair(seed)
    request = world.a.command("detach")
    world.run_until(lambda: (Packet.P_STATE_CHG_REQ, 8) in world.a.sent_packets[-1:])
    world.cut()
    world.run(0.1)
    assert world.a.answers[request][0] == -10
    assert write(client, 0, b"x" * BLOCK) == 0
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_nobody_is_promoted_while_the_peer_is_attaching_what_may_be_newer() -> None:
    """C1: SS_IN_TRANSIENT_STATE until the generations have been compared."""
    world, client = pair()
    world.b.stop()
    assert write(client, 0, b"newer" + bytes(BLOCK - 5)) == 0
    world.a.stop()
    world.b.start()
    world.run(0.1)
    attach, world.a._attach = world.a._attach, lambda vnr: None
    world.a.start()
    world.run_until(world.is_linked)
    request = world.b.command("primary")
    attach(0)
    assert world.a.volume.state.disk == DiskState.Negotiating
    world.run_until(lambda: request in world.b.answers)
    assert world.b.answers[request][0] == -18
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.b.disks[0].data[:5] == b"newer"


@pytest.mark.parametrize("wish", ["discard_my_data", "tentative"])
@pytest.mark.parametrize("peer", ["there", "away"])
def test_a_wish_for_a_connection_that_is_there_already_is_refused(wish: str, peer: str) -> None:
    """It would be forgotten without a word: ERR_NET_CONFIGURED; without a wish all is well."""
    world, _client = pair()
    if peer == "away":
        world.a.lose_power(world.rng)
        world.run(2)
    before = state(world.b)
    request = world.b.command("connect", **{wish: True})
    world.run(0.1)
    assert world.b.answers[request] == (0, "Failure: (125) Device has a net-config (use disconnect first)")
    assert order(world, world.b, "connect") == 1
    world.run(1)
    assert state(world.b) == before
    if peer == "away":
        world.a.start()
        world.run_until(world.is_in_sync)
    assert not world.protocol_errors


def test_a_primary_does_not_discard_its_data() -> None:
    """As the kernel: ERR_DISCARD_IMPOSSIBLE at once, and nobody is looked for."""
    world, _client = pair()
    assert order(world, world.a, "disconnect") == 1
    request = world.a.command("connect", discard_my_data=True)
    world.run(0.1)
    assert world.a.answers[request] == (0, "Failure: (123) --discard-my-data not allowed when primary.")
    assert state(world.a).startswith("StandAlone Primary")
