"""What nodes and their witness say: it survives the way, and nothing else is taken for it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.errors import PeerProtocolError
from pydrbd.limits import WITNESS_NAME_BYTES_MAX, WITNESS_PAYLOAD_BYTES_MAX
from pydrbd.wire.witness import (
    HEADER_BYTES,
    Kind,
    Verb,
    Verdict,
    WitnessAnswer,
    WitnessRequest,
    decode_answer,
    decode_header,
    decode_request,
    encode_answer,
    encode_frame,
    encode_request,
)

WORDS = st.integers(0, 2**64 - 1)
NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=100)
REQUESTS = st.builds(WitnessRequest, st.sampled_from(Verb), NAMES, NAMES, WORDS, WORDS)
ANSWERS = st.builds(WitnessAnswer, st.sampled_from(Verdict), NAMES, WORDS, WORDS).filter(
    lambda answer: answer.verdict is not Verdict.WRONG_KEY
)
KEY, CHALLENGE, NONCE = b"key", bytes(range(32)), bytes(16)
ASKED = encode_request(WitnessRequest(Verb.ACQUIRE, "r0:a,b", "a", 7), KEY, CHALLENGE, 0, NONCE)
ANSWERED = encode_answer(WitnessAnswer(Verdict.HELD, "b", 3, 9), KEY, ASKED)


@given(REQUESTS, st.binary(), st.integers(0, 20))
def test_a_request_survives_the_way(request: WitnessRequest, key: bytes, count: int) -> None:
    """With the same key, challenge and place in the session; with any other it is nobody's."""
    payload = encode_request(request, key, CHALLENGE, count, NONCE)
    assert decode_request(payload, key, CHALLENGE, count) == request
    assert decode_request(payload, key + b"x", CHALLENGE, count) is None
    assert decode_request(payload, key, bytes(32), count) is None
    assert decode_request(payload, key, CHALLENGE, count + 1) is None


@given(ANSWERS, st.binary())
def test_an_answer_survives_the_way(answer: WitnessAnswer, key: bytes) -> None:
    """It fits the one question that it was given to."""
    payload = encode_answer(answer, key, ASKED)
    assert decode_answer(payload, key, ASKED) == answer
    for other_key, question in ((key + b"x", ASKED), (key, bytes(len(ASKED)))):
        with pytest.raises(PeerProtocolError, match="not signed with our key"):
            decode_answer(payload, other_key, question)


def test_the_bytes_are_as_described() -> None:
    """The table of the module, byte by byte."""
    frame = encode_frame(Kind.REQUEST, ASKED)
    assert frame[:12] == b"pdqw" + b"\x01\x00" + b"\x02\x00" + len(ASKED).to_bytes(4, "little")
    assert ASKED[:8] == b"\x02\x00" + b"\x06\x00" + b"\x01\x00" + b"\x00\x00"
    assert ASKED[8:24] == (7).to_bytes(8, "little") + bytes(8) and ASKED[24:40] == NONCE
    assert ASKED[40:47] == b"r0:a,ba" and len(ASKED) == 47 + 32
    assert ANSWERED[:8] == b"\x02\x00\x01\x00" + bytes(4) and ANSWERED[24:25] == b"b" and len(ANSWERED) == 25 + 32


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"HTTP\x01\x00\x02\x00\x00\x00\x00\x00", "not the protocol of a witness"),
        (b"pdqw\x02\x00\x02\x00\x00\x00\x00\x00", "version 2"),
        (b"pdqw\x01\x00\x03\x00\x00\x00\x00\x00", "kind 3 where REQUEST"),
        (b"pdqw\x01\x00\x02\x00" + (WITNESS_PAYLOAD_BYTES_MAX + 1).to_bytes(4, "little"), "at most"),
    ],
)
def test_other_headers_are_refused(header: bytes, words: str) -> None:
    """With what was wrong."""
    with pytest.raises(PeerProtocolError, match=words):
        decode_header(header, Kind.REQUEST)


def test_the_longest_names_fit_into_a_frame() -> None:
    """Two of them, and all the rest."""
    name = "n" * WITNESS_NAME_BYTES_MAX
    payload = encode_request(WitnessRequest(Verb.LOOK, name, name), KEY, CHALLENGE, 0, NONCE)
    assert len(encode_frame(Kind.REQUEST, payload)) <= WITNESS_PAYLOAD_BYTES_MAX + HEADER_BYTES


@given(st.binary(max_size=200), st.booleans())
def test_noise_is_refused_and_breaks_nothing(noise: bytes, signed: bool) -> None:
    """Also noise that is signed with the right key: a node of ours gone mad."""
    from pydrbd.wire.witness import request_mac

    payload = noise + request_mac(noise, KEY, CHALLENGE, 0) if signed else noise
    with contextlib.suppress(PeerProtocolError):
        found = decode_request(payload, KEY, CHALLENGE, 0)
        assert found is None or signed
    with contextlib.suppress(PeerProtocolError):
        assert decode_answer(payload, KEY, ASKED).verdict is Verdict.WRONG_KEY


@given(st.integers(0, len(ASKED) - 1), st.integers(1, 255), st.data())
def test_a_changed_byte_is_noticed(at: int, flip: int, data: st.DataObject) -> None:
    """Whichever it is."""
    changed = bytearray(ASKED)
    changed[at] ^= flip
    assert decode_request(bytes(changed), KEY, CHALLENGE, 0) is None
    at = data.draw(st.integers(1, len(ANSWERED) - 1))
    answered = bytearray(ANSWERED)
    answered[at] ^= flip
    with pytest.raises(PeerProtocolError):
        decode_answer(bytes(answered), KEY, ASKED)
