"""What the C code is made of, asked of the compiler: it owns no memory, keeps no state, and needs almost nothing.

But for threads.c, which tells the interpreter about threads, and so needs both.
"""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "native").glob("*.c"))

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror"]

MAY_NEED = {
    *["memcpy", "memmove", "memset", "pread", "pread64", "pwrite", "pwrite64", "__errno_location"],
    *["clock_gettime", "ppoll", "preadv64v2", "preadv2", "recv", "send", "recvmsg", "sendmsg"],
    *["shutdown", "pthread_mutex_init", "pthread_mutex_lock", "pthread_mutex_unlock", "pthread_mutex_destroy"],
    "pthread_cond_destroy",
    *["pthread_cond_init", "pthread_cond_wait", "pthread_cond_signal", "pthread_cond_broadcast"],
    *["fdatasync", "sync_file_range", "fstat", "fstat64", "syscall"],
    *["__popcountdi2", "__cpu_model", "__cpu_indicator_init", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"],
}
"""All that may come from outside of native/: no allocator, no Python, no other system call."""

PURE = {"memcpy", "memmove", "memset", "__popcountdi2", "__cpu_model", "__cpu_indicator_init", "__stack_chk_fail"}
WITH_SYSTEM_CALLS = {"io.c", "lane.c", "lane_disk.c", "lane_flush.c", "lane_read.c", "lane_peer.c", "channel.c"}

OF_THE_INTERPRETER = "threads.c"
THE_INTERPRETERS = re.compile(r"Py\w+|pthread_(once|key_create|getspecific|setspecific)")

WRITABLE_SECTIONS = "BbCDdGgSs"


@pytest.fixture(scope="module")
def symbols(tmp_path_factory):
    """`(kind, name)` of every symbol of every object file, compiled as strictly as can be."""
    compiler, lister = shutil.which("cc"), shutil.which("nm")
    if compiler is None or lister is None:
        pytest.skip("no C compiler (cc, nm): the package was installed from a wheel")
    work = tmp_path_factory.mktemp("objects")
    found = {}
    for source in SOURCES:
        target = work / source.with_suffix(".o").name
        words = [compiler, *STRICT, "-I", sysconfig.get_path("include"), "-O2", "-fPIC", "-c", source, "-o", target]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        listing = subprocess.run([lister, target], capture_output=True, text=True, check=True).stdout
        found[source.name] = re.findall(r"^[0-9a-f ]* ([A-Za-z]) (\S+)$", listing, re.MULTILINE)
    return found


def test_there_is_no_state_between_calls(symbols):
    """No variable that could be written outlives a call, so that any thread may call anything."""
    assert len(symbols) == len(SOURCES) > 0
    writable = {name for name, entries in symbols.items() for kind, _symbol in entries if kind in WRITABLE_SECTIONS}
    assert writable <= {OF_THE_INTERPRETER}


def test_nothing_is_needed_but_memory_the_disk_and_the_lanes_sockets(symbols):
    """Undefined symbols are each other's functions, string functions of memory, and system calls in few files."""
    for name, entries in symbols.items():
        outside = {symbol for kind, symbol in entries if kind == "U" and not symbol.startswith("pydrbd_")}
        if name == OF_THE_INTERPRETER:
            outside = {symbol for symbol in outside if not THE_INTERPRETERS.fullmatch(symbol)}
        assert outside <= MAY_NEED, name
        assert name in WITH_SYSTEM_CALLS or outside <= PURE | {"_GLOBAL_OFFSET_TABLE_"}, name


def test_every_function_of_the_contract_is_there_and_no_other_is_visible(symbols):
    """native/pydrbd.h is the whole of it."""
    header = (ROOT / "native" / "pydrbd.h").read_text()
    visible = {symbol for entries in symbols.values() for kind, symbol in entries if kind in "TDBRV"}
    assert visible == set(re.findall(r"\b(pydrbd_\w+)\(", header))


def test_the_tables_are_those_of_their_generator():
    """native/crc32c_tables.h was written by the program beside it, and by nobody else since."""
    words = {}
    exec(compile((ROOT / "native" / "make_crc32c_tables.py").read_text(), "make_crc32c_tables.py", "exec"), words)
    assert words["header_text"]() == (ROOT / "native" / "crc32c_tables.h").read_text()


def test_the_build_knows_every_file():
    """A source or header that build.py does not name would be missing from the extension, or not rebuild it."""
    text = (ROOT / "native" / "build.py").read_text()
    files = {path.name for path in (ROOT / "native").glob("*.[ch]")}
    assert files == set(re.findall(r'"(\w+\.[ch])"', re.search(r"SOURCES.*?HEADERS = \[.*?\]", text, re.DOTALL)[0]))
