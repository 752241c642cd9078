"""The daemon as tests run it: the real program, with a power that only writes down what it was asked.

python -m tests.fence.daemon POWER-FILE ARGUMENTS...
"""

from __future__ import annotations

import sys

from pydrbd_fence.cli import run

from tests.fence.harness import NoPower

if __name__ == "__main__":
    alone = {"SBD_PACEMAKER": "no", "SBD_SYNC_RESOURCE_STARTUP": "no"}
    sys.exit(run(sys.argv[2:], power=NoPower(sys.argv[1]), environ=alone, files=[]))
