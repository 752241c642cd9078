"""The last client goes, and the role right after it: nobody has to wait in between."""

from __future__ import annotations

import pytest

from pydrbd.admin.nbd_client import NbdClient
from pydrbd.units import MIB
from pydrbd.wire.nbd import Command
from tests.chaos.conftest import assert_clean_logs

ROUNDS = 25


@pytest.mark.parametrize("goodbye", ["close", "abandon"])
def test_a_demotion_right_after_the_last_clients_goodbye_is_not_refused(synced_pair, goodbye):
    """The node may hear of the command before it has read that the client is gone."""
    pair = synced_pair(size_bytes=4 * MIB)
    node = pair.nodes[0]
    for turn in range(ROUNDS):
        client = NbdClient.connect(node.nbd_socket, "r0", depth=4)
        for index in range(4):
            client.submit(Command.WRITE, (turn * 4 + index) * 4096, payload=bytes([turn]) * 4096)
        client.drain()
        getattr(client, goodbye)()
        node.grant("secondary")
        node.grant("primary")
    with NbdClient.connect(node.nbd_socket, "r0", depth=1):
        answer = node.ask("secondary")
        assert answer.code == -12, answer
    assert_clean_logs(pair)
