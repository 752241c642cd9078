"""csums-alg, csums-after-crash-only and verify-alg: from the configuration to the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydrbd.errors import ConfigError
from pydrbd.runtime.build import blueprint
from tests.runtime.test_service import make_pair


def configured(directory: Path, net: str) -> Path:
    path = make_pair(directory)
    path.write_text(path.read_text().replace("net { ", f"net {{ {net} "))
    return path


def test_the_algorithms_reach_the_node(short_tmp: Path) -> None:
    """All three options have their effect, and nothing is told of them."""
    plan = blueprint(configured(short_tmp, "csums-alg sha1; verify-alg crc32c; csums-after-crash-only;"), "r0", "a")
    net = plan.node.net
    assert (net.csums_alg, net.verify_alg, net.csums_after_crash_only) == ("sha1", "crc32c", True)
    assert not plan.config.notices


@pytest.mark.parametrize("option", ["csums-alg", "verify-alg"])
def test_an_unknown_algorithm_is_refused(short_tmp: Path, option: str) -> None:
    """The option, the name, what there is, and what was probably meant."""
    with pytest.raises(ConfigError, match=rf"{option} 'sha-1' is not known here; crc32c, .* are; did you mean 'sha1'"):
        blueprint(configured(short_tmp, f"{option} sha-1;"), "r0", "a")
