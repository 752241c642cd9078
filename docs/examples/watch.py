"""Tell each change of a resource that runs on this machine (`pydrbd up r0`), until its copies are in sync.

    python watch.py r0 /run/pydrbd
"""

import sys
from contextlib import aclosing

import trio

import pydrbd


async def main(*words: str) -> None:
    resource, run_dir = words
    r0 = pydrbd.Remote(resource, run_dir)
    async with aclosing(r0.changes()) as changes:
        async for status in changes:
            disks = ", ".join(f"{volume.disk}/{volume.peer_disk}" for volume in status.volumes)
            print(f"{status.role} {status.connection} {disks}")
            if status.is_in_sync:
                break


if __name__ == "__main__":
    try:
        trio.run(main, *sys.argv[1:])
    except pydrbd.NotRunningError as error:
        sys.exit(str(error))
