"""The NBD handshake as a machine without sockets: bytes in, bytes and an outcome out. Pure.

Fixed newstyle, from the NBD project's doc/proto.md; all integers big-endian:

    greeting        server   u64 "NBDMAGIC", u64 "IHAVEOPT", u16 handshake flags
    client flags    client   u32
    option          client   u64 "IHAVEOPT", u32 option, u32 length, length bytes
    option reply    server   u64 0x3e889045565a9, u32 option, u32 reply type, u32 length, length bytes
    EXPORT_NAME's   server   u64 size, u16 transmission flags, 124 zeroes unless NO_ZEROES was agreed: no option reply

An option that is unknown or not offered is refused and its data skipped, so that the client can go on. What can't
be answered (a wrong magic number, too many options, EXPORT_NAME of an export that is not there) raises
ClientProtocolError: the driver sends what `take_outgoing` still has and closes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final, Protocol

from pydrbd.errors import ClientProtocolError
from pydrbd.limits import NBD_OPTION_BYTES_MAX, NBD_OPTIONS_MAX, NBD_STRING_BYTES_MAX
from pydrbd.wire.nbd import (
    ClientFlag,
    ExportInfo,
    ExportNotReady,
    ExportUnavailable,
    HandshakeFlag,
    InfoType,
    NbdMagic,
    Option,
    ReplyType,
    TransmissionFlag,
)
from pydrbd.wire.nbd_option_data import (
    OptionRefused,
    asks_for,
    decode_context_request,
    decode_info_request,
    decode_name,
)

__all__ = ["Aborted", "ExportSource", "Negotiation", "Opened", "Outcome", "Policy", "StartTls", "TlsMode", "Waits"]

_GREETING: Final = Struct(">QQH")
_CLIENT_FLAGS: Final = Struct(">I")
_OPTION: Final = Struct(">QII")
_OPTION_REPLY: Final = Struct(">QIII")
_EXPORT_NAME_REPLY: Final = Struct(">QH")
_INFO_EXPORT: Final = Struct(">HQH")
_INFO_BLOCK_SIZE: Final = Struct(">HIII")
_U32: Final = Struct(">I")
_U16: Final = Struct(">H")
_NAME_ZEROES: Final = bytes(124)
_KNOWN_CLIENT_FLAGS: Final = int(ClientFlag.FIXED_NEWSTYLE | ClientFlag.NO_ZEROES)


class ExportSource(Protocol):
    """Where the handshake asks about exports; all three are immediate."""

    def exports(self) -> Sequence[ExportInfo]:
        """What LIST shows."""
        ...

    def describe(self, name: str) -> ExportInfo:
        """INFO: what `open` would give, without opening. Raises ExportUnavailable."""
        ...

    def open(self, name: str) -> ExportInfo:
        """GO and EXPORT_NAME: open the export (the empty name is the default one).

        Raises ExportUnavailable, or ExportNotReady: then the handshake's outcome is Waits.
        """
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """The handshake ended in the transmission phase; `unread` are its first bytes if they came along."""

    info: ExportInfo
    unread: bytes
    structured: bool = False
    """READs are to be answered by chunks."""
    contexts: tuple[tuple[int, str], ...] = ()  # number and name of what BLOCK_STATUS is to tell of
    extended: bool = False
    """Requests come with extended headers, and replies are to have them (wire/nbd_extended)."""
    any_alignment: bool = False  # it did not ask for our block sizes: it can't be expected to keep to them


@dataclass(frozen=True, slots=True)
class Aborted:
    """The client said ABORT and has its acknowledgement."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client was told to begin TLS: go on with `encrypted` and the bytes that come through it."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The export of this name is to be made ready first: do that, and `go_on`."""

    name: str


Outcome = Opened | Aborted | StartTls | Waits


class TlsMode(Enum):
    """What a listening socket thinks of TLS, in the words of pydrbd.toml."""

    OFF = "off"
    ALLOW = "allow"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a handshake may do."""

    tls: TlsMode = TlsMode.OFF
    may_list: bool = True
    """Whether LIST shows the exports; otherwise a client must know the name."""
    extended: bool = False
    """Whether extended headers are offered."""


_USUAL: Final = Policy()


