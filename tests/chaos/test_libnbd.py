"""libnbd's own Python (nbdsh) against the Primary of a pair: each part of the protocol by the calls of that library."""

from __future__ import annotations

import subprocess

import pytest

from pydrbd.units import MIB
from tests.chaos.conftest import assert_clean_logs

pytestmark = pytest.mark.interop

SIZE_BYTES = 16 * MIB
PRELUDE = """
import errno, os, random

def refused(expected, call, *words, **named):
    try:
        call(*words, **named)
    except nbd.Error as error:
        assert error.errnum == expected, (call, error)
    else:
        raise AssertionError(call)

"""

CONTEXTS = ("base:allocation", "pydrbd:out-of-sync")

HANDSHAKE = """
h.set_opt_mode(True)
h.connect_unix(SOCKET)
assert h.get_protocol() == "newstyle-fixed" and h.get_structured_replies_negotiated()
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["r0"], names
h.set_export_name("nope")
refused(errno.ENOENT, h.opt_info)
h.set_export_name("r0")
contexts = []
assert h.opt_list_meta_context(contexts.append) == 2
assert sorted(contexts) == ["base:allocation", "pydrbd:out-of-sync"], contexts
h.add_meta_context("pydrbd:")
wide = []
h.opt_list_meta_context(wide.append)
assert wide == ["pydrbd:out-of-sync"], wide
h.clear_meta_contexts()
h.add_meta_context("pydrbd:out-of-sync")
h.add_meta_context("somebody:else")
h.opt_info()
size = h.get_size()
assert h.can_meta_context("pydrbd:out-of-sync") and not h.can_meta_context("somebody:else")
h.opt_go()
assert h.get_size() == size and h.get_block_size(nbd.SIZE_PREFERRED) == 4096
for able in (h.can_flush, h.can_fua, h.can_trim, h.can_zero, h.can_fast_zero, h.can_cache, h.can_df, h.can_multi_conn):
    assert able(), able
assert not h.is_read_only() and not h.is_rotational()
h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_unix(SOCKET)
h.opt_abort()
assert h.aio_is_closed()
"""

CHUNKS = """
h.connect_uri(URI)
block = os.urandom(4096)
h.pwrite(block * 16, 0)
h.zero(32768, 32768)

def chunks(flags):
    found = {}
    def chunk(data, offset, status, error):
        assert not error.value and offset not in found
        found[offset] = (bytes(data), status)
    whole = h.pread_structured(65536, 0, chunk, flags=flags)
    assert whole == block * 8 + bytes(32768)
    kinds = (nbd.READ_DATA, nbd.READ_HOLE)
    assert all(status in kinds for _, status in found.values())
    for offset, (data, status) in found.items():
        if status == nbd.READ_DATA:
            assert whole[offset : offset + len(data)] == data
    return found

chunks(0)
(only,) = chunks(nbd.CMD_FLAG_DF).values()
assert len(only[0]) == 65536
h.set_strict_mode(0)
refused(errno.EINVAL, h.pread, (32 << 20) + 1, 0)
refused(errno.ENOSPC, h.pwrite, block, h.get_size())
assert h.pread(4096, 0) == block
h.shutdown()
"""

BLOCK_STATUS = """
for context in CONTEXTS:
    h.add_meta_context(context)
h.connect_uri(URI)
size = h.get_size()
h.pwrite(b"x" * 1048576, 0, nbd.CMD_FLAG_FUA)
h.trim(1048576, 4194304)

def status(count, offset, flags=0):
    found = {}
    def extent(context, first, entries, error):
        assert context not in found and first == offset and not error.value
        found[context] = list(zip(entries[::2], entries[1::2]))
    h.block_status(count, offset, extent, flags)
    assert sorted(found) == sorted(CONTEXTS), found
    return found

whole = status(size, 0)
assert whole["pydrbd:out-of-sync"] == [(size, 0)], whole
assert whole["base:allocation"][0][0] >= 1048576 and whole["base:allocation"][0][1] == 0
offset = 0
while offset < size:
    for length, flags in status(size - offset, offset)["base:allocation"]:
        if offset <= 4194304 < offset + length:
            assert flags == 3
        offset += length
assert offset == size
for entries in status(65536, 4194304, nbd.CMD_FLAG_REQ_ONE).values():
    assert len(entries) == 1 and entries[0][0] <= 65536
h.shutdown()
"""

