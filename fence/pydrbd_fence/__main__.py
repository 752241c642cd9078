"""`python -m pydrbd_fence`, and the command `pydrbd-sbd`."""

from __future__ import annotations

import sys

from pydrbd_fence.cli import run


def main() -> int:
    """The command of this machine: the only place that hands out the power to stop it."""
    from pydrbd_fence.power import MachinePower

    return run(sys.argv[1:], power=MachinePower())


if __name__ == "__main__":
    sys.exit(main())
