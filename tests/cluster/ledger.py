#!/usr/bin/python3
"""The service of the test's cluster: a file that only grows, and a server that answers when a line is durable.

    append WORD\\n   ->  done NODE\\n      after fsync
    read\\n          ->  the whole file, then a line "end"

Runs on a machine of the cluster, with nothing but the standard library.
"""

from __future__ import annotations

import os
import socket
import socketserver
import sys
from pathlib import Path

PORT = 7000


class Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            verb, _, word = line.decode().strip().partition(" ")
            if verb == "append":
                os.write(self.server.file, f"{word}\n".encode())
                os.fsync(self.server.file)
                self.wfile.write(f"done {socket.gethostname()}\n".encode())
            elif verb == "read":
                self.wfile.write(self.server.path.read_bytes() + b"end\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        super().__init__(("0.0.0.0", PORT), Conversation)


if __name__ == "__main__":
    Server(Path(sys.argv[1])).serve_forever()
