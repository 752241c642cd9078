"""What a configuration means: inheritance, hosts, volumes, includes, older and newer words."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from pydrbd.config import Address, MetaDisk, load_config, parse_config
from pydrbd.config import load as load_module
from pydrbd.errors import ConfigError, ConfigForbidden

DATA = Path(__file__).parent.parent / "data/config"


def load(name):
    return load_config(DATA / name)


def test_the_usual_example():
    """Everything that it says, and DRBD's defaults for the rest."""
    (resource,) = load("plain.res").resources
    alice, bob = resource.pair("alice")
    assert resource.pair("bob") == (bob, alice)
    assert (alice.names, alice.address) == (("alice",), Address("ipv4", "10.1.1.31", 7789))
    assert str(bob.address) == "10.1.1.32:7789"
    volume = alice.volumes[0]
    assert (volume.device, volume.minor, volume.disk) == ("/dev/drbd1", 1, "/dev/sda7")
    assert volume.meta_disk == MetaDisk("internal")
    assert volume.meta_disk.is_internal and not volume.is_diskless
    assert (resource.net.protocol, resource.net.timeout_ds, resource.net.ping_timeout_ds) == ("C", 60, 5)
    assert resource.disk == volume.disk_options
    assert (resource.vnrs, resource.place.line) == ((0,), 2)


def test_options_are_inherited_and_overridden_one_by_one():
    """volume in a host > volume in the resource > resource > common > default; handlers and options likewise."""
    config = parse_config(
        """common { disk { al-extents 100; c-min-rate 1M; resync-rate 1M; size 1; }
                    handlers { split-brain x; fence-peer y; } options { cpu-mask 1; } }
           resource r { disk { al-extents 200; c-min-rate 2M; resync-rate 2M; }
             handlers { fence-peer z; }
             volume 0 { device minor 0; disk /a; meta-disk internal; disk { al-extents 300; c-min-rate 3M; } }
             on a { address 10.0.0.1:1; volume 0 { disk { al-extents 400; } } options { cpu-mask 2; } }
             on b { address 10.0.0.2:1; volume 0 { disk /b; } } }"""
    )
    (resource,) = config
    a, b = resource.pair("a")
    disk = a.volumes[0].disk_options
    assert (disk.al_extents, disk.c_min_rate_kib_s, disk.resync_rate_kib_s, disk.size_sectors) == (400, 3072, 2048, 1)
    assert (disk.al_updates, b.volumes[0].disk_options) == (True, replace(disk, al_extents=300))
    assert resource.disk.al_extents == 200
    assert (resource.handlers.split_brain, resource.handlers.fence_peer) == ("x", "z")
    assert (a.options.cpu_mask, b.options.cpu_mask, resource.options.cpu_mask) == ("2", "1", "1")
    assert (a.volumes[0].disk, b.volumes[0].disk) == ("/a", "/b")


def test_volumes_are_put_together_from_the_resource_and_the_host():
    """Ascending numbers, and each statement from the nearest place."""
    (resource,) = load("volumes.res").resources
    alice, bob = resource.hosts
    assert resource.vnrs == tuple(alice.volumes) == tuple(bob.volumes) == (0, 1, 200)
    assert alice.volumes[0].disk_options.size_sectors == 8 << 21
    assert bob.volumes[0].disk_options.size_sectors == 0
    assert bob.volumes[1].meta_disk == MetaDisk("/dev/other/meta")
    assert (alice.volumes[200].minor, bob.volumes[200].minor) == (12, 200)
    assert (bob.volumes[200].device, bob.volumes[200].meta_disk) == ("/dev/drbd_log", MetaDisk("/dev/md", 7))


def test_an_ipv6_address_may_have_a_scope():
    """And blanks around its colon."""
    six, mapped = load("ipv6.res").resources
    assert [str(host.address) for host in (*six.hosts, *mapped.hosts)] == [
        "[fd00:1::31]:7789",
        "[fe80::5054:ff:fe12:3456%eth0]:7789",
        "[::ffff:10.0.0.1]:7790",
        "[::1]:7790",
    ]
    assert {host.address.family for host in (*six.hosts, *mapped.hosts)} == {"ipv6"}


def test_a_floating_host_answers_to_its_address():
    """With or without the port."""
    (resource,) = load("floating.res").resources
    first, second = resource.hosts
    assert first.is_floating and first.names == ()
    assert resource.pair("10.1.1.31") == resource.pair("10.1.1.31:7802") == (first, second)
    assert resource.pair("[fd00::32]:7802") == resource.pair("fd00::32") == (second, first)
    assert (first.volumes[0].disk, second.volumes[0].disk) == ("/dev/sda7", "/dev/sdb")


