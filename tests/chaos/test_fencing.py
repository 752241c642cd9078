"""Fencing between real processes, with shell scripts as handlers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pydrbd.admin.nbd_handshake import ConnectionLost
from pydrbd.units import MIB
from pydrbd.wire.nbd import Command
from tests.chaos.conftest import assert_clean_logs

SIZE_BYTES = 32 * MIB
BLOCK = 4096
LINBITS = Path("/usr/lib/drbd/stonith_admin-fence-peer.sh")
LINBITS_CRM = Path("/usr/lib/drbd/crm-fence-peer.9.sh")
LINBITS_CRM_END = Path("/usr/lib/drbd/crm-unfence-peer.9.sh")
PACEMAKERS = ("cibadmin", "crm_mon", "crm_diff")
CIB = """<cib validate-with="pacemaker-3.9" epoch="5" num_updates="0" admin_epoch="0"
 have-quorum="1" dc-uuid="1">
  <configuration>
    <crm_config/>
    <nodes><node id="1" uname="alpha"/><node id="2" uname="beta"/></nodes>
    <resources>
      <clone id="disk-clone">
        <meta_attributes id="m"><nvpair id="mp" name="promotable" value="true"/></meta_attributes>
        <primitive id="disk" class="ocf" provider="pydrbd" type="disk">
          <instance_attributes id="b">
            <nvpair id="y" name="drbd_resource" value="r0"/>
          </instance_attributes>
        </primitive>
      </clone>
    </resources>
    <constraints/>
  </configuration>
  <status>
    <node_state id="1" uname="alpha" in_ccm="true" crmd="online" join="member" expected="member"/>
    <node_state id="2" uname="beta" in_ccm="false" crmd="offline" join="down" expected="down"/>
  </status>
