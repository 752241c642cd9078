"""What stands in for the kernel's nbd devices: a place like /sys/block, a module that takes sockets, an NBD server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

from pydrbd.admin import nbd_device
from pydrbd.wire.nbd import HandshakeFlag, InfoType, NbdMagic, Option, ReplyType, TransmissionFlag

FLAGS = TransmissionFlag.HAS_FLAGS | TransmissionFlag.CAN_MULTI_CONN


class Server:
    """An NBD server that opens every export, and then says nothing more."""

    def __init__(self, path: Path, size_bytes: int = 1 << 20, flags: int = FLAGS):
        self.size_bytes, self.flags = size_bytes, flags
        self.uri = f"nbd+unix:///r0?socket={path}"
        self.opened = 0
        self._clients = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                self._open(client)

    def _open(self, client):
        client.sendall(struct.pack(">QQH", NbdMagic.INIT, NbdMagic.OPTION, HandshakeFlag.FIXED_NEWSTYLE))
        stream = client.makefile("rb")
        stream.read(4)
        stream.read(struct.unpack(">QII", stream.read(16))[2])
        export = struct.pack(">HQH", InfoType.EXPORT, self.size_bytes, self.flags)
        self.opened += 1
        for kind, data in ((ReplyType.INFO, export), (ReplyType.ACK, b"")):
            client.sendall(struct.pack(">QIII", NbdMagic.OPTION_REPLY, Option.GO, kind, len(data)) + data)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (self._listener, *self._clients):
            sock.close()


class Kernel:
    """Takes what the module is told, in `told`; its devices are directories."""

    def __init__(self, block: Path):
        self.block, self.told = block, []
        self.links, self.news = socket.socketpair()

    def dead_links(self):
        return self

    def fileno(self):
        return self.links.fileno()

    def take(self):
        """A device has lost a connection."""
        self.links.recv(1)
        return {0}

    def make_device(self, size_bytes: int, backend: str) -> None:
        place = self.block / "nbd0"
        (place / "queue").mkdir(parents=True)
        for name, text in (("pid", "1"), ("backend", backend), ("size", str(size_bytes // 512))):
            (place / name).write_text(text + "\n")

    def connect(self, index, socks, *, size_bytes, server_flags, backend, dead_timeout_s):
        self.told.append(("connect", len(socks)))
        self.make_device(size_bytes, backend)
        return 0

    def reconfigure(self, index, backend, sock):
        self.told.append(("reconfigure", index))

    def resize(self, index, backend, size_bytes):
        self.told.append(("resize", size_bytes))
        (self.block / f"nbd{index}/size").write_text(f"{size_bytes // 512}\n")

    def disconnect(self, index):
        self.told.append(("disconnect", index))
        (self.block / f"nbd{index}/pid").unlink()

    def close(self):
        self.links.close()
        self.news.close()


def use(monkeypatch, directory: Path) -> Path:
    """Have `directory` be the place of the devices, and of their links; the first of them."""
    block = directory / "block"
    monkeypatch.setattr(nbd_device, "_SYS_BLOCK", block)
    monkeypatch.setattr(nbd_device, "_UDEV", directory / "no-udev")
    monkeypatch.setattr(nbd_device, "BY_RES", directory / "by-res")
    return block
