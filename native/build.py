"""Builds pydrbd._native: by setuptools (setup.py names `ffibuilder`), or in place by running this file.

    python native/build.py              the extension lands beside pydrbd/native.py
    python native/build.py DIRECTORY    it lands in DIRECTORY, for tests that load another variant

With PYDRBD_SANITIZE=1 in the environment it is built with the address and undefined-behaviour sanitizers, and must be
given a DIRECTORY: such an extension loads only where libasan was loaded first.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
SOURCES = ["crc32c.c", "bitmap.c", "vli.c", "frames_nbd.c", "frames_drbd.c", "records.c", "io.c"]
SOURCES += ["lane.c", "lane_disk.c", "lane_flush.c", "lane_read.c", "lane_peer.c", "channel.c", "threads.c"]
HEADERS = ["pydrbd.h", "internal.h", "lane_io.h", "crc32c_tables.h"]
EXTENSION = "_native.abi3.so"  # as setuptools names it, so that neither build hides the other
SANITIZE = os.environ.get("PYDRBD_SANITIZE") == "1"

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion"]
FATAL = ["-Werror"]  # only where we test: a newer compiler's new warning must not keep a user from installing
OPTIMIZED = ["-O3"]
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

# cffi's own wrapper code is compiled with the same flags as ours, and is not written for them.
PREAMBLE = """
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <stddef.h>
#include <stdint.h>
#include "pydrbd.h"
"""

ffibuilder = FFI()
ffibuilder.cdef((NATIVE / "pydrbd.h").read_text(encoding="utf-8"))
ffibuilder.set_source(
    "pydrbd._native",
    PREAMBLE,
    sources=[f"native/{name}" for name in SOURCES],
    depends=[f"native/{name}" for name in HEADERS],
    include_dirs=["native"],
    extra_compile_args=WARNINGS + (FATAL + SANITIZED if SANITIZE else OPTIMIZED),
    extra_link_args=["-fsanitize=address,undefined"] if SANITIZE else [],
)


def build(destination: Path) -> Path:
    """Compiles in a temporary directory and moves the extension into place in one step, so that a process that
    imports meanwhile sees the old one or the new one. Returns where it is."""
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".native-build-") as work:
        # cffi compiles in `work`, and there it finds the sources by the paths that setup.py needs.
        copied = Path(work) / "native"
        copied.mkdir()
        for name in SOURCES + HEADERS:
            shutil.copy(NATIVE / name, copied)
        built = Path(ffibuilder.compile(tmpdir=work, verbose=False))
        return built.replace(destination / EXTENSION)


if __name__ == "__main__":
    if SANITIZE and len(sys.argv) < 2:
        sys.exit("PYDRBD_SANITIZE=1 needs a directory: python native/build.py DIRECTORY")
    print(build(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else NATIVE.parent / "pydrbd"))
