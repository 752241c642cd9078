"""Threads that Python has not made: what it knows of a kept one stays between calls, and goes with the thread."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading

import pytest

from pydrbd import native

TWICE = """
#include <pthread.h>
static void *twice(void *function) {
    ((void (*)(void))function)();
    ((void (*)(void))function)();
    return NULL;
}
int run(void (*function)(void)) {
    pthread_t thread;
    return pthread_create(&thread, NULL, twice, (void *)function) || pthread_join(thread, NULL);
}
"""
"""A thread of its own that calls a function twice, and ends."""

THREADS = 200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the package was installed from a wheel")
    source = tmp_path_factory.mktemp("threads") / "twice.c"
    source.write_text(TWICE)
    library = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-pthread", "-o", library, source], check=True, timeout=60)
    return ctypes.CDLL(str(library)).run


@pytest.fixture
def locals_seen(run):
    """Runs a thread that counts its calls in a `threading.local`: what it counted."""
    counts = threading.local()

    def of_a_thread(keep):
        seen = []

        def call():
            keep()
            counts.value = getattr(counts, "value", 0) + 1
            seen.append(counts.value)

        assert run(ctypes.CFUNCTYPE(None)(call)) == 0
        return seen

    return of_a_thread


def records():
    """How many threads the interpreter knows of."""
    api = ctypes.pythonapi
    api.PyInterpreterState_Get.restype = api.PyInterpreterState_ThreadHead.restype = ctypes.c_void_p
    api.PyThreadState_Next.restype = ctypes.c_void_p
    record = api.PyInterpreterState_ThreadHead(ctypes.c_void_p(api.PyInterpreterState_Get()))
    count = 0
    while record:
        count += 1
        record = api.PyThreadState_Next(ctypes.c_void_p(record))
    return count


def test_a_thread_that_is_not_kept_is_a_new_one_at_each_call(locals_seen):
    assert locals_seen(lambda: None) == [1, 1]


def test_a_kept_thread_is_known_until_it_ends(locals_seen):
    """Also if it is kept twice; and the next thread, which may have the same number, is another one."""
    assert locals_seen(native.keep_thread) == [1, 2]
    assert locals_seen(native.keep_thread) == [1, 2]


def test_nothing_is_left_of_a_thread_that_has_ended(locals_seen):
    locals_seen(native.keep_thread)
    before = records()
    for _ in range(THREADS):
        locals_seen(native.keep_thread)
    assert records() == before
