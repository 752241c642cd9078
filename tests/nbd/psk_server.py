"""A program: an NBD server over memory, with what a pydrbd.toml says of TLS; for a Python other than the tests' own.

It prints its port, and logs to its standard error, until its input ends.
"""

from __future__ import annotations

import logging
import sys

import trio

from pydrbd.config.settings import load_settings
from pydrbd.runtime.build import admission
from pydrbd.runtime.nbd_server import NbdServer
from pydrbd.units import MIB
from tests.nbd.memory_engine import MemoryEngine


async def main() -> None:
    server = NbdServer(MemoryEngine(8 * MIB), admission=admission(load_settings(sys.argv[1]).resource("r0")))
    _, port = server.listen_tcp("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        print(port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main)
