"""From the configuration to the core's options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.core.resync_pace import PaceOptions
from pydrbd.errors import ConfigError
from pydrbd.limits import PROTOCOL_A_BYTES_MAX
from pydrbd.runtime.build import blueprint
from pydrbd.units import KIB
from pydrbd.wire.packet_numbers import WireProtocol

HOSTS = "".join(
    f"on {name} {{ device minor 0; disk /srv/{name}.img; meta-disk internal; address 127.0.0.1:{port}; }}\n"
    for name, port in (("a", 7788), ("b", 7789))
)


def net_options(directory: Path, net: str) -> NetOptions:
    path = directory / "r0.res"
    path.write_text(f"resource r0 {{ net {{ {net} }}\n{HOSTS}}}\n")
    return blueprint(path, "r0", "a").node.net


@pytest.mark.parametrize("word", "ABC")
def test_every_protocol_may_be_configured(tmp_path: Path, word: str) -> None:
    assert net_options(tmp_path, f"protocol {word};").protocol is WireProtocol[word]


def test_sndbuf_size_limits_what_is_on_its_way_in_protocol_a(tmp_path: Path) -> None:
    """0, the default, is our own limit."""
    for net, expected in (("sndbuf-size 512k;", 512 * KIB), ("sndbuf-size 0;", PROTOCOL_A_BYTES_MAX)):
        assert net_options(tmp_path, f"protocol A; {net}").in_flight_bytes_max == expected


@pytest.mark.parametrize("name", ["sha1", "md5", "crc32c", "sha256"])
def test_a_data_integrity_alg_that_we_have_is_taken(tmp_path: Path, name: str) -> None:
    assert net_options(tmp_path, f"data-integrity-alg {name};").data_integrity_alg == name


def test_another_one_is_a_mistake_that_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'r0': data-integrity-alg 'rot13' is not known here; .*crc32c, md5"):
        net_options(tmp_path, "data-integrity-alg rot13;")


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        ("resync-rate 1M;", PaceOptions(start_kib_s=1024)),
        ("c-max-rate 100M;", PaceOptions(max_kib_s=102400)),
        ("c-min-rate 4M;", PaceOptions(min_kib_s=4096)),
        ("c-plan-ahead 0; resync-rate 1M;", PaceOptions(fixed_kib_s=1024, start_kib_s=1024)),
        ("c-fill-target 1M;", PaceOptions(plan_steps=20, fill_target_bytes=1 << 20)),
        ("c-delay-target 5;", PaceOptions(plan_steps=20, fill_target_bytes=0, delay_target_steps=5)),
    ],
)
def test_of_a_resyncs_pace_only_what_is_named_counts(tmp_path: Path, disk: str, expected: PaceOptions) -> None:
    """DRBD's defaults would hold a resync back: 100 MiB/s, and 250 KiB/s beside an application."""
    path = tmp_path / "r0.res"
    path.write_text(f"resource r0 {{ disk {{ {disk} }}\n{HOSTS}}}\n")
    (volume,) = blueprint(path, "r0", "a").node.volumes
    if not expected.plan_steps:
        expected = replace(expected, fill_target_bytes=100 * 512)
    assert volume.pace == expected
