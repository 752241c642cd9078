"""`make install` into a DESTDIR: what was installed runs from there, the units are good, uninstall leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.fence.harness import NbdServer
from tests.install.conftest import LIMIT_S, ROOT, make
from tests.runtime.test_rendezvous import free_ports

SBIN = "usr/local/sbin"
OCF_LIB = Path("/usr/lib/ocf/lib/heartbeat/ocf.py")
FENCING = Path("/usr/share/fence/fencing.py")

pytestmark = pytest.mark.timeout(2 * LIMIT_S)


def files_of(destination: Path) -> list[Path]:
    return sorted(path.relative_to(destination) for path in destination.rglob("*") if not path.is_dir())


@pytest.fixture
def call(tree: Path, tmp_path: Path):
    """`call(PROGRAM, *words)` runs what was installed, in a directory that holds a trap; its output."""
    for name in ("pydrbd", "pydrbd_fence", "trio"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('from the current directory')\n")
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{tree / SBIN}:/usr/sbin:/usr/bin:/sbin:/bin"

    def run(program: str, *words: str, text: str = "", code: int = 0, **more: str) -> str:
        done = subprocess.run(
            [tree / program, *words],
            input=text,
            env=env | more,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_no_file_speaks_of_where_it_was_made(tree: Path) -> None:
    """The tree can be packed and put elsewhere: neither DESTDIR nor the source's place is written anywhere."""
    bad = {str(tree).encode(), str(ROOT).encode()}
    for path in files_of(tree):
        full = tree / path
        if full.is_symlink():
            assert not str(full.readlink()).startswith((str(tree), str(ROOT))), path
        else:
            content = full.read_bytes()
            assert not any(place in content for place in bad), path


def test_modes_and_places(tree: Path) -> None:
    """Programs where Pacemaker, systemd and users look for them; nothing else is executable, nothing is writable."""
    programs = [f"{SBIN}/pydrbd", f"{SBIN}/pydrbd-sbd", "usr/sbin/fence_pydrbd"]
    programs += [f"usr/lib/ocf/resource.d/pydrbd/{name}" for name in ("disk", "nbd")]
    programs += [str(path.relative_to(tree)) for path in (tree / "usr/local/lib/pydrbd").iterdir() if path.is_file()]
    own = [path for path in files_of(tree) if "venv" not in path.parts]
    for path in own:
        mode = stat.S_IMODE((tree / path).stat().st_mode)
        assert mode == (0o755 if str(path) in programs else 0o644), path
    assert set(programs) <= {str(path) for path in own}


def test_a_resource_lives_with_what_was_installed(call, tree: Path, short_tmp: Path, processes, monkeypatch) -> None:
    """Command, process in the background, OCF agent: from DESTDIR, with the cluster's Python for the agent."""
    if not OCF_LIB.exists():
        pytest.skip("not installed: resource-agents (make test installs it as root)")
    ports = free_ports(2)
    hosts = "".join(
        f"on {name} {{ device minor 0; disk {short_tmp}/{name}; meta-disk internal; address 127.0.0.1:{port}; }}\n"
        for name, port in zip(("alpha", "beta"), ports, strict=True)
    )
    config = short_tmp / "r0.res"
    config.write_text(f"resource r0 {{ {hosts} }}\n")
    with (short_tmp / "alpha").open("wb") as disk:
        disk.truncate(8 << 20)
    marked = {key: value for key, value in processes.env.items() if key not in os.environ}
    common = ("-c", str(config), "--node", "alpha", "--run-dir", str(short_tmp / "run"))
    assert call(f"{SBIN}/pydrbd", "--version").startswith("pydrbd ")
    call(f"{SBIN}/pydrbd", "create-md", "r0", *common)
    ocf = {f"OCF_RESKEY_{key}": value for key, value in zip(
        ("drbd_resource", "drbdconf", "node", "run_dir", "wfc_timeout"),
        ("r0", str(config), "alpha", str(short_tmp / "run"), "1"),
        strict=True,
    )}  # fmt: skip
    ocf |= {"OCF_ROOT": "/usr/lib/ocf", "OCF_RESOURCE_INSTANCE": "r0"} | marked
    agent = "usr/lib/ocf/resource.d/pydrbd/disk"
    call(agent, "monitor", code=7, **ocf)
    call(agent, "start", **ocf)
    assert "role:Secondary" in call(f"{SBIN}/pydrbd", "status", "r0", *common)
    call(f"{SBIN}/pydrbd", "primary", "--force", "r0", *common)
    call(agent, "monitor", code=8, **ocf)
    call(agent, "stop", **ocf)
    call(agent, "monitor", code=7, **ocf)


