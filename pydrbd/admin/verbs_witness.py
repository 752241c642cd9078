"""witness: be the third machine's small process that decides who of two nodes may go on alone."""

from __future__ import annotations

import logging
from pathlib import Path

from pydrbd.admin.output import say
from pydrbd.config.settings import Listen, listen_option
from pydrbd.errors import UsageError

__all__ = ["witness"]


def witness(listen: str | None, state: str, key_file: str | None, forget: str | None) -> int:
    """Serve until a signal, or forget a lease. Raises ConfigError, BusyError, UsageError, MetaDataError, OSError."""
    if forget is not None:
        return _forget(Path(state), forget)
    if listen is None:
        raise UsageError("witness: --listen says where, or --forget which lease")
    from pydrbd.runtime.witness_client import read_key
    from pydrbd.runtime.witness_server import run_witness

    place = listen_option(listen)
    key = read_key(key_file or "")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")

    def ready(at: Listen) -> None:
        say(f"a witness listens at {at}; its leases are in {state}")

    run_witness(place, Path(state), key, ready)
    return 0


def _forget(directory: Path, name: str) -> int:
    """The operator's word that the holder is dead for ever. Not while the witness runs, which keeps them in memory."""
    from pydrbd.core.lease import Lease
    from pydrbd.runtime.lease_files import LeaseFiles

    if not directory.is_dir():
        raise UsageError(f"witness --forget: there is no directory {directory}")
    files = LeaseFiles(directory)
    try:
        lease = files.leases.get(name, Lease())
        if not lease.holder:
            held = ", ".join(sorted(known for known, each in files.leases.items() if each.holder))
            raise UsageError(f"witness --forget: nobody has the lease of {name}, but of: {held or 'nothing'}")
        files.write(name, Lease("", lease.generation, lease.term + 1))
    finally:
        files.close()
    say(f"{lease.holder} has the lease of {name} no more: what it wrote alone is given up")
    return 0
