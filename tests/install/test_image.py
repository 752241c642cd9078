"""`make image` where no registry can be reached: on a base of Debian's own packages, in storage of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.install.conftest import LIMIT_S, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * LIMIT_S)]

IMAGE = "localhost/pydrbd-tested"
STORAGE = '[storage]\ndriver = "vfs"\ngraphroot = "{place}/root"\nrunroot = "{place}/run"\n'


class Image:
    """What buildah has made, and a container of it without any daemon."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._container = self.buildah("from", "--pull-never", IMAGE).strip()

    def buildah(self, *words: str) -> str:
        done = subprocess.run(["buildah", *words], env=self._env, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    def run(self, *argv: str) -> str:
        return self.buildah("run", self._container, "--", *argv)

    def inspect(self, template: str) -> str:
        return self.buildah("inspect", "--type", "image", "--format", template, IMAGE).strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    missing = [name for name in ("make", "buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (make test-all installs it as root)")
    if os.geteuid() != 0:
        pytest.skip("only root can make a base of Debian's packages")
    place = tmp_path_factory.mktemp("image")
    (place / "storage.conf").write_text(STORAGE.format(place=place))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    env = clean | {"CONTAINERS_STORAGE_CONF": str(place / "storage.conf"), "BUILDAH_ISOLATION": "chroot"}
    env |= {"BASE": "apt", "BUILDER": "buildah", "IMAGE": IMAGE}
    try:
        probe = ["mmdebstrap", "--quiet", "--simulate", "--variant=minbase", "bookworm", os.devnull]
        if subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S).returncode != 0:
            pytest.skip("Debian's packages can't be fetched here")
        build = ["make", "-C", ROOT, "image"]
        done = subprocess.run(build, env=env, capture_output=True, text=True, timeout=2 * LIMIT_S)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield Image(env)
    finally:
        subprocess.run(["buildah", "rm", "--all"], env=env, capture_output=True, timeout=LIMIT_S)
        shutil.rmtree(place)


def test_its_pydrbd_runs(image: Image) -> None:
    """The entry point, with its native code; and the whole demo: two nodes, a client, crashes, a comparison."""
    entry = image.inspect("{{index .OCIv1.Config.Entrypoint 0}}")
    assert image.run(entry, "--version").startswith("pydrbd ")
    said = image.run(entry, "demo")
    assert said.splitlines()[-1].split() == ["differences", "0"], said


def test_nothing_of_the_machine_that_built_it_is_left(image: Image) -> None:
    """No sources, no compiler, no lists of packages, and neither pip's settings nor whom it trusted."""
    assert "PIP" not in image.inspect("{{.OCIv1.Config.Env}}") + image.run("env")
    places = "/src /run/certificates.pem /usr/bin/gcc /var/lib/apt/lists/*"
    assert image.run("sh", "-c", f"for place in {places}; do [ ! -e $place ] || echo $place; done") == ""
