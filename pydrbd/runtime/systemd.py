"""What systemd and a service say to each other.

That it is up (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names. Which sockets it is to serve
(sd_listen_fds(3)): they listen already, from descriptor 3 on, and LISTEN_FDS says how many.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Final

from pydrbd.errors import UsageError
from pydrbd.limits import SYSTEMD_SOCKETS_MAX

__all__ = ["inherited_sockets", "notify"]

_FIRST_FD: Final = 3


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell `READY=1`, `STOPPING=1`, ...; nothing if nobody asked for it, or nobody listens."""
    place = environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    address = "\0" + place[1:] if place.startswith("@") else place
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), address)


def inherited_sockets(environ: MutableMapping[str, str] = os.environ, first_fd: int = _FIRST_FD) -> list[socket.socket]:
    """The listening sockets that systemd has opened for this process; our children see none of it.

    Raises UsageError for what is no listening stream socket.
    """
    pid, count, _names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    if int(count) > SYSTEMD_SOCKETS_MAX:
        raise UsageError(f"systemd gives {count} sockets: at most {SYSTEMD_SOCKETS_MAX} are served")
    sockets: list[socket.socket] = []
    for fd in range(first_fd, first_fd + int(count)):
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
            listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise UsageError(f"descriptor {fd} from systemd can't be served: {error.strerror}") from error
        sockets.append(sock)
        if not listens:
            for taken in sockets:
                taken.close()
            raise UsageError(f"descriptor {fd} from systemd is no listening stream socket (Accept=yes?)")
    return sockets
