"""A pytest plugin: the tests of that run use another build of the extension, the file that PYDRBD_NATIVE names.

    PYDRBD_SANITIZE=1 python native/build.py DIRECTORY
    PYDRBD_NATIVE=DIRECTORY/_native.abi3.so LD_PRELOAD=... python -m pytest -p tests.native.sanitized_extension tests

test_sanitized.py does this for the tests beside it; RUNTIME_OPTIONS are what such a process needs.
"""

import importlib.util
import os
import sys

from hypothesis import HealthCheck, settings

RUNTIME_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself leaks at its end
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # so that every bytearray has a red zone of its own
}

settings.register_profile(
    "unhurried",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
UNHURRIED = settings.get_profile("unhurried")
settings.register_profile("soak", parent=UNHURRIED, max_examples=int(os.environ.get("PYDRBD_SOAK", "100")))
settings.register_profile("sanitized", parent=UNHURRIED, max_examples=20, derandomize=True)


def load(path):
    """Make `import pydrbd._native` mean this file."""
    spec = importlib.util.spec_from_file_location("pydrbd._native", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["pydrbd._native"] = module


def pytest_configure():
    load(os.environ["PYDRBD_NATIVE"])