class Negotiation:
    """One connection's handshake. `receive` bytes until it returns an outcome or raises; send `take_outgoing`."""

    def __init__(self, source: ExportSource, policy: Policy = _USUAL) -> None:
        flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        self._source = source
        self._policy = policy
        self._is_encrypted = False
        self._outgoing = bytearray(_GREETING.pack(NbdMagic.INIT, NbdMagic.OPTION, flags))
        self._incoming = bytearray()
        self._client_flags: ClientFlag | None = None
        self._option: tuple[int, int] | None = None  # number and length, once its header is here
        self._skip_bytes = 0  # of the data of an option that is too long to keep
        self._options_seen = 0
        self._structured = self._extended = self._knows_sizes = False
        self._chosen: tuple[str, tuple[tuple[int, str], ...]] | None = None  # the export's name, and its contexts
        self._held: tuple[int, bytes] = (0, b"")  # the option that waits, and its data
        self._outcome: Outcome | None = None
        self._error: ClientProtocolError | None = None

    def take_outgoing(self) -> bytes:
        """What is to be sent now, the greeting first; may be empty."""
        outgoing = bytes(self._outgoing)
        self._outgoing.clear()
        return outgoing

    @property
    def spoke(self) -> bool:
        """Whether the client has said anything at all: one that connects and goes is a health check."""
        return bool(self._incoming) or self._client_flags is not None

    def encrypted(self) -> None:
        """TLS has begun: what was agreed on in the clear counts no more, and the handshake goes on."""
        assert isinstance(self._outcome, StartTls), "the client did not ask for TLS"
        self._outcome, self._is_encrypted, self._chosen = None, True, None
        self._structured = self._extended = self._knows_sizes = False

    def receive(self, data: bytes | bytearray | memoryview) -> Outcome | None:
        """Take bytes from the client; the outcome when there is one. Raises ClientProtocolError, then every time."""
        assert self._outcome is None, "the handshake is over"
        if self._error is not None:
            raise self._error
        self._incoming += data
        return self._advance()

    def go_on(self, refusal: ExportUnavailable | None) -> Outcome | None:
        """What was waited for has been done, or can't be: as `receive`, with what has come meanwhile."""
        assert isinstance(self._outcome, Waits), "nothing waits"
        self._outcome = None
        return self._advance(refusal, held=True)

    def _advance(self, refusal: ExportUnavailable | None = None, *, held: bool = False) -> Outcome | None:
        try:
            if held:
                self._on_option(*self._held, refusal)
            while self._outcome is None and self._step():
                pass
        except ClientProtocolError as error:
            self._error = error
            raise
        return self._outcome

    def _take(self, size_bytes: int) -> bytes | None:
        """The next bytes if they are all here."""
        if len(self._incoming) < size_bytes:
            return None
        taken = bytes(memoryview(self._incoming)[:size_bytes])
        del self._incoming[:size_bytes]
        return taken

    def _step(self) -> bool:
        """Consume one element (client flags, an option's header, its data); False to wait for more bytes."""
        if self._client_flags is None:
            return self._step_client_flags()
        if self._option is None:
            return self._step_option_header()
        option, length_bytes = self._option
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(self._incoming))
            del self._incoming[:skipped]
            self._skip_bytes -= skipped
            if self._skip_bytes:
                return False
            self._option = None
            self._reply_error(option, ReplyType.ERR_TOO_BIG, f"{length_bytes} bytes is too long for an option")
            return True
        data = self._take(length_bytes)
        if data is None:
            return False
        self._option = None
        self._on_option(option, data)
        return True

    def _step_client_flags(self) -> bool:
        data = self._take(_CLIENT_FLAGS.size)
        if data is None:
            return False
        (flags,) = _CLIENT_FLAGS.unpack(data)
        if flags & ~_KNOWN_CLIENT_FLAGS:
            raise ClientProtocolError(f"client flags {flags:#x} have bits that we did not offer: not an NBD client?")
        self._client_flags = ClientFlag(flags)
        return True

    def _step_option_header(self) -> bool:
        data = self._take(_OPTION.size)
        if data is None:
            return False
        magic, option, length_bytes = _OPTION.unpack(data)
        if magic != NbdMagic.OPTION:
            raise ClientProtocolError(f"an option starts with {magic:#018x} instead of IHAVEOPT")
        self._options_seen += 1
        if self._options_seen > NBD_OPTIONS_MAX:
            raise ClientProtocolError(f"more than {NBD_OPTIONS_MAX} options in one handshake")
        assert self._client_flags is not None
        if option != Option.EXPORT_NAME and not self._client_flags & ClientFlag.FIXED_NEWSTYLE:
            raise ClientProtocolError(f"option {option} from a client that does not speak fixed newstyle")
        if option == Option.EXPORT_NAME and length_bytes > NBD_STRING_BYTES_MAX:
            raise ClientProtocolError(f"an export name of {length_bytes} bytes (at most {NBD_STRING_BYTES_MAX})")
        self._option = (option, length_bytes)
        self._skip_bytes = length_bytes if length_bytes > NBD_OPTION_BYTES_MAX else 0
        return True

    def _on_option(self, option: int, data: bytes, refusal: ExportUnavailable | None = None) -> None:
        """Answer an option. `refusal`: it waited for an export, and this came of it."""
        closed = self._policy.tls is TlsMode.REQUIRE and not self._is_encrypted
        try:
            if closed and option == Option.EXPORT_NAME:
                raise ClientProtocolError("EXPORT_NAME without TLS, which is required")
            if closed and option not in (Option.ABORT, Option.STARTTLS):
                raise OptionRefused(ReplyType.ERR_TLS_REQD, "this server requires TLS")
            if option == Option.EXPORT_NAME:
                self._on_export_name(data, refusal)
            elif refusal is not None:
                raise refusal
            elif option == Option.ABORT:
                self._reply(option, ReplyType.ACK)
                self._outcome = Aborted()
            elif option == Option.LIST:
                self._on_list(data)
            elif option in (Option.INFO, Option.GO):
                self._on_info_or_go(option, data)
            elif option == Option.STARTTLS:
                self._on_starttls(data)
            elif option == Option.STRUCTURED_REPLY:
                self._on_structured_reply(data)
            elif option == Option.EXTENDED_HEADERS and self._policy.extended:
                self._on_extended_headers(data)
            elif option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
                self._on_meta_context(option, data)
            else:
                raise OptionRefused(ReplyType.ERR_UNSUP, f"option {option} is not supported")
        except OptionRefused as refused:
            self._reply_error(option, refused.code, refused.text)
        except ExportUnavailable as unavailable:
            self._reply_error(option, unavailable.code, unavailable.reason)
        except ExportNotReady as not_ready:
            self._held = (option, data)
            self._outcome = Waits(str(not_ready))

    def _on_export_name(self, data: bytes, refusal: ExportUnavailable | None) -> None:
        """The old way in: it has no error reply, so every failure ends the connection."""
        try:
            if self._extended:
                raise OptionRefused(ReplyType.ERR_INVALID, "with extended headers it must be GO")
            name = decode_name(data)
            if refusal is not None:
                raise refusal
            info = self._source.open(name)
        except (OptionRefused, ExportUnavailable) as error:
            raise ClientProtocolError(f"EXPORT_NAME can't be answered: {error}") from error
        self._outgoing += _EXPORT_NAME_REPLY.pack(info.size_bytes, self._flags(info))
        assert self._client_flags is not None
        if not self._client_flags & ClientFlag.NO_ZEROES:
            self._outgoing += _NAME_ZEROES
        self._open_transmission(info, name)

    def _on_starttls(self, data: bytes) -> None:
        if self._policy.tls is TlsMode.OFF:
            raise OptionRefused(ReplyType.ERR_UNSUP, "TLS is not offered here")
        if data or self._is_encrypted:
            raise OptionRefused(ReplyType.ERR_INVALID, "STARTTLS takes no data, and comes once")
        if self._incoming:
            # Somebody between us and the client could have put them there, to be taken for encrypted ones.
            raise ClientProtocolError(f"{len(self._incoming)} bytes in the clear behind STARTTLS")
        self._reply(Option.STARTTLS, ReplyType.ACK)
        self._outcome = StartTls()

    def _on_list(self, data: bytes) -> None:
        if data:
            raise OptionRefused(ReplyType.ERR_INVALID, "LIST takes no data")
        if not self._policy.may_list:
            raise OptionRefused(ReplyType.ERR_POLICY, "the exports are not listed here: name the one that you want")
        for export in self._source.exports():
            name = export.name.encode()
            self._reply(Option.LIST, ReplyType.SERVER, _U32.pack(len(name)) + name + export.description.encode())
        self._reply(Option.LIST, ReplyType.ACK)

    def _on_info_or_go(self, option: int, data: bytes) -> None:
        name, wanted = decode_info_request(data)
        info = self._source.open(name) if option == Option.GO else self._source.describe(name)
        self._reply(option, ReplyType.INFO, _INFO_EXPORT.pack(InfoType.EXPORT, info.size_bytes, self._flags(info)))
        self._knows_sizes |= InfoType.BLOCK_SIZE in wanted
        if InfoType.NAME in wanted:
            self._reply(option, ReplyType.INFO, _U16.pack(InfoType.NAME) + info.name.encode())
        if InfoType.DESCRIPTION in wanted and info.description:
            self._reply(option, ReplyType.INFO, _U16.pack(InfoType.DESCRIPTION) + info.description.encode())
        sizes = (info.block_minimum, info.block_preferred, info.block_maximum)
        self._reply(option, ReplyType.INFO, _INFO_BLOCK_SIZE.pack(InfoType.BLOCK_SIZE, *sizes))
        self._reply(option, ReplyType.ACK)
        if option == Option.GO:
            self._open_transmission(info, name)

    def _on_structured_reply(self, data: bytes) -> None:
        if data:
            raise OptionRefused(ReplyType.ERR_INVALID, "STRUCTURED_REPLY takes no data")
        if self._extended:
            raise OptionRefused(ReplyType.ERR_EXT_HEADER_REQD, "extended headers were agreed on, and say more")
        self._structured = True
        self._reply(Option.STRUCTURED_REPLY, ReplyType.ACK)

    def _on_extended_headers(self, data: bytes) -> None:
        if data:
            raise OptionRefused(ReplyType.ERR_INVALID, "EXTENDED_HEADERS takes no data")
        self._structured = self._extended = True
        self._reply(Option.EXTENDED_HEADERS, ReplyType.ACK)

    def _on_meta_context(self, option: int, data: bytes) -> None:
        """Show or choose contexts. A choice holds for one export, and replaces an earlier one even if it fails."""
        if option == Option.SET_META_CONTEXT:
            self._chosen = None
        if not self._structured:
            raise OptionRefused(ReplyType.ERR_INVALID, "meta-data contexts need STRUCTURED_REPLY before")
        name, queries = decode_context_request(data)
        offered = self._source.describe(name).contexts
        if option == Option.LIST_META_CONTEXT:
            wanted = {context for context in offered if asks_for(queries, context)}
        else:
            wanted = set(queries)
        found = tuple((number, context) for number, context in enumerate(offered, 1) if context in wanted)
        for number, context in found:
            self._reply(option, ReplyType.META_CONTEXT, _U32.pack(number) + context.encode())
        self._reply(option, ReplyType.ACK)
        if option == Option.SET_META_CONTEXT:
            self._chosen = (name, found)

    def _flags(self, info: ExportInfo) -> int:
        flags = info.transmission_flags(structured=self._structured)
        if self._extended and self._chosen is not None and self._chosen[1]:
            flags |= TransmissionFlag.BLOCK_STATUS_PAYLOAD
        return int(flags)

    def _open_transmission(self, info: ExportInfo, name: str) -> None:
        contexts = self._chosen[1] if self._chosen is not None and self._chosen[0] == name else ()
        agreed = (self._structured, contexts, self._extended, not self._knows_sizes)
        self._outcome = Opened(info, bytes(self._incoming), *agreed)
        self._incoming.clear()

    def _reply(self, option: int, reply: ReplyType, data: bytes = b"") -> None:
        self._outgoing += _OPTION_REPLY.pack(NbdMagic.OPTION_REPLY, option, reply, len(data))
        self._outgoing += data

    def _reply_error(self, option: int, code: ReplyType, text: str) -> None:
        # Cutting bytes may cut a character in half: ignore that half on the way back.
        cut = text.encode("utf-8", "replace")[:NBD_STRING_BYTES_MAX].decode("utf-8", "ignore")
        self._reply(option, code, cut.encode())