def test_a_node_is_fenced_with_what_was_installed(call, short_tmp: Path) -> None:
    """The command, and the fence agent that finds it."""
    server = NbdServer(short_tmp / "s")
    try:
        call(f"{SBIN}/pydrbd-sbd", "-d", server.address, "-1", "2", "-I", "1", "create")
        call(f"{SBIN}/pydrbd-sbd", "-d", server.address, "allocate", "alpha")
        assert call(f"{SBIN}/pydrbd-sbd", "-d", server.address, "list") == "0\talpha\tclear\t\n"
        if not FENCING.exists():
            pytest.skip("not installed: fence-agents (make test installs it as root)")
        words = f"action=off\nport=alpha\ndevices={server.address}\n"
        assert "Success" in call("usr/sbin/fence_pydrbd", text=words)
        assert call(f"{SBIN}/pydrbd-sbd", "-d", server.address, "list").startswith("0\talpha\toff\t")
    finally:
        server.stop()


def test_systemd_takes_the_units(tree: Path, need, tmp_path: Path) -> None:
    """systemd-analyze has nothing to complain of; the programs that the units name are there."""
    analyze = need("systemd-analyze")
    units = tree / "usr/local/lib/systemd/system"
    for unit in units.iterdir():
        text = unit.read_text()
        assert not re.search(r"@[a-z]+@", text) and "ExecStart=/usr/local/sbin/pydrbd" in text
        # Only the programs are not where the unit says: they are below DESTDIR here.
        (tmp_path / unit.name).write_text(text.replace("/usr/local/sbin", str(tree / SBIN)))
    for name in ("pydrbd@r0.service", "pydrbd-nbd@r0.service", "pydrbd-sbd.service"):
        words = [analyze, "verify", "--man=no", tmp_path / name]
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        ours = [line for line in (done.stdout + done.stderr).splitlines() if "pydrbd" in line]
        assert not ours, "\n".join(ours)


def test_the_run_directories_are_made(tree: Path, need) -> None:
    """By systemd-tmpfiles, before anything runs."""
    words = [need("systemd-tmpfiles"), "--create", f"--root={tree}", "pydrbd.conf"]
    subprocess.run(words, check=True, capture_output=True, timeout=LIMIT_S)
    found = {path: stat.S_IMODE((tree / path).stat().st_mode) for path in ("run/pydrbd", "run/pydrbd-sbd/priority")}
    assert found == {"run/pydrbd": 0o700, "run/pydrbd-sbd/priority": 0o755}
    shutil.rmtree(tree / "run")


def test_man_finds_the_pages(tree: Path, need) -> None:
    """Also the one that is a second name of another."""
    for name in ("pydrbd", "pydrbd-sbd", "fence_pydrbd", "ocf_pydrbd_disk", "ocf_pydrbd_nbd", "pydrbd.toml"):
        words = [need("man"), "-M", tree / "usr/local/share/man", name]
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0 and "DESCRIPTION" in done.stdout, done.stderr


@pytest.mark.slow
def test_it_can_be_installed_twice_and_removed(tmp_path: Path) -> None:
    """The second time changes no name; afterwards nothing is left."""
    make("install", tmp_path)
    first = files_of(tmp_path)
    stale = tmp_path / "usr/local/lib/pydrbd/venv/lib" / "stale.py"
    stale.write_text("")
    make("install", tmp_path)
    assert files_of(tmp_path) == first
    make("uninstall", tmp_path)
    assert files_of(tmp_path) == []


def test_it_answers_to_drbds_names(tree: Path, tmp_path: Path) -> None:
    """drbd-reactor starts `drbdsetup events2 --full --poll`, and sends it an n now and then."""
    name = tmp_path / "drbdsetup"
    name.symlink_to(tree / SBIN / "pydrbd")
    words = [name, "events2", "--full", "--poll", "--run-dir", tmp_path]
    done = subprocess.run(words, input="n\nq\n", capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "exists -\n", "")
