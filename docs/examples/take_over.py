"""Take a resource over on this machine: wait for a good moment, promote it, and say what stands in the way.

    python take_over.py r0 /run/pydrbd
"""

import sys

import trio

import pydrbd


async def main(*words: str) -> None:
    resource, run_dir = words
    r0 = pydrbd.Remote(resource, run_dir)
    with trio.move_on_after(30):
        await r0.wait_until(lambda status: status.peer_role != "Primary")
    await r0.primary()
    print(f"{resource} is {(await r0.status()).role}")


if __name__ == "__main__":
    try:
        trio.run(main, *sys.argv[1:])
    except pydrbd.PydrbdError as error:
        sys.exit(f"{type(error).__name__}: {error}")
