"""A TCP relay that holds everything back for a while: a long wire between two nodes of one machine."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

__all__ = ["Relay"]

_CHUNK_BYTES = 256 * 1024
_BACKLOG = 8


class Relay:
    """Listens on a free port of 127.0.0.1 and passes each connection on to `to_port`, `delay_s` late each way.

    What is on the way is limited by nothing but memory: a wire holds what fits into its length.
    """

    def __init__(self, to_port: int, delay_s: float) -> None:
        self._to_port, self._delay_s = to_port, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more; what is connected ends with its ends."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                theirs, _ = self._listener.accept()
            except OSError:
                return
            try:
                ours = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:
                theirs.close()
                continue
            for sock in (theirs, ours):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pipe(theirs, ours)
            self._pipe(ours, theirs)

    def _pipe(self, source: socket.socket, target: socket.socket) -> None:
        on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def receive() -> None:
            data = b"?"
            while data:
                try:
                    data = source.recv(_CHUNK_BYTES)
                except OSError:
                    data = b""
                on_the_way.put((time.monotonic() + self._delay_s, data))

        def send() -> None:
            with contextlib.suppress(OSError):
                while True:
                    due, data = on_the_way.get()
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not data:
                        break
                    target.sendall(data)
            for sock in (source, target):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

        for work in (receive, send):
            threading.Thread(target=work, daemon=True).start()
