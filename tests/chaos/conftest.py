"""Pairs of real processes for the chaos tests."""

from __future__ import annotations

import os
import subprocess

import pytest

from pydrbd.admin.demo_pair import LocalPair, node_environment

FORBIDDEN = ("Traceback", "AssertionError", "Fatal Python error", "broke the protocol", "error in pydrbd")
"""What no log may say after a test of crashes, however it went."""

LOG_LINES = 60


@pytest.fixture
def make_pair(processes, short_tmp):
    """`make_pair(size_bytes=..., ...)` is a LocalPair with meta-data whose processes end with the test."""
    pairs = []

    def spawn(argv, log_path):
        with log_path.open("ab") as log:
            return processes.start(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=node_environment() | {"PYTHONFAULTHANDLER": "1"},
            )

    def make(**options):
        directory = short_tmp / f"pair{len(pairs)}"
        directory.mkdir()
        pair = LocalPair(directory, spawn=spawn, **options)
        pairs.append(pair)
        pair.create_meta_data()
        return pair

    yield make
    for pair in pairs:
        pair.stop_all()
        for node in pair:
            print(f"--- the log of {node.name}:")
            print("\n".join(node.log_path.read_text().splitlines()[-LOG_LINES:]))


@pytest.fixture
def synced_pair(make_pair):
    """`synced_pair(...)` is a pair after its first sync, the first node Primary."""

    def make(**options):
        pair = make_pair(**options)
        for node in pair:
            node.start()
        pair.nodes[0].grant("primary", force=True)
        pair.wait_until(pair.in_sync, "the first sync")
        return pair

    return make


@pytest.fixture
def direct_io(short_tmp):
    """Skip where the file system of temporary directories has no direct I/O."""
    try:
        os.close(os.open(short_tmp / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no direct I/O here: {error}")


def assert_clean_logs(pair):
    """No node has met what must never happen."""
    for node in pair:
        bad = [line for line in node.log_path.read_text().splitlines() if any(word in line for word in FORBIDDEN)]
        assert not bad, f"the log of {node.name} says: {bad}"