def test_a_diskless_host_needs_no_meta_data():
    """`disk none`; a host may have several names."""
    (resource,) = load("fencing.res").resources
    me, peer = resource.pair("carol")
    assert me.names == ("alice", "carol") and peer.volumes[0].is_diskless
    text = "resource r { on a { device minor 1; disk none; address 10.0.0.1:1; } }"
    assert parse_config(text).resources[0].hosts[0].volumes[0].meta_disk is None


def test_fencing_is_found_where_8_4_and_where_9_have_it():
    """In the disk section and in the net section: the value is one."""
    assert load("fencing.res").resources[0].disk.fencing == "resource-and-stonith"
    assert load("drbd9.res").resources[0].disk.fencing == "resource-only"


def test_the_words_of_drbd_8_3_are_understood():
    """`syncer`, `no-...`, `outdate-peer`, and protocol outside of net; with a notice for the section."""
    config = load("legacy.res")
    r83, base = config.resources
    assert (r83.net.protocol, base.net.protocol) == ("A", "C")
    assert (r83.disk.resync_rate_kib_s, r83.disk.al_extents, r83.disk.resync_after) == (33 << 10, 257, "base")
    assert (r83.net.verify_alg, r83.net.csums_alg, r83.net.use_rle) == ("sha1", "md5", True)
    assert r83.options.cpu_mask == "3"
    notices = [str(notice) for notice in config.notices if "syncer" in notice.message]
    words = "section 'syncer' is DRBD 8.3's: its options count as those of disk, net and options"
    assert notices == [f"{DATA}/legacy.res:1:22: {words}", f"{DATA}/legacy.res:4:5: {words}"]
    fencing = load("fencing.res").resources[0]
    assert fencing.handlers.fence_peer == "/usr/lib/drbd/stonith_admin-fence-peer.sh"
    assert (fencing.disk.md_flushes, fencing.net.tcp_cork) == (False, False)


QUORUM = "the peer is promoted; use protocol C"


@pytest.mark.parametrize(
    ("protocol", "quorum", "is_told"),
    [("A", "majority", True), ("B", "all", True), ("C", "majority", False), ("A", "off", False), ("A", "1", False)],
)
def test_quorum_without_protocol_c_is_told_of(tmp_path, protocol, quorum, is_told):
    """It is not refused, as by DRBD 9; what it does not promise is said, with the place of the resource."""
    (tmp_path / "r0.res").write_text(
        f"resource r0 {{\n net {{ protocol {protocol}; }}\n options {{ quorum {quorum}; }}\n device minor 0;\n"
        " disk /dev/b; meta-disk internal;\n on a { address 10.0.0.1:7788; }\n on b { address 10.0.0.2:7788; }\n}\n"
    )
    told = [str(notice) for notice in load_config(tmp_path / "r0.res").notices]
    words = f"{tmp_path}/r0.res:1:1: resource 'r0' has quorum and protocol {protocol}: a Primary that does not "
    assert told == ([] if not is_told else told[:1]) and all(one.startswith(words) for one in told)
    assert all(one.endswith(QUORUM) for one in told)


def test_a_drbd_9_configuration_of_two_nodes_is_understood():
    """node-id, one connection, and options that change nothing for two nodes; those are reported."""
    config = load("drbd9.res")
    alice, bob = config.resources[0].hosts
    assert [str(host.address) for host in (alice, bob)] == ["10.0.0.1:7799", "10.0.0.2:7799"]
    assert (config.resources[0].net.protocol, config.resources[0].disk.resync_rate_kib_s) == ("B", 5 << 10)
    reported = [notice.message for notice in config.notices if "DRBD 9's" in notice.message]
    names = ("transport",)
    assert reported == [f"option '{name}' is DRBD 9's and has no effect in pydrbd" for name in names]


@pytest.mark.parametrize(
    "connection",
    [
        "connection-mesh { hosts a b; net { timeout 11; } }",
        "connection { path { host a address 10.0.0.1:1; host b address ipv6 [::1]:2; } net { timeout 11; } }",
        "connection { net { timeout 11; } host a; host b port 3; }",
    ],
)
def test_every_form_of_one_connection(connection):
    """A mesh of two, a path, and hosts by name."""
    hosts = "".join(f"on {name} {{ address 10.1.0.{at}:1; }}" for at, name in enumerate("ab"))
    text = f"resource r {{ device minor 1; disk /d; meta-disk internal; {hosts} {connection} }}"
    (resource,) = parse_config(text).resources
    assert resource.net.timeout_ds == 11
    if "path" in connection:
        assert resource.hosts[1].address == Address("ipv6", "::1", 2)
    if "port" in connection:
        assert resource.hosts[1].address.port == 3