</cib>
"""
"""What Pacemaker knows when it has shot beta."""

EVENTS = ("fence-peer", "unfence-peer", "before-resync-target", "after-resync-target")
SCRIPT = """#!/bin/sh
env > {directory}/$PYDRBD_NODE.$1.new && mv {directory}/$PYDRBD_NODE.$1.new {directory}/$PYDRBD_NODE.$1
echo "$1 says hello"
[ "$1" = fence-peer ] || exit 0
until [ -s {directory}/verdict ] || [ -e {directory}/over ]; do sleep 0.05; done
exit $(cat {directory}/verdict)
"""


@pytest.fixture
def fenced_pair(synced_pair, tmp_path):
    """A pair in sync whose fence-peer waits until the test writes a verdict into a file."""
    script = tmp_path / "handler"
    script.write_text(SCRIPT.format(directory=tmp_path))
    script.chmod(0o755)
    yield synced_pair(
        size_bytes=SIZE_BYTES,
        net="protocol C; connect-int 1;",
        disk="fencing resource-and-stonith;",
        handlers=" ".join(f'{event} "{script} {event}";' for event in EVENTS),
    )
    (tmp_path / "over").touch()  # a handler outlives the process that is killed


def told(directory, node, event):
    """The environment that a handler was given."""
    lines = (directory / f"{node.name}.{event}").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def submit(client, offset_bytes, errors):
    """Write a block; its error (0: none) will be put into the list."""
    client.submit(
        Command.WRITE, offset_bytes, payload=b"2" * BLOCK, on_reply=lambda error, _payload: errors.append(error)
    )


def is_frozen(node):
    return node.status()["suspended_reasons"] == ["fencing"]


def test_a_primary_waits_for_the_verdict_on_its_peer(fenced_pair, tmp_path):
    """The Secondary is killed: writes wait, the control socket does not; with the verdict they end; then unfence."""
    pair = fenced_pair
    primary, secondary = pair.nodes
    with primary.connect_client() as client:
        client.write(0, b"1" * BLOCK)
        secondary.kill()
        pair.wait_until(lambda: is_frozen(primary), "the freeze")
        pair.wait_until((tmp_path / "alpha.fence-peer").exists, "the handler")
        errors = []
        submit(client, BLOCK, errors)
        assert is_frozen(primary) and not errors
        (tmp_path / "verdict").write_text("4\n")
        client.drain()
        assert errors == [0] and not is_frozen(primary)
        assert primary.volume()["peer_disk"] == "Outdated"
        secondary.start()
        pair.wait_until(pair.in_sync, "the resync")
        pair.wait_until((tmp_path / "alpha.unfence-peer").exists, "unfence-peer")
        pair.wait_until((tmp_path / "beta.after-resync-target").exists, "after-resync-target")
        client.flush()
    assert not pair.compare(16 * MIB).difference_count
    found = told(tmp_path, primary, "fence-peer")
    expected = {
        "DRBD_RESOURCE": "r0", "DRBD_CONF": str(pair.config_path), "DRBD_MINOR": "0", "DRBD_PEER": "beta",
        "DRBD_PEERS": "beta", "DRBD_PEER_AF": "ipv4", "DRBD_PEER_ADDRESS": "127.0.0.1", "DRBD_MY_NODE_ID": "0",
        "DRBD_PEER_NODE_ID": "1", "DRBD_NODE_ID_0": "alpha", "DRBD_NODE_ID_1": "beta", "UP_TO_DATE_NODES": "0x00000001",
        "DRBD_LL_DISK": str(primary.disk_path), "DRBD_VOLUME": "0", "TERM": "linux", "HOME": "/",
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert told(tmp_path, primary, "unfence-peer")["UP_TO_DATE_NODES"] == "0x00000003"
    assert told(tmp_path, secondary, "after-resync-target")["DRBD_MINOR"] == "1"
    assert "r0: fence-peer: fence-peer says hello" in primary.log_path.read_text()
    assert_clean_logs(pair)


@pytest.mark.interop
@pytest.mark.skipif(not LINBITS.exists(), reason="drbd-utils is not installed")
def test_linbits_stonith_script_works_unchanged(synced_pair, tmp_path):
    """It reads /proc/drbd, and DRBD_PEERS: both are ours. Pacemaker's stonith_admin is played by a script."""
    admin = tmp_path / "bin" / "stonith_admin"
    admin.parent.mkdir()
    admin.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/shot\n')
    admin.chmod(0o755)
    (admin.parent / "logger").symlink_to("/bin/echo")
    pair = synced_pair(
        size_bytes=SIZE_BYTES,
        net="protocol C; connect-int 1;",
        disk="fencing resource-and-stonith;",
        handlers=f'fence-peer "PATH={admin.parent}:$PATH {LINBITS}";',
    )
    primary, secondary = pair.nodes
    with primary.connect_client() as client:
        secondary.kill()
        client.write(0, b"1" * BLOCK)
        assert primary.volume()["peer_disk"] == "Outdated"
    assert (tmp_path / "shot").read_text() == "--tolerance 5s --tag drbd --fence beta\n"
    assert "fence-peer helper returned 7 (peer was stonithed)" in primary.log_path.read_text()
    assert_clean_logs(pair)


@pytest.mark.interop
@pytest.mark.skipif(not LINBITS_CRM.exists(), reason="drbd-utils is not installed")
def test_linbits_crm_script_works_unchanged(synced_pair, tmp_path, need):
    """It finds the clone by its drbd_resource, bans beta, and says 7; its other half lifts the ban after the resync.

    Pacemaker's own commands work on a file; the ones that ask a daemon are played by scripts.
    """
    need(*PACEMAKERS)
    commands, cib = tmp_path / "bin", tmp_path / "cib.xml"
    commands.mkdir()
    cib.write_text(CIB)
    played = {"uname": "echo alpha", "crm_node": "echo 1", "crmadmin": "exit 1"}
    played["logger"] = f"exec cat >> {tmp_path}/log"
    for name in PACEMAKERS:
        played[name] = f': "${{CIB_file:={cib}}}"; export CIB_file; exec {shutil.which(name)} "$@"'
    for name, script in played.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    pair = synced_pair(
        size_bytes=SIZE_BYTES,
        net="protocol C; connect-int 1;",
        disk="fencing resource-and-stonith;",
        handlers=f'fence-peer "PATH={commands}:$PATH {LINBITS_CRM} --timeout 20";'
        f'unfence-peer "PATH={commands}:$PATH {LINBITS_CRM_END}";',
    )
    primary, secondary = pair.nodes
    with primary.connect_client() as client:
        secondary.kill()
        client.write(0, b"1" * BLOCK)
        assert "fence-peer helper returned 7 (peer was stonithed)" in primary.log_path.read_text()
        assert primary.volume()["peer_disk"] == "Outdated"
        banned = cib.read_text()
        assert 'id="drbd-fence-by-handler-r0-disk-clone"' in banned and 'value="alpha"' in banned
        secondary.start()
        pair.wait_until(pair.in_sync, "the resync")
        pair.wait_until(lambda: "rsc_location" not in cib.read_text(), "the ban to be lifted")
    assert_clean_logs(pair)


