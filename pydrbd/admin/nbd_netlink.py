"""The kernel's nbd module by generic netlink: attach a device, give it a new socket, detach it, hear of dead links.

    NBD_CMD_CONNECT      a device from sockets that are past their handshake, and how long requests wait for another one
    NBD_CMD_RECONFIGURE  another socket in place of one that is dead; dropped without a word while none is
    NBD_CMD_DISCONNECT   the end
    NBD_CMD_LINK_DEAD    from the kernel, to the group nbd_mc_group: a device has lost a socket

Numbers and types: the kernel's include/uapi/linux/nbd-netlink.h. Netlink itself is pyroute2's business.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from pydrbd.errors import BusyError, PydrbdError

__all__ = ["DeadLinks", "NbdKernel", "NbdKernelError"]

_FAMILY: Final = "nbd"
_GROUP: Final = "nbd_mc_group"
_VERSION: Final = 1
_CONNECT, _DISCONNECT, _RECONFIGURE, _LINK_DEAD = 1, 2, 3, 4
_BLOCK_BYTES: Final = 512
_NETLINK_GENERIC: Final = 16
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_MESSAGE_BYTES_MAX: Final = 65536


class NbdKernelError(PydrbdError):
    """The kernel's nbd module refused, or is not there."""

    exit_code = 69


class _Message(genlmsg):  # type: ignore[misc]  # pyroute2 has no types
    prefix = "NBD_ATTR_"
    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
        ("NBD_ATTR_DEVICE_LIST", "hex"),
        ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
    )

    class sockets(nla):  # type: ignore[misc]
        nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc]
            nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


class NbdKernel:
    """Requests to the module; a context manager. Raises NbdKernelError if it is not loaded."""

    def __init__(self) -> None:
        self._netlink = GenericNetlinkSocket()
        try:
            self._netlink.bind(_FAMILY, _Message)
        except NetlinkError as error:
            self._netlink.close()
            raise NbdKernelError(f"the kernel's nbd module can't be asked: {error}: modprobe nbd") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.close()

    def connect(
        self,
        index: int | None,
        socks: Sequence[socket.socket],
        *,
        size_bytes: int,
        server_flags: int,
        backend: str,
        dead_timeout_s: int,
    ) -> int:
        """Make /dev/nbdINDEX (None: the first free one) of connections; which it is. The caller closes its sockets.

        No time limit of a single request is set: a server that holds requests back until a peer is fenced is not dead.
        Raises BusyError (the device is in use), NbdKernelError, PermissionError.
        """
        attributes: list[tuple[str, Any]] = [] if index is None else [("NBD_ATTR_INDEX", index)]
        attributes += [
            ("NBD_ATTR_SIZE_BYTES", size_bytes),
            ("NBD_ATTR_BLOCK_SIZE_BYTES", _BLOCK_BYTES),
            ("NBD_ATTR_SERVER_FLAGS", server_flags),
            ("NBD_ATTR_DEAD_CONN_TIMEOUT", dead_timeout_s),
            ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
            _sockets(socks),
        ]
        name = "a device" if index is None else f"/dev/nbd{index}"
        for answer in self._ask(_CONNECT, attributes, f"{name} can't be attached"):
            found = answer.get_attr("NBD_ATTR_INDEX")
            if found is not None:
                return int(found)
        raise NbdKernelError("the kernel attached a device, and did not say which")

    def reconfigure(self, index: int, backend: str, sock: socket.socket) -> None:
        """Give a device another socket for one that has died; while none has, it is closed. Raises as `connect`."""
        attributes = [("NBD_ATTR_INDEX", index), ("NBD_ATTR_BACKEND_IDENTIFIER", backend), _sockets([sock])]
        self._ask(_RECONFIGURE, attributes, f"/dev/nbd{index} takes no new connection")

    def resize(self, index: int, backend: str, size_bytes: int) -> None:
        """Say how large a device has become. Not together with a new socket: requests that wait for it would be
        waited for first. Raises as `connect`."""
        attributes = [
            ("NBD_ATTR_INDEX", index),
            ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
            ("NBD_ATTR_SIZE_BYTES", size_bytes),
        ]
        self._ask(_RECONFIGURE, attributes, f"/dev/nbd{index} can't be resized")

    def disconnect(self, index: int) -> None:
        """Detach a device; what it is still asked for fails. Raises as `connect`."""
        self._ask(_DISCONNECT, [("NBD_ATTR_INDEX", index)], f"/dev/nbd{index} can't be detached")

    def dead_links(self) -> DeadLinks:
        """Where to hear of sockets that die from now on."""
        return DeadLinks(int(self._netlink.mcast_groups[_GROUP]))

    def _ask(self, command: int, attributes: Iterable[tuple[str, Any]], failure: str) -> list[Any]:
        message = _Message()
        message["cmd"] = command
        message["version"] = _VERSION
        message["attrs"] = list(attributes)
        try:
            return list(
                self._netlink.nlm_request(message, msg_type=self._netlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK)
            )
        except NetlinkError as error:
            if error.code == errno.EBUSY:
                raise BusyError(f"{failure}: it is in use") from error
            if error.code == errno.EPERM:
                raise PermissionError(errno.EPERM, f"{failure}: only root may") from error
            raise NbdKernelError(f"{failure}: {errno.errorcode.get(error.code, error.code)}") from error


class DeadLinks:
    """A socket to select on: it is readable when a device has lost a connection."""

    def __init__(self, group: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_GENERIC)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def take(self) -> set[int] | None:
        """The numbers of the devices that have lost one since the last call; None: some were missed, ask them all."""
        found: set[int] = set()
        while True:
            try:
                data = self._socket.recv(_MESSAGE_BYTES_MAX)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return None
            message = _Message(data)
            message.decode()
            if message["cmd"] == _LINK_DEAD and (index := message.get_attr("NBD_ATTR_INDEX")) is not None:
                found.add(int(index))


def _sockets(socks: Sequence[socket.socket]) -> tuple[str, Any]:
    items = [("NBD_SOCK_ITEM", {"attrs": [("NBD_SOCK_FD", sock.fileno())]}) for sock in socks]
    return ("NBD_ATTR_SOCKETS", {"attrs": items})