IN_FLIGHT = """
rng = random.Random(SEED)

def contents(handle):
    size = handle.get_size()
    return bytearray().join(handle.pread(min(size - at, 1 << 20), at) for at in range(0, size, 1 << 20))

handles = []
for _ in range(4):
    handle = nbd.NBD()
    handle.connect_uri(URI)
    handles.append(handle)
size = handles[0].get_size()
expected = contents(handles[0])
places = list(range(0, size - 8192, 8192))
rng.shuffle(places)
ended = [0]

def done(error):
    assert not error.value
    ended[0] += 1
    return 1  # libnbd retires it by itself

buffers = []
for number, place in enumerate(places):
    handle = handles[number % 4]
    data = rng.randbytes(rng.choice((512, 4096, 8192)))
    expected[place : place + len(data)] = data
    buffers.append(nbd.Buffer.from_bytearray(bytearray(data)))
    handle.aio_pwrite(buffers[-1], place, done)
    while handle.aio_in_flight() > 64:
        handle.poll(-1)
for handle in handles:
    while handle.aio_in_flight():
        handle.poll(-1)
assert ended[0] == len(places)
handles[3].flush()  # multi-conn: for the writes of all four
for handle in handles[:3]:
    handle.shutdown()
assert contents(handles[3]) == expected

# The client ends in the middle of it: nobody else notices.
handle = nbd.NBD()
handle.connect_uri(URI)
for number in range(64):
    handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(4096)), number * 4096)
del handle
assert contents(handles[3])[64 * 4096 :] == expected[64 * 4096 :]
handles[3].shutdown()
"""

UNALIGNED = """
rng = random.Random(SEED)
first, second = nbd.NBD(), nbd.NBD()
for handle in (first, second):
    handle.set_request_block_size(False)
    handle.set_strict_mode(0)
    handle.connect_uri(URI)

def draw():
    offset = rng.randrange(100000)
    return offset, rng.choice((1, 3, 511, 513, rng.randrange(1, 30000)))

expected = bytearray(first.pread(1 << 20, 0))
for number in range(300):
    offset, length = draw()
    handle = rng.choice((first, second))
    kind = rng.randrange(5)
    if kind < 2:
        expected[offset : offset + length] = data = rng.randbytes(length)
        handle.pwrite(data, offset)
    elif kind == 2:
        expected[offset : offset + length] = bytes(length)
        handle.zero(length, offset)
    elif kind == 3:
        handle.cache(length, offset)
    else:
        assert handle.pread(length, offset) == expected[offset : offset + length]
assert first.pread(1 << 20, 0) == expected

# Both at once, and many in flight: neighbours that share sectors, each by another connection.
place, buffers = 0, []
while place < 400000:
    length = rng.randrange(1, 1000)
    expected[place : place + length] = data = rng.randbytes(length)
    buffers.append(nbd.Buffer.from_bytearray(bytearray(data)))
    handle = (first, second)[len(buffers) % 2]
    handle.aio_pwrite(buffers[-1], place, lambda error: 1 if not error.value else os._exit(9))
    while handle.aio_in_flight() > 32:
        handle.poll(-1)
    place += length
for handle in (first, second):
    while handle.aio_in_flight():
        handle.poll(-1)
assert second.pread(1 << 20, 0) == expected

# Who asks is told 512, and is held to it.
asked = nbd.NBD()
asked.set_strict_mode(0)
asked.connect_uri(URI)
assert asked.get_block_size(nbd.SIZE_MINIMUM) == 512
refused(errno.EINVAL, asked.pwrite, b"x", 1)
refused(errno.EINVAL, asked.pread, 1, 0)
for handle in (first, second, asked):
    handle.shutdown()
"""

SCRIPTS = {
    "handshake": HANDSHAKE,
    "chunks": CHUNKS,
    "block status": BLOCK_STATUS,
    "in flight": IN_FLIGHT,
    "unaligned": UNALIGNED,
}


def test_libnbd_finds_the_whole_protocol_as_it_should_be(synced_pair, need, processes, seed):
    """Handshake, chunks, block status, many in flight, no whole sectors, one by one; both disks are the same."""
    nbdsh = need("nbdsh")
    pair = synced_pair(size_bytes=SIZE_BYTES)
    path = pair.nodes[0].nbd_socket
    named = {"SOCKET": str(path), "URI": f"nbd+unix:///r0?socket={path}", "SEED": seed, "CONTEXTS": CONTEXTS}
    given = "".join(f"{name} = {value!r}\n" for name, value in named.items())
    # nbdsh takes the first python3 that it finds: Debian's has the bindings.
    environment = processes.env | {"PATH": "/usr/bin:/bin"}
    for name, script in SCRIPTS.items():
        done = subprocess.run([nbdsh, "-c", "-"], input=PRELUDE + given + script, capture_output=True, text=True,
            timeout=60, check=False, env=environment)  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    pair.wait_until(pair.in_sync, "both to be in sync")
    compared = pair.compare(SIZE_BYTES - MIB)
    assert compared.block_count and not compared.difference_count, compared
    assert_clean_logs(pair)
