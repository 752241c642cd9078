"""The run-length code: the kernel's own vectors (WIRE 19), the twin, and there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native, reference
from pydrbd.native import E_CODE
from pydrbd.native.batch import ffi, lib
from tests.native.strategies import exact

KERNEL_WORDS = [
    (1, 2, 0x0), (2, 2, 0x2), (3, 3, 0x1), (4, 3, 0x5), (5, 5, 0x3), (8, 5, 0x1B), (9, 7, 0x7), (16, 7, 0x77),
    (17, 10, 0xF), (48, 10, 0x3EF), (49, 14, 0x1F), (304, 14, 0x3FDF), (305, 21, 0x3F), (8496, 21, 0x1FFF3F),
    (8497, 29, 0x7F), (2105648, 29, 0x1FFFFF7F), (2105649, 42, 0xBF), (17181974832, 42, 0x3FFFFFFFFBF),
    (17181974833, 64, 0xFF), (72057611219902768, 64, 2**64 - 1),
]  # fmt: skip

KERNEL_STREAMS = [
    ([32768], "7fcf5e00", 3),
    ([262127], "7fbede03", 3),
    ([4096, 28672], "3fcfeeefd90900", 6),
    ([100, 1, 2, 3, 32662], "df0ce6afcc0b00", 6),
    ([1] * 8, "0000", 0),
]


def bitmap_of(runs, polarity):
    """A bitmap that consists of these runs."""
    bits, position = bytearray((sum(runs) + 7) // 8), 0
    for run in runs:
        if polarity:
            native.bitmap_set(bits, position, run)
        position, polarity = position + run, 1 - polarity
    return bits


@pytest.mark.parametrize(("run", "bit_count", "word"), KERNEL_WORDS)
def test_the_twins_code_words_are_the_kernels(run, bit_count, word):
    """The table behind every other test, at the borders of every class."""
    assert reference.vli_code(run) == format(word, f"0{bit_count}b")[::-1]


def test_a_run_that_is_too_long_has_no_code():
    """The code ends at 64 bits."""
    with pytest.raises(ValueError, match="no code"):
        reference.vli_code(72057611219902769)


@pytest.mark.parametrize("polarity", [0, 1])
@pytest.mark.parametrize(("run", "bit_count", "word"), [case for case in KERNEL_WORDS if case[0] < 3_000_000])
def test_c_codes_a_single_run_as_the_kernel(run, bit_count, word, polarity):
    """Every class that fits a bitmap of a test's size, encoded and decoded."""
    bits = bitmap_of([run], polarity)
    code = native.vli_encode(bits, run, 0, 8)
    assert code == (word.to_bytes((bit_count + 7) // 8, "little"), run, -bit_count % 8, polarity)
    decoded = bytearray(len(bits))
    assert native.vli_decode(decoded, run, 0, *code_of(code)) == (run, run * polarity)
    assert decoded == bits


def code_of(code):
    return code.code, code.pad, code.polarity


@pytest.mark.parametrize(("run", "bit_count", "word"), KERNEL_WORDS)
def test_c_knows_the_longest_runs_of_clear_bits(run, bit_count, word):
    """A run of clear bits writes nothing, so that even the longest can be decoded over a small buffer.

    The bitmap that such a run needs would be of petabytes: C is called without the check of the buffer's size.
    """
    code = word.to_bytes((bit_count + 7) // 8, "little")
    newly_set = ffi.new("uint64_t *")
    pad = -bit_count % 8
    assert lib.pydrbd_vli_decode(ffi.NULL, run, 0, code, len(code), pad, 0, newly_set) == run
    assert lib.pydrbd_vli_decode(ffi.NULL, run - 1, 0, code, len(code), pad, 0, newly_set) == E_CODE


@pytest.mark.parametrize("polarity", [0, 1])
@pytest.mark.parametrize(("runs", "code", "pad"), KERNEL_STREAMS)
def test_streams_are_the_kernels(runs, code, pad, polarity):
    """Sequences of runs, both ways."""
    bits, bit_count = bitmap_of(runs, polarity), sum(runs)
    assert native.vli_encode(bits, bit_count, 0, 4079) == (bytes.fromhex(code), bit_count, pad, polarity)
    decoded = bytearray(len(bits))
    set_count = native.bitmap_count(bits, 0, bit_count)
    assert native.vli_decode(decoded, bit_count, 0, bytes.fromhex(code), pad, polarity) == (bit_count, set_count)
    assert decoded == bits


run_lists = st.lists(
    st.one_of(st.integers(1, 20), st.integers(1, 400), st.sampled_from([305, 8496, 8497])), min_size=1, max_size=30
)


@given(run_lists, st.integers(0, 1), st.integers(8, 40), st.data())
def test_packets_carry_a_bitmap_piece_by_piece(runs, polarity, room, data):
    """C and twin cut the same packets wherever they begin; put together, they are the bitmap."""
    bits, bit_count = exact(bitmap_of(runs, polarity)), sum(runs)
    position = start = data.draw(st.integers(0, bit_count))
    copy = bytearray(len(bits))
    while position < bit_count:
        code = native.vli_encode(bits, bit_count, position, room)
        assert code == reference.vli_encode(bits, bit_count, position, room)
        assert position < code.next <= bit_count and len(code.code) <= room
        end, newly_set = native.vli_decode(copy, bit_count, position, *code_of(code))
        assert end == code.next
        assert newly_set == native.bitmap_count(bits, position, end - position)
        position = end
    native.bitmap_clear(bits, 0, start)
    assert copy == bits


def test_a_packet_is_filled_to_its_last_bit():
    """32 runs of one bit take exactly 8 bytes; the 33rd waits for the next packet."""
    bits = bytes([0b01010101]) * 9
    assert native.vli_encode(bits, 72, 0, 8) == (b"\0" * 8, 32, 0, 1)
    assert native.vli_encode(bits, 31, 0, 8) == (b"\0" * 8, 31, 2, 1)
    assert native.vli_encode(bits, 33, 0, 9) == (b"\0" * 9, 33, 6, 1)


def test_at_the_end_of_the_bitmap_there_is_nothing_to_code():
    """An empty code, which no packet carries."""
    assert native.vli_encode(bytearray(2), 16, 16, 8) == (b"", 16, 0, 0)


@given(
    st.one_of(st.binary(max_size=20), st.lists(st.sampled_from([0, 0xFF, 0x3F, 0x7F, 0xBF]), max_size=9).map(bytes)),
    st.integers(0, 7),
    st.integers(0, 1),
    st.binary(min_size=40, max_size=40),
    st.integers(0, 320),
    st.integers(0, 320),
)
def test_any_bytes_decode_as_by_the_twin(code, pad, polarity, bits, first, bit_count):
    """What a peer may send: the same bits, position and count, or the same refusal, and never beyond the bitmap."""
    first = min(first, bit_count)
    ours, twins, code = exact(bits), bytearray(bits), exact(code)
    position, newly_set = native.vli_decode(ours, bit_count, first, code, pad, polarity)
    expected, twins_newly_set = reference.vli_decode(twins, bit_count, first, code, pad, polarity)
    assert (position, newly_set) == (E_CODE if expected is None else expected, twins_newly_set)
    assert ours == twins
    before, after = (int.from_bytes(value, "little") for value in (bits, ours))
    assert (before ^ after) >> bit_count == 0


@pytest.mark.parametrize("code", ["", "01", "7f", "ff" * 7, "00"])
def test_a_wrong_code_is_an_error(code):
    """Nothing, half a word, words that end early, and runs (four of 1) past the end of 3 bits."""
    assert native.vli_decode(bytearray(1), 3, 0, bytes.fromhex(code), 6 if code == "01" else 0, 1)[0] == E_CODE
