"""The commands for scripts: sh-*, dump-xml, show, wipe-md, options at run time; beside drbdadm where it is there."""

from __future__ import annotations

import socket
import subprocess
from xml.etree import ElementTree

import pytest

from tests.admin.conftest import config_text
from tests.config.drbdadm import find_drbdadm

TWO = """
common { net { after-sb-0pri discard-zero-changes; } handlers { fence-peer "/x -y <b> & 'q'"; } }
resource r0 {
  net { cram-hmac-alg sha1; shared-secret "s"; protocol B; }
  startup { wfc-timeout 3; become-primary-on alpha; }
  on alpha { device minor 0; disk /dev/sdx; meta-disk internal; address 10.0.0.1:7788; }
  on beta { device minor 0; disk /dev/sdx; meta-disk internal; address 10.0.0.2:7788; }
}
resource r1 {
  on alpha {
    address ipv6 [fd00::1]:7789;
    volume 0 { device minor 1; disk /dev/sdy; meta-disk internal; }
    volume 1 { device /dev/drbd_foo minor 2; disk /dev/sdy1; meta-disk /dev/sdz [1]; disk { size 10M; } }
  }
  on beta {
    address ipv6 [fd00::2]:7789;
    volume 0 { device minor 1; disk /dev/sdy; meta-disk internal; }
    volume 1 { device minor 2; disk /dev/sdy1; flexible-meta-disk /dev/sdw; }
  }
}
"""
WORDS = [
    ("sh-nop", ""),
    ("sh-resources", ""),
    ("sh-mod-parms", ""),
    *((verb, name) for verb in ("sh-resource", "sh-ip") for name in ("r0", "r1")),
    *(
        (verb, name)
        for verb in ("sh-dev", "sh-minor", "sh-ll-dev", "sh-md-dev", "sh-md-idx")
        for name in ("all", "r0", "r1", "r1/1", "minor-2")
    ),
    *(("sh-udev", name) for name in ("r1/0", "r1/1", "minor-0", "minor-2")),
]


@pytest.fixture
def two(place):
    """`place` with the resources of TWO."""
    place.config.write_text(TWO)
    return place


@pytest.mark.interop
@pytest.mark.parametrize(("verb", "name"), WORDS)
def test_scripts_read_what_drbdadm_prints(two, verb, name):
    """Byte for byte, as drbdadm of 8.4."""
    named = two.directory / "named.res"
    named.write_text(TWO.replace("alpha", socket.gethostname()))
    words = [verb, *filter(None, [name])]
    theirs = subprocess.run([find_drbdadm("8.4"), "-c", named, *words], capture_output=True, text=True)
    ours = two(*words)
    assert ours.code == theirs.returncode == 0, theirs.stderr
    assert ours.out.split() == theirs.stdout.split()


def test_the_script_verbs_alone(two):
    """Where there is no drbdadm: one of each kind, and what is refused."""
    assert two("sh-resources").out == "r0 r1\n"
    assert two("sh-dev", "r1").out == "/dev/drbd1\n/dev/drbd_foo\n"
    assert two("sh-md-idx", "all").out == "internal\ninternal\n1\n"
    assert two("sh-md-idx", "r1/1", node="beta").out == "flex-external\n"
    assert two("sh-udev", "minor-2").out == "RESOURCE=r1/1\nDEVICE=drbd_foo\nDISK=sdy1\n"
    assert two("sh-ip", "r1").out == "fd00::1\n" * 2  # one for each volume, as drbdadm
    assert two("sh-nop").out == ""
    two("sh-udev", "r1").complains(64, "sh-udev requires a specific volume id", "minor-1")
    two("sh-dev", "r1/7").complains(64, "no volume 7")
    two("sh-dev", "minor-9").complains(78, "no volume of this node, 'alpha', has the minor 9")
    two("sh-lr-of", "r1").complains(64, "only available in stacked mode")
    two("sh-nop", "r0").complains(0, "This command will ignore resource names!")


def _tree(text):
    """The elements, without what DRBD 9 adds, and without the place in the file."""
    def plain(element):
        children = [plain(child) for child in element if child.tag != "connection"]
        attributes = {name: value for name, value in element.attrib.items() if name not in ("conf-file-line", "file")}
        return element.tag, attributes, (element.text or "").strip(), children

    return plain(ElementTree.fromstring(text))


