"""The NBD handshake without sockets: what is answered, what is skipped, what ends it, however the bytes arrive."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydrbd.errors import ClientProtocolError
from pydrbd.limits import NBD_OPTION_BYTES_MAX, NBD_OPTIONS_MAX, NBD_REQUEST_BYTES_MAX
from pydrbd.wire.nbd import ExportInfo, ExportNotReady, ExportUnavailable, InfoType, Option, ReplyType, TransmissionFlag
from pydrbd.wire.nbd_negotiation import Aborted, Negotiation, Opened, Outcome, Policy, Waits
from tests.nbd.raw_client import FIXED, GREETING, info_request, option, replies

R0 = ExportInfo(
    name="r0",
    size_bytes=1 << 20,
    description="the first volume",
    can_multi_conn=True,
    contexts=("base:allocation", "pydrbd:out-of-sync"),
)
SECONDARY = ExportInfo(name="r0/1", size_bytes=1 << 21)


class TwoExports:
    """r0 opens (also as the default export), r0/1 is known but Secondary, nothing else is there."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def exports(self) -> Sequence[ExportInfo]:
        return [R0, SECONDARY]

    def describe(self, name: str) -> ExportInfo:
        if name in ("", "r0"):
            return R0
        if name == "r0/1":
            raise ExportUnavailable("r0/1 is Secondary here: promote it")
        raise ExportUnavailable(f"there is no export {name!r}", ReplyType.ERR_UNKNOWN)

    def open(self, name: str) -> ExportInfo:
        info = self.describe(name)
        self.opened.append(name)
        return info


@dataclass(frozen=True)
class Result:
    outgoing: bytes
    outcome: Outcome | None
    error: str


def run(*chunks: bytes, policy: Policy = Policy()) -> Result:  # noqa: B008 - it never changes
    """Feed chunks one by one; what came of it. A chunk after the end is what a driver would not read any more."""
    negotiation = Negotiation(TwoExports(), policy)
    outcome: Outcome | None = None
    left = b""
    try:
        for index, chunk in enumerate(chunks):
            outcome = negotiation.receive(chunk)
            if outcome is not None:
                left = b"".join(chunks[index + 1 :])
                break
    except ClientProtocolError as error:
        return Result(negotiation.take_outgoing(), None, str(error))
    if isinstance(outcome, Opened):
        outcome = replace(outcome, unread=outcome.unread + left)
    return Result(negotiation.take_outgoing(), outcome, "")


def test_go_answers_size_and_block_sizes_unasked_then_opens() -> None:
    """GO with no information request still gets EXPORT and BLOCK_SIZE, and what follows it is handed on."""
    result = run(FIXED + option(Option.GO, info_request(b"r0")) + b"first request")
    flags = TransmissionFlag(0b1_0110_1101)
    assert replies(result.outgoing) == [
        (7, 3, struct.pack(">HQH", 0, 1 << 20, flags)),
        (7, 3, struct.pack(">HIII", 3, 1, 4096, NBD_REQUEST_BYTES_MAX)),
        (7, 1, b""),
    ]
    assert result.outcome == Opened(R0, b"first request", any_alignment=True)


def test_info_answers_name_and_description_when_asked_and_goes_on() -> None:
    """INFO opens nothing: the default export is described with its real name, then LIST and ABORT still work."""
    wanted = info_request(b"", InfoType.NAME, InfoType.DESCRIPTION, 77)
    result = run(FIXED + option(Option.INFO, wanted) + option(Option.LIST) + option(Option.ABORT))
    assert [(number, reply) for number, reply, _ in replies(result.outgoing)] == [
        *[(6, 3)] * 4,
        (6, 1),
        (3, 2),
        (3, 2),
        (3, 1),
        (2, 1),
    ]
    infos = [data for number, _, data in replies(result.outgoing) if number == 6]
    assert infos[1] == b"\x00\x01r0"
    assert infos[2] == b"\x00\x02the first volume"
    assert replies(result.outgoing)[5][2] == b"\x00\x00\x00\x02r0the first volume"
    assert result.outcome == Aborted()


@pytest.mark.parametrize("first", [Option.INFO, Option.GO])
def test_who_asks_for_block_sizes_is_held_to_them(first: Option) -> None:
    """By INFO or GO; who was only told them unasked may send requests of any alignment."""
    asked = option(first, info_request(b"r0", InfoType.NAME, InfoType.BLOCK_SIZE))
    rest = option(Option.GO, info_request(b"r0")) if first == Option.INFO else b""
    assert run(FIXED + asked + rest).outcome == Opened(R0, b"", any_alignment=False)


