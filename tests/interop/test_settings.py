"""What both configurations must agree on."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.interop

DIFFERENT = (
    "incompatible [\\w-]+ settings", "differs from ours", "StandAlone", "connection shut down by peer",
    "NetworkFailure", "BrokenPipe", "sock_\\w+ returned", "short (read|sent)", "conn\\( WFConnection -> \\w+",
    "error receiving", "ProtocolError",
)  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        "protocol A;",
        "protocol C; after-sb-1pri discard-secondary;",
        "protocol C; allow-two-primaries yes;",
        "protocol C; data-integrity-alg sha1;",
    ],
    ids=lambda words: words.rstrip(";").split("; ")[-1].split()[0] + "-" + words.rstrip(";").split()[-1],
)
def test_nodes_whose_settings_differ_do_not_connect(pair, other):
    """The kernel is configured otherwise: both see it and stay apart; with the same words they are a pair."""
    pair.allow(*DIFFERENT)
    usual = "protocol C; connect-int 1;"
    nets = [other + " connect-int 1;" if node is pair.kernel else usual for node in pair]
    pair.bring_up(*nets)
    pair.wait_for(lambda: any(node.states().conn == "StandAlone" for node in pair), "one of them to give up")
    assert all(node.states().peer_disk == "DUnknown" for node in pair)
    pair.kernel.down()
    pair.configure(pair.kernel, usual)
    pair.kernel.up()
    for node in pair:
        if node.states().conn == "StandAlone":
            node.connect()
    pair.wait_for_fresh()
    pair.sync()
    pair.assert_same()
