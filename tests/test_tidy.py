"""The repository keeps its own rules (tests/tidy_rules.py), and every rule is able to fail."""

from __future__ import annotations

import pytest

from tests import tidy_rules as tidy

EVERY_RULE = list(dict.fromkeys([*tidy.PYTHON_RULES, *tidy.C_RULES, *tidy.DOCUMENT_RULES]))

LONG_FUNCTION = "def long():\n" + "    x = 1\n" * tidy.FUNCTION_LINES_MAX
LONG_METHOD = "class C:\n    async def m(self):\n" + "        x = 1\n" * tidy.FUNCTION_LINES_MAX

BAD = [
    (tidy.import_directions, "pydrbd/wire/packets.py", "from pydrbd.core import node"),
    (tidy.import_directions, "pydrbd/wire/packets.py", "from pydrbd import runtime"),
    (tidy.import_directions, "pydrbd/wire/packets.py", "from ..metadata import layout"),
    (tidy.import_directions, "pydrbd/wire/packets.py", "import pydrbd.admin.cli"),
    (tidy.import_directions, "pydrbd/wire/packets.py", "def later():\n    from pydrbd.config import parser"),
    (tidy.import_directions, "pydrbd/core/node.py", "from pydrbd._native import lib"),
    (tidy.import_directions, "pydrbd/core/node.py", "from pydrbd.runtime.disk import Disk"),
    (tidy.import_directions, "pydrbd/config/parser.py", "from pydrbd.wire import packets"),
    (tidy.import_directions, "pydrbd/runtime/service.py", "from pydrbd.admin.cli import main"),
    (tidy.import_directions, "pydrbd/units.py", "from pydrbd.limits import SECRET_BYTES_MAX"),
    (tidy.import_directions, "pydrbd/surprise.py", "from pydrbd.units import KIB"),
    (tidy.import_directions, "fence/pydrbd_fence/slot.py", "from pydrbd.units import KIB"),
    (tidy.pure_parts, "pydrbd/core/node.py", "import time"),
    (tidy.pure_parts, "pydrbd/metadata/layout.py", "from os.path import join"),
    (tidy.pure_parts, "pydrbd/wire/framing.py", "import os.path as p"),
    (tidy.pure_parts, "pydrbd/wire/framing.py", "import trio"),
    (tidy.pure_parts, "pydrbd/config/parser.py", "import trio"),
    (tidy.pure_parts, "pydrbd/metadata/layout.py", "def f():\n    return open('/dev/sda')"),
    (tidy.module_size, "pydrbd/core/node.py", "x = 1\n" * (tidy.MODULE_LINES_MAX + 1)),
    (tidy.function_size, "pydrbd/core/node.py", LONG_FUNCTION),
    (tidy.function_size, "pydrbd/core/node.py", LONG_METHOD),
    (tidy.public_names, "pydrbd/core/node.py", "def f(): pass"),
    (tidy.public_names, "pydrbd/core/node.py", '__all__ = ["g"]\ndef f():\n    g = 1'),
    (tidy.public_names, "pydrbd/__init__.py", "x = 1"),
    (tidy.unfinished, "pydrbd/core/node.py", "# TO" + "DO: think"),
    (tidy.unfinished, "native/bitmap.c", "/* FIX" + "ME */"),
    (tidy.unfinished, "pydrbd/core/node.py", "raise NotImplemented" + "Error"),
    (tidy.swallowed_errors, "tests/test_x.py", "try:\n    f()\nexcept:\n    g()"),
    (tidy.swallowed_errors, "pydrbd/core/node.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (tidy.calls, "pydrbd/runtime/service.py", "print('here')"),
    (tidy.calls, "fence/pydrbd_fence/slot.py", "print('here')"),
    (tidy.calls, "tests/test_x.py", "import time\ntime.sleep(1)"),
    (tidy.calls, "tests/test_x.py", "from time import sleep\nsleep(1)"),
    (tidy.line_length, "pydrbd/core/node.py", "#" * (tidy.LINE_COLUMNS_MAX + 1)),
    (tidy.c_owns_nothing, "native/bitmap.c", "void *p = malloc(4);"),
    (tidy.c_owns_nothing, "native/bitmap.c", "free (p);"),
    (tidy.c_owns_nothing, "native/bitmap.c", "#include <Python.h>"),
    (tidy.make_commands, "README.md", "    make conquer-world"),
    (tidy.make_commands, "README.md", "Run `make conquer` now"),
    (tidy.make_commands, "README.md", "cd pydrbd && make conquer"),
]

NAMES_OF_ALL_KINDS = """
__all__ = ["A", "b", "c"]
A: int = 1
try:
    import b
except ImportError:
    b = None
class c: pass
"""

GOOD = [
    (tidy.import_directions, "pydrbd/core/node.py", "from pydrbd.wire import packets\nfrom . import events"),
    (tidy.import_directions, "pydrbd/admin/cli.py", "from pydrbd import __version__\nfrom pydrbd.core import node"),
    (tidy.import_directions, "pydrbd/native.py", "from pydrbd._native import ffi, lib"),
    (tidy.import_directions, "tests/test_x.py", "from pydrbd.core import node\nfrom pydrbd.admin import cli"),
    (tidy.pure_parts, "pydrbd/runtime/disk.py", "import os, trio\nopen('x')"),
    (tidy.pure_parts, "pydrbd/core/node.py", "import struct, enum, dataclasses\nopened = node.open(1)"),
    (tidy.module_size, "pydrbd/core/node.py", "x = 1\n" * tidy.MODULE_LINES_MAX),
    (tidy.module_size, "tests/test_x.py", "x = 1\n" * (tidy.MODULE_LINES_MAX + 1)),
    (tidy.function_size, "pydrbd/core/node.py", "def short():\n" + "    x = 1\n" * (tidy.FUNCTION_LINES_MAX - 1)),
    (tidy.public_names, "pydrbd/x.py", NAMES_OF_ALL_KINDS),
    (tidy.public_names, "pydrbd/core/__init__.py", '"""Decisions."""'),
    (tidy.public_names, "pydrbd/core/_table.py", "x = 1"),
    (tidy.unfinished, "pydrbd/core/node.py", "name = 'XXXXXX'"),
    (tidy.swallowed_errors, "pydrbd/core/node.py", "try:\n    f()\nexcept OSError:\n    pass"),
    (tidy.calls, "pydrbd/admin/cli.py", "print('role: Primary')"),
    (tidy.calls, "tests/test_x.py", "clock.sleep(1)"),
    (tidy.c_owns_nothing, "native/bitmap.c", "/* no malloc, and nothing of Python */ int is_free(void);"),
    (tidy.make_commands, "README.md", "To make sure, run `make test`:\n\n    $ make demo ARGS=--keep"),
]


def rule_and_text(value):
    return value.__name__ if callable(value) else None


@pytest.mark.parametrize("rule", EVERY_RULE, ids=rule_and_text)
def test_the_repository_keeps_the_rule(rule):
    """No file breaks it, and there is a file that it looks at."""
    assert tidy.files_of(rule)
    assert tidy.broken(rule) == []


def test_nothing_lies_at_the_top_by_mistake():
    assert tidy.strays() == []
    assert tidy.stray(".coverage")
    assert not tidy.stray("README.md")
    assert not tidy.stray("tests/test_tidy.py")


def test_exceptions_for_long_functions_are_needed():
    """The list of exceptions only shrinks: each is used, and not higher than what it allows for."""
    assert tidy.useless_exceptions(tidy.LONG_FUNCTIONS, tidy.all_function_lengths()) == []


@pytest.mark.parametrize(("rule", "path", "text"), BAD, ids=rule_and_text)
def test_a_rule_finds_what_breaks_it(rule, path, text):
    """A rule that can't fail holds nothing."""
    assert list(rule(path, text))


@pytest.mark.parametrize(("rule", "path", "text"), GOOD, ids=rule_and_text)
def test_a_rule_leaves_good_text_alone(rule, path, text):
    """A rule that cries wolf is soon switched off."""
    assert list(rule(path, text)) == []


def test_every_rule_is_shown_to_fail():
    """A new rule comes with text that breaks it."""
    assert {rule for rule, _, _ in BAD} == set(EVERY_RULE)


@pytest.mark.parametrize(
    ("allowed", "actual"), [(70, 65), (70, 0), (50, 50)], ids=["could be lowered", "gone", "short enough anyway"]
)
def test_an_exception_that_is_not_needed_is_found(allowed, actual):
    """The ratchet turns one way."""
    assert tidy.useless_exceptions({"f": allowed}, {"f": actual} if actual else {})
    assert not tidy.useless_exceptions({"f": 70}, {"f": 70})


def test_an_exception_allows_its_function_and_no_more(monkeypatch):
    """An entry is a limit of its own, not a way out."""
    path, name = "pydrbd/core/node.py", "pydrbd/core/node.py::C.m"
    monkeypatch.setitem(tidy.LONG_FUNCTIONS, name, tidy.FUNCTION_LINES_MAX + 1)
    assert list(tidy.function_size(path, LONG_METHOD)) == []
    assert list(tidy.function_size(path, LONG_METHOD + "        x = 2\n"))
