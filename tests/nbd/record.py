"""`python -m tests.nbd.record`: what real clients say to a node of ours, as the corpus for fuzzing.

Each client's bytes, as they came in, are kept in tests/data/nbd-sessions/NAME.bin, one file a connection.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio

from tests.nbd.fuzz_node import primary_node

CORPUS = Path(__file__).parents[1] / "data" / "nbd-sessions"
KEEP_BYTES_MAX = 24 << 10
CLIENTS = {
    "nbdinfo": ["nbdinfo", "{uri}"],
    "nbdinfo-list": ["nbdinfo", "--list", "{uri}"],
    "nbdinfo-map": ["nbdinfo", "--map=base:allocation", "{uri}"],
    "nbdinfo-sync": ["nbdinfo", "--map=pydrbd:out-of-sync", "{uri}"],
    "nbdcopy": ["nbdcopy", "--connections=1", "{uri}", "null:"],
    "qemu-img": ["qemu-img", "map", "--output=json", "{uri}"],
    "qemu-io": [
        "qemu-io", "-f", "raw", "-c", "write -P 1 0 4k", "-c", "write -f -P 2 64k 512", "-c", "write -z -u 8k 8k",
        "-c", "write -z -u -n 32k 4k", "-c", "discard 128k 64k", "-c", "flush", "-c", "read 0 64k", "{uri}",
    ],
}  # fmt: skip


async def _record(node_socket: str, name: str, words: list[str]) -> None:
    """Run a client against a relay in front of the node; keep what it says."""
    count = 0
    place = str(Path(node_socket).with_name("relay.sock"))

    async def relay(client: trio.SocketStream) -> None:
        nonlocal count
        said, count, number = bytearray(), count + 1, count
        async with await trio.open_unix_socket(node_socket) as node, trio.open_nursery() as nursery:

            async def answers() -> None:
                async for data in node:
                    await client.send_all(data)
                await client.aclose()

            nursery.start_soon(answers)
            try:
                async for data in client:
                    said += data
                    await node.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()
        (CORPUS / f"{name}-{number}.bin").write_bytes(said[:KEEP_BYTES_MAX])

    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(place)
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay, [trio.SocketListener(sock)])
        argv = [word.format(uri=f"nbd+unix:///r0?socket={place}") for word in words]
        await trio.run_process(argv, stdout=sys.stderr)
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    await trio.Path(place).unlink()


async def _main() -> None:
    CORPUS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pydrbd-", dir="/tmp") as directory:
        async with primary_node(Path(directory)) as service:
            for name, words in CLIENTS.items():
                await _record(str(service.run_dir / "r0.nbd.sock"), name, words)


if __name__ == "__main__":
    trio.run(_main)
