"""What an operator may ask of a node, and the changes that both nodes must agree on (WIRE 6).

A change that needs the peer's word is asked for with P_STATE_CHG_REQ (P_CONN_ST_CHG_REQ for the whole connection) and
made when the peer grants it; one at a time, the others wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydrbd.core.auto_promote import CLIENT_COMES, CLIENT_SETTLED, AutoPromote, unheard
from pydrbd.core.effects import Answer, Attach, Level, Send, Socket
from pydrbd.core.events import Command
from pydrbd.core.parting import Parting
from pydrbd.core.promotion import Promotion
from pydrbd.core.reconfigure import Reconfigure
from pydrbd.core.refusals import ERR_DISCARD_IMPOSSIBLE, ERR_NET_CONFIGURED, StateCode, decode_reply, failure
from pydrbd.core.states import Change, ConnState, DiskState, Role
from pydrbd.core.sync_commands import SyncCommands
from pydrbd.core.transitions import check_change, sanitize
from pydrbd.core.volume import Volume
from pydrbd.wire.packets import Packet, StateChgReply, StateChgReq

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Operator"]

_Then = Callable[[StateCode], None]
_ATTACHING = (DiskState.Attaching, DiskState.Negotiating)
_FULL_SYNC = (ConnState.StartingSyncS, ConnState.StartingSyncT)


class Operator:
    """Commands, and the requests to and from the peer that they lead to."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked: tuple[Packet, int, _Then] | None = None
        self._queue: deque[tuple[Packet, int, Change, _Then]] = deque()
        self._demotions: list[Command] = []
        self.syncs = SyncCommands(node, self.answer, self.check)
        self.promotion = Promotion(node)
        self.auto_promote = AutoPromote(node, self._secondary)
        self.parting = Parting(node)
        self.reconfigure = Reconfigure(node)
        self._verbs: dict[str, Callable[[Command], None]] = {
            "primary": self.promotion.on_command,
            "secondary": self._secondary,
            CLIENT_COMES: self.auto_promote.on_comes,
            CLIENT_SETTLED: self.auto_promote.on_settled,
            "connect": self._connect,
            "disconnect": self.parting.on_command,
            "attach": self._attach,
            "detach": self._detach,
            "outdate": self._outdate,
            "suspend-io": self._suspend_io,
            "resume-io": self._resume_io,
            **self.syncs.verbs,
            "new-current-uuid": node.new_uuids.on_command,
            "resize": node.resizes.on_command,
            "reconfigure": self.reconfigure.on_command,
        }

    @property
    def demoting(self) -> bool:
        return bool(self._demotions)

    def on_command(self, command: Command) -> None:
        """Carry out one command; it ends with an Answer, now or later."""
        verb = self._verbs.get(command.verb)
        if verb is None:
            self.answer(command, StateCode.SS_NOT_SUPPORTED, f"unknown command {command.verb!r}")
        else:
            verb(command)

    def answer(self, command: Command, code: StateCode, text: str = "") -> None:
        if not text and not code.granted:
            text = f"State change failed: ({int(code)}) {code.message}"
        self._node.out.put(Answer(command.request, int(code), text))

    # --- roles ---

    def _secondary(self, command: Command) -> None:
        node = self._node
        volumes = [volume for volume in node.volumes.values() if volume.state.role == Role.Primary]
        if not volumes:
            self.answer(command, StateCode.SS_SUCCESS)
            return
        if not command.arguments.get("force") and any(volume.sessions for volume in volumes):
            self.answer(command, StateCode.SS_DEVICE_IN_USE)
            return
        self._demotions.append(command)
        if node.fence.frozen or node.no_data.frozen:
            node.fence.give_up()
        self.on_idle()

    def stop_serving(self, why: str) -> None:
        """Become Secondary without anybody's asking, as by `secondary --force`."""
        self._node.log_line(Level.ERROR, f"this node becomes Secondary: {why}")
        self._secondary(Command(unheard, "secondary", {"force": True}))

    def on_idle(self) -> None:
        """Demote as soon as no write is under way, and the peer has all of them durably.

        A Secondary that loses its peer has no generation of its own to tell that the peer may lack something.
        """
        node = self._node
        if self.auto_promote.postponed:
            self.auto_promote.review()
        if not self._demotions or node.writes.busy:
            return
        if node.log.last_unacked():
            node.press_for_barrier()
            return
        commands, self._demotions = self._demotions, []
        for volume in node.volumes.values():
            if volume.state.role == Role.Primary:
                node.change(volume, role=Role.Secondary)
            node.refuse_held(volume)
        node.writes.refusing = False
        for command in commands:
            self.answer(command, StateCode.SS_SUCCESS)
        self.auto_promote.on_demoted()

    # --- connection ---

    def _connect(self, command: Command) -> None:
        node, discards = self._node, bool(command.arguments.get("discard_my_data"))
        if discards and any(volume.state.role is Role.Primary for volume in node.volumes.values()):
            self.answer(command, StateCode.SS_UNKNOWN_ERROR, failure(ERR_DISCARD_IMPOSSIBLE))
            return
        tentative = bool(command.arguments.get("tentative"))
        if node.cstate != ConnState.StandAlone:
            if discards or tentative:  # it would be forgotten: the connection that is looked for is an ordinary one
                self.answer(command, StateCode.SS_UNKNOWN_ERROR, failure(ERR_NET_CONFIGURED))
            else:
                self.answer(command, StateCode.SS_SUCCESS, "already connecting or connected")
            return
        node.wants_discard = discards
        node.links.reason, node.links.split_brain = "", None
        node.links.tentative = tentative
        node.links.look_for_peer()
        self.answer(command, StateCode.SS_SUCCESS)

    # --- disk ---

    def _attach(self, command: Command) -> None:
        node = self._node
        volumes = [volume for volume in node.volumes.values() if volume.state.disk == DiskState.Diskless]
        if not volumes:
            self.answer(command, StateCode.SS_SUCCESS, "already attached")
            return
        if any(volume.closes_by is not None for volume in volumes):
            self.answer(command, StateCode.SS_IN_TRANSIENT_STATE)
            return
        pending = {volume.vnr for volume in volumes}
        failures: list[str] = []

        def attached(vnr: int, error: str) -> None:
            pending.discard(vnr)
            if error:
                failures.append(error)
            if not pending:
                code = StateCode.SS_IS_DISKLESS if failures else StateCode.SS_SUCCESS
                self.answer(command, code, "; ".join(failures))

        for volume in volumes:
            self.reconfigure.on_attach(volume)
            volume.attach_request = attached
            node.change(volume, disk=DiskState.Attaching)
            node.out.put(Attach(volume.vnr))

    def _detach(self, command: Command) -> None:
        self._detach_next(command, [volume for volume in self._node.volumes.values() if volume.disk is not None])

    def _detach_next(self, command: Command, volumes: list[Volume]) -> None:
        node = self._node
        if not volumes:
            self.answer(command, StateCode.SS_SUCCESS)
            return
        volume, rest = volumes[0], volumes[1:]
        old = volume.state
        code = self.check(volume, disk=DiskState.Diskless)
        if not code.granted and not command.arguments.get("force"):
            self.answer(command, code)
            return

        def granted(code: StateCode) -> None:
            if code.granted and not command.arguments.get("force"):
                code = self.check(volume, disk=DiskState.Diskless)  # as it is by now
                if not code.granted:
                    node.drop_link("could not do what the peer has agreed to")
            if not code.granted:
                self.answer(command, code)
                return
            node.changes.write_bitmap(volume)
            node.change(volume, disk=DiskState.Failed)
            if command.arguments.get("force"):
                settled()  # a disk that hangs is what it is for
            else:
                node.peer_writes.settle(volume, settled)

        def settled() -> None:
            node.finish_detach(volume)
            self._detach_next(command, rest)

        if old.conn >= ConnState.Connected and not command.arguments.get("force"):
            self.ask_peer(volume.vnr, Change(disk=DiskState.Failed), granted)
        else:
            granted(StateCode.SS_SUCCESS)

    def check(self, volume: Volume, **fields: Any) -> StateCode:
        rules = self._node.rules(volume)
        return check_change(volume.state, sanitize(volume.state, replace(volume.state, **fields), rules), rules)

    def _outdate(self, command: Command) -> None:
        node = self._node
        for volume in node.volumes.values():
            old = volume.state
            wanted = sanitize(old, replace(old, disk=DiskState.Outdated), node.rules(volume))
            code = check_change(old, wanted, node.rules(volume))
            if not code.granted:
                self.answer(command, code)
                return
        for volume in node.volumes.values():
            node.change(volume, disk=DiskState.Outdated)
        self.answer(command, StateCode.SS_SUCCESS)

    # --- application I/O ---

    def _suspend_io(self, command: Command) -> None:
        for volume in self._node.volumes.values():
            self._node.change(volume, susp=True)
        self.answer(command, StateCode.SS_SUCCESS)

    def _resume_io(self, command: Command) -> None:
        """For whatever reason it is frozen, the operator takes it upon himself; but the witness' word stands."""
        if not self._node.quorum.has and self._node.fence.frozen:
            self.answer(command, StateCode.SS_NO_QUORUM)
            return
        self._node.fence.go_on()
        if self._node.no_data.frozen:
            self._node.no_data.thaw(again=False)
        for volume in self._node.volumes.values():
            self._node.change(volume, susp=False)
        self.on_idle()
        self.answer(command, StateCode.SS_SUCCESS)

    # --- agreeing with the peer ---

    def ask_peer(self, vnr: int, change: Change, then: _Then) -> None:
        """Ask for a change of one volume; `then` gets the peer's word."""
        self.request(Packet.P_STATE_CHG_REQ, vnr, change, then)

    def request(self, packet: Packet, vnr: int, change: Change, then: _Then) -> None:
        if self._asked is not None:
            self._queue.append((packet, vnr, change, then))
            return
        self._asked = (packet, vnr, then)
        mask, value = change.encode()
        self._node.send_data(packet, StateChgReq(mask, value).encode(), vnr)

    def waits_for(self, volume: Volume) -> bool:
        """Whether the peer has not answered (by what we know) a request that is about this volume."""
        return self._asked is not None and self._asked[:2] == (Packet.P_STATE_CHG_REQ, volume.vnr)

    def on_reply(self, packet: Packet, vnr: int, payload: bytes) -> None:
        """P_STATE_CHG_REPLY or P_CONN_ST_CHG_REPLY."""
        code = decode_reply(StateChgReply.decode(payload, packet).retcode)
        asked, self._asked = self._asked, None
        if asked is not None:
            asked[2](code)
        self._next_request()

    def _next_request(self) -> None:
        if self._queue and self._asked is None:
            packet, vnr, change, then = self._queue.popleft()
            self.request(packet, vnr, change, then)

    def lose_peer(self) -> None:
        """The peer will not answer any more."""
        waiting = [self._asked[2]] if self._asked is not None else []
        waiting += [entry[3] for entry in self._queue]
        self._asked = None
        self._queue.clear()
        for then in waiting:
            then(StateCode.SS_CW_FAILED_BY_PEER)

    def on_request(self, packet: Packet, volume: Volume | None, payload: bytes) -> None:
        """The peer asks for a change: check it as if it were ours, answer, and make it."""
        node = self._node
        request = StateChgReq.decode(payload, packet)
        reply = Packet.P_CONN_ST_CHG_REPLY if volume is None else Packet.P_STATE_CHG_REPLY
        vnr = 0 if volume is None else volume.vnr
        change = Change.decode(request.mask, request.value).from_peer()
        if self._asked is not None and node.resolve_conflicts:
            self._reply(reply, vnr, StateCode.SS_CONCURRENT_ST_CHG)
            return
        if volume is None or change.conn == ConnState.TearDown:
            self._reply(reply, vnr, self.parting.on_request(change))
            return
        old = volume.state
        if change.peer is Role.Primary and not node.quorum.has:
            self._vote_for_peer(packet, volume, payload)
            return
        wanted = change.apply(old)
        new = sanitize(old, wanted, node.rules(volume))
        code = check_change(old, new, node.rules(volume, for_peer=True))
        compares = old.disk in _ATTACHING
        if (compares and change.conn in _FULL_SYNC) or (
            change.peer is Role.Primary and (compares or old.conn is ConnState.WFBitMapS)
        ):
            code = StateCode.SS_IN_TRANSIENT_STATE  # ours may be the newer data, and the peer does not know it yet
        elif change.conn in _FULL_SYNC and old.pdsk < DiskState.Inconsistent:
            code = StateCode.SS_NO_REMOTE_DISK  # it has told since it began to ask that it lets go of its disk
        if change.pdsk is DiskState.Failed and old.peer is Role.Primary and old.disk < DiskState.UpToDate is old.pdsk:
            code = StateCode.SS_NO_UP_TO_DATE_DISK  # it counts on ours, and does not know yet that we have let go of it
        # A detach is made when the peer's P_STATE says that it is: a new generation for one that does not happen,
        # because the link breaks, would look like a split brain.
        if code.granted and code is not StateCode.SS_NOTHING_TO_DO and change.pdsk is not DiskState.Failed:
            fields = {name: getattr(wanted, name) for name in ("role", "peer", "conn", "disk", "pdsk", "peer_isp")}
            node.change(volume, **fields)
        self._reply(reply, vnr, code)
        if code.granted and volume.state.conn in _FULL_SYNC:
            self.syncs.start_full_sync(volume)
        elif code.granted and change.conn is ConnState.VerifyT is volume.state.conn:
            node.verify.begin_target(volume)

    def _vote_for_peer(self, packet: Packet, volume: Volume, payload: bytes) -> None:
        """It has no disk and would be served by ours, which may be the older one: the witness knows."""
        link = self._node.link_generation

        def voted(good: bool) -> None:
            if link != self._node.link_generation:
                return
            if good:
                self.on_request(packet, volume, payload)
            else:
                self._reply(Packet.P_STATE_CHG_REPLY, volume.vnr, StateCode.SS_NO_QUORUM)

        self._node.quorum.win(voted)

    def _reply(self, packet: Packet, vnr: int, code: StateCode) -> None:
        payload = StateChgReply(int(code)).encode()
        self._node.out.put(Send(Socket.META, [self._node.packet(packet, payload, vnr)]))
