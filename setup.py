"""The native extension; everything else is in pyproject.toml."""

import os
import shlex
import subprocess
import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext

PROBE = "#include <stdint.h>\n#include <Python.h>\n"


class BuildExt(build_ext):
    """Says in one line what is missing, before a compiler says it in hundreds."""

    def run(self) -> None:
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
        words = [*compiler, "-fsyntax-only", "-x", "c", "-I", sysconfig.get_path("include"), "-"]
        try:
            probe = subprocess.run(words, input=PROBE, capture_output=True, text=True)
        except OSError as error:
            raise SystemExit(
                f"pydrbd has parts in C, and there is no compiler for them ({compiler[0]}: {error.strerror}). "
                "On Debian: apt-get install gcc libc6-dev python3-dev"
            ) from None
        if probe.returncode:
            what = "Python.h" if "Python.h" in probe.stderr else "a header of the C library"
            raise SystemExit(
                f"pydrbd has parts in C, and {what} is missing to compile them. On Debian: "
                f"apt-get install libc6-dev python3-dev\n{probe.stderr}"
            )
        super().run()


setup(
    cffi_modules=["native/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # the extension is of Python's stable interface
)
