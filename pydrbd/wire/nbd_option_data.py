"""What NBD clients send with their options in the handshake, taken apart. Pure."""

from __future__ import annotations

from struct import Struct
from typing import Final

from pydrbd.limits import NBD_STRING_BYTES_MAX
from pydrbd.wire.nbd import ReplyType

__all__ = ["OptionRefused", "asks_for", "decode_context_request", "decode_info_request", "decode_name"]

_U32: Final = Struct(">I")
_U16: Final = Struct(">H")


class OptionRefused(Exception):
    """An option that is answered with an error reply; the handshake goes on."""

    def __init__(self, code: ReplyType, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def decode_name(data: bytes) -> str:
    """An export's name: at most 4096 bytes of UTF-8 without NUL. Raises OptionRefused."""
    if len(data) > NBD_STRING_BYTES_MAX:
        raise OptionRefused(ReplyType.ERR_TOO_BIG, f"an export name has at most {NBD_STRING_BYTES_MAX} bytes")
    try:
        name = data.decode("utf-8")
    except UnicodeDecodeError:
        raise OptionRefused(ReplyType.ERR_INVALID, "an export name must be UTF-8") from None
    if "\0" in name:
        raise OptionRefused(ReplyType.ERR_INVALID, "an export name must not contain NUL")
    return name


def decode_info_request(data: bytes) -> tuple[str, frozenset[int]]:
    """INFO's and GO's data: u32 name length, name, u16 count, count times u16 InfoType. Raises OptionRefused."""
    if len(data) < _U32.size + _U16.size:
        raise OptionRefused(ReplyType.ERR_INVALID, "INFO and GO need a name length, a name and a count")
    (name_bytes,) = _U32.unpack_from(data)
    count_at = _U32.size + name_bytes
    if count_at + _U16.size > len(data):
        raise OptionRefused(ReplyType.ERR_INVALID, f"a name of {name_bytes} bytes does not fit into the option")
    (count,) = _U16.unpack_from(data, count_at)
    wanted_at = count_at + _U16.size
    if wanted_at + count * _U16.size != len(data):
        raise OptionRefused(ReplyType.ERR_INVALID, f"{count} information requests do not fill the option")
    wanted = frozenset(item for (item,) in _U16.iter_unpack(data[wanted_at:]))
    return decode_name(data[_U32.size : count_at]), wanted


def decode_context_request(data: bytes) -> tuple[str, list[str]]:
    """SET_ and LIST_META_CONTEXT's data: a string, u32 count, count strings, each with its u32 length before it.

    Raises OptionRefused.
    """
    strings: list[bytes] = []
    at = 0

    def take_number() -> int:
        nonlocal at
        if at + _U32.size > len(data):
            raise OptionRefused(ReplyType.ERR_INVALID, "a request for contexts ends in the middle")
        (number,) = _U32.unpack_from(data, at)
        at += _U32.size
        return int(number)

    def take_string() -> bytes:
        nonlocal at
        length_bytes = take_number()
        if at + length_bytes > len(data):
            raise OptionRefused(ReplyType.ERR_INVALID, f"a string of {length_bytes} bytes does not fit")
        at += length_bytes
        return data[at - length_bytes : at]

    name = decode_name(take_string())
    for _ in range(take_number()):
        strings.append(take_string())
    if at != len(data):
        raise OptionRefused(ReplyType.ERR_INVALID, "a request for contexts has data behind its end")
    return name, [string.decode("utf-8", "replace") for string in strings]


def asks_for(queries: list[str], context: str) -> bool:
    """Whether LIST's queries name a context, or all of its namespace (`base:`); no query at all asks for everything."""
    return not queries or any(
        query == context or (query.endswith(":") and context.startswith(query)) for query in queries
    )
