"""Quorum with a tie-breaker: of two nodes without fencing hardware, one may go on alone (`quorum`, `on-no-quorum`).

A node has quorum while it is connected to its peer, or has the lease of the witness (core/lease) for this outage:

    standing  connected  lease   a Primary's I/O              may be promoted
    PEER      yes        -       goes on                      as the peer allows
    LEASE     no         has it  goes on, in a new generation yes
    ASKING    no         asked   frozen                       when it is granted
    NONE      no         no      on-no-quorum: frozen (suspend-io), or fails (io-error); it asks again and again
    NONE      no, Secondary      -                            asks first; SS_NO_QUORUM if it is refused

* A lease counts for the outage in which it was asked for, and only until the nodes are connected again.
* Only a node whose data is good asks: it would take the vote from the one that has some.
* The lease stays with its holder while the other copy may lack something. When both nodes are connected and both disks
  UpToDate, the holder gives it back; so a node that was not there meanwhile is refused, however long that was.
* A node whose peer has no disk takes the lease, too, if there is a Primary: that disk, attached again by a node that
  has forgotten, looks as good as it was. I/O goes on meanwhile.
* And the other way round: while a peer that has come has no disk yet, that may be the one with newer data. So nobody is
  promoted, and no frozen I/O goes on, without the lease.
* `quorum all`, or a majority without a witness, is the connection alone: whoever loses it stops.
* --force asks with force, and goes on even when the witness can't be reached: the operator answers for it.

I/O is frozen as by fencing (susp_fen), from the very change of state that loses the peer: nothing is answered before
the witness has spoken, the generation waits, and a peer that returns first gets a resync (core/fencing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pydrbd.core.effects import AskWitness, Level, StateChanged
from pydrbd.core.states import DiskState, Role
from pydrbd.core.volume import Volume
from pydrbd.limits import WITNESS_LOOK_S, WITNESS_RETRY_S
from pydrbd.wire.witness import Verb, Verdict, WitnessAnswer

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Quorum", "QuorumOptions", "Standing"]

_Then = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class QuorumOptions:
    """`enabled`: a node alone is not enough. `by_witness`: a lease may take the peer's place."""

    enabled: bool = False
    by_witness: bool = False
    io_error: bool = False
    node: str = ""
    """What the witness knows this node by."""


class Standing(Enum):
    """What a node's quorum rests on."""

    OFF = "off"
    PEER = "peer"
    LEASE = "lease"
    ASKING = "asking"
    NONE = "none"


