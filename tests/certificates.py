"""Certificates for tests, in the file names that libnbd and QEMU look for in a directory."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme

__all__ = ["Authority"]


class Authority:
    """One certificate authority."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def save(self, directory: Path, *names: str, expired: bool = False, side: str = "client") -> Path:
        """A directory with `ca-cert.pem` and, if there are names, `SIDE-cert.pem` and `SIDE-key.pem`; its path.

        The first name that is not an address is the common name.
        """
        directory.mkdir(exist_ok=True)
        self._ca.cert_pem.write_to_path(directory / "ca-cert.pem")
        if names:
            day = datetime.timedelta(days=1)
            today = datetime.datetime.now(datetime.UTC)
            leaf = self._ca.issue_cert(
                *names,
                common_name=next((name for name in names if not name[0].isdigit()), None),
                not_before=today - 3 * day,
                not_after=today - day if expired else today + day,
            )
            (directory / f"{side}-key.pem").write_bytes(leaf.private_key_pem.bytes())
            (directory / f"{side}-key.pem").chmod(0o600)
            chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
            (directory / f"{side}-cert.pem").write_bytes(chain)
        return directory
