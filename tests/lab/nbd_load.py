"""A client in a guest.

    python -m tests.lab.nbd_load SOCKET EXPORT          carries out a plan (load.py), read from stdin
    python -m tests.lab.nbd_load SOCKET EXPORT FILE     keeps the export open until it is killed; its pid goes into FILE
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pydrbd.admin.nbd_client import NbdClient
from tests.lab import load
from tests.lab.pydrbd_node import do_nbd


def main() -> None:
    place, export, *pid_file = sys.argv[1:]
    with NbdClient.connect(Path(place), export, depth=1) as client:
        if pid_file:
            Path(pid_file[0]).write_text(str(os.getpid()))
            signal.pause()
        for op in load.from_text(sys.stdin.read()):
            do_nbd(client, op)


if __name__ == "__main__":
    main()