@pytest.mark.parametrize("client_flags, zeroes", [(3, 0), (1, 124), (0, 124)])
def test_export_name_answers_with_zeroes_only_if_not_agreed_otherwise(client_flags: int, zeroes: int) -> None:
    """EXPORT_NAME has no option reply; the padding follows the client's flag, and old newstyle clients may use it."""
    result = run(struct.pack(">I", client_flags) + option(Option.EXPORT_NAME, b"r0"))
    assert result.outgoing == GREETING + struct.pack(">QH", 1 << 20, R0.transmission_flags()) + bytes(zeroes)
    assert result.outcome == Opened(R0, b"", any_alignment=True)


def test_structured_replies_are_agreed_before_the_export_is_opened() -> None:
    """With them an export honours DF, and says so; an option with data is refused, and agrees to nothing."""
    asked = option(Option.STRUCTURED_REPLY)
    result = run(FIXED + asked + option(Option.GO, info_request(b"r0")))
    (_, first, _), (_, _, info), *_ = replies(result.outgoing)
    assert first == ReplyType.ACK and struct.unpack(">HQH", info)[2] & TransmissionFlag.SEND_DF
    assert result.outcome == Opened(R0, b"", structured=True, any_alignment=True)
    result = run(FIXED + option(Option.STRUCTURED_REPLY, b"x") + option(Option.GO, info_request(b"r0")))
    assert replies(result.outgoing)[0][1] == ReplyType.ERR_INVALID
    assert result.outcome == Opened(R0, b"", any_alignment=True)


def contexts_request(name: bytes, *queries: bytes) -> bytes:
    """The data of SET_ and LIST_META_CONTEXT."""
    strings = b"".join(struct.pack(">I", len(query)) + query for query in queries)
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries)) + strings


def with_contexts(*options: bytes) -> Result:
    """A handshake with structured replies, these options, and GO for r0."""
    return run(FIXED + option(Option.STRUCTURED_REPLY) + b"".join(options) + option(Option.GO, info_request(b"r0")))


@pytest.mark.parametrize(
    ("queries", "found"),
    [([], [1, 2]), ([b"base:"], [1]), ([b"pydrbd:out-of-sync", b"qemu:dirty-bitmap:x"], [2]), ([b"b", b"\xff"], [])],
)
def test_contexts_are_listed_by_name_or_by_namespace(queries: list[bytes], found: list[int]) -> None:
    """What is not known is left out; a list chooses nothing."""
    result = with_contexts(option(Option.LIST_META_CONTEXT, contexts_request(b"r0", *queries)))
    answers = [(reply, data) for number, reply, data in replies(result.outgoing) if number == Option.LIST_META_CONTEXT]
    assert answers.pop() == (ReplyType.ACK, b"")
    assert answers == [(ReplyType.META_CONTEXT, struct.pack(">I", n) + R0.contexts[n - 1].encode()) for n in found]
    assert result.outcome == Opened(R0, b"", structured=True, any_alignment=True)


def test_chosen_contexts_are_those_of_the_last_choice_for_that_export() -> None:
    """The last choice counts, even one that was refused or is for another export."""
    one = option(Option.SET_META_CONTEXT, contexts_request(b"r0", b"base:allocation"))
    other = option(Option.SET_META_CONTEXT, contexts_request(b"r0", b"pydrbd:out-of-sync", b"base:"))
    default = option(Option.SET_META_CONTEXT, contexts_request(b"", b"base:allocation"))
    broken = option(Option.SET_META_CONTEXT, b"x")
    for choices, contexts in [
        ([one], ((1, "base:allocation"),)),
        ([one, other], ((2, "pydrbd:out-of-sync"),)),
        ([one, default], ()),
        ([one, broken], ()),
    ]:
        expected = Opened(R0, b"", structured=True, contexts=contexts, any_alignment=True)
        assert with_contexts(*choices).outcome == expected


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", b"ends in the middle"),
        (contexts_request(b"r0", b"base:")[:-1], b"does not fit"),
        (contexts_request(b"r0") + b"x", b"behind its end"),
        (struct.pack(">I", 2**32 - 1), b"does not fit"),
        (struct.pack(">I2sI", 2, b"r0", 2**32 - 1), b"ends in the middle"),
        (contexts_request(b"r9"), b"there is no export 'r9'"),
    ],
)
def test_a_request_for_contexts_that_makes_no_sense_is_refused(data: bytes, text: bytes) -> None:
    """With its reason; nothing is chosen, and the handshake goes on."""
    result = with_contexts(option(Option.SET_META_CONTEXT, data))
    number, reply, said = replies(result.outgoing)[1]
    assert number == Option.SET_META_CONTEXT and reply >= ReplyType.ERR_UNSUP and text in said
    assert result.outcome == Opened(R0, b"", structured=True, any_alignment=True)


