"""Logs that rotate themselves, and the word to systemd."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from pydrbd.runtime.systemd import notify

WRITER = """
import logging, os, sys
from pathlib import Path
from pydrbd.runtime.log_file import LogFile
logging.basicConfig(level=logging.INFO, handlers=[LogFile(Path(sys.argv[1]), 10_000)])
for number in range(1000):
    logging.info("line %04d %s", number, "x" * 80)
os.write(2, b"last words\\n")
"""


def test_a_log_never_outgrows_its_limit(tmp_path: Path) -> None:
    """Two files at most, nothing of the newest lost, and what a dying process writes to stderr is in the new one."""
    path = tmp_path / "r0.log"
    done = subprocess.run([sys.executable, "-c", WRITER, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and (done.stdout, done.stderr) == ("", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r0.log", "r0.log.1"]
    assert all(file.stat().st_size <= 10_000 for file in tmp_path.iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "r0.log.1").read_text() + path.read_text()
    numbers = [int(line.split()[1]) for line in text.splitlines() if line.startswith("INFO") or "line" in line]
    assert numbers == list(range(numbers[0], 1000)) and path.read_text().endswith("last words\n")


def test_systemd_is_told(short_tmp: Path) -> None:
    """By path and by abstract name; without anybody there, nothing happens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(short_tmp / "n"))
        notify("READY=1", {"NOTIFY_SOCKET": str(short_tmp / "n")})
        assert listener.recv(100) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{short_tmp}/a")
        notify("STOPPING=1", {"NOTIFY_SOCKET": f"@{short_tmp}/a"})
        assert listener.recv(100) == b"STOPPING=1"
    for place in ({}, {"NOTIFY_SOCKET": "vsock:1"}, {"NOTIFY_SOCKET": str(short_tmp / "n")}):
        notify("READY=1", place)