class Quorum:
    """One node's quorum, for all volumes of its resource."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._outage = 0
        self._lease = False
        self._kept = False
        self._asking = False
        self._releasing = False
        self._waiting: list[tuple[bool, _Then]] = []
        self._ask_again_at: float | None = None
        self._release_at: float | None = None
        self.refusal = ""
        """Why there is none, in words, as far as it is known."""

    @property
    def _options(self) -> QuorumOptions:
        return self._node.options.quorum

    def _volumes(self) -> Iterator[Volume]:
        return iter(self._node.volumes.values())

    @property
    def standing(self) -> Standing:
        if not self._options.enabled:
            return Standing.OFF
        if self._node.established:
            return Standing.PEER
        if self._lease:
            return Standing.LEASE
        return Standing.ASKING if self._asking else Standing.NONE

    @property
    def has(self) -> bool:
        """Whether this node may go on, as far as quorum is concerned."""
        return self.standing in (Standing.OFF, Standing.PEER, Standing.LEASE)

    @property
    def needs_lease(self) -> bool:
        """Whether a Primary that is alone may not go on."""
        return self._options.enabled and not self._lease

    def next_deadline(self) -> float | None:
        deadlines = (self._ask_again_at, None if self._releasing else self._release_at)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_tick(self) -> None:
        now = self._node.now
        if self._ask_again_at is not None and now >= self._ask_again_at:
            self._ask_again_at = None
            self.review()
        if self._release_at is not None and now >= self._release_at and not self._releasing:
            self._give_back(Verb.LOOK)

    # --- what happens around it ---

    def on_connected(self) -> None:
        """A new outage will need a new lease."""
        self._outage += 1
        self._lease = self._kept = False
        self._ask_again_at = None
        self.refusal = ""

    def review(self) -> None:
        """A state has changed: is there something to ask, or to give back?"""
        if not self._options.enabled:
            self._release_at = self._ask_again_at = None
            return
        if self._options.by_witness and all(_in_sync(volume) for volume in self._volumes()):
            self._kept = False
            if self._release_at is None:
                self._release_at = self._node.now
        else:
            self._release_at = None
        if self._keeps_peer_out and not (self._kept or self._asking) and self._ask_again_at is None:
            self._ask(force=False)
        if self._primary and self.standing is Standing.NONE and self._ask_again_at is None:
            if not self._options.by_witness:
                self._on_refused("the peer is not connected, and no witness decides")
            elif all(volume.state.disk is DiskState.UpToDate for volume in self._volumes()):
                self._ask(force=False)

    @property
    def _primary(self) -> bool:
        return any(volume.state.role is Role.Primary for volume in self._volumes())

    @property
    def peer_may_be_ahead(self) -> bool:
        """Whether the peer is there without a disk that could be compared, and no lease says that it got no writes."""
        return (
            self._options.by_witness
            and not self._kept
            and self._node.established
            and any(volume.state.pdsk < DiskState.Inconsistent for volume in self._volumes())
        )

    @property
    def _keeps_peer_out(self) -> bool:
        """Whether what is written comes to our disks, and not to one of the peer's, which does not say so of itself."""
        states = [volume.state for volume in self._volumes()]
        return (
            self._options.by_witness
            and any(state.connected and state.pdsk < DiskState.Inconsistent for state in states)
            and any(Role.Primary in (state.role, state.peer) for state in states)
            and all(state.disk is DiskState.UpToDate for state in states)
        )

    def on_reconfigure(self, before: QuorumOptions) -> None:
        """Other options: a Primary that is alone needs what they ask for now."""
        node, now = self._node, self._options
        if now == before:
            return
        if now.enabled and self._primary and not self.has:
            for volume in self._volumes():
                node.change(volume, susp_fen=True)
            if not now.io_error:
                self.stop_failing()
            elif self.refusal:
                self._fail()
        elif before.enabled and not now.enabled and node.fence.frozen:
            node.fence.on_quorum_off()
        self.review()
        node.out.put(StateChanged())

    # --- asking ---

    def win(self, then: _Then, *, force: bool) -> None:
        """Get quorum for a promotion; `then` is told whether there is. Call only if there is none."""
        if self._options.by_witness:
            self._waiting.append((force, then))
            if not self._asking:
                self._ask(force=force)
        else:
            self.refusal = "the peer is not connected, and no witness decides"
            then(self._go_on_by_force() if force else False)

    def _ask(self, *, force: bool) -> None:
        node, outage = self._node, self._outage
        self._asking = True
        self._ask_again_at = None
        generation = next(self._volumes()).uuids.current

        def ended(_failed: int, _errno: int) -> None:
            self._asking = False
            waiting, self._waiting = self._waiting, []
            counts = outage == self._outage and not node.established and self._options.enabled
            if counts and effect.answer is not None and effect.answer.verdict is Verdict.GRANTED:
                self._on_granted(effect.answer)
            elif counts:
                self._on_refused(_why(effect))
            elif self.peer_may_be_ahead:
                self._on_kept(effect)
            for forced, then in waiting:
                if forced and counts and not effect.force and not self.has:
                    self.win(then, force=True)
                    continue
                # What came too late for its outage is no answer to a promotion: that looks at the new state itself.
                good = (self.has or not counts) and not self.peer_may_be_ahead
                then(good or (forced and self._go_on_by_force()))
            self.review()

        effect = AskWitness(Verb.ACQUIRE, ended, generation=generation, force=force)
        node.out.put(effect)

    def _on_granted(self, answer: WitnessAnswer) -> None:
        self._lease, self.refusal = True, ""
        self._node.log_line(Level.INFO, f"quorum: the witness has given us the lease (term {answer.term})")
        self._node.out.put(StateChanged())
        self._node.fence.review()

    def _on_kept(self, effect: AskWitness) -> None:
        """The word on a lease against the peer's old disk; without it I/O goes on, and it is asked for again."""
        self._kept = effect.answer is not None and effect.answer.verdict is Verdict.GRANTED
        if self._kept:
            self._node.log_line(Level.INFO, "quorum: the peer has no disk: we have taken the lease")
            self._node.fence.review()
        else:
            self.refusal = _why(effect)
            self._ask_again_at = self._node.now + WITNESS_RETRY_S

    def _go_on_by_force(self) -> bool:
        self._node.log_line(Level.WARNING, f"quorum: going on by force ({self.refusal})")
        if self._node.established:
            self._kept = True  # for this connection, and no outage that follows it
            self._ask_again_at = None
        else:
            self._lease = True
        return True

    def _on_refused(self, words: str) -> None:
        node = self._node
        if words != self.refusal:
            self.refusal = words
            node.log_line(Level.WARNING, f"quorum: none: {words}")
            node.out.put(StateChanged())
        if not self._primary:
            return
        if self._options.by_witness:
            self._ask_again_at = node.now + WITNESS_RETRY_S
        if self._options.io_error and node.fence.frozen:
            self._fail()

    # --- on-no-quorum io-error ---

    def _fail(self) -> None:
        """What waits fails, and so does what comes, until there is quorum again; nothing of it counts as written."""
        node = self._node
        for volume in self._volumes():
            volume.fails = True
        node.writes.refusing = True
        node.writes.fail_waiting()
        node.flushes.fail_waiting()
        node.writes.resume()
        node.flushes.check()
        for volume in self._volumes():
            node.thaw(volume)
        node.out.put(StateChanged())

    def stop_failing(self) -> None:
        """Requests are taken again, or wait again."""
        if any(volume.fails for volume in self._volumes()):
            self._node.writes.refusing = False
            for volume in self._volumes():
                volume.fails = False
            self._node.out.put(StateChanged())

    # --- giving back ---

    def _give_back(self, verb: Verb, term: int = 0) -> None:
        """Both copies are equal, and writes reach both: the vote of an outage that is over binds nobody any more.

        First a look at whose it is. Whatever term that shows was granted before this, and not for an outage to come.
        """
        self._releasing = True

        def ended(_failed: int, _errno: int) -> None:
            self._releasing = False
            if self._release_at is None:
                return
            answer = effect.answer
            well = answer is not None and answer.verdict is Verdict.GRANTED
            if answer is not None and verb is Verb.LOOK and well and answer.holder == self._options.node:
                self._give_back(Verb.RELEASE, answer.term)
            else:
                self._release_at = self._node.now + (WITNESS_LOOK_S if well else WITNESS_RETRY_S)

        effect = AskWitness(verb, ended, term=term)
        self._node.out.put(effect)


def _in_sync(volume: Volume) -> bool:
    state = volume.state
    return state.connected and state.disk is state.pdsk is DiskState.UpToDate


def _why(effect: AskWitness) -> str:
    answer = effect.answer
    if answer is None:
        return effect.error
    if answer.verdict is Verdict.HELD:
        return f"the witness has given the lease to {answer.holder}, which may have newer data"
    return f"the witness refuses: {answer.verdict.name}"
