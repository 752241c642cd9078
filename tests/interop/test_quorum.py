"""A kernel's DRBD 8.4 knows no quorum: alone it would go on without asking, so a node that has quorum refuses it."""

from __future__ import annotations

import pytest

from tests.interop.conftest import DIRECTIONS
from tests.interop.test_settings import DIFFERENT

pytestmark = pytest.mark.interop

NET = "protocol C; connect-int 1;"
REFUSED = "the peer is no pydrbd: it knows no quorum; alone it would go on without asking the witness, and ours is"


@pytest.mark.parametrize("pair", DIRECTIONS[:2], indirect=True)
def test_a_kernel_is_refused_by_a_node_that_has_quorum(pair):
    """Ours stands alone and says why; without quorum the two are a pair."""
    pair.allow(*DIFFERENT, "it knows no quorum")
    configure = pair.configure

    def with_quorum(node, net, **more):
        pair.options = "" if node is pair.kernel else "quorum majority;"
        configure(node, net, **more)

    pair.configure = with_quorum
    pair.bring_up(NET, NET)
    ours = next(node for node in pair if node is not pair.kernel)
    pair.wait_for(lambda: ours.states().conn == "StandAlone", "ours to refuse the kernel")
    assert REFUSED in ours.log() and REFUSED in ours.all_status()["connection_reason"]
    assert all(node.states().peer_disk == "DUnknown" for node in pair)
    pair.configure, pair.options = configure, ""
    ours.down()
    pair.configure(ours, NET)
    ours.up()
    if pair.kernel.states().conn == "StandAlone":
        pair.kernel.connect()
    pair.wait_for_fresh()
    pair.sync()
    pair.assert_same()
