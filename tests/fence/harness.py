"""What the fence's tests use: a device in memory, an NBD server that can misbehave, loop devices, a free hand."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.errors import DeviceError, SbdError
from pydrbd_fence.layout import SECTORS_USED
from pydrbd_fence.timeouts import derive_timeouts

DEVICE_BYTES = 1 << 20
DAEMON_TIMES = derive_timeouts(2, io_s=1)
"""Short ones, for daemons that really wait."""


class MemoryDevice:
    """Sectors in memory; `broken` (words) fails all I/O, `deaf` takes writes and forgets them."""

    def __init__(self, name="mem", sector_bytes=512, store=None):
        self.name = name
        self.sector_bytes = sector_bytes
        self.store = {} if store is None else store
        self.broken = ""
        self.deaf = False
        self.closed = False
        self.written = []

    def another(self):
        """The same disk, as another node has it open."""
        return MemoryDevice(self.name, self.sector_bytes, self.store)

    def read_sector(self, index):
        assert 0 <= index < SECTORS_USED
        if self.broken:
            raise DeviceError(f"{self.name}: {self.broken}")
        return self.store.get(index, bytes(self.sector_bytes))

    def write_sector(self, index, sector):
        assert 0 <= index < SECTORS_USED and len(sector) == self.sector_bytes
        if self.broken:
            raise DeviceError(f"{self.name}: {self.broken}")
        self.written.append(index)
        if not self.deaf:
            self.store[index] = bytes(sector)

    def close(self):
        self.closed = True


class NbdServer:
    """A small NBD server on a Unix socket, in threads, that stalls or breaks when it is told to."""

    def __init__(self, path, size=DEVICE_BYTES, flags=1 | 4 | 8, minimum_block=1, export=b"sbd"):
        self.path = str(path)
        self.address = f"nbd+unix:///{export.decode()}?socket={self.path}"
        self.data = bytearray(size)
        self.flags = flags
        self.minimum_block = minimum_block
        self.export = export
        self.error = 0
        self.requests = []
        self.running = threading.Event()
        self.running.set()
        self._connections = []
        self._listener = None
        self.start()

    def start(self):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self):
        """Gone: the socket, and every connection."""
        self.running.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self.path).unlink()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError, struct.error):
            stream = connection.makefile("rb")
            connection.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
            stream.read(4)
            _, option, length = struct.unpack(">8sII", stream.read(16))
            data = stream.read(length)
            name = data[4 : 4 + int.from_bytes(data[:4], "big")]

            def answer(kind, payload):
                connection.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(payload)) + payload)

            if name != self.export:
                answer((1 << 31) + 6, b"no such export")
                return
            answer(3, struct.pack(">HQH", 0, len(self.data), self.flags))
            answer(3, struct.pack(">HIII", 3, self.minimum_block, 4096, 1 << 25))
            answer(1, b"")
            self._transmit(connection, stream)

    def _transmit(self, connection, stream):
        while head := stream.read(28):
            _, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", head)
            payload = stream.read(length) if command == 1 else b""
            self.running.wait()
            self.requests.append((command, flags, offset))
            if command == 1 and not self.error:
                self.data[offset : offset + length] = payload
            body = bytes(self.data[offset : offset + length]) if command == 0 and not self.error else b""
            connection.sendall(struct.pack(">IIQ", 0x67446698, self.error, cookie) + body)


def attach_loop(file, sector_bytes=512):
    """A loop device over a file; the caller detaches it."""
    words = ["losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(file)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def detach_loop(device):
    subprocess.run(["losetup", "--detach", device], check=True)


class MemoryPanel:
    """Disks in memory, asked one after the other in the caller's thread."""

    def __init__(self, devices):
        self.disks = [SbdDisk(device) for device in devices]

    @property
    def names(self):
        return [disk.name for disk in self.disks]

    def each(self, job):
        answers = []
        for disk in self.disks:
            try:
                answers.append(job(disk))
            except SbdError as error:
                answers.append(error)
        return answers


class NoPower:
    """The power that tests hand out: it writes down what it was asked, in a file if it has one, and ends nothing."""

    def __init__(self, path=None):
        self.path = path
        self.ended = []

    def prepare(self):
        pass

    def end(self, action):
        self.ended.append(action)
        if self.path:
            with Path(self.path).open("a") as file:
                file.write(f"{action} {time.clock_gettime(time.CLOCK_BOOTTIME)}\n")
