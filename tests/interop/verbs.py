"""The verbs that only a few scenarios need, for both kinds of node."""

from __future__ import annotations

from tests.lab.kernel_node import KernelNode
from tests.lab.nodes import Node
from tests.lab.pydrbd_node import PydrbdNode

__all__ = ["ask"]


def ask(node: Node, verb: str, *words: str, **arguments: object) -> None:
    """Carry out a verb: drbdsetup is given `words`, pydrbd's process `arguments`. Raises Refused."""
    if isinstance(node, KernelNode):
        node.order(verb, *words)
    else:
        assert isinstance(node, PydrbdNode)
        node._grant(verb, **arguments)
