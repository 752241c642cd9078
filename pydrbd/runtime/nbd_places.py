"""Where NBD clients may connect, and what they are to say for it (the addresses that `status` prints)."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import quote

from pydrbd.config.settings import ResourceSettings
from pydrbd.runtime.nbd_server import NbdServer
from pydrbd.runtime.systemd import inherited_sockets

__all__ = ["listen_for_clients"]


def listen_for_clients(server: NbdServer, settings: ResourceSettings, run_dir: Path, resource: str) -> list[str]:
    """Listen at the places of pydrbd.toml, else in the run directory, and at systemd's sockets: the URIs.

    Raises BusyError, UsageError.
    """
    scheme = "nbds" if settings.tls.mode == "require" else "nbd"
    uris: list[str] = []
    if not settings.nbd:
        path = run_dir / f"{resource}.nbd.sock"
        server.listen_unix(path)
        uris.append(_unix(str(path), resource))
    for place in settings.nbd:
        if place.path:
            server.listen_unix(Path(place.path))
            uris.append(_unix(place.path, resource))
        elif place.is_vsock:
            server.listen_vsock(place.port)
            uris.append(_vsock(scheme, place.port, resource))
        else:
            uris.append(_tcp(scheme, *server.listen_tcp(place.host, place.port), resource))
    for sock in inherited_sockets():
        server.take_over(sock)
        uris.append(_of_socket(sock, scheme, resource))
    return uris


def _of_socket(sock: socket.socket, scheme: str, resource: str) -> str:
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return _unix(address if isinstance(address, str) else "@" + address[1:].decode(errors="replace"), resource)
    if sock.family == socket.AF_VSOCK:
        return _vsock(scheme, address[1], resource)
    return _tcp(scheme, address[0], address[1], resource)


def _unix(path: str, resource: str) -> str:
    return f"nbd+unix:///{quote(resource)}?socket={quote(path, safe='/@')}"


def _vsock(scheme: str, port: int, resource: str) -> str:
    return f"{scheme}+vsock://2:{port}/{quote(resource)}"  # 2: from a guest, the host


def _tcp(scheme: str, host: str, port: int, resource: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}/{quote(resource)}"
