"""A node inside of nbdkit: the same engine, nbdkit as the front. Clients, flags, errors, filters, the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from pydrbd.admin.nbd_client import NbdClient
from pydrbd.admin.nbd_handshake import NbdClientError
from pydrbd.wire.nbd import Command, CommandFlag, NbdError
from tests.lab.waiting import wait_until
from tests.nbdkit.conftest import LIMIT_S, SIZE

pytestmark = pytest.mark.interop
DATA_BYTES = 8 << 20


@pytest.fixture
def data(short_tmp):
    """A file of things that don't repeat."""
    path = short_tmp / "data"
    path.write_bytes(os.urandom(DATA_BYTES))
    return path


def number(client, command, offset=0, length=0, payload=b""):
    """The error number that a request is answered with."""
    errors = []
    client.submit(command, offset, length, payload=payload, on_reply=lambda error, _data: errors.append(error))
    client.drain()
    return errors.pop()


def test_what_is_written_is_on_both_nodes(pair, data, short_tmp, need):
    """nbdcopy in with four connections, out again; both disks hold it when nbdkit has ended in good order."""
    need("nbdcopy")
    process = pair.start_primary()
    pair.run("nbdcopy", "--connections=4", "--flush", str(data), pair.uri)
    pair.run("nbdcopy", pair.uri, str(short_tmp / "back"))
    assert (short_tmp / "back").read_bytes()[:DATA_BYTES] == data.read_bytes()
    pair.end(process)
    assert pair.image("b").read_bytes()[:DATA_BYTES] == data.read_bytes() and pair.same(DATA_BYTES)
    assert "nothing new is out of sync" in pair.call("a", "apply-al")
    wait_until(lambda: "connection:Connecting" in pair.call("b", "status"), "the peer to see that it left")


def test_it_says_what_it_can(pair, need):
    """Size, block sizes and every can_ flag, as nbdinfo sees them; volume 0 by either name; a map of holes."""
    need("nbdinfo")
    pair.start_primary()
    (found,) = json.loads(pair.run("nbdinfo", "--json", pair.uri))["exports"]
    assert found["export-size"] < SIZE
    assert (found["block_size_minimum"], found["block_size_maximum"]) == (512, 32 << 20)
    for name in ("flush", "fua", "trim", "zero", "fast_zero", "cache", "multi_conn"):
        assert found[f"can_{name}"] is True, name
    assert found["is_read_only"] is False and found["is_rotational"] is False
    with pair.client() as client:
        client.write(1 << 20, bytes(65536))
    extents = json.loads(pair.run("nbdinfo", "--map", "--json", pair.uri))
    assert sum(extent["length"] for extent in extents) == found["export-size"]
    assert {extent["type"] for extent in extents} == {0, 3}
    listed = json.loads(pair.run("nbdinfo", "--list", "--json", pair.uri))["exports"]
    assert [export["export-name"] for export in listed] == ["r0"]


def test_every_request_does_what_it_says(pair):
    """Writes with FUA, zeroes with and without holes, trim, cache, a long read: what comes back is what was meant."""
    pair.start_primary()
    with pair.client() as client:
        client.write(0, b"a" * 131072, fua=True)
        client.submit(Command.WRITE_ZEROES, 4096, 4096)
        client.submit(Command.WRITE_ZEROES, 12288, 4096, flags=CommandFlag.NO_HOLE | CommandFlag.FUA)
        client.submit(Command.TRIM, 65536, 4096, flags=CommandFlag.FUA)
        client.submit(Command.CACHE, 0, 4096)
        client.flush()
        found = client.read(0, 32 << 20)
    expected = b"a" * 4096 + bytes(4096) + b"a" * 4096 + bytes(4096) + b"a" * 49152
    assert found[:65536] == expected and found[69632:131072] == b"a" * 61440 and not any(found[131072:])


def test_errors_have_the_right_number(pair):
    """A write of part of a sector: EINVAL; a read is carried out. Not Primary any more: ESHUTDOWN.

    A Secondary lets nobody in, and says so.
    """
    pair.start_primary()
    with pair.client() as client:
        assert number(client, Command.WRITE, payload=bytes(100)) == NbdError.EINVAL
        assert number(client, Command.READ, length=100) == 0
        pair.call("a", "secondary", "--force")
        assert number(client, Command.WRITE, payload=bytes(512)) == NbdError.ESHUTDOWN
        assert number(client, Command.READ, length=512) == NbdError.ESHUTDOWN
        assert number(client, Command.FLUSH) == NbdError.ESHUTDOWN
    with pytest.raises(NbdClientError):
        pair.client()
    assert "r0 is Secondary on a: promote it here" in pair.log.read_text()


