"""Each message that an operator can be refused with is known to a test, by its words and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.admin.messages import CLASSES, REFUSAL, our_messages, our_tests, read_messages, read_tests, unknown

NO_COMMAND_ENDS_WITH_IT = {
    "the server's \0 bytes are fewer than \0 has": "nbd-attach's helper logs it, and tries the next server",
}
CODES = {
    "BusyError": 69, "CommandFailed": 10, "ConfigError": 78, "ConfigForbidden": 77, "ConfiguredError": 20,
    "CopiesDiffer": 6, "DiskError": 74, "DiskForbidden": 77, "DiskTooSmall": 74, "MetaDataError": 65,
    "NotInstalled": 69, "NotRunningError": 69, "OutputError": 1, "PortForbidden": 77, "StandAloneError": 10,
    "StateRefused": 17, "UsageError": 64, "WaitTimedOut": 5, "WorseThanOutdated": 5,
}  # fmt: skip


def test_each_message_is_known_to_a_test():
    """Mistakes in the command line and the configuration, refused commands, disks that can't be used, and all else."""
    messages = our_messages()
    left = [one for one in unknown(messages, our_tests()) if one.pattern not in NO_COMMAND_ENDS_WITH_IT]
    assert not left, "\n".join(f"{one.place}: {one.kind}: {one.pattern!r}" for one in left)
    assert NO_COMMAND_ENDS_WITH_IT.keys() <= {one.pattern for one in messages}
    kinds = [one.kind for one in messages]
    least = {"ConfigError": 80, "UsageError": 50, REFUSAL: 30, "DiskError": 15, "MetaDataError": 10, "StateRefused": 0}
    assert {kind: kinds.count(kind) for kind in least if kinds.count(kind) < least[kind]} == {}


def test_each_class_has_its_exit_code():
    """Who knows the one knows the other."""
    assert CLASSES == CODES


SOURCE = """
_BOTH = "both of them are Primary"
def f(self, path):
    if path:
        raise UsageError(f"{path} is no path to anywhere")
    _log.error("this is only logged")
    raise path.place.error(_words(path))
def _words(path):
    return "nobody is here" if path else "nobody was there"
def g(self):
    return {"code": 0, "text": f"the verb {self} is not known"}
def h(self):
    words = "the disk is made of wood"
    self.answer(command, StateCode.SS_SUCCESS, "it is so already")
    self._answer(command, code, _BOTH)
    raise DiskError(f"{self}: {words}") from None
TEXTS = {StateCode.SS_NO: "there is no such thing"}
def i(error):
    raise StateRefused(code, f"{error}: {error}")
"""
MESSAGES = {
    "\0 is no path to anywhere": "UsageError",
    "nobody is here": "ConfigError",
    "nobody was there": "ConfigError",
    "the verb \0 is not known": REFUSAL,
    "both of them are Primary": REFUSAL,
    "there is no such thing": REFUSAL,
}


def test_messages_are_found_in_the_source():
    """What is raised, answered, or in a table; through names and functions; not what only passes words on."""
    found = {one.pattern: one.kind for one in read_messages([(Path("x.py"), SOURCE)])}
    assert found == MESSAGES


@pytest.mark.parametrize(
    ("test", "known"),
    [
        ('def test(): run().complains(64, "/x is no path to")', ["\0 is no path to anywhere"]),
        ('def test(): run().complains(64, f"{x} is no path to")', ["\0 is no path to anywhere"]),
        ('def test():\n  with raises(UsageError, match="is no path to"): pass', ["\0 is no path to anywhere"]),
        ('TABLE = ["is no path to"]\ndef test(): run(TABLE).complains(64)', ["\0 is no path to anywhere"]),
        ('def test(): run().complains(69, "/x is no path to")', []),
        ('def test():\n  """UsageError: is no path to anywhere"""', []),
        ('def test(): run().complains(64, "is no p")', []),
        ('def test(): run().complains(78, "nobody is here", "nobody ")', ["nobody is here"]),
        ('def test(): assert "the verb x is not known" in text', ["the verb \0 is not known"]),
    ],
)
def test_a_test_knows_a_message_by_its_words_and_its_code(test: str, known: list[str]):
    """Neither is enough, nor are words that could be another message's."""
    messages = read_messages([(Path("x.py"), SOURCE)])
    left = [one.pattern for one in unknown(messages, read_tests(test))]
    assert [one.pattern for one in messages if one.pattern not in left] == known
