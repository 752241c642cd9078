"""A pydrbd pair whose Primary lives in nbdkit, by its plugin: what that costs beside the pair's own server."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.pair import PydrbdPair
from pydrbd.admin.demo_pair import RESOURCE, LocalNode
from pydrbd.errors import NotRunningError

__all__ = ["PluginPair", "why_not"]

_LIMIT_S = 30.0
_PLUGIN = Path(__file__).resolve().parents[1] / "pydrbd/nbdkit_plugin.py"


def why_not() -> str | None:
    """Why no node can live in this machine's nbdkit, which embeds a Python of its own; None if one can."""
    try:
        said = subprocess.run(["nbdkit", "python", "--dump-plugin"], capture_output=True, text=True, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nbdkit python: {error}"
    version = re.search(r"^python_version=(\d+\.\d+)", said.stdout, re.MULTILINE)
    if version is None:
        return "nbdkit has no plugin for Python (nbdkit-plugin-python)"
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    return None if version[1] == ours else f"nbdkit embeds Python {version[1]}, and this is {ours}"


class _NodeInNbdkit(LocalNode):
    """Its export is nbdkit's, on the socket that would be its own."""

    def command(self, verb: str, *more: str) -> list[str]:
        if verb != "serve":
            return super().command(verb, *more)
        node = [f"config={self.config_path}", f"resource={RESOURCE}", f"node={self.name}", f"run-dir={self.run_dir}"]
        ours = f"PYTHONPATH={sysconfig.get_path('purelib')}"
        return ["env", ours, "nbdkit", "--foreground", "--unix", str(self.nbd_socket), "python", str(_PLUGIN), *node]

    def is_up(self) -> bool:
        try:
            return self.process is not None and self.volume()["disk"] not in ("Diskless", "Attaching")
        except NotRunningError:
            return False


class PluginPair(PydrbdPair):
    """The same pair otherwise: the Secondary is a process of ours."""

    def _prepare(self) -> None:
        self._pair.nodes = (_NodeInNbdkit(self._pair, self._pair.nodes[0].name), self._pair.nodes[1])
