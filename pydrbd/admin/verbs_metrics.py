"""metrics: an exporter for Prometheus, of all that runs here. It only asks; no data passes through it."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Final

from pydrbd.admin.context import Context
from pydrbd.admin.metrics import metrics_text
from pydrbd.admin.output import complain, say
from pydrbd.admin.running import names_here
from pydrbd.config.settings import Listen, listen_option, load_settings, parse_listen
from pydrbd.errors import BusyError, PydrbdError
from pydrbd.limits import METRICS_CLIENTS_MAX

__all__ = ["DEFAULT_PLACE", "Exporter", "metrics"]

DEFAULT_PLACE: Final = "tcp:127.0.0.1:9942"
"""drbd-reactor's port."""

_REQUEST_S: Final = 10.0
"""How long a client may take, from its connection to the end of the answer."""


def metrics(context: Context, listen: str | None, *, once: bool) -> int:
    """Print them, or serve them until interrupted. Raises ConfigError, BusyError, OSError (no look at what runs)."""
    if once:
        say(metrics_text(_snapshots(context)))
        return 0
    names_here(context.run_dir)  # may we? A scrape in vain would tell nobody
    with Exporter(context, _place(context, listen)) as exporter:
        say(f"metrics of all resources of this node at {exporter.place}")
        exporter.serve_forever()
    return 0


def _place(context: Context, listen: str | None) -> Listen:
    """Where to listen: the command line's word, pydrbd.toml's, or the usual place."""
    if listen is not None:
        return listen_option(listen)
    configured = load_settings(context.config_path).metrics if context.has_config else None
    return configured or parse_listen(DEFAULT_PLACE, "", "")


def _snapshots(context: Context) -> list[dict[str, Any]]:
    """Of each process that answers; one that does not must not hide the others."""
    found = []
    for name in names_here(context.run_dir):
        try:
            data = context.running(name)
        except (PydrbdError, OSError) as error:
            complain(str(error))
            continue
        if data is not None:
            found.append(data)
    return found


class Exporter(ThreadingMixIn, HTTPServer):
    """Serves the metrics: each client in a thread of its own, for a bounded time, and so many of them at most."""

    daemon_threads = True

    def __init__(
        self, context: Context, place: Listen, *, request_s: float = _REQUEST_S, clients_max: int = METRICS_CLIENTS_MAX
    ) -> None:
        self._request_s = request_s
        self._room = threading.BoundedSemaphore(clients_max)
        self.context = context
        self.place = place
        if place.path:
            self.address_family = socket.AF_UNIX
            _remove_dead_socket(Path(place.path))
            address: Any = place.path
        else:
            self.address_family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
            address = (place.host, place.port)
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise BusyError(f"can't serve metrics at {place}: {error.strerror or error}") from error

    def server_bind(self) -> None:
        """As HTTPServer, without a look-up of our own name."""
        self.allow_reuse_address = self.address_family != socket.AF_UNIX
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a client's thread; while there are as many as may be, this one and those behind it wait."""
        self._room.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread to be had: then the server lets go of the client
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve it; what is not over in time is cut off, however it keeps the socket busy."""
        timer = threading.Timer(self._request_s, self._cut_off, (request,))
        timer.daemon = True
        try:
            timer.start()
            super().process_request_thread(request, client_address)
        except RuntimeError as error:  # the timer's; a handler's are reported by the server
            complain(f"a client of metrics is let go of: {error}")
        finally:
            timer.cancel()
            self.shutdown_request(request)  # also where nobody could be found to cut it off
            self._room.release()

    @staticmethod
    def _cut_off(request: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has just gone by itself
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away while it is answered is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Close, and remove a Unix socket."""
        super().server_close()
        if self.place.path:
            Path(self.place.path).unlink(missing_ok=True)


def _remove_dead_socket(path: Path) -> None:
    """What a process that is gone has left. Raises BusyError if somebody answers."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        found = probe.connect_ex(str(path))
    if found == 0:
        raise BusyError(f"can't serve metrics at unix:{path}: somebody does already")
    if found == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)


class _Handler(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in ("/", "/metrics"):
            self.send_error(404, "there is /metrics")
            return
        body = metrics_text(_snapshots(self.server.context)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Of a Unix socket's client there is none."""
        return str(self.client_address[0]) if self.client_address else "unix"

    def log_message(self, _format: str, *_words: object) -> None:
        """Scrapes are no news."""