def test_contexts_need_structured_replies() -> None:
    """Without them there would be no way to answer."""
    result = run(FIXED + option(Option.SET_META_CONTEXT, contexts_request(b"r0")) + option(Option.ABORT))
    assert replies(result.outgoing)[0][1] == ReplyType.ERR_INVALID


@pytest.mark.parametrize("number", [Option.STARTTLS, 11, 4711])
def test_options_not_offered_are_refused_and_their_data_skipped(number: int) -> None:
    """The baseline requirement: the option after an unknown one is understood."""
    result = run(FIXED + option(number, b"x" * 1000) + option(Option.GO, info_request(b"r0")))
    assert replies(result.outgoing)[0][:2] == (number, ReplyType.ERR_UNSUP)
    assert isinstance(result.outcome, Opened)


@pytest.mark.parametrize(
    "data, code, text",
    [
        (info_request(b"r9"), ReplyType.ERR_UNKNOWN, b"there is no export 'r9'"),
        (info_request(b"r0/1"), ReplyType.ERR_POLICY, b"r0/1 is Secondary here: promote it"),
        (b"", ReplyType.ERR_INVALID, b"INFO and GO need"),
        (b"\xff\xff\xff\xff\x00\x00", ReplyType.ERR_INVALID, b"does not fit"),
        (info_request(b"r0") + b"x", ReplyType.ERR_INVALID, b"do not fill"),
        (info_request(b"\xff"), ReplyType.ERR_INVALID, b"UTF-8"),
        (info_request(b"r\0"), ReplyType.ERR_INVALID, b"NUL"),
        (info_request(b"r" * 4097), ReplyType.ERR_TOO_BIG, b"4096"),
        (bytes(NBD_OPTION_BYTES_MAX + 1), ReplyType.ERR_TOO_BIG, b"65537"),
    ],
)
def test_a_refused_go_says_why_and_the_handshake_goes_on(data: bytes, code: ReplyType, text: bytes) -> None:
    """Every refusal has its code and a text, and a second GO succeeds."""
    result = run(FIXED + option(Option.GO, data) + option(Option.GO, info_request(b"r0")))
    number, reply, said = replies(result.outgoing)[0]
    assert (number, reply) == (Option.GO, code)
    assert text in said
    assert isinstance(result.outcome, Opened)


def test_list_with_data_is_invalid() -> None:
    result = run(FIXED + option(Option.LIST, b"x"))
    assert replies(result.outgoing)[0][:2] == (Option.LIST, ReplyType.ERR_INVALID)


def test_a_long_reason_is_cut_at_a_character() -> None:
    """Error texts have at most 4096 bytes and stay UTF-8."""

    class Verbose(TwoExports):
        def describe(self, name: str) -> ExportInfo:
            raise ExportUnavailable("x" + "ä" * 4000)

    negotiation = Negotiation(Verbose())
    assert negotiation.receive(FIXED + option(Option.GO, info_request(b"r0"))) is None
    ((_, _, text),) = replies(negotiation.take_outgoing())
    assert text.decode() == "x" + "ä" * 2047


@pytest.mark.parametrize(
    "data, reason",
    [
        (struct.pack(">I", 4), "client flags"),
        (b"GET ", "client flags"),
        (FIXED + b"IHAVEOPS" + bytes(8), "IHAVEOPT"),
        (struct.pack(">I", 0) + option(Option.LIST), "fixed newstyle"),
        (FIXED + option(Option.EXPORT_NAME, b"r9"), "no export 'r9'"),
        (FIXED + option(Option.EXPORT_NAME, b"r0/1"), "Secondary"),
        (FIXED + option(Option.EXPORT_NAME, b"x" * 4097), "4097 bytes"),
        (FIXED + option(Option.LIST) * NBD_OPTIONS_MAX + option(Option.LIST), "more than 64 options"),
    ],
)
def test_what_cannot_be_answered_is_the_clients_error(data: bytes, reason: str) -> None:
    """The connection is to be dropped, with the reason for the log."""
    result = run(data)
    assert reason in result.error
    assert result.outcome is None


def test_an_error_stays() -> None:
    """Bytes after an error raise it again instead of being looked at."""
    negotiation = Negotiation(TwoExports())
    for _ in range(2):
        with pytest.raises(ClientProtocolError, match="client flags"):
            negotiation.receive(b"\xff" * 4)


def test_a_refused_go_opens_nothing() -> None:
    """INFO and failed GOs leave no open export behind."""
    source = TwoExports()
    negotiation = Negotiation(source)
    negotiation.receive(FIXED + option(Option.INFO, info_request(b"r0")) + option(Option.GO, info_request(b"r0/1")))
    assert source.opened == []


