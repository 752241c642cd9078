"""One seed is one story: a client, faults and an operator against two nodes, with every checker watching.

    Simulation(seed).run()     safety (faults), then one of the endings; a broken promise raises with the trace

The operator is a cluster manager in its right mind: it promotes only where the data is, and fences first. Which faults
a story has, how often, and how large the limits are is drawn from the seed, so that each story is extreme in its way.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

from pydrbd.core import resync
from pydrbd.core.events import SessionClosed
from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.transitions import Fencing
from pydrbd.limits import RESYNC_PERSIST_S
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.wire.packet_numbers import WireProtocol
from tests.harness.checkers import Oracle, Violation, fill, leftovers
from tests.harness.cluster import Cluster
from tests.harness.disk_checks import DiskChecks
from tests.harness.moments import Moments
from tests.harness.situations import SOMETIMES, Sightings
from tests.harness.world import Client, Machine, Observers, World

__all__ = ["Simulation", "SimulationFailed", "fresh_pair_superblock"]

_READ, _WRITE, _FLUSH, _TRIM, _ZEROES = 0, 1, 3, 4, 6
_FUA = 1
_SIZE_BYTES = 24 << 20
_FAULTS = ("sever", "late", "kill", "power", "both_power", "clog", "write_error", "read_error", "flush_error")
_OPERATIONS = ("switch", "disconnect", "invalidate", "detach", "demote", "forbidden_promote", "clean_restart")
_LIVENESS_S = 120.0
_COUNTED = {
    "error replies": "an error is answered", "served by lanes": "a lane serves writes",
    "flushed by lanes": "a lane serves a flush", "switches": "a service moves to the other node",
    "clean restarts": "a clean restart", "disks replaced": "a disk is replaced",
    "bad disks synced": "a disk marked as bad is synced again",
    "heard of newer data too late": "news of newer data comes too late",
}  # fmt: skip
"""Figures of a story that are situations, too."""


class SimulationFailed(AssertionError):
    """A story that ended badly: what was broken, and the last lines of the trace."""

    def __init__(self, seed: int, error: BaseException, report: str) -> None:
        super().__init__(f"{error}\n{report}\nreplay: pytest tests/simulation -k stories --seed {seed} --rounds 0")
        self.seed = seed
        self.error = error


def fresh_pair_superblock(size_bytes: int) -> Superblock:
    """Meta-data of a disk that is in sync with its twin, as after the first sync and a clean stop."""
    layout = Layout.internal(size_bytes >> 9)
    return dataclasses.replace(
        Superblock.fresh(layout),
        la_size_sectors=layout.usable_sectors,
        current_uuid=0x1122_3344_5566_7788,
        flags=MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.AL_CLEAN,
    )


class _SimClient(Client):
    """Tells the oracle of every request and every answer."""

    def __init__(self, simulation: Simulation, machine: Machine) -> None:
        self.simulation = simulation
        self.waiting: dict[int, tuple[int, int, int, int, int]] = {}
        self.closed = False
        self.next_ops: list[int] = []
        super().__init__(simulation.world, machine)

    def begin(self, cookies: list[int], requests: tuple[tuple[int, int, int, bytes], ...]) -> None:
        oracle, sightings = self.simulation.oracle, self.simulation.sightings
        places = [(sector, count) for command, _, sector, count, _ in self.waiting.values() if command != _FLUSH]
        for cookie, (command, flags, offset, payload), op in zip(cookies, requests, self.next_ops, strict=True):
            sector, count, begun = offset >> 9, len(payload) >> 9, 0
            if command != _FLUSH:
                # Once is enough, until the copies are compared.
                overlaps = oracle.overlapped or any(
                    sector < first + length and first < sector + count for first, length in places
                )
                sightings.on_request(offset, len(payload), fua=bool(flags & _FUA), overlaps=overlaps)
                oracle.overlapped |= overlaps
                places.append((sector, count))
            if command in (_WRITE, _TRIM, _ZEROES):
                oracle.begin_write(op, sector, count, op if command == _WRITE else 0)
            elif command == _READ:
                oracle.begin_read(op, sector, count)
            else:
                begun = oracle.begin_flush()
            self.waiting[cookie] = (command, flags, sector, count, begun or op)

    def answered(self, cookie: int, error: int, data: bytes) -> None:
        if self.closed:
            return
        simulation, oracle = self.simulation, self.simulation.oracle
        command, flags, sector, count, op = self.waiting.pop(cookie)
        simulation.stats["replies"] += 1
        if error:
            simulation.on_error_reply(self.machine, command, error)
            if command == _READ:
                oracle.abandon_read(op, sector, count)
        elif command == _READ:
            oracle.end_read(op, sector, data)
        elif command == _FLUSH:
            oracle.end_flush(op)
            simulation.saw_flush(self.machine)
        else:
            oracle.end_write(op, sector, count, durable=bool(flags & _FUA))
            if command != _WRITE:
                oracle.end_zeroes(sector, count)

    def close(self) -> None:
        """The client is gone: what it waits for will never be answered."""
        self.closed = True
        if self.waiting:
            self.simulation.sightings.saw("a client goes while its requests are under way")
        for command, _, sector, count, op in self.waiting.values():
            if command == _READ:
                self.simulation.oracle.abandon_read(op, sector, count)
        self.waiting.clear()
        self.machine.feed(SessionClosed(self, 0))


class Simulation:
    """The story of one seed."""

    def __init__(
        self, seed: int, *, steps: int = 120, ending: float | None = None, protocol: WireProtocol = WireProtocol.C,
        lanes: bool = False, fencing: Fencing = Fencing.DONT_CARE, thin: bool = False, busy: bool = False,
        hasty: bool = False, wide: bool = False,
    ) -> None:  # fmt: skip
        self.seed = seed
        rng = self.rng = random.Random(f"story/{seed}")
        self.steps = steps
        self.ending = rng.random() if ending is None else ending
        self.stats: Counter[str] = Counter()
        self.virgin = rng.random() < 0.1
        self.world = World(
            seed, size_bytes=_SIZE_BYTES, al_extents=rng.choice((4, 4, 5, 67)),
            net=NetOptions(protocol, max_epoch_size=rng.choice((4, 20, 2048)), use_rle=rng.random() < 0.7),
            superblock=None if self.virgin else fresh_pair_superblock(_SIZE_BYTES), lanes=lanes,
            fencing=fencing, handlers=() if fencing is Fencing.DONT_CARE else ("fence-peer", "unfence-peer"),
            disk={"rs_discard_granularity_bytes": 16384} if thin else {},
        )  # fmt: skip
        world = self.world
        self.cluster = Cluster(world, seed, lambda machine: self._kill(machine, power=True)) if fencing else None
        world.link_latency_s = rng.choice((0.0002, 0.001, 0.01))
        world.disk_latency_s = rng.choice((0.0002, 0.002, 0.02))
        world.disk_stall_probability = rng.choice((0.0, 0.0, 0.02))
        world.split_probability = rng.choice((0.0, 0.2))
        self.oracle = Oracle(world)
        self.disk_checks = DiskChecks(self.oracle)
        self.sightings = Sightings(world)
        self.machines = (world.a, world.b)
        self.client: _SimClient | None = None
        self.faults = {name: 10 ** rng.uniform(-2.3, -0.7) for name in _FAULTS if rng.random() < 0.4}
        self.operations = {name: 10 ** rng.uniform(-2.0, -0.9) for name in _OPERATIONS if rng.random() < 0.4}
        self.outstanding_max = rng.choice((1, 4, 12))
        self.batch_max = rng.choice((1, 3, 6))
        self.pause_s = rng.choice((0.0005, 0.003, 0.03))
        self.no_write_zeros = rng.random() < 0.6
        borders = [index * 1024 for index in range(1, 6)]
        self.blocks = sorted(
            {rng.choice((border - 1, border, border + 1, rng.randrange(6000))) for border in borders for _ in range(2)}
        )
        more = random.Random(f"more/{seed}")  # its own draws: what is not drawn leaves a story as it was
        moments = 10 ** more.uniform(-2.0, -0.7) if more.random() < 0.3 else 0.0
        self.moments = Moments(world, more, self._strike)
        self._moments_probability = moments
        self.both_part = more.random() < 0.1
        self.meta_errors = more.random() < 0.2
        if busy:  # many requests in each step, which cost little each, in places for all of them
            self.outstanding_max, self.batch_max = more.choice(((24, 12), (64, 32), (96, 48)))
            places = [(more.choice((-1, 0, 1)), more.randrange(6000)) for _ in borders for _ in range(40)]
            self.blocks = sorted(
                {borders[n % 5] + near if n % 4 else anywhere for n, (near, anywhere) in enumerate(places)}
            )
        self.flush_share, self.fua_share, self.alike_share = 0.06, 0.1, 0.0
        if wide:  # large batches, most of them of one kind and all over the disk, so that they stay whole on their way
            self.alike_share, self.fua_share = 0.8, more.choice((0.0, 0.1))
            world.al_extents = more.choice((5, 67, 67))
            self.outstanding_max, self.batch_max = more.choice(((128, 64), (256, 64), (512, 64)))
            near = [border + more.choice((-1, 0, 1)) for border in borders]
            self.blocks = sorted({*near, *more.sample(range(6000), more.choice((600, 2000, 5000)))})
            self.flush_share = more.choice((0.003, 0.02))
        self.persist_s = more.choice((0.0, 0.01, 0.1)) if hasty else RESYNC_PERSIST_S
        """A bitmap is written out during a resync after so long: few resyncs last for two seconds here."""
        world.observer = Observers(self.oracle, self.disk_checks, self.sightings, self.moments)
        for machine in self.machines:
            machine.disks[0].may_fail = lambda machine=machine: self._can_spare(machine)
            machine.disks[0].has_holes = thin
            machine.disks[0].on_error = lambda machine=machine: self.oracle.disk_failed(machine)
        self._next_op = 0
        self.switching: Machine | None = None
        self.letting_go: dict[Machine, object] = {}
        """Who was told to detach its disk, and by which request."""
        self.down_until: dict[Machine, float] = {}

    # --- the story ---

    def run(self) -> Counter[str]:
        """Tell it. Raises SimulationFailed."""
        resync.RESYNC_PERSIST_S = self.persist_s  # type: ignore[misc]
        try:
            self._open()
            self.moments.probability = self._moments_probability
            for _ in range(self.steps):
                self._step()
            self._end()
            self.stats["served by lanes"] += sum(machine.lane.taken for machine in self.machines if machine.lane)
            self.stats["flushed by lanes"] += sum(machine.lane.flushed for machine in self.machines if machine.lane)
            self._note_sightings()
        except Exception as error:  # whatever breaks, the seed and the trace must be seen
            raise SimulationFailed(self.seed, error, self.world.report()) from error
        finally:
            resync.RESYNC_PERSIST_S = RESYNC_PERSIST_S  # type: ignore[misc]
        self.stats["seeds"] += 1
        self.stats["cuts"] += self.moments.cuts
        self.stats["virtual_ms"] += int(self.world.now * 1000)
        for promise, count in self.oracle.checks.items():
            self.stats[f"checked {promise}"] += count
        return self.stats

    def _note_sightings(self) -> None:
        """What the stories of this seed have met, for the table of `make prove`."""
        stats, saw = self.stats, self.sightings.saw
        for counter, situation in _COUNTED.items():
            if stats[counter]:
                saw(situation)
        if self.oracle.retired:
            saw("an extent leaves the activity log")
        for situation in self.sightings.seen:
            stats[SOMETIMES + situation] += 1

    def saw_flush(self, machine: Machine) -> None:
        """A FLUSH was answered with success."""
        together = machine.node is not None and machine.volume.state.connected
        self.sightings.saw(f"a flush is answered by {'two nodes' if together else 'one node alone'}")

    def _open(self) -> None:
        if self.virgin:
            self.world.start_in_sync()
            self.client = _SimClient(self, self.world.a)
            return
        self.world.a.start()
        self.world.b.start()
        self.world.run_until(self.world.is_in_sync)
        self._promote(self.rng.choice(self.machines))

    def _step(self) -> None:
        rng = self.rng
        if rng.random() < 0.75:
            self._request()
        for name, probability in self.faults.items():
            if rng.random() < probability:
                self._fault(name)
        for name, probability in self.operations.items():
            if rng.random() < probability:
                self._operate(name)
        self.world.run(rng.expovariate(1.0) * self.pause_s)
        if rng.random() < 0.1:
            self.world.run(rng.choice((0.05, 0.2, 1.0)))
        self._manage(eager=rng.random() < 0.3)
        self._check()

    def _check(self) -> None:
        world = self.world
        if world.protocol_errors:
            raise Violation("D2", world.protocol_errors[0])
        if self.rng.random() < 0.4:
            self.oracle.check_coverage()
        if self._is_quiet():
            self.oracle.check_copies()
            if self.rng.random() < 0.3:
                self.oracle.settle()

    def _is_quiet(self) -> bool:
        if not self.world.is_in_sync() or (self.client is not None and self.client.waiting):
            return False
        nodes = [machine.node for machine in self.machines if machine.node]
        if self.world.net.protocol is WireProtocol.A and any(node.log.last_unacked() for node in nodes):
            return False  # answered, and on its way
        return not any(len(node.volumes[0].ranges) or node.writes.busy for node in nodes)

    # --- the client ---

    def _request(self) -> None:
        client, rng = self.client, self.rng
        if client is None or len(client.waiting) >= self.outstanding_max:
            return
        requests = []
        client.next_ops = []
        alike = rng.uniform(self.flush_share, 1.0) if self.alike_share and rng.random() < self.alike_share else None
        for _ in range(rng.randint(1, self.batch_max)):
            request = self._draw_request(alike)
            client.next_ops.append(self._next_op)
            requests.append(request)
        if requests:
            self.stats["ops"] += len(requests)
            client.submit(*requests)

    def _draw_request(self, alike: float | None = None) -> tuple[int, int, int, bytes]:
        """The next one; `alike` is what decides on the kind of all in a batch."""
        rng = self.rng
        self._next_op += 1
        sector = rng.choice(self.blocks) * 8
        count = 8
        shape = rng.random()
        if shape < 0.15:
            sector += rng.randrange(8)
            count = rng.randint(1, 8)
        elif shape < 0.3:
            count = rng.choice((16, 24, 64))
        draw = rng.random() if alike is None else alike
        if draw < self.flush_share:
            return _FLUSH, 0, 0, b""
        if draw < 0.3:
            return _READ, 0, sector << 9, bytes(count << 9)
        if draw < 0.34 and not self.no_write_zeros:
            return _TRIM, 0, sector << 9, bytes(count << 9)
        flags = _FUA if rng.random() < self.fua_share else 0
        if draw < 0.38 and not self.no_write_zeros:
            return _ZEROES, flags | rng.choice((0, 2)), sector << 9, bytes(count << 9)
        return _WRITE, flags, sector << 9, fill(self._next_op, sector, count)

    def on_error_reply(self, machine: Machine, command: int, error: int) -> None:
        """An error is honest only if there is trouble (A8)."""
        self.stats["error replies"] += 1
        if machine.node is None:
            return
        if command == _FLUSH and machine in self.oracle.in_doubt:
            self.oracle.in_doubt.discard(machine)
            return
        state = machine.volume.state
        if self.world.is_in_sync() and state.role == Role.Primary and not machine.node.operator.demoting:
            raise Violation("A8", f"{machine.name} answers command {command} with error {error}, and all is well")

    # --- faults ---

    def _fault(self, name: str) -> None:
        world, rng = self.world, self.rng
        machine = rng.choice(self.machines)
        match name:
            case "sever":
                self._note_cut()
                world.sever()
            case "late":
                self._note_cut(late=True)
                world.sever(rng.choice((0.01, 0.5, 3.0)))
            case "clog":
                if world.link is not None:
                    self.sightings.saw("the network stalls")
                    world.link.clogged_until = world.now + rng.uniform(0.0, 0.5)
            case "kill":
                self._kill(machine)
            case "power":
                self._kill(machine, power=True)
            case "both_power":
                if rng.random() < 0.3:
                    for one in self.machines:
                        self._kill(one, power=True)
            case "write_error" | "read_error" | "flush_error":
                if rng.random() < 0.3 and machine.node is not None and self._can_spare(machine):
                    kind = "meta" if self.meta_errors and name == "write_error" else name.split("_")[0]
                    machine.disks[0].fail_once.add(kind)
                    self.stats["disk errors"] += 1
                    world.trace(machine, f"its disk will have a {name}")

    def _note_cut(self, *, late: bool = False) -> None:
        if not self.world.linked:
            return
        self.stats["cuts"] += 1
        if late:
            self.sightings.saw("one side sees late that the link has broken")
        if any(machine.node is not None and machine.node.flushes.busy for machine in self.machines):
            self.sightings.saw("a link breaks while a flush waits")

    def _can_spare(self, machine: Machine) -> bool:
        """Whether the disk of this machine may fail: the other one has everything, and stays."""
        other = self.world.other(machine)
        if other in self.oracle.tainted:
            return False
        if self._lets_go(other):
            return False  # two disks at once would be too much to ask
        target = machine.node is not None and machine.volume.state.conn == ConnState.SyncTarget
        return self.world.is_in_sync() or (target and machine not in self.oracle.fresh and other in self.oracle.fresh)

    def _lets_go(self, machine: Machine) -> bool:
        """It was told to detach its disk, and has not said whether it does."""
        return machine.node is not None and self.letting_go.get(machine, machine) not in (machine, *machine.answers)

    def _strike(self, machine: Machine) -> None:
        """Something has just changed in its state: kill it, or the other one."""
        self._kill(self.rng.choice((machine, self.world.other(machine))), power=self.rng.random() < 0.5)

    def _kill(self, machine: Machine, *, power: bool = False) -> None:
        if machine.node is None:
            return
        rng = self.rng
        if machine in self.oracle.fresh and self.world.other(machine) in self.oracle.tainted:
            return  # the only good disk, and the other one is not to be trusted: nothing is promised
        was_primary = machine.volume.state.role == Role.Primary
        self.sightings.on_death(machine, power=power)
        if self.client is not None and self.client.machine is machine:
            self._drop_client()
        late = rng.choice((0.0, 0.001, 0.5, 3.0)) if power else rng.choice((0.0, 0.0005))
        if power:
            machine.lose_power(self.world.rng, late_s=late)
            self.oracle.power_lost(machine)
            self.stats["power losses"] += 1
        else:
            machine.stop(late_s=late)
            self.stats["kills"] += 1
        machine.disks[0].fail_once.clear()
        self.letting_go.pop(machine, None)
        self.oracle.forget(machine)
        self.disk_checks.forget(machine)
        if was_primary and machine not in self.oracle.tainted:
            self.disk_checks.on_crash(machine)
        self.down_until[machine] = self.world.now + rng.choice((0.0, 0.05, 1.0, 4.0))

    def _drop_client(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None
        self.oracle.dead_below = self._next_op + 1

    # --- the operator ---

    def _operate(self, name: str) -> None:
        rng = self.rng
        machine = rng.choice(self.machines)
        if machine.node is None:
            return
        state = machine.volume.state
        match name:
            case "switch":
                self._switch()
            case "demote":
                if state.role == Role.Primary:
                    self._demote(machine)
            case "disconnect":
                if state.conn >= ConnState.WFConnection:
                    machine.command("disconnect")
                    other = self.world.other(machine)
                    if self.both_part and other.node is not None:
                        other.command("disconnect")
            case "invalidate":
                if self.world.is_in_sync() and state.role == Role.Secondary:
                    machine.command("invalidate")
            case "detach":
                if self.world.is_in_sync():
                    self.letting_go[machine] = machine.command("detach")
            case "forbidden_promote":
                if state.role == Role.Secondary and state.peer == Role.Primary and state.connected:
                    self._expect_refusal(machine)
            case "clean_restart":
                if rng.random() < 0.3:
                    self.check_clean_restart()

    def _expect_refusal(self, machine: Machine) -> None:
        other = self.world.other(machine)
        request = machine.command("primary")
        for _ in range(2000):
            if request in machine.answers or machine.node is None or not self.world.step():
                break
        self.oracle._count("C2")
        if (
            machine.answers.get(request, (0, ""))[0] >= 1
            and machine.node is not None
            and other.node is not None
            and machine.volume.state.role == other.volume.state.role == Role.Primary
        ):
            raise Violation("C2", "a second Primary was let in")

    def _demote(self, machine: Machine) -> None:
        if self.client is not None and self.client.machine is machine:
            for _ in range(3000):
                # The cluster may shoot the machine meanwhile, and its client is gone then.
                if self.client is None or not self.client.waiting or machine.node is None or not self.world.step():
                    break
            self._drop_client()
        if machine.node is not None:
            machine.command("secondary")

    def _switch(self) -> None:
        """The service moves to the other node."""
        primary = self._primary()
        if primary is None or not self.world.is_in_sync():
            return
        self._demote(primary)
        self.switching = self.world.other(primary)
        self.stats["switches"] += 1

    def _primary(self) -> Machine | None:
        for machine in self.machines:
            if machine.node is not None and machine.volume.state.role == Role.Primary:
                return machine
        return None

    def _promote(self, machine: Machine) -> bool:
        """Ask for it where it is safe, and open a client when it was granted."""
        other = self.world.other(machine)
        if machine.node is None or (self.cluster is not None and self.cluster.banned is machine):
            return False
        if other.node is not None and other.volume.state.role == Role.Primary and not other.volume.state.susp_fen:
            return False
        state = machine.volume.state
        connected = state.connected and other.node is not None and other.volume.state.connected
        if not connected and not self.oracle.may_serve(machine):
            return False
        if not connected and state.disk not in (DiskState.Consistent, DiskState.UpToDate):
            return False
        if connected and not self.oracle.may_serve(machine if state.disk == DiskState.UpToDate else other):
            return False
        request = machine.command("primary")
        granted = False
        for _ in range(5000):
            if request in machine.answers or machine.node is None or not self.world.step():
                break
        if machine.node is not None and machine.answers.get(request, (0, ""))[0] >= 1:
            granted = machine.volume.state.role == Role.Primary
        if granted:
            self.stats["promotions"] += 1
            self.client = _SimClient(self, machine)
        return granted

    def _manage(self, *, eager: bool) -> None:
        """What a cluster manager does all the time: start what is down, connect, attach, promote, give up."""
        for machine in self.machines:
            if machine.node is None:
                if self.world.now >= self.down_until.get(machine, 0.0) and eager:
                    self._replace_if_broken(machine)
                    machine.start()
                continue
            if not eager:
                continue
            state = machine.volume.state
            no_data = state.role == Role.Primary and DiskState.UpToDate not in (state.disk, state.pdsk)
            if no_data and not machine.node.operator.demoting and self.rng.random() < 0.5:
                self._demote(machine)
            elif state.conn == ConnState.StandAlone and state.disk != DiskState.Attaching:
                machine.command("connect")
            elif state.disk == DiskState.Diskless and not machine.disks[0].fail_once:
                self._replace_if_broken(machine)
                if not machine.disks[0].had_error:
                    machine.command("attach")
        primary = self._primary()
        if eager and primary is not None and primary.volume.state.susp_fen and self.rng.random() < 0.3:
            self._promote(self.world.other(primary))  # the cluster moves the service to where it could go on
        if eager and self._primary() is None:
            target = self.switching if self.switching is not None else self.rng.choice(self.machines)
            self.switching = None
            self._promote(target)

    def _replace_if_broken(self, machine: Machine) -> None:
        """A disk that had an error and was not marked as bad is not used again: it may lack what the peer believes."""
        if machine.attached:
            return
        if machine.disks[0].had_error and not machine.disks[0].superblock().flags & MdFlag.CONSISTENT:
            machine.disks[0].had_error = False
            self.stats["bad disks synced"] += 1
        if machine.disks[0].had_error:
            machine.disks[0].wipe()
            self.stats["disks replaced"] += 1
            self.world.trace(machine, "gets a new disk")

    # --- endings ---

    def _end(self) -> None:
        if self.ending < 0.65:
            self.check_liveness()
            if self.rng.random() < 0.3:
                self.check_clean_restart(required=True)
        elif self.ending < 0.85:
            self._end_with_loss(power_of_both=False)
        else:
            self._end_with_loss(power_of_both=True)

    def _heal(self) -> None:
        for machine in self.machines:
            machine.disks[0].fail_once.clear()
        self.world.disk_stall_probability = 0.0
        self.faults.clear()
        self.operations.clear()
        self.moments.probability = 0.0

    def check_liveness(self) -> None:
        """D5, then A1, B1 and D7: when faults stop, all is well soon."""
        self._heal()
        end = self.world.now + _LIVENESS_S
        while not (self._is_quiet() and self._primary() is not None and self.client is not None):
            if self.world.now > end:
                raise Violation("D5", f"no peace {_LIVENESS_S:.0f} s after the last fault")
            self._manage(eager=True)
            self.world.run(0.3)
            self._check()
        self.oracle._count("D5")
        self.oracle.check_copies()
        self._read_all()
        assert self.client is not None
        self.client.next_ops = [self._next_op]
        self.client.submit((_FLUSH, 0, 0, b""))
        self.world.run(5.0)
        self.oracle.check_copies()
        if self.client.waiting:
            raise Violation("D5", f"{len(self.client.waiting)} requests are not answered")
        # A verdict that comes late may have shot a node meanwhile.
        left = [line for machine in self.machines if machine.node is not None for line in leftovers(machine)]
        self.oracle._count("D7")
        if left:
            raise Violation("D7", "; ".join(left))
        for machine in self.machines:
            if machine.node is not None and machine.volume.state.connected and machine is not self._primary():
                self._expect_refusal(machine)

    def _read_all(self) -> None:
        """Every block that was ever written, through the Primary."""
        client = self.client
        assert client is not None
        for _ in range(20000):  # what was asked for before may fail, as a FLUSH where the peer had the last good disk
            if not client.waiting or not self.world.step():
                break
        errors = self.stats["error replies"]
        blocks = sorted(self.oracle.history.blocks)
        most = 16 if len(blocks) < 1024 else 64
        for first in range(0, len(blocks), most):
            chosen = blocks[first : first + most]
            client.next_ops = []
            for _ in chosen:
                self._next_op += 1
                client.next_ops.append(self._next_op)
            client.submit(*[(_READ, 0, block << 12, bytes(4096)) for block in chosen])
            for _ in range(20000):
                if not client.waiting or not self.world.step():
                    break
        if client.waiting or self.stats["error replies"] != errors:
            raise Violation("A2", f"{self.stats['error replies'] - errors} reads failed, {len(client.waiting)} wait")

    def _end_with_loss(self, *, power_of_both: bool) -> None:
        """A2: one node is gone for ever. A4: both lose power, one comes back. The other must have what was promised.

        Unless the lost node's last packets say that it is the newer one (a crashed Primary that was just returning):
        whoever hears that is Outdated, as with a kernel, and rightly waits for it.
        """
        self._heal()
        oracle = self.oracle
        if oracle.tainted:
            self.check_liveness()  # two disks with errors at once would be too much to ask
        assert not oracle.tainted
        for _ in range(5000):  # an operator who has told a node to let go of its disk waits for its word
            if not any(map(self._lets_go, self.machines)) or not self.world.step():
                break
        self._last_requests(flush=power_of_both)
        lasting = oracle.fresh - oracle.given_up - (oracle.ending if power_of_both else set())
        fresh = sorted(filter(oracle.may_serve, lasting), key=lambda machine: machine.name)
        if not fresh:
            self.check_liveness()
            return
        kept = self.rng.choice(fresh)
        lost = self.world.other(kept)
        self.world.trace(kept, "will be all that is left")
        if power_of_both:
            self._kill(kept, power=True)
        heard = len(kept.log)
        self._kill(lost, power=self.rng.random() < 0.5)
        lost.disks[0].wipe()
        end = self.world.now + _LIVENESS_S
        oracle._count("A4" if power_of_both else "A2")
        while self.client is None or kept.volume.state.susp_fen or kept.volume.state.connected:
            if self.world.now > end:
                raise Violation("A2", f"{kept.name} is all that is left, and can't be promoted, or is frozen")
            if kept.node is None:
                kept.start()
            self.world.run(0.5)
            state = kept.volume.state
            if state.disk == DiskState.Outdated and any("uuid_compare()=-1 " in line for line in kept.log[heard:]):
                self.stats["heard of newer data too late"] += 1
                return
            if state.role == Role.Primary and state.susp_fen:
                self.oracle.answered_for.add(kept)  # whoever runs this cluster knows what has happened
                self.sightings.saw("I/O is resumed by an operator")
                kept.command("resume-io")
            elif state.role == Role.Primary:
                if self.client is None:
                    self.client = _SimClient(self, kept)
            elif state.disk == DiskState.Diskless:
                kept.command("attach")
            else:
                self._promote_survivor(kept)
        oracle.after_power_loss = power_of_both
        self._read_all()

    def _last_requests(self, *, flush: bool) -> None:
        """End in the very moment in which something is answered: what was promised then must be true already."""
        client = self.client
        if client is None:
            return
        for _ in range(3):
            self._request()
        self.world.run(self.rng.expovariate(1.0) * self.pause_s)
        if self.client is client and flush:
            self._next_op += 1
            client.next_ops = [self._next_op]
            client.submit((_FLUSH, 0, 0, b""))
        before = len(client.waiting)
        for _ in range(3000):
            if len(client.waiting) < (1 if flush else before) or not self.world.step():
                break

    def _promote_survivor(self, kept: Machine) -> None:
        # Outdated by a verdict (6), or by a disconnect that was under way; whoever forces it answers for it.
        outdated = self.cluster is not None and kept.volume.state.disk == DiskState.Outdated
        if outdated:
            self.oracle.answered_for.add(kept)
        if outdated or self.oracle.whole.isdisjoint({kept}):
            self.oracle.fresh = {kept}  # it was, when the other one died
        if self.cluster is not None:
            self.cluster.banned = None
        request = kept.command("primary", force=outdated)
        self.world.run(1.0)
        if kept.answers.get(request, (0, ""))[0] >= 1:
            self.client = _SimClient(self, kept)

    def check_clean_restart(self, *, required: bool = False) -> None:
        """D8: demoted, disconnected and stopped in good order, they have nothing to resync."""
        if not self.world.is_in_sync():
            return
        primary = self._primary()
        if primary is not None:
            self._demote(primary)
        self.world.run(3.0)
        if not self._is_quiet() or self._primary() is not None:
            if required:
                raise Violation("D8", "could not be demoted")
            return
        first = self.rng.choice(self.machines)
        for machine in (first, self.world.other(first)):
            for verb in ("disconnect", "detach"):
                request = machine.command(verb)
                for _ in range(5000):
                    if request in machine.answers or not self.world.step():
                        break
            machine.stop()
            self.oracle.forget(machine)
            self.disk_checks.forget(machine)
        before = [len(machine.log) for machine in self.machines]
        for machine in self.machines:
            machine.start()
        self.world.run(3.0)
        self.oracle._count("D8")
        for machine, start in zip(self.machines, before, strict=True):
            resyncs = [line for line in machine.log[start:] if "will sync" in line and "[0 bits" not in line]
            if resyncs:
                raise Violation("D8", f"{machine.name} was stopped in good order: {resyncs[0]}")
        self.stats["clean restarts"] += 1
