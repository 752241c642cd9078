"""The configuration as frozen values: what the rest of pydrbd sees of a `.res` file.

Every section is a dataclass whose fields are named by options.py, with DRBD's defaults. What a host or a volume
inherits (common -> resource -> host -> volume) is merged already. `Written` keeps the options as they stand in the
file, for `dump`. Places and notices don't count when two configurations are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydrbd.config.lexer import Place
from pydrbd.config.sections import (
    DiskOptions,
    GlobalOptions,
    Handlers,
    NetOptions,
    ResourceOptions,
    StartupOptions,
)
from pydrbd.config.values import Setting, did_you_mean
from pydrbd.errors import ConfigError

__all__ = ["Address", "Config", "Host", "MetaDisk", "Notice", "Proxy", "Resource", "VolumeConfig", "Written"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens: family `ipv4` or `ipv6`, a numeric host (an IPv6 one may have a `%scope`), a TCP port."""

    family: str
    host: str
    port: int

    def __str__(self) -> str:
        """As in `host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if self.family == "ipv6" else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class MetaDisk:
    """Where the meta-data is: `path` is "internal" or a device; with an `index` it has fixed slots of 128 MiB."""

    path: str
    index: int | None = None

    @property
    def is_internal(self) -> bool:
        return self.path == "internal"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A statement of a proxy section: kept for `dump`, without effect. `block` is None if it ended with `;`."""

    words: tuple[str, ...]
    block: tuple[Proxy, ...] | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """The options of a section as they stand in the file, in order; of one that is given twice the last one wins."""

    options: tuple[Setting, ...] = ()
    net: tuple[Setting, ...] = ()
    disk: tuple[Setting, ...] = ()
    startup: tuple[Setting, ...] = ()
    proxy: tuple[Proxy, ...] = ()
    handlers: tuple[Setting, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """One volume on one host. `device` is the name of the device node ("" if only its minor is given)."""

    vnr: int
    device: str
    minor: int
    disk: str
    meta_disk: MetaDisk | None
    disk_options: DiskOptions
    is_implicit: bool = False
    written_disk: tuple[Setting, ...] = ()
    named: frozenset[str] = frozenset()
    """The options of section disk that are given anywhere for this volume; the others have DRBD's defaults."""

    @property
    def is_diskless(self) -> bool:
        """`disk none`: this host keeps no copy (and then needs no meta_disk)."""
        return self.disk == "none"


@dataclass(frozen=True, slots=True)
class Host:
    """One `on` section (`names`), or a `floating` one (no names: known by its address)."""

    names: tuple[str, ...]
    address: Address
    volumes: Mapping[int, VolumeConfig]
    options: ResourceOptions
    written_options: tuple[Setting, ...] = ()
    proxy: tuple[Proxy, ...] = ()
    place: Place = field(compare=False, default=Place("", 0, 0))

    @property
    def is_floating(self) -> bool:
        return not self.names

    @property
    def name(self) -> str:
        """The first name, or the address of a floating host."""
        return self.names[0] if self.names else str(self.address)

    def answers_to(self, node_name: str) -> bool:
        """Whether `--node` with this name means this host; a floating one answers to `ADDR` and `ADDR:PORT`."""
        if self.is_floating:
            return node_name in (str(self.address), self.address.host)
        return node_name in self.names


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource: its hosts and the options that hold for all of its volumes."""

    name: str
    hosts: tuple[Host, ...]
    options: ResourceOptions
    net: NetOptions
    disk: DiskOptions
    startup: StartupOptions
    handlers: Handlers
    written: Written = field(repr=False)
    place: Place = field(compare=False)

    @property
    def vnrs(self) -> tuple[int, ...]:
        """The volume numbers, ascending; the same on every host."""
        return tuple(self.hosts[0].volumes) if self.hosts else ()

    def with_peer(self, node_name: str, peer_name: str) -> Resource:
        """Of several hosts this node's and the one that is wanted as its peer. Raises ConfigError if it is none."""
        mine = [host for host in self.hosts if host.answers_to(node_name)]
        wanted = [host for host in self.hosts if host.answers_to(peer_name)]
        if not wanted:
            raise self.place.error(f"no host of resource '{self.name}' matches --peer '{peer_name}'")
        if mine == wanted:
            raise self.place.error(f"resource '{self.name}': --peer '{peer_name}' is this node itself")
        return replace(self, hosts=tuple(host for host in self.hosts if host in (*mine[:1], *wanted[:1])))

    def pair(self, node_name: str) -> tuple[Host, Host]:
        """This node's host and its peer's; ConfigError if the node is none of them or there are not two."""
        if len(self.hosts) != 2:
            hint = ": --peer NAME says which one is the peer" if len(self.hosts) > 2 else ""
            raise self.place.error(
                f"resource '{self.name}' has {_count_words(len(self.hosts))}; pydrbd (as DRBD 8.4) connects exactly "
                f"two{hint}"
            )
        first, second = self.hosts
        if first.answers_to(node_name) and second.answers_to(node_name):
            raise self.place.error(
                f"both hosts of resource '{self.name}' answer to '{node_name}':"
                f" say --node {first.address} or --node {second.address}"
            )
        if first.answers_to(node_name):
            return first, second
        if second.answers_to(node_name):
            return second, first
        known = [name for host in self.hosts for name in (host.names or (host.name,))]
        raise self.place.error(
            f"this node, '{node_name}', is not in resource '{self.name}' (hosts: {', '.join(known)}):"
            f" say which one it is with --node{did_you_mean(node_name, known)}"
        )

    def after_sb_0pri(self, me: Host) -> str:
        """`net.after_sb_0pri` with `discard-node-NAME` said from `me`'s view: discard-local or discard-remote."""
        policy = self.net.after_sb_0pri
        if not policy.startswith("discard-node-"):
            return policy
        return "discard-local" if me.answers_to(policy.removeprefix("discard-node-")) else "discard-remote"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about the configuration that the user should hear once; not an error."""

    message: str
    place: Place

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration; `files` are the paths that were read, the main one first."""

    global_: GlobalOptions
    resources: tuple[Resource, ...]
    common: Written = field(repr=False)
    written_global: tuple[Setting, ...]
    file: str = field(compare=False)
    files: tuple[str, ...] = field(compare=False)
    notices: tuple[Notice, ...] = field(compare=False)

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.resources)

    def resource(self, name: str) -> Resource:
        """The resource of that name; ConfigError with the nearest one if there is none."""
        for resource in self.resources:
            if resource.name == name:
                return resource
        known = [resource.name for resource in self.resources]
        among = f" (it has {', '.join(known)})" if known else " (it has none at all)"
        raise ConfigError(f"no resource '{name}' in {self.file}{among}{did_you_mean(name, known)}")


def _count_words(host_count: int) -> str:
    return {0: "no host sections", 1: "only one host section"}.get(host_count, f"{host_count} host sections")
