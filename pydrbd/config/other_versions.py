"""The option words of other versions of DRBD: what 8.3's became, and which of 9's change nothing for two nodes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydrbd.config.options import SECTIONS, Option

__all__ = ["DRBD9_OPTIONS", "SYNCER_OPTIONS"]

SYNCER_OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {
        "rate": SECTIONS["disk"]["resync-rate"],
        "after": SECTIONS["disk"]["resync-after"],
        **{
            name: SECTIONS[section][name]
            for section, names in (
                ("disk", "al-extents c-plan-ahead c-delay-target c-fill-target c-max-rate c-min-rate"),
                ("net", "verify-alg csums-alg use-rle"),
                ("options", "cpu-mask on-no-data-accessible"),
            )
            for name in names.split()
        },
    }
)
"""The words of DRBD 8.3's `syncer` section, and the options that took their place."""

_ANY: Final = "*"

DRBD9_OPTIONS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "options": {
            "quorum-minimum-redundancy": ("off",),
            "peer-ack-window": (_ANY,),
            "peer-ack-delay": (_ANY,),
            "twopc-timeout": (_ANY,),
            "twopc-retry-timeout": (_ANY,),
            "max-io-depth": (_ANY,),
        },
        "net": {
            "transport": ("tcp",),
            "allow-remote-read": (_ANY,),
            "load-balance-paths": ("no",),
            "tls": ("no",),
            "_name": (_ANY,),
        },
        "disk": {"bitmap": ("yes",)},
        "handlers": {"disconnected": (_ANY,)},
    }
)
"""DRBD 9's options by section, and the values with which a cluster of two nodes behaves as in 8.4 (`*`: all)."""
