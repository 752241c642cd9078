"""Run a node inside of a program, make it Primary, and say where it serves NBD.

    python run_node.py r0.res r0 alpha /run/pydrbd

On a fresh pair whose disks are equal (new files, both formatted by `pydrbd create-md`), this node is chosen.
"""

import sys

import trio

import pydrbd


async def main(*words: str) -> None:
    config, resource, node, run_dir = words
    async with pydrbd.open_node(config, resource, node=node, run_dir=run_dir) as r0:
        status = await r0.wait_connected()
        if status.volumes[0].disk == "Inconsistent":
            await r0.skip_first_sync()
        await r0.primary()
        status = await r0.status()
        print(f"{status.resource} is {status.role}, {status.volumes[0].size_bytes} bytes at {status.nbd_uris[0]}")
        # ... until the block ends the node serves; here a program would wait for its own work


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
