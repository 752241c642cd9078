"""How a resource is, as values that don't change any more. Names of states are DRBD's (`UpToDate`, `StandAlone`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES

__all__ = ["Status", "VolumeStatus"]


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """One volume of a resource."""

    vnr: int
    disk: str
    """UpToDate, Inconsistent, Outdated, Consistent, Diskless, Attaching, Failed, ..."""
    peer_disk: str
    """The same of the peer; DUnknown while it is not connected."""
    replication: str
    """Off, Established, SyncSource, SyncTarget, VerifyS, ..."""
    size_bytes: int
    out_of_sync_bytes: int
    """What the peer lacks, or this node; counted in blocks of 4 KiB."""
    clients: int
    """How many have it open."""


@dataclass(frozen=True, slots=True)
class Status:
    """A resource as one node sees it."""

    resource: str
    role: str
    """Primary or Secondary."""
    peer_role: str
    connection: str
    """Connected, Connecting, StandAlone, ..."""
    suspended: bool
    """Whether requests of clients are held back."""
    nbd_uris: tuple[str, ...]
    """Where it serves NBD."""
    volumes: tuple[VolumeStatus, ...]

    @property
    def is_in_sync(self) -> bool:
        """Whether both disks of every volume are UpToDate."""
        return all((volume.disk, volume.peer_disk) == ("UpToDate", "UpToDate") for volume in self.volumes)

    @classmethod
    def from_snapshot(cls, data: dict[str, Any]) -> Self:
        """From what the control socket says (core/snapshot)."""
        volumes = tuple(
            VolumeStatus(
                vnr=volume["vnr"],
                disk=volume["disk"],
                peer_disk=volume["peer_disk"],
                replication=volume["replication"],
                size_bytes=volume["size_sectors"] * SECTOR_SIZE_BYTES,
                out_of_sync_bytes=volume["out_of_sync_bits"] * BIT_SIZE_BYTES,
                clients=volume["clients"],
            )
            for volume in data["volumes"]
        )
        return cls(
            resource=data["name"],
            role=data["role"],
            peer_role=data["peer_role"],
            connection=data["connection"],
            suspended=data["suspended"],
            nbd_uris=tuple(data["nbd"]),
            volumes=volumes,
        )
