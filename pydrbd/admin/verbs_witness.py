"""witness: be the third machine's small process that decides who of two nodes may go on alone."""

from __future__ import annotations

import logging
from pathlib import Path

from pydrbd.admin.output import say
from pydrbd.config.settings import Listen, listen_option

__all__ = ["witness"]


def witness(listen: str, state: str, key_file: str | None) -> int:
    """Serve until a signal. Raises ConfigError, BusyError, UsageError, MetaDataError, OSError."""
    from pydrbd.runtime.witness_client import read_key
    from pydrbd.runtime.witness_server import run_witness

    place = listen_option(listen)
    key = read_key(key_file or "")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")

    def ready(at: Listen) -> None:
        say(f"a witness listens at {at}; its leases are in {state}")

    run_witness(place, Path(state), key, ready)
    return 0
