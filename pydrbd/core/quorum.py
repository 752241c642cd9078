"""Quorum with a tie-breaker: of two nodes without fencing hardware, one may go on alone (`quorum`, `on-no-quorum`).

A node has quorum while its peer's disk is in its sight, or while it has the lease of the witness (core/lease):

    standing  peer's disk  lease   a Primary's I/O               may be promoted
    PEER      there        -       goes on                       as the peer allows
    LEASE     gone         has it  goes on, in a new generation  yes
    ASKING    gone         asked   frozen                        when it is granted
    NONE      gone         no      on-no-quorum: frozen (suspend-io), or fails (io-error); it asks again and again
    NONE      gone, Secondary -    asks first; SS_NO_QUORUM if it is refused

"Gone" is a connection that is lost, and a peer without a disk: what is written then comes to one disk only. The other
one, attached again by a node that has forgotten, looks as good as it was; or it has the newer data, from an outage.

* Only a node whose data is good asks: it would take the vote from the one that has some.
* The lease stays with its holder while the other copy may lack something. When both nodes are connected and both disks
  UpToDate, the holder gives it back; so a node that was not there meanwhile is refused, however long that was.
* A Primary without a disk is served by its peer's: then that node needs the lease. It agrees to a promotion when it has
  it, and confirms no write, and begins no generation, before.
* `quorum all`, or a majority without a witness, is the connection alone: whoever loses it stops.
* --force is about data, and never about quorum. A lease whose holder is lost for ever is forgotten at the witness.
* What a frozen Primary waits for can't succeed any more when its peer has the lease: with
  `on-suspended-primary-outdated force-secondary` it becomes Secondary, and what waits fails. (DRBD 9: when they meet.)
* A Primary that has none runs the handler quorum-lost, once for each volume, until it has quorum again.
* A holder looks from time to time whether it still is one: a witness that has forgotten it is told again, and if the
  lease is another node's, I/O freezes.

I/O is frozen as by fencing (susp_fen), from the very change of state that loses the peer or its disk: nothing is
answered before the witness has spoken, the generation waits, and a peer that returns first gets a resync: core/fencing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING

from pydrbd.core.effects import AskWitness, Level, StateChanged
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.states import DiskState, Role
from pydrbd.core.volume import Volume
from pydrbd.limits import WITNESS_LOOK_S, WITNESS_RETRY_S
from pydrbd.wire.witness import Verb, Verdict, WitnessAnswer

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Quorum", "Standing"]

_Then = Callable[[bool], None]
_NO_WITNESS = "the peer is not connected, and no witness decides"
_SCATTERED = "not all disks of this node are UpToDate"


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
        self._equal = False
        self._times_equal = 0
        self._lease = False
        self._asking = self._looking = self._told_lost = False
        self._waiting: list[_Then] = []
        self._unconfirmed: list[Callable[[], None]] = []
        self._ask_again_at: float | None = None
        self._look_at: float | None = None
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
        if self._node.established and not self._is_only_disk:
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
        """Whether a Primary may not go on without its peer."""
        return self._options.enabled and not self._lease

    @property
    def counts_disks(self) -> bool:
        """Whether a peer without a disk is no company."""
        return self._options.by_witness

    @property
    def _is_only_disk(self) -> bool:
        """Whether the peer is there, and a disk of it is not."""
        return self._options.by_witness and any(_is_without_peers_disk(volume) for volume in self._volumes())

    @property
    def holds_peer(self) -> bool:
        """Whether our disk serves a Primary that has none, and the lease that this takes is not ours yet."""
        return (
            self._options.by_witness
            and not self._lease
            and any(_is_without_peers_disk(v) and v.state.peer is Role.Primary for v in self._volumes())
        )

    @property
    def _primary(self) -> bool:
        return any(volume.state.role is Role.Primary for volume in self._volumes())

    def next_deadline(self) -> float | None:
        deadlines = (self._ask_again_at, None if self._looking else self._look_at)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_tick(self) -> None:
        now = self._node.now
        if self._ask_again_at is not None and now >= self._ask_again_at:
            self._ask_again_at = None
            self.review()
        if self._look_at is not None and now >= self._look_at and not self._looking:
            self._look()

    # --- what happens around it ---

    def on_connected(self) -> None:
        """Whatever was refused is another matter now."""
        self._ask_again_at = None
        self.refusal = ""

    def review(self) -> None:
        """A state has changed: is there something to ask, to say, or to give back?"""
        if not self._options.enabled:
            self._look_at = self._ask_again_at = None
            self._equal = self._lease = False
            self._confirm_all()
            return
        self._told_lost &= not self.has
        equal = self._options.by_witness and all(_in_sync(volume) for volume in self._volumes())
        if equal and not self._equal:
            # From here on a lease binds nobody: what was granted before this is given back, and counts no more.
            self._lease = False
            self._times_equal += 1
            self._look_at = self._node.now
        elif self._equal and not equal:
            self._look_at = None
        self._equal = equal
        if not self.holds_peer:
            self._begin_owed()
            self._confirm_all()
        serves = any(Role.Primary in (volume.state.role, volume.state.peer) for volume in self._volumes())
        if serves and self.standing is Standing.NONE and self._ask_again_at is None:
            if not self._options.by_witness:
                self._on_refused(_NO_WITNESS)
            elif all(volume.state.disk is DiskState.UpToDate for volume in self._volumes()):
                self._ask()
            elif self._primary:
                self._on_refused(_SCATTERED)

    def on_reconfigure(self, before: QuorumOptions) -> None:
        """Other options: a Primary that is alone needs what they ask for now."""
        node, now = self._node, self._options
        if now == before:
            return
        if not now.by_witness:
            self._lease = False
        if now.enabled and self._primary and not self.has:
            self._freeze()
            if not now.io_error:
                self.stop_failing()
            elif self.refusal:
                self._fail()
        elif before.enabled and not now.enabled and node.fence.frozen:
            node.fence.on_quorum_off()
        self.review()
        node.out.put(StateChanged())

    def _freeze(self) -> None:
        for volume in self._volumes():
            self._node.change(volume, susp_fen=True)

    # --- a Primary whose only disk is ours ---

    def confirm(self, told: Callable[[], None]) -> None:
        """Tell the peer what our disk has of its writes: now, or when the lease is there."""
        if self.holds_peer:
            self._unconfirmed.append(told)
        else:
            told()

    def _confirm_all(self) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        for told in unconfirmed:
            told()

    def _begin_owed(self) -> None:
        """The generation that begins with what only our disk has; a frozen Primary's begins when I/O goes on."""
        for volume in self._volumes():
            state = volume.state
            if not volume.owes_generation or state.susp_fen:
                continue
            volume.owes_generation = False
            if state.peer is Role.Primary and _is_without_peers_disk(volume) and state.disk is DiskState.UpToDate:
                self._node.changes.new_current_uuid(volume)

    def on_write_refused(self, volume: Volume) -> None:
        """Its disk can't have been UpToDate then: what it says of that is under way, and until then we are alone.

        Unless ours is no good one: then the peer may pass the error on and keep its disk as it is, and so do we.
        """
        state = volume.state
        if self._options.by_witness and state.connected and state.disk is state.pdsk is DiskState.UpToDate:
            volume.peer.disk_in_doubt = True
            if self._primary and not self.has:
                self._freeze()
            self.review()

    # --- asking ---

    def win(self, then: _Then) -> None:
        """Get quorum for a promotion; `then` is told whether there is. Call only if there is none."""
        if not self._options.by_witness:
            self.refusal = _NO_WITNESS
            then(False)
        elif any(volume.state.disk < DiskState.Inconsistent for volume in self._volumes()):
            self.refusal = _SCATTERED
            then(False)
        else:
            self._waiting.append(then)
            if not self._asking:
                self._ask()

    def _ask(self) -> None:
        node, times_equal = self._node, self._times_equal
        self._asking = True
        self._ask_again_at = None
        generation = next(self._volumes()).uuids.current

        def ended(_failed: int, _errno: int) -> None:
            self._asking = False
            waiting, self._waiting = self._waiting, []
            counts = times_equal == self._times_equal and self._options.by_witness
            if counts and effect.answer is not None and effect.answer.verdict is Verdict.GRANTED:
                self._on_granted(effect.answer)
            elif counts and not self.has:
                held = effect.answer is not None and effect.answer.verdict is Verdict.HELD
                self._on_refused(_why(effect), held=held)
            for then in waiting:
                # What came too late is no answer to a promotion: that looks at the new state itself.
                then(self.has or not counts)
            self.review()

        effect = AskWitness(Verb.ACQUIRE, ended, generation=generation)
        node.out.put(effect)

    def _on_granted(self, answer: WitnessAnswer) -> None:
        node = self._node
        if not self._lease:
            node.log_line(Level.INFO, f"quorum: the witness has given us the lease (term {answer.term})")
        self._lease, self.refusal = True, ""
        self._look_at = node.now + WITNESS_LOOK_S
        node.out.put(StateChanged())
        node.fence.review()

    def _on_refused(self, words: str, *, held: bool = False) -> None:
        """`held`: by the peer, which may go on, and has newer data then."""
        node = self._node
        if words != self.refusal:
            self.refusal = words
            node.log_line(Level.WARNING, f"quorum: none: {words}")
            node.out.put(StateChanged())
        if self._options.by_witness:
            self._ask_again_at = node.now + WITNESS_RETRY_S
        if not self._primary:
            return
        if not self._told_lost:
            self._told_lost = True
            for volume in self._volumes():
                node.helpers.run("quorum-lost", volume)
        if self._options.io_error and node.fence.frozen:
            self._fail()
        elif held and self._options.force_secondary and node.fence.frozen:
            node.operator.stop_serving("on-suspended-primary-outdated force-secondary")

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

    # --- looking ---

    def _look(self) -> None:
        """Both copies are equal: is there a lease to give back? Or: is ours still ours?

        What is given back is the term that a look shows: it was granted before this, and not for an outage to come.
        """
        self._looking = True

        def ended(_failed: int, _errno: int) -> None:
            self._looking = False
            if not (self._equal or self._lease):
                self._look_at = None
                return
            answer = effect.answer
            well = answer is not None and answer.verdict is Verdict.GRANTED
            self._look_at = self._node.now + (WITNESS_LOOK_S if well else WITNESS_RETRY_S)
            if answer is None or not well:
                return
            is_ours = answer.holder == self._options.node
            if self._equal and is_ours:
                self._node.out.put(AskWitness(Verb.RELEASE, lambda _failed, _errno: None, term=answer.term))
                self._look_at = self._node.now + WITNESS_RETRY_S  # whether it has arrived
            elif self._lease and not is_ours:
                self._on_lost(answer.holder)

        effect = AskWitness(Verb.LOOK, ended)
        self._node.out.put(effect)

    def _on_lost(self, holder: str) -> None:
        """The witness has forgotten our lease, or an operator has had it forgotten, and it may be the peer's by now."""
        words = f"our lease is {holder}'s now" if holder else "the witness does not know our lease any more"
        self._node.log_line(Level.ERROR, f"quorum: {words}")
        self._lease = False
        if self._primary and not self.has:
            self._freeze()
        self.review()


def _in_sync(volume: Volume) -> bool:
    state = volume.state
    both_good = state.disk is state.pdsk is DiskState.UpToDate
    return state.connected and both_good and not volume.peer.disk_in_doubt


def _is_without_peers_disk(volume: Volume) -> bool:
    return volume.state.connected and (volume.state.pdsk < DiskState.Inconsistent or volume.peer.disk_in_doubt)


def _why(effect: AskWitness) -> str:
    answer = effect.answer
    if answer is None:
        return effect.error
    if answer.verdict is Verdict.HELD:
        return f"the witness has given the lease to {answer.holder}, which may have newer data"
    return f"the witness refuses: {answer.verdict.name}"
