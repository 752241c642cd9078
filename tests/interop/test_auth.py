"""A shared secret: who does not know it is no peer."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.interop

REFUSED = (
    "Authentication of peer failed", "[Aa]uthentication failed", "authenticat", "expected AuthResponse",
    "expected AuthChallenge packet", "expected ReportParams packet", "expected P_PROTOCOL",
    "Unexpected data packet AuthChallenge", "broke the protocol",
    "connection shut down by peer", "NetworkFailure", "BrokenPipe", "ProtocolError", "sock_\\w+ returned",
    "short (read|sent)", "error receiving", r"conn\( WFConnection -> \w+",
)  # fmt: skip


def auth(algorithm, secret):
    return f'protocol C; connect-int 1; cram-hmac-alg {algorithm}; shared-secret "{secret}";'


def is_refused(node):
    """It goes StandAlone; a kernel that gets an answer of another length tries again, for ever."""
    return node.states().conn == "StandAlone" or "of wrong size" in node.log()


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_nodes_that_know_the_secret_connect(pair, seed, algorithm):
    """Both prove it to the other, and are a pair."""
    pair.start(net=auth(algorithm, "open sesame"))
    pair.sync()
    pair.write(pair.first, seed, 5)
    pair.assert_same()
    assert "eer authenticated using" in pair.first.log()
    assert "eer authenticated using" in pair.second.log()


@pytest.mark.parametrize(
    "other",
    [auth("sha256", "open barley"), auth("sha1", "open sesame"), "protocol C; connect-int 1;"],
    ids=["other-secret", "other-algorithm", "none"],
)
def test_a_peer_that_does_not_know_the_secret_is_refused(pair, seed, other):
    """Whatever the second one tries instead, no data moves. With the right secret they are a pair again."""
    right = auth("sha256", "open sesame")
    pair.allow(*REFUSED)
    pair.start(net=right)
    pair.sync()
    pair.first.down()
    pair.second.down()
    pair.configure(pair.second, other)
    pair.first.up()
    pair.second.up()
    pair.wait_for(lambda: any(is_refused(node) for node in pair), "one of them to refuse the other")
    assert all(node.states().peer_disk == "DUnknown" for node in pair)
    pair.first.primary()
    pair.write(pair.first, seed, 5)
    pair.second.down()
    pair.configure(pair.second, right)
    pair.second.up()
    if pair.first.states().conn == "StandAlone":
        pair.first.connect()
    pair.assert_same()
