"""The third machine of a world: a witness with one lease on its disk, that may be cut off, late or dead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd.core.effects import AskWitness
from pydrbd.core.events import Done
from pydrbd.core.lease import Lease, decide
from pydrbd.limits import WITNESS_TIMEOUT_S
from pydrbd.wire.witness import WitnessRequest

if TYPE_CHECKING:
    from tests.harness.world import Machine, World

__all__ = ["Witness"]


class Witness:
    """Carries out what nodes ask. Both ways take a drawn time, and either may lead nowhere."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lease = Lease()
        """What is on its disk: it forgets nothing when it dies."""
        self.up = True
        self.cut_off: set[str] = set()
        """Nodes that it does not hear, and that do not hear it."""
        self.latency_s = 0.01
        self.loss_probability = 0.0
        self.asked: list[tuple[str, str]] = []

    def hears(self, machine: Machine) -> bool:
        return self.up and machine.name not in self.cut_off and self._world.rng.random() >= self.loss_probability

    def ask(self, machine: Machine, effect: AskWitness) -> None:
        """A node's question sets out; it gives up waiting after WITNESS_TIMEOUT_S."""
        world = self._world
        self.asked.append((machine.name, effect.verb.name))
        request = WitnessRequest(effect.verb, "r0", machine.name, effect.generation, effect.term)
        ended = False

        def end(error: str) -> None:
            nonlocal ended
            if not ended:
                ended = True
                effect.error = error
                if error:
                    effect.answer = None
                world.trace(machine, f"{effect.verb.name}: {effect.answer or error}")
                machine.feed(Done(effect, 0, 0))

        def arrives() -> None:
            # A question that is under way arrives also when the node has died since.
            if not self.hears(machine):
                return
            self.lease, answer = decide(self.lease, request)

            def returns() -> None:
                if not ended and self.hears(machine):
                    effect.answer = answer
                    end("")

            world.at(world.now + world.rng.uniform(0.0001, self.latency_s), machine, returns)

        world.at_any_rate(world.now + world.rng.uniform(0.0001, self.latency_s), arrives)
        world.at(world.now + WITNESS_TIMEOUT_S, machine, lambda: end("the witness does not answer"))