def test_pair_refuses_what_is_no_pair():
    """A node that is not in the resource, and one or three hosts: each with what to do."""
    (resource,) = load("plain.res").resources
    place = f"{DATA}/plain.res:2:1: "
    with pytest.raises(ConfigError) as caught:
        resource.pair("bobb")
    assert str(caught.value) == (
        f"{place}this node, 'bobb', is not in resource 'r0' (hosts: alice, bob):"
        " say which one it is with --node; did you mean 'bob'?"
    )
    for hosts, words in (
        ((), "no host sections"),
        (resource.hosts[:1], "only one host section"),
        (resource.hosts * 2, "4 host"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(resource, hosts=hosts).pair("alice")


def test_two_floating_hosts_of_one_address_need_the_port():
    """Two nodes on one machine, for a try."""
    text = "resource r { device minor 1; disk /d; meta-disk internal; floating 127.0.0.1:1; floating 127.0.0.1:2; }"
    with pytest.raises(ConfigError) as caught:
        parse_config(text).resources[0].pair("127.0.0.1")
    assert caught.value.message == (
        "both hosts of resource 'r' answer to '127.0.0.1': say --node 127.0.0.1:1 or --node 127.0.0.1:2"
    )
    assert parse_config(text).resources[0].pair("127.0.0.1:2")[0].address.port == 2


def test_discard_node_is_said_from_each_side():
    """`discard-node-alice` is discard-local for her and discard-remote for bob, as drbdadm tells the kernel."""
    text = (DATA / "plain.res").read_text().replace("protocol C;", "net { after-sb-0pri discard-node-alice; }")
    (resource,) = parse_config(text).resources
    alice, bob = resource.hosts
    assert (resource.after_sb_0pri(alice), resource.after_sb_0pri(bob)) == ("discard-local", "discard-remote")
    assert load("two_primaries.res").resources[0].after_sb_0pri(alice) == "discard-zero-changes"


def test_included_files_are_read_once_in_the_order_of_their_names():
    """Relative to the file that includes them; hidden files don't match; a file that includes itself is no loop."""
    config = load("included/main.conf")
    assert [resource.name for resource in config] == ["a", "b"]
    assert [Path(file).name for file in config.files] == ["main.conf", "common.conf", "a.res", "b.res"]
    assert config.resource("b").place.file == str(DATA / "included/r.d/b.res")
    assert config.resource("a").startup.degr_wfc_timeout_s == 120


def test_an_unknown_resource_is_named_with_the_nearest():
    """For a slip on the command line."""
    with pytest.raises(ConfigError) as caught:
        load("ipv6.res").resource("sixx")
    assert str(caught.value) == f"no resource 'sixx' in {DATA}/ipv6.res (it has six, mapped); did you mean 'six'?"


def test_the_last_of_an_option_given_twice_wins():
    """As drbdsetup takes them."""
    assert load("secret.res").resources[0].net.timeout_ds == 30


def test_a_secret_is_not_in_a_repr():
    """A configuration may end up in a log."""
    config = load("secret.res")
    assert "it" in config.resources[0].net.shared_secret
    assert "a secret" not in repr(config)


def test_a_configuration_is_frozen():
    """Nobody changes it behind anybody's back."""
    config = load("plain.res")
    with pytest.raises(FrozenInstanceError):
        config.resources[0].hosts[0].address.port = 1
    with pytest.raises(TypeError):
        config.resources[0].hosts[0].volumes[1] = None


def test_resync_after_an_unknown_resource_is_reported():
    """drbdadm says so too, and goes on."""
    text = (DATA / "plain.res").read_text().replace("protocol C;", "disk { resync-after other/0; }")
    assert "'resync-after other/0' names a resource that is not configured" in [
        notice.message for notice in parse_config(text).notices
    ]


def test_a_file_that_may_not_be_read_is_no_permission(tmp_path, monkeypatch):
    """77, unlike a mistake in it; also one that is included, whose place is named."""
    file = tmp_path / "t.res"
    file.write_text("\n include x.res;")
    (tmp_path / "x.res").touch()
    real, refused = Path.open, {str(file)}

    def open_file(path, *words, **options):
        if str(path) in refused:
            raise PermissionError(13, "Permission denied")
        return real(path, *words, **options)

    monkeypatch.setattr(Path, "open", open_file)
    with pytest.raises(ConfigForbidden, match=r"'.*t\.res' can't be read: Permission denied") as caught:
        load_config(file)
    assert caught.value.exit_code == 77
    refused.clear()
    refused.add(str(tmp_path / "x.res"))
    with pytest.raises(ConfigForbidden, match=r"t\.res:2:10: include: .*x\.res' can't be read"):
        load_config(file)


def test_files_without_end_are_refused(tmp_path, monkeypatch):
    """The number of files that one configuration includes is bounded."""
    monkeypatch.setattr(load_module, "CONFIG_FILES_MAX", 3)
    for name in "abc":
        (tmp_path / f"{name}.res").touch()
    file = tmp_path / "t"
    file.write_text('include "*.res";')
    with pytest.raises(ConfigError, match="t:1:1: more than 3 files are included"):
        load_config(file)
