"""A wheel by way of the source archive, into an empty environment; a Debian package; what is missing is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.install.conftest import LIMIT_S, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * LIMIT_S)]


def run(*argv: object, code: int = 0, **env: str) -> str:
    """A command with nothing of this checkout in its way; what it says."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean = {key: value for key, value in clean.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        [str(word) for word in argv], env=clean | env, cwd="/", capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == code, (argv, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive and a wheel that was made from it, each in an environment of its own (as `make dist`)."""
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", place, ROOT)
    return place


def test_the_wheel_runs_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    """Without a compiler: the command, the native code, the interface for programs, and the fence."""
    (wheel,) = built.glob("*.whl")
    assert re.fullmatch(r"pydrbd-[0-9.]+-cp311-abi3-linux_\w+\.whl", wheel.name)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-input", wheel, CC="/nonexistent/cc")
    assert run(tmp_path / "venv/bin/pydrbd", "--version").startswith("pydrbd ")
    run(tmp_path / "venv/bin/pydrbd-sbd", "--help")
    assert "/venv/" in run(python, "-c", "import pydrbd._native, pydrbd; pydrbd.open_node; print(pydrbd.__file__)")
    packaged = zipfile.ZipFile(wheel).namelist()
    assert {"pydrbd/py.typed", "pydrbd/handler_bin/drbdadm", "pydrbd/nbdkit_plugin.py"} <= set(packaged)
    assert not [name for name in packaged if name.startswith(("tests", "benchmarks", "docs", "native"))]


def test_the_source_archive_has_what_it_needs(built: Path) -> None:
    """Sources of the extension, agents, units, documents, the licence; nothing that was built."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for needed in ("native/lane.c", "native/build.py", "fence/ocf/disk", "systemd/60-pydrbd.rules", "LICENSE"):
        assert needed in names, needed
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("/nonexistent/cc", "there is no compiler for them"), ("false", "is missing to compile them")],
    ids=["no compiler", "no headers"],
)
def test_what_is_missing_is_said_plainly(built: Path, tmp_path: Path, compiler: str, said: str) -> None:
    """One line that names the Debian packages."""
    (archive,) = built.glob("*.tar.gz")
    words = ("wheel", "--quiet", "--no-input", "--no-deps", "--no-cache-dir", "-w", tmp_path, archive)
    output = run(sys.executable, "-m", "pip", *words, code=1, CC=compiler)
    assert said in output and "apt-get install" in output


def test_a_debian_package_can_be_had(need, tmp_path: Path) -> None:
    """`make deb`: what it says of itself, and what is in it runs from where it is unpacked."""
    unpack = need("dpkg-deb")
    run("make", "-C", ROOT, "deb")
    (package,) = (ROOT / "build/deb").glob("*.deb")
    about = run(unpack, "--info", package)
    assert "Package: pydrbd\n" in about and f"python3 (>= {sys.version_info.major}.{sys.version_info.minor})" in about
    run(unpack, "-x", package, tmp_path)
    assert run(tmp_path / "usr/sbin/pydrbd", "--version").startswith("pydrbd ")
    for path in ("lib/systemd/system/pydrbd@.service", "lib/udev/rules.d/60-pydrbd.rules", "sbin/fence_pydrbd"):
        assert (tmp_path / "usr" / path).is_file(), path
    unit = (tmp_path / "usr/lib/systemd/system/pydrbd@.service").read_text()
    assert "ExecStart=/usr/sbin/pydrbd " in unit


def test_the_image_installs_what_a_checkout_needs() -> None:
    """Containerfile: its packages are those that tools/setup asks for, its make target is one, its command is there."""
    text = (ROOT / "Containerfile").read_text()
    setup = (ROOT / "tools/setup").read_text()
    for package in ("gcc", "libc6-dev", "python3-venv", "python3-dev"):
        assert package in text and package in setup
    (target,) = re.findall(r"make -C /src (\w+)", text)
    assert f"\n{target}: " in (ROOT / "Makefile").read_text()
    (command,) = re.findall(r'ENTRYPOINT \["([^"]+)"\]', text)
    assert command == "/usr/local/sbin/pydrbd"