def test_dump_xml_is_well_formed_and_complete(two):
    """All words of the configuration, escaped."""
    tree = ElementTree.fromstring(two("dump-xml").out)
    assert [resource.get("name") for resource in tree.iter("resource")] == ["r0", "r1"]
    handler = tree.find("common/section[@name='handlers']/option")
    assert handler is not None and handler.get("value") == "/x -y <b> & 'q'"
    assert tree.find("resource[@name='r1']/host/volume[@vnr='1']/meta-disk").get("index") == "1"
    assert ElementTree.fromstring(two("dump-xml", "r1").out).get("name") == "r1"


@pytest.mark.interop
def test_drbdadm_prints_the_same_xml(two):
    """The 9 one, besides its connections, and options of startup that it has dropped."""
    place = two.directory / "named.res"
    place.write_text(TWO.replace(" become-primary-on alpha;", "").replace("alpha", socket.gethostname()))
    for name in ("r0", "r1"):
        theirs = subprocess.run([find_drbdadm("9"), "-c", place, "dump-xml", name], capture_output=True, text=True)
        assert theirs.stdout, theirs.stderr
        assert _tree(two.run("dump-xml", "-c", place, name).out) == _tree(theirs.stdout)


def test_become_primary_on(two, process):
    """Only where the configuration says so."""
    assert two("sh-b-pri", "r0").code == 0 and process.asked[-1] == ("primary", {"force": False})
    count = len(process.asked)
    assert two("sh-b-pri", "r0", node="beta").code == 0 and len(process.asked) == count


def test_wipe_md(place):
    """Gone, but only when it is said twice."""
    assert place("create-md", "r0").code == 0
    place("wipe-md", "r0").complains(64, "wipe-md --force does it")
    assert place("get-gi", "r0").code == 0
    assert place("wipe-md", "--force", "r0").out.startswith("r0/0: DRBD meta data block successfully wiped out")
    place("get-gi", "r0").complains(65, "no DRBD meta-data")
    place("wipe-md", "--force", "r0").complains(65, "no DRBD meta-data")


def test_options_of_what_runs(node, ports):
    """Taken over at once, shown by `show`, told by a dry adjust, taken back by adjust."""
    text = config_text(node.directory, ports).replace("resource r0 {", "resource r0 { net { ko-count 5; }")
    node.config.write_text(text)
    assert node("create-md", "r0").code == 0 and node("up", "r0").code == 0
    shown = node("show", "r0").out
    assert "    net {\n        ko-count         5;\n    }\n" in shown
    assert f"        address          ipv4 127.0.0.1:{ports[1]};" in shown
    assert f'            disk             "{node.disk("alpha")}";' in shown
    assert "ping-int         10; # default" in node("show", "--show-defaults", "r0").out
    changed = node("net-options", "--ko-count=9", "--ping-int=3", "r0")
    assert (changed.code, changed.out) == (0, "r0: net: ping-int 10 -> 3\nr0: net: ko-count 5 -> 9\n")
    assert "ko-count         9;" in node("show", "r0").out
    assert node("disk-options", "--fencing=resource-only", "r0/0").out == (
        "r0: volume 0: disk: fencing dont-care -> resource-only\n"
    )
    assert node("resource-options", "--cpu-mask=1", "r0").out == "r0: options: cpu-mask none -> 1\n"
    node("net-options", "--ko-count=900", "r0").complains(64, "'ko-count 900' is out of range: 0 to 200")
    node("net-options", "r0").complains(64, "which option?")
    back = ["r0: options: cpu-mask 1 -> none", "r0: net: ping-int 3 -> 10", "r0: net: ko-count 9 -> 5"]
    assert node("adjust", "r0").out.splitlines()[:3] == back


def test_a_disk_that_grows_after_check_resize_is_found(node):
    """Its meta-data is where its end was; without the note nobody could know."""
    assert node("create-md", "r0").code == 0
    before = node("get-gi", "r0").out
    assert node("check-resize", "r0").code == 0
    with node.disk("alpha").open("r+b") as disk:
        disk.truncate(16 << 20)
    node("get-gi", "r0").complains(65, "has grown since, must not get it")
    assert node("up", "r0").code == 0
    assert node("get-gi", "r0").out.split(":")[0] == before.split(":")[0]
    assert node("check-resize", "r0").code == 0  # the process has noted it


def test_a_disk_without_meta_data_is_not_noted(place):
    place("check-resize", "r0").complains(65, "no DRBD meta-data")
