"""Records what a kernel and pydrbd say to each other, as golden data: `python -m tests.interop.record [STORY...]`.

Each story is played twice, with either of them as the Primary, into tests/data/sessions/STORY-by-PRIMARY.pcap.xz; there
the wire tests find them (tests/wire/test_sessions.py), and so does Wireshark. Needs a lab, and tshark.
"""

from __future__ import annotations

import contextlib
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.interop.pair import Pair
from tests.interop.test_verify import plant, verify
from tests.interop.verbs import ask
from tests.lab.kernel_node import KernelNode
from tests.lab.lab import Lab, why_not
from tests.lab.load import Op
from tests.lab.network import BRIDGE, Network
from tests.lab.nodes import PORT
from tests.lab.pydrbd_node import PydrbdNode
from tests.lab.waiting import wait_until
from tests.wire.pcap import SESSIONS

DISK_BYTES = 2 << 20
SHORT = {"longest_bytes": 8192}
SECRET = "s3cret-for-tests"

Story = Callable[[Pair], None]


@contextlib.contextmanager
def recording(network: Network, path: Path) -> Iterator[None]:
    """What passes by on DRBD's port goes into a pcap file."""
    words = ["tshark", "-q", "-i", BRIDGE, "-f", f"tcp port {PORT}", "-F", "pcap", "-w", str(path)]
    with tempfile.TemporaryFile() as said, subprocess.Popen(
        network.inside(words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
    ) as process:
        try:
            wait_until(lambda: path.exists() and path.stat().st_size, "the capture to begin")
            yield
        finally:
            process.terminate()
            process.wait(20)


def _everyday(pair: Pair) -> None:
    """The first full sync, writes, a change of roles, a reconnect with compressed bitmaps."""
    pair.start()
    pair.full_sync()
    pair.write(pair.first, 1, 8, discards=True, **SHORT)
    pair.play(pair.first, [Op("discard", 65536, 65536), Op("zero", 262144, 65536), Op("flush")])
    pair.switch()
    pair.write(pair.first, 2, 5, **SHORT)
    pair.part(pair.second)
    pair.write(pair.first, 3, 5, **SHORT)
    pair.second.connect()
    pair.assert_same()


def _digests(pair: Pair) -> None:
    """A shared secret, digests on data, a verify that finds something, a resync by checksums with plain bitmaps."""
    pair.start(
        net="protocol C; data-integrity-alg crc32c; csums-alg sha1; verify-alg md5; use-rle no; "
        f'cram-hmac-alg sha256; shared-secret "{SECRET}";'
    )
    pair.sync()
    pair.write(pair.first, 4, 8, **SHORT)
    for node in pair:
        node.wait(conn="Connected")
    plant(pair.second, 100, 101)
    verify(pair, pair.second)
    pair.part(pair.second)
    pair.write(pair.first, 5, 3, **SHORT)
    pair.second.connect()
    pair.assert_same()


def _diskless(pair: Pair) -> None:
    """Protocol B; the Primary reads and writes through its peer; a resync is held; a device is forgotten."""
    pair.start(net="protocol B;")
    pair.sync()
    known = Op("write", 8192, 4096, 6)
    pair.play(pair.first, [known])
    pair.first.order("detach")
    pair.second.wait(peer_disk="Diskless")
    pair.first.load([Op("read", 8192, 4096, 6)])
    pair.write(pair.first, 7, 5, **SHORT)
    ask(pair.second, "pause-sync")
    pair.first.order("attach")
    pair.first.wait(conn="PausedSyncT")
    ask(pair.second, "resume-sync")
    pair.assert_same()
    ask(pair.second, "invalidate-remote")
    pair.assert_same()


STORIES: dict[str, Story] = {"everyday": _everyday, "digests": _digests, "diskless": _diskless}


def record(lab: Lab, pair: Pair, name: str) -> Path:
    """Play one story on a pair that is down; the file."""
    raw = lab.directory / f"{name}.pcap"
    with recording(lab.network, raw):
        STORIES[name](pair)
        for node in reversed(list(pair)):
            node.down()
    path = SESSIONS / f"{name}-by-{'kernel' if isinstance(pair.first, KernelNode) else 'pydrbd'}.pcap.xz"
    path.write_bytes(lzma.compress(raw.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    raw.unlink()
    return path


def main(wanted: list[str]) -> int:
    if unknown := set(wanted) - STORIES.keys():
        sys.exit(f"no such story: {', '.join(sorted(unknown))}; there are: {', '.join(STORIES)}")
    if (reason := why_not()) is not None:
        sys.exit(f"no lab here: {reason}")
    with Lab() as lab:
        kernel = KernelNode(lab.add_guest("kernel", disk_bytes=DISK_BYTES))
        disk = lab.new_disk("pydrbd.disk", DISK_BYTES)
        ours = PydrbdNode(lab.network, lab.directory, "pydrbd", lab.host_address(2), disk)
        kernel.boot()
        for name in wanted or STORIES:
            for nodes in ((kernel, ours), (ours, kernel)):
                for node in nodes:
                    node.forget_log()
                path = record(lab, Pair(*nodes, disk_bytes=DISK_BYTES), name)
                print(f"{path}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