class NotReady(TwoExports):
    """Nothing opens before it is ready."""

    ready = False

    def open(self, name: str) -> ExportInfo:
        if not self.ready:
            raise ExportNotReady(name)
        return super().open(name)


GO_R0, NAME_R0 = option(Option.GO, info_request(b"r0")), option(Option.EXPORT_NAME, b"r0")
WAITING = [pytest.param(GO_R0, id="GO"), pytest.param(NAME_R0, id="EXPORT_NAME")]


@pytest.mark.parametrize("opening", WAITING)
def test_an_export_that_is_not_ready_is_waited_for(opening: bytes) -> None:
    """The answer, and the bytes behind the option, are as if it had been ready at once; it may wait twice."""
    source = NotReady()
    negotiation = Negotiation(source)
    assert negotiation.receive(FIXED + opening + b"first request") == Waits("r0")
    before = negotiation.take_outgoing()
    assert negotiation.go_on(None) == Waits("r0") and not negotiation.take_outgoing()
    source.ready = True
    expected = run(FIXED + opening + b"first request")
    assert negotiation.go_on(None) == expected.outcome and source.opened == ["r0"]
    assert before + negotiation.take_outgoing() == expected.outgoing


def test_a_go_whose_export_does_not_become_ready_is_refused() -> None:
    """With the reason; what the client has said behind it is answered then. EXPORT_NAME can only end."""
    refusal = ExportUnavailable("the peer is Primary")
    negotiation = Negotiation(NotReady())
    assert negotiation.receive(FIXED + GO_R0 + option(Option.ABORT)) == Waits("r0")
    assert negotiation.go_on(refusal) == Aborted()
    assert replies(negotiation.take_outgoing()) == [
        (Option.GO, ReplyType.ERR_POLICY, b"the peer is Primary"),
        (Option.ABORT, ReplyType.ACK, b""),
    ]
    negotiation = Negotiation(NotReady())
    assert negotiation.receive(FIXED + NAME_R0) == Waits("r0")
    with pytest.raises(ClientProtocolError, match="the peer is Primary"):
        negotiation.go_on(refusal)


def test_whoever_only_looks_does_not_wait() -> None:
    """LIST, INFO and meta-data contexts make nothing ready."""
    look = option(Option.STRUCTURED_REPLY) + option(Option.LIST) + option(Option.INFO, info_request(b"r0"))
    look += option(Option.SET_META_CONTEXT, struct.pack(">I", 2) + b"r0" + bytes(4))
    assert Negotiation(NotReady()).receive(FIXED + look) is None


OPTIONS = st.one_of(
    st.builds(option, st.sampled_from([1, 2, 3, 5, 6, 7, 8, 10, 99]), st.binary(max_size=12)),
    st.builds(
        lambda number, name, wanted: option(number, info_request(name, *wanted)),
        st.sampled_from([6, 7]),
        st.sampled_from([b"r0", b"r0/1", b"", b"nope", b"\xff"]),
        st.lists(st.integers(0, 5), max_size=4),
    ),
    st.binary(max_size=20),
)
SESSIONS = st.builds(
    lambda flags, options, cut: (flags + b"".join(options))[: cut or None],
    st.sampled_from([FIXED, FIXED, FIXED, bytes(4), b"\xff" * 4]),
    st.lists(OPTIONS, max_size=6),
    st.integers(0, 200),
)


@given(SESSIONS)
@settings(max_examples=300, deadline=None)
def test_the_result_does_not_depend_on_how_the_bytes_arrive(data: bytes) -> None:
    """Whole or byte by byte: the same bytes out, the same outcome, the same error."""
    assert run(data) == run(*(data[i : i + 1] for i in range(len(data))))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_garbage_is_a_protocol_error_or_waits(data: bytes) -> None:
    """Nothing but ClientProtocolError comes out of garbage (`run` lets everything else through)."""
    result = run(FIXED, b"IHAVEOPT" + data)
    assert result.outgoing.startswith(GREETING)


@given(st.integers(0, NBD_OPTION_BYTES_MAX * 3), st.integers(1, 70000))
@settings(max_examples=50, deadline=None)
def test_an_option_of_any_length_is_skipped_exactly(length: int, chunk: int) -> None:
    """Too long to keep or not: after `length` bytes comes the next option, whatever the chunks."""
    data = FIXED + option(4711, bytes(length)) + option(Option.ABORT)
    result = run(*(data[i : i + chunk] for i in range(0, len(data), chunk)))
    assert result.outcome == Aborted()
    refusal = ReplyType.ERR_TOO_BIG if length > NBD_OPTION_BYTES_MAX else ReplyType.ERR_UNSUP
    assert [reply for _, reply, _ in replies(result.outgoing)] == [refusal, ReplyType.ACK]
