"""A Primary whose data would have to go (rr-conflict), and identifiers that say too little (always-asbp)."""

from __future__ import annotations

import re

import pytest

from tests.interop.pair import PEER_IS_GONE, variant
from tests.interop.test_split_brain import ALONE, SAID, split_apart
from tests.lab.kernel_node import KernelNode
from tests.lab.load import Op

pytestmark = pytest.mark.interop

LOSES = "protocol C; after-sb-0pri discard-least-changes; after-sb-1pri violently-as0p;"
"""The node that has written less loses, be it the Primary."""

DECIDED = "protocol C; after-sb-0pri discard-least-changes; after-sb-1pri discard-secondary;"
CONFLICT = (
    "(?i)I (shall|should) become SyncTarget, but I am primary", "violating the stable-data", "pri-lost",
    "data changes under its users", "(?i)full sync, (since|because the) UUIDs \\w+ ambiguous",
)  # fmt: skip


def reconfigure(pair, node, net):
    """Other options for a node that stands alone."""
    pair.configure(node, net)
    if not isinstance(node, KernelNode):  # there drbdadm connect gives them
        done = node.call("adjust", "--skip-net", timeout_s=60)
        assert done.returncode == 0, done.stderr


def set_generations(node, text):
    """drbdmeta's set-gi, and ours: fields that are empty stay as they are. The node is down."""
    if isinstance(node, KernelNode):
        node.guest.run("drbdmeta", "--force", "0", "v08", node.disk_name, "internal", "set-gi", text)
    else:
        done = node.call("set-gi", "--force", "--gi", text, timeout_s=60)
        assert done.returncode == 0, done.stderr


def times_called(node):
    """How often its log says that the handler pri-lost was run."""
    calls = r"/sbin/drbdadm pri-lost minor-0 *$" if isinstance(node, KernelNode) else r"r0: pri-lost: called$"
    return len(re.findall(calls, node.log(), re.M))


def refuses(pair, loser, winner):
    """They meet; the Primary stands alone, and has what it had; the other one looks for it again."""
    for node in (loser, winner):
        if node.states().conn == "StandAlone":
            node.connect()
    loser.wait(conn="StandAlone")
    winner.wait(conn="WFConnection", peer_disk="DUnknown")
    assert (loser.states().role, loser.states().disk) == ("Primary", "UpToDate")
    loser.load([Op("read", ALONE.offset_bytes, ALONE.length_bytes, ALONE.seed)])


def test_a_primary_that_would_become_sync_target(pair, seed):
    """disconnect and call-pri-lost: it stands alone with what it has; violently: its data changes under its users."""
    pair.handlers = 'pri-lost "echo called";'
    split_apart(pair, seed, net=LOSES)
    pair.allow(*SAID, *PEER_IS_GONE, *CONFLICT)
    pair.first.secondary()
    winner, loser = pair
    refuses(pair, loser, winner)
    assert times_called(loser) == 0
    reconfigure(pair, loser, f"{LOSES} rr-conflict call-pri-lost;")
    refuses(pair, loser, winner)
    pair.wait_for(lambda: times_called(loser) == 1, "pri-lost to be called")
    reconfigure(pair, loser, f"{LOSES} rr-conflict violently;")
    loser.connect()
    pair.assert_same()
    assert [node.states().role for node in pair] == ["Secondary", "Primary"]
    assert times_called(loser) == 1


@pytest.mark.slow
def test_a_primary_whose_data_is_the_older_one(pair, seed):
    """By the identifiers alone, no split brain: the peer's data is said to have come after that of the Primary."""
    pair.start(net=f"{DECIDED} connect-int 1;")
    pair.allow(*PEER_IS_GONE, *CONFLICT)
    pair.sync()
    pair.write(pair.first, seed, 10)
    pair.second.down()
    pair.first.wait(peer_disk="DUnknown")
    pair.first.load([ALONE])
    set_generations(pair.second, f"A5A5A5A5A5A5A5A4:{pair.first.generations().current}")
    pair.second.up()
    refuses(pair, pair.first, pair.second)
    reconfigure(pair, pair.first, f"{DECIDED} rr-conflict violently;")
    pair.first.connect()
    pair.assert_same()
    assert [node.states().role for node in pair] == ["Primary", "Secondary"]


@pytest.mark.parametrize("roles", [["Primary", "Secondary"], variant(["Secondary", "Secondary"])], ids="-".join)
def test_identifiers_that_say_too_little_are_left_to_the_policies_if_that_is_asked_for(pair, seed, roles):
    """No bitmap names what both have come from: a split brain whatever the policies; with always-asbp a full sync."""
    pair.allow(*SAID, *CONFLICT)
    split_apart(pair, seed, net=DECIDED)
    for node in pair:
        parent = node.generations().bitmap
        node.down()
        set_generations(node, f":0:{parent}:0")
    pair.first.up()
    if roles[0] == "Primary":
        pair.first.primary()
    pair.second.up()
    for node in pair:
        node.wait(conn="StandAlone")
        assert "uuid_compare()=-100 by rule 100" in node.log() and "Split-Brain detected but unresolved" in node.log()
        reconfigure(pair, node, f"{DECIDED} always-asbp;")
    for node in pair:
        node.connect()
    pair.assert_same(history=False)
    assert [node.states().role for node in pair] == roles
    assert all(node.resyncs_kib()[-1] == len(pair.image) // 1024 for node in pair)
