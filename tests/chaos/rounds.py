"""One crash test in rounds: write at depth 16, kill, restart, resync, read everything back, compare the copies.

Every choice comes from one seed. When exactly a process dies in the middle of its work does not, so a replay meets the
same story, not the same instruction.

There is no fencing here. So an operator who is careful plays: he never promotes a node that may lack a write that the
other one has acknowledged alone. Who may be promoted is written down beside each case.
"""

from __future__ import annotations

import random

from pydrbd.admin.nbd_handshake import ConnectionLost
from pydrbd.core.refusals import StateCode
from pydrbd.units import KIB
from pydrbd.wire.nbd import Command, CommandFlag
from tests.chaos.history import SECTOR, History, encode

DEPTH = 16
SPOT_COUNT = 160
SPOT_SECTORS = 128 * KIB // SECTOR
HOT_SPOTS = 6
TRANSIENT = {StateCode.SS_IN_TRANSIENT_STATE, StateCode.SS_CONCURRENT_ST_CHG, StateCode.SS_CW_FAILED_BY_PEER}
"""Refusals that an operator answers by asking again."""


class Rounds:
    """The story so far: who is Primary, what was written."""

    def __init__(self, pair, seed):
        self.pair = pair
        self.rng = random.Random(seed)
        self.history = History()
        self.primary = pair.nodes[0]
        self.client = self.primary.connect_client(DEPTH)
        self.size_bytes = self.client.size_bytes
        spots = self.size_bytes // (SPOT_SECTORS * SECTOR)
        self.spots = [spot * SPOT_SECTORS for spot in self.rng.sample(range(spots), SPOT_COUNT)]
        self.kills = 0

    def __str__(self):
        return f"{self.kills} kills, {self.history.acknowledged_count} writes acknowledged, none lost"

    @property
    def secondary(self):
        return self.pair.other(self.primary)

    def say(self, text):
        print(f"{self.history.acknowledged_count:6} writes acknowledged: {text}")

    # --- writing ---

    def submit_one(self):
        """One request: mostly writes of some KiB, many of them to the same few places."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.03:
            self.client.submit(Command.FLUSH, on_reply=self.expect_success)
            return
        spot = rng.choice(self.spots[:HOT_SPOTS] if rng.random() < 0.5 else self.spots)
        count = rng.choice((1, 8, 8, 8, 8, rng.randint(1, 16), rng.randint(1, SPOT_SECTORS)))
        first = rng.randrange(0, SPOT_SECTORS - count + 1)
        if count == 8:
            first -= first % 8
        zeroes = draw < 0.07
        write = self.history.submit(spot + first, count, zeroes=zeroes)
        flags = CommandFlag.FUA if rng.random() < 0.1 else CommandFlag(0)

        def replied(error, _payload):
            assert not error, f"write {write.number} failed with error {error}"
            self.history.acknowledge(write)

        offset = write.first_sector * SECTOR
        if zeroes:
            self.client.submit(Command.WRITE_ZEROES, offset, count * SECTOR, flags=flags, on_reply=replied)
        else:
            self.client.submit(Command.WRITE, offset, payload=encode(write), flags=flags, on_reply=replied)

    def expect_success(self, error, _payload):
        assert not error, f"FLUSH failed with error {error}"

    def write(self, at_most):
        """Write until a drawn number of writes has been acknowledged; some are still in flight then."""
        goal = self.history.acknowledged_count + self.rng.randint(1, at_most)
        while self.history.acknowledged_count < goal:
            self.submit_one()

    def lose_client(self):
        """The Primary has died: take the replies that had been sent, and forget the connection."""
        try:
            while True:
                self.submit_one()
        except ConnectionLost:
            self.client.abandon()
            self.history.lose_connection()

    # --- killing and coming back ---

    def kill(self, node, why):
        self.say(f"SIGKILL {node} ({self.role(node)}, {why})")
        self.kills += 1
        node.kill()

    def role(self, node):
        return "Primary" if node is self.primary else "Secondary"

    def promote(self, node):
        """Promote, open the export anew, and go on with this one as the Primary."""

        def granted():
            answer = node.ask("primary")
            assert answer.code >= 1 or answer.code in TRANSIENT, f"{node} was not promoted: {answer.text}"
            return answer.code >= 1

        self.pair.wait_until(granted, f"{node} to be promoted")
        self.primary = node
        self.client = node.connect_client(DEPTH)
        self.say(f"{node} is Primary")

    def is_alone(self, node):
        """Whether a node has noticed that its peer is gone."""
        return node.volume()["cstate"] in ("Unconnected", "WFConnection")

    def refuse_or_skip(self, node):
        """A node that was cut off in the middle of a resync has no data that anybody may use."""
        self.pair.wait_until(lambda: self.is_alone(node), f"{node} to notice that it is alone")
        if node.volume()["disk"] != "UpToDate":
            answer = node.ask("primary")
            assert answer.code == StateCode.SS_NO_UP_TO_DATE_DISK, f"{node} is Inconsistent, and answered {answer}"
            self.say(f"{node} refused to become Primary in the middle of a resync")

    def round(self):
        """From in sync to in sync."""
        self.write(400)
        self.rng.choice((self.secondary_dies, self.primary_dies, self.both_die))()
        self.write(100)
        self.settle()

    def secondary_dies(self):
        """The Primary goes on; perhaps the resync is interrupted too."""
        self.kill(self.secondary, "writes in flight")
        self.write(300)
        self.secondary.start()
        if self.rng.random() < 0.5:
            self.pair.wait_until(lambda: not self.is_alone(self.primary), "the nodes to meet")
            self.write(60)
            self.rng.choice((self.target_dies, self.source_dies, self.source_and_target_die))()

    def target_dies(self):
        self.kill(self.secondary, "in a resync")
        self.write(100)
        self.secondary.start()

    def source_dies(self):
        """Only the source has all data: it must come back."""
        self.kill(self.primary, "in a resync")
        self.lose_client()
        self.refuse_or_skip(self.secondary)
        self.primary.start()
        self.promote(self.primary)

    def source_and_target_die(self):
        for node in self.rng.sample(self.pair.nodes, 2):
            self.kill(node, "in a resync")
        self.lose_client()
        for node in self.rng.sample(self.pair.nodes, 2):
            node.start()
        self.promote(self.primary)

    def primary_dies(self):
        """The survivor has every acknowledged write. It takes over, or the other one comes back first."""
        self.kill(self.primary, "writes in flight")
        self.lose_client()
        crashed, survivor = self.primary, self.secondary
        if self.rng.random() < 0.5:
            self.pair.wait_until(lambda: self.is_alone(survivor), f"{survivor} to notice that it is alone")
            self.promote(survivor)
            self.write(300)
            crashed.start()
        else:
            crashed.start()
            self.choose_after_meeting(crashed)

    def both_die(self):
        """Who died first decides who may be alone: a Primary that lived longer may have acknowledged alone."""
        first, second = self.rng.sample(self.pair.nodes, 2)
        for node in (first, second):
            self.kill(node, "both die")
        self.lose_client()
        crashed, other = self.primary, self.secondary
        if first is crashed and self.rng.random() < 0.3:
            other.start()
            self.promote(other)
            self.write(100)
            crashed.start()
            return
        for node in self.rng.sample(self.pair.nodes, 2):
            node.start()
        self.choose_after_meeting(crashed)

    def choose_after_meeting(self, crashed):
        """The crashed Primary may be promoted at any time, its peer when both have met and agreed on the data."""
        if self.rng.random() < 0.5:
            self.promote(crashed)
            return
        self.pair.wait_until(lambda: not self.is_alone(crashed), "the nodes to meet")
        if self.rng.random() < 0.5:
            self.pair.wait_until(self.pair.in_sync, "the resync")
        else:
            self.pair.wait_until(self.has_data, "the direction of the resync")
        self.promote(self.pair.other(crashed))

    def has_data(self):
        """Whether both nodes are past the handshake."""
        return all(node.volume()["cstate"] in ("Connected", "SyncSource", "SyncTarget") for node in self.pair)

    # --- checking ---

    def settle(self):
        """Wait until all is in sync and quiet; then everything is read back and both copies are compared."""
        self.client.drain()
        self.check_reads(self.client)
        self.pair.wait_until(self.pair.in_sync, "the resync")
        contents = self.check_reads(self.client)
        for spot, content in contents.items():
            for sector in range(spot, spot + SPOT_SECTORS):
                at = (sector - spot) * SECTOR
                self.history.settle(sector, content[at : at + SECTOR])
        assert [node.volume()["out_of_sync_bits"] for node in self.pair] == [0, 0]
        compared = self.pair.compare(self.size_bytes)
        assert not compared.difference_count, f"the copies differ: {compared}"
        self.say(f"in sync, {compared.block_count} blocks are the same on both")

    def check_reads(self, client):
        """Read all that was written: every sector must hold what it may hold."""
        contents = {}
        for spot in self.spots:

            def replied(error, payload, spot=spot):
                assert not error, f"a read failed with error {error}"
                contents[spot] = payload

            client.submit(Command.READ, spot * SECTOR, SPOT_SECTORS * SECTOR, on_reply=replied)
        client.drain()
        wrong = []
        for spot, content in contents.items():
            for index in range(SPOT_SECTORS):
                said = self.history.wrong(spot + index, content[index * SECTOR : (index + 1) * SECTOR])
                if said:
                    wrong.append(said)
        assert not wrong, f"{len(wrong)} sectors are wrong on {self.primary}: {wrong[:5]}"
        return contents