def test_the_commands_of_a_handler_speak_of_its_resource(synced_pair, tmp_path):
    """What scripts that know the kernel's DRBD ask for: /proc/drbd, drbdsetup, drbdadm; other files are as ever."""
    asks = (
        "sed -nre '/^ *(0|7): cs:/ { s/:/ /g; p; }' /proc/drbd", "cat /proc/drbd | grep -c 'cs:'",
        "drbdsetup events2 --now $DRBD_RESOURCE", "drbdadm -c $DRBD_CONF sh-minor r0", "drbdadm sh-ll-dev r0/0",
        "drbdadm role r0", "pydrbd dstate r0", "sed -n 1p /proc/sys/kernel/ostype",
    )  # fmt: skip
    answers = tmp_path / "answers"
    commands = "; ".join(asks)
    (tmp_path / "ask").write_text(f"#!/bin/sh\n({commands}) >{answers}.new 2>&1; mv {answers}.new {answers}; exit 1\n")
    (tmp_path / "ask").chmod(0o755)
    disk = "fencing resource-and-stonith;"
    pair = synced_pair(size_bytes=SIZE_BYTES, disk=disk, handlers=f'fence-peer "{tmp_path}/ask";')
    primary, secondary = pair.nodes
    secondary.kill()
    pair.wait_until(answers.exists, "the answers")
    assert answers.read_text().splitlines() == [
        " 0  cs WFConnection ro Primary/Unknown ds UpToDate/DUnknown C s-----",
        "1",
        "exists resource name:r0 role:Primary suspended:fencing",
        "exists connection name:r0 peer-node-id:1 conn-name:beta connection:Connecting role:Unknown",
        "exists device name:r0 volume:0 minor:0 disk:UpToDate",
        "exists peer-device name:r0 peer-node-id:1 conn-name:beta volume:0 replication:Off peer-disk:DUnknown "
        "resync-suspended:no",
        "exists -",
        "0",
        str(primary.disk_path),
        "Primary/Unknown",
        "UpToDate/DUnknown",
        "Linux",
    ]


def test_a_node_that_came_back_alone_is_promoted_by_a_verdict(fenced_pair, tmp_path):
    """Both die, one returns: its data is Consistent. Refused with 17 and DRBD's words, then granted."""
    pair = fenced_pair
    primary, secondary = pair.nodes
    primary.kill()
    secondary.kill()
    (tmp_path / "verdict").write_text("1\n")
    secondary.start()
    assert secondary.volume()["disk"] == "Consistent"
    refusal = secondary.ask("primary")
    assert (refusal.code, refusal.text) == (-2, "State change failed: (-2) Need access to UpToDate data")
    (tmp_path / "verdict").write_text("7\n")
    secondary.grant("primary")
    assert (secondary.volume()["disk"], secondary.volume()["peer_disk"]) == ("UpToDate", "Outdated")
    with secondary.connect_client() as client:
        client.write(0, b"3" * BLOCK)
        primary.start()
        pair.wait_until(pair.in_sync, "the resync")
    assert_clean_logs(pair)


def test_a_frozen_primary_can_be_stopped(fenced_pair, tmp_path):
    """An orderly stop does not wait for a handler that never ends, and leaves no process of it behind."""
    pair = fenced_pair
    primary, secondary = pair.nodes
    with primary.connect_client() as client:
        secondary.kill()
        pair.wait_until(lambda: is_frozen(primary), "the freeze")
        errors = []
        submit(client, 0, errors)
        primary.stop()
        with pytest.raises(ConnectionLost):  # not an error: a client that can wait tries another address
            client.drain()
        client.abandon()
        assert 0 not in errors
    assert "I/O was frozen: what waited for it fails" in primary.log_path.read_text()
    (tmp_path / "verdict").write_text("1\n")
    primary.start()
    secondary.start()
    pair.wait_until(pair.in_sync, "the resync")
    assert not pair.compare(16 * MIB).difference_count
    assert_clean_logs(pair)
