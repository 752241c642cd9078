"""Two nodes live through random histories; whenever they meet, their verdicts must be mirror images.

Not random uuids but those that can arise: promotions, writes, lost links, frozen Primaries, crashes, resyncs broken off
at every step. The nodes also hold data: an observer who sees both disks checks that no resync leaves a difference.

How a resync ends differs. A kernel's target ends first, its source when it hears of that (rules 34, 35 mend what is
lost between); a source that then loses the link may be rolled back by a later promotion of the target, and nothing
tells. Our source ends first, durably (ARCHITECTURE, notes on the wire); `kernel_ends` reaches those two rules.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from pydrbd.core.split_brain import Abort, NoSync, Situation, SyncSource, SyncTarget, decide
from pydrbd.core.states import DiskState, Role
from pydrbd.core.uuids import (
    UuidSet,
    adopt_skipped_sync,
    compare,
    finish_sync_source,
    finish_sync_target,
    new_current,
    new_current_by_operator,
    set_primary_bit,
    start_sync_source,
    start_sync_target,
)

__all__ = ["RULE_PAIRS", "Pair"]

BLOCKS = range(5)
RULE_PAIRS = {20: 30, 30: 20, 34: 35, 35: 34, 36: 37, 37: 36, 50: 70, 70: 50, 51: 71, 71: 51, 60: 80, 80: 60}
ONE_SIDED = ("I should become SyncTarget, but I am Primary", "I should become SyncSource, but my data is Inconsistent")


class Node:
    def __init__(self):
        self.uuids = UuidSet()
        self.peers = UuidSet()
        self.role = Role.Secondary
        self.disk = DiskState.Inconsistent
        self.crashed = False
        self.frozen = False
        self.bits = set()
        self.data = dict.fromkeys(BLOCKS, 0)

    @property
    def primary(self):
        return self.role is Role.Primary


class Pair:
    """Two nodes and the link between them: None, "up", or the stage of a resync."""

    def __init__(self, seed, apv, kernel_ends=False):
        self.kernel_ends = kernel_ends
        self.random = Random(seed)
        self.apv = apv
        self.nodes = (Node(), Node())
        self.link = None
        self.source = self.target = None
        self.rules = Counter()
        self.writes = 0
        self.events = [
            self.connect,
            self.lose_link,
            self.promote,
            self.demote,
            self.write,
            self.resync_step,
            self.crash,
        ]
        self.events += [self.force, self.skip_initial_sync, self.thaw, self.by_operator]
        self.stonith = seed % 3 == 0
        if seed % 4:  # the others begin with fresh meta-data
            for node in self.nodes:
                node.uuids, node.disk = UuidSet(0xABC0, 0, 0xABB0, 0xABA0), DiskState.UpToDate
        often = self.random.choices([1, 3, 6], k=7)  # each history has a taste of its own
        self.weights = [often[0] + 1, *often[1:], *self.random.choices([0.2, 1], k=4)]

    def step(self):
        self.random.choices(self.events, self.weights)[0]()

    def number(self):
        return self.random.getrandbits(64)

    # -- meeting and parting --

    def connect(self):
        if self.link:
            return
        a, b = self.nodes
        holder = self.random.random() < 0.5
        discard = self.random.choice([(False, False), (False, False), (True, False), (False, True)])
        here, there = self.compare(a, b, holder), self.compare(b, a, not holder)
        assert there.rule == RULE_PAIRS.get(here.rule, here.rule)
        assert there.result == (-here.result if abs(here.result) <= 2 else here.result)
        assert (here.mine.masked(), here.peer.masked()) == (there.peer.masked(), there.mine.masked())
        self.rules[here.rule] += 1
        outcome = self.decide(here, a, b, holder, discard)
        opposite = self.decide(there, b, a, not holder, discard[::-1])
        if isinstance(outcome, Abort) or isinstance(opposite, Abort):
            for mine, other in ((outcome, opposite), (opposite, outcome)):
                assert isinstance(other, Abort) or mine.reason in ONE_SIDED
            return
        a.uuids, a.peers, b.uuids, b.peers = here.mine, here.peer, there.mine, there.peer
        a.frozen = b.frozen = False
        self.begin(outcome, opposite)

    def compare(self, mine, peer, holder):
        return compare(
            mine.uuids, peer.uuids, i_crashed=mine.crashed, peer_crashed=peer.crashed, my_role=mine.role,
            peer_role=peer.role, resolve_conflicts=holder, apv=self.apv, features_wsame=True,
        )  # fmt: skip

    def decide(self, verdict, mine, peer, holder, discard):
        situation = Situation(
            mine.role, peer.role, mine.disk, peer.disk, my_dirty_bits=len(mine.bits), peer_dirty_bits=len(peer.bits),
            resolve_conflicts=holder, discard_my_data=discard[0], peer_discards_its_data=discard[1],
        )  # fmt: skip
        return decide(verdict, situation).outcome

    def begin(self, outcome, opposite):
        a, b = self.nodes
        if isinstance(outcome, NoSync):
            assert opposite == outcome
            if DiskState.UpToDate in (a.disk, b.disk):
                assert a.data == b.data
                a.disk = b.disk = DiskState.UpToDate
                a.crashed = b.crashed = False
            self.link = "up"
            return
        assert {type(outcome), type(opposite)} == {SyncSource, SyncTarget} and outcome.full is opposite.full
        self.source, self.target = (a, b) if isinstance(outcome, SyncSource) else (b, a)
        merged = set(BLOCKS) if outcome.full else a.bits | b.bits
        assert {block for block in BLOCKS if a.data[block] != b.data[block]} <= merged
        a.bits, b.bits = set(merged), set(merged)
        self.link = "bitmap"

    def lose_link(self):
        if not self.link:
            return
        self.link = None
        for node in self.nodes:
            if node.primary and node.disk is DiskState.UpToDate and node.uuids.bitmap == 0:
                node.frozen = self.stonith  # until fencing is done: no new generation, no writes
                node.crashed = node.crashed or node.frozen  # as the core says it (rule 41): the peer may lack writes
                if not node.frozen:
                    node.uuids = new_current(node.uuids, self.number(), primary=True)

    def thaw(self):
        for node in self.nodes:
            if node.frozen and not self.link:
                node.uuids = new_current(node.uuids, self.number(), primary=True)
            node.frozen = False

    def crash(self):
        node, other = self.random.sample(self.nodes, 2)
        if node.primary and self.link == "up" and node.disk is DiskState.UpToDate:
            block = self.random.choice(BLOCKS)  # in flight: on one disk only, and in the activity log
            self.writes += 1
            self.random.choice((node, other)).data[block] = self.writes
            node.bits.add(block)
        was_primary = node.primary
        node.role, node.frozen = Role.Secondary, False
        self.lose_link()
        node.crashed = node.crashed or was_primary
        node.uuids = set_primary_bit(node.uuids, False)

    # -- roles and writes --

    def promote(self):
        node, other = self.random.sample(self.nodes, 2)
        if node.primary or node.disk is not DiskState.UpToDate or (self.link and other.primary):
            return
        node.role = Role.Primary
        if not self.link and node.uuids.bitmap == 0:
            node.uuids = new_current(node.uuids, self.number(), primary=False)
        node.uuids = set_primary_bit(node.uuids, True)

    def force(self):
        node = self.random.choice(self.nodes)
        if self.link or node.disk is DiskState.UpToDate or self.random.random() < 0.5:
            return
        node.role, node.disk = Role.Primary, DiskState.UpToDate
        node.uuids = new_current(node.uuids, self.number(), primary=True)

    def demote(self):
        node = self.random.choice(self.nodes)
        if node.frozen:
            return
        node.role = Role.Secondary
        node.uuids = set_primary_bit(node.uuids, False)

    def by_operator(self):
        node = self.random.choice(self.nodes)
        if not self.link and not node.primary and node.disk is DiskState.UpToDate:
            node.uuids = new_current_by_operator(node.uuids, self.number(), primary=False)

    def write(self):
        node, other = self.random.sample(self.nodes, 2)
        if not node.primary or node.frozen or (self.link in ("bitmap", "sent") and node is self.target):
            return
        if not self.link and node.disk is not DiskState.UpToDate:
            return
        self.writes += 1
        block = self.random.choice(BLOCKS)
        node.data[block] = self.writes
        if not self.link:
            assert node.uuids.bitmap != 0, "a Primary writes alone and its peer could not tell"
            node.bits.add(block)
        elif self.link in ("bitmap", "sent"):
            node.bits.add(block)
            other.bits.add(block)
        else:
            other.data[block] = self.writes

    # -- resync --

    def resync_step(self):
        if self.link == "bitmap":
            self.source.uuids, self.sync_uuid = start_sync_source(self.source.uuids, self.number())
            self.link = "sent"
        elif self.link == "sent":
            self.target.uuids = start_sync_target(self.target.uuids, self.sync_uuid, self.target.primary)
            self.target.disk = DiskState.Inconsistent
            self.link = "copying"
        elif self.link == "copying" and self.source.bits:
            for block in self.random.sample(sorted(self.source.bits), self.random.randint(1, len(self.source.bits))):
                self.target.data[block] = self.source.data[block]
                self.source.bits.discard(block)
                self.target.bits.discard(block)
        elif self.link == "copying" and not self.kernel_ends:
            self.source.uuids = finish_sync_source(self.source.uuids)
            self.link = "ending"
        elif self.link in ("copying", "ending"):
            assert self.source.data == self.target.data
            self.target.uuids = finish_sync_target(self.target.uuids, self.target.peers, self.target.primary)
            self.finish(self.target, "finished")
        elif self.link == "finished":
            self.source.uuids = finish_sync_source(self.source.uuids)
            self.finish(self.source, "up")
            assert self.source.uuids.masked() == self.target.uuids.masked()

    def finish(self, node, link):
        node.peers, node.disk, node.crashed = node.uuids, DiskState.UpToDate, False
        self.link = link

    def skip_initial_sync(self):
        a, b = self.random.sample(self.nodes, 2)
        if self.link != "up" or a.uuids.current != 4 or b.uuids.current != 4 or a.data != b.data:
            return
        a.uuids = new_current_by_operator(a.uuids, self.number(), a.primary)
        a.disk = b.disk = DiskState.UpToDate
        b.uuids = adopt_skipped_sync(b.uuids, a.uuids.current, b.primary)
        if self.random.random() < 0.5:
            self.link = None  # before the sender's last write
        else:
            a.uuids = adopt_skipped_sync(a.uuids, a.uuids.current, a.primary)