def test_the_first_client_promotes_if_it_may(pair, data, need):
    """nbdkit --run with primary=true: a copy into a disk that nobody has promoted, and all in order afterwards."""
    need("nbdcopy")
    first = pair.start_primary()
    pair.end(first)
    script = f"nbdcopy --flush {data} $uri"
    words = pair.nbdkit_words("primary=true", options=("-U", "-", "--run", script))
    done = subprocess.run(words, env=pair.env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done
    assert pair.image("a").read_bytes()[:DATA_BYTES] == data.read_bytes()
    assert "nothing new is out of sync" in pair.call("a", "apply-al")


FILTERS = {
    "cow": (("--filter=cow",), ()),
    "log": (("--filter=log",), ("logfile=/dev/null",)),
    "delay": (("--filter=delay",), ("delay-read=1ms", "delay-write=1ms")),
    "blocksize": (("--filter=blocksize",), ("minblock=4096",)),
    "rate": (("--filter=rate",), ("rate=4G",)),
    "stats": (("--filter=stats",), ("statsfile=/dev/null",)),
    "stack": (("--filter=stats", "--filter=readahead", "--filter=fua"), ("statsfile=/dev/null", "fuamode=native")),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_works_on_a_replicated_disk(pair, data, name):
    """What a client writes through the filter comes back; cow keeps it from the disks, all others bring it to both."""
    options, parameters = FILTERS[name]
    process = pair.start_primary(*parameters, options=options)
    written = data.read_bytes()[: 4 << 20]
    with pair.client() as client:
        client.write(0, written)
        client.flush()
        assert client.read(0, 4 << 20) == written
    pair.end(process)
    assert pair.image("b").read_bytes()[: 4 << 20] == (bytes(4 << 20) if name == "cow" else written)
    assert pair.same(4 << 20)


def test_the_error_filter_hits_the_client_only(pair):
    """Every write fails for the client; the node is as well as before."""
    pair.start_primary("error-pwrite=ENOSPC", "error-pwrite-rate=100%", options=("--filter=error",))
    with pair.client() as client:
        assert number(client, Command.WRITE, payload=bytes(512)) == NbdError.ENOSPC
        assert client.read(0, 512) == bytes(512)
    assert "disk:UpToDate" in pair.call("a", "status")


def test_the_peer_takes_over_from_a_filter_stack(pair, data, need):
    """nbdkit is killed after a flush through three filters: the peer is promoted, and has every byte."""
    need("nbdcopy")
    options = ("--filter=stats", "--filter=delay", "--filter=fua")
    process = pair.start_primary("statsfile=/dev/null", "delay-write=1ms", "fuamode=native", options=options)
    pair.run("nbdcopy", "--flush", str(data), pair.uri)
    process.send_signal(signal.SIGKILL)
    process.wait(LIMIT_S)
    pair.call("b", "primary")
    with NbdClient.connect(pair.run_dir("b") / "r0.nbd.sock", "r0") as client:
        assert client.read(0, DATA_BYTES) == data.read_bytes()


def test_a_node_that_runs_already_is_left_alone(pair):
    """A second nbdkit for it ends at once, with the reason and without a trace of our code."""
    pair.start()
    words = pair.nbdkit_words(options=("-U", "-"))
    done = subprocess.run(words, env=pair.env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 69 and "r0 is running here already" in done.stderr
    assert "pydrbd/runtime" not in done.stderr
    assert "role:Secondary" in pair.call("a", "status")


def test_wrong_parameters_are_named_at_once(pair):
    """Before nbdkit serves anything: what is unknown, what is missing, what the configuration does not have."""
    for words, code, said in (
        (("colour=red",), 64, "unknown parameter 'colour'"),
        (("primary=perhaps",), 64, "primary is true or false"),
        (("resource=",), 64, "resource=... is missing"),
        (("resource=r9",), 78, "r9"),
    ):
        done = subprocess.run(
            pair.nbdkit_words(*words, options=("-U", "-", "--run", "true")),
            env=pair.env, capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == code and said in done.stderr, done
