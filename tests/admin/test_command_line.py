"""The words of the command line, what is said about wrong ones, and the exit codes."""

from __future__ import annotations

import errno
import re
import subprocess
import sys

import pytest

import pydrbd.admin.exit_codes as exit_codes
import pydrbd.admin.output as output
import pydrbd.errors as errors
from pydrbd import __version__
from pydrbd.admin.cli import main
from pydrbd.admin.command_table import COMMANDS
from pydrbd.admin.exit_codes import EXIT_CODES, os_error_text
from pydrbd.admin.options import find_command, help_text
from pydrbd.errors import InternalError, PydrbdError, exit_code_of
from tests.config.test_mistakes import TABLE as MISTAKES
from tests.config.test_mistakes import text_of

PROCESS = ["new-resource", "new-minor", "sh-new-minor", "del-minor", "del-resource"]
PROCESS += ["serve", "up", "adjust", "adjust-with-progress", "down", "demo"]
STATE = ["attach", "detach", "connect", "disconnect", "primary", "secondary", "invalidate", "outdate"]
SYNC = ["invalidate-remote", "pause-sync", "resume-sync", "verify", "check"]
SYNC += ["snapshot-resync-target", "unsnapshot-resync-target"]
STATE += ["new-current-uuid", "resize", "suspend-io", "resume-io"]
SHOW = ["role", "cstate", "dstate", "status", "events2", "proc", "proc-drbd", "wait-connect", "wait-sync", "dump"]
SHOW += ["wait-con-int", "show", "dump-xml", "doctor", "metrics", "top", "state", "events"]
RUN_TIME = ["net-options", "disk-options", "resource-options"]
SCRIPTS = [f"sh-{word}" for word in ("nop", "resources", "resource", "mod-parms", "dev", "udev", "minor", "ll-dev")]
SCRIPTS += ["sh-md-dev", "sh-md-idx", "sh-ip", "sh-lr-of", "sh-b-pri", "sh-status"]
META_DATA = ["create-md", "dump-md", "wipe-md", "witness", "check-resize", "apply-al", "show-gi", "get-gi", "set-gi"]
NBD = ["nbd-attach", "nbd-detach"]
VERBS = PROCESS + STATE + SYNC + NBD + SHOW + META_DATA + RUN_TIME + SCRIPTS


def test_every_verb_is_there():
    """What the documents name is there."""
    assert sorted(COMMANDS) == sorted(VERBS)


def test_help_names_everything(run):
    """--help lists each verb, each common option and each exit code; -h and help are the same."""
    text = help_text()
    assert [verb for verb in VERBS if not re.search(rf"^  {verb} ", text, re.MULTILINE)] == []
    assert [code for code in EXIT_CODES if not re.search(rf"^ +{code}  ", text, re.MULTILINE)] == []
    assert all(option in text for option in ("-c FILE", "--node NAME", "--run-dir DIR"))
    assert max(len(line) for line in text.splitlines()) <= 100
    for words in (["--help"], ["-h"], ["help"]):
        result = run(*words)
        assert (result.code, result.out, result.err) == (0, text, "")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
def test_help_of_a_verb(run, verb):
    """Every verb explains its own options."""
    result = run(verb, "--help")
    assert result.code == 0 and result.out.startswith(f"usage: pydrbd {verb} ") and "--run-dir" in result.out


def test_version(run):
    assert run("--version").out == f"pydrbd {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command"),
        (["-c", "x"], "no command"),
        (["statsu"], "unknown command 'statsu'; did you mean 'status'?"),
        (["up"], "required: RES (see 'pydrbd up --help')"),
        (["serve", "a", "b"], "unrecognized arguments: b"),
        (["primary", "--forc", "r0"], "unrecognized arguments: --forc"),
        (["primary", "r0/0"], "'r0/0': this command is for a whole resource: 'r0'"),
        (["cstate", "r0/x"], "'r0/x': a volume is named RES/NUMBER, as in r0/0"),
        (["cstate", "/0"], "'/0' is no name of a resource"),
        (["down", ".."], "'..' is no name of a resource"),
        (["down", "all", "r0"], "'all' stands alone"),
        (["wait-sync", "-t", "soon", "r0"], "invalid number of seconds value: 'soon'"),
        (["wait-sync", "-t", "-1", "r0"], "-t"),
        (["create-md", "--al-stripes", "0", "r0"], "invalid number value: '0'"),
        (["resize", "--al-stripes", "0", "r0"], "invalid number value: '0'"),
        (["resize", "--al-stripe-size-kB", "30", "r0"], "invalid multiple of 4 value: '30'"),
        (["status", "-c"], "expected one argument"),
        (["status", "--json=1"], "ignored explicit argument '1'"),
    ],
)
def test_wrong_words_are_told(run, words, message):
    """Each kind of mistake has its message, and exit code 64."""
    run(*words).complains(64, message)


@pytest.mark.parametrize("where", range(3))
def test_common_options_stand_anywhere(place, process, where):
    """Before the verb, behind it, behind the names."""
    options = ["-c", place.config, "--node", "alpha", f"--run-dir={place.run_dir}"]
    words = [options, ["role"], ["r0"]] if where == 0 else [["role"], options, ["r0"]]
    words = [["role"], ["r0"], options] if where == 2 else words
    assert place.run(*[word for part in words for word in part]).out == "Primary/Secondary\n"


def test_the_verb_is_found_behind_options_with_values():
    """An option's value is no verb."""
    assert find_command(["-c", "up", "--node", "down", "--json", "status"]) == 5
    assert find_command(["--node=up", "status"]) == 1
    assert find_command(["-c", "up"]) is None


def test_configuration_errors_are_told(place):
    """No file, no such resource, not this node, a mistake in the file: exit code 78, and what is wrong where."""
    place.run("up", "-c", "/nonexistent", "r0").complains(78, "'/nonexistent' can't be read: No such file")
    place("up", "r1").complains(78, "no resource 'r1'", "it has r0")
    place("up", "r0", node="gamma").complains(78, "'gamma'", "alpha, beta", "--node")
    place("up", "all", node="gamma").complains(78, "is of this node, 'gamma'")
    place.config.write_text("resource r0 { on alpha { adress 1; } }")
    place("up", "r0").complains(78, f"{place.config}:1:26: ", "'adress'", "did you mean 'address'?")
    place("dump").complains(78, "'adress'")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in MISTAKES for name in MISTAKES[kind]])
def test_each_mistake_in_a_configuration_ends_a_command(place, kind, name):
    """Of every kind that there is: 78, one line, the file, line and column, and what is wrong."""
    mistake = MISTAKES[kind][name]
    place.config.write_text(text_of(mistake))
    line, column = mistake["at"]
    says = mistake["says"].replace("'nope.conf'", f"'{place.directory}/nope.conf'")  # it is looked up beside the file
    place("dump").complains(78, f"pydrbd: {place.config}:{line}:{column}: {says}")


def test_without_a_configuration(run, monkeypatch, tmp_path):
    """There is none at the usual places."""
    monkeypatch.setattr("pydrbd.admin.context.CONFIG_PATHS", (tmp_path / "a.conf", tmp_path / "b.conf"))
    run("dump").complains(78, "no configuration: neither", "a.conf", "name one with -c")


def test_the_usual_places(run, monkeypatch, place):
    """Without -c the first of the usual places that exists is read."""
    monkeypatch.setattr("pydrbd.admin.context.CONFIG_PATHS", (place.directory / "none", place.config))
    assert "resource r0" in run("dump").out


def test_without_a_run_directory(run, monkeypatch):
    """Who is not root needs XDG_RUNTIME_DIR or --run-dir."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    run("status").complains(64, "XDG_RUNTIME_DIR", "--run-dir")


def test_dump_is_what_was_understood(place):
    """dump prints the whole configuration, or one resource; it can be read again."""
    whole, one = place("dump"), place("dump", "r0")
    assert whole.code == one.code == 0
    assert one.out.startswith("resource r0 {\n") and one.out in whole.out
    again = place.directory / "again.res"
    again.write_text(whole.out)
    assert place.run("dump", "-c", again, "r0").out == one.out


def test_every_error_of_ours_has_a_documented_code():
    """Whatever can be raised ends with a code of the table."""
    classes = [
        found
        for module in (errors, exit_codes, output)
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, PydrbdError) and found is not PydrbdError
    ]
    assert len(classes) >= 15
    assert [found.__name__ for found in classes if found.exit_code not in EXIT_CODES] == []


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EACCES, 77, "/d/f: Permission denied: ask as a user who may"),
        (errno.ENOSPC, 74, "/d/f: No space left on device: make room"),
        (errno.EADDRINUSE, 69, "/d/f: Address already in use: something else listens there"),
        (errno.EIO, 74, "/d/f: Input/output error"),
    ],
)
def test_errors_of_the_system_in_words(monkeypatch, run, number, code, words):
    """An error of the operating system is one line, with a code of its own."""
    error = OSError(number, __import__("os").strerror(number), "/d/f")
    assert (exit_code_of(error), os_error_text(error)) == (code, words)

    def fail(_words):
        raise error

    monkeypatch.setattr("pydrbd.admin.cli._run", fail)
    run("status").complains(code, words)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("oops"), InternalError("oops"), ExceptionGroup("", [OSError("a"), KeyError("oops")])]
)
def test_our_own_errors_keep_their_traceback(monkeypatch, run, error):
    """A bug is not dressed up: the traceback, and exit code 70."""

    def fail(_words):
        raise error

    monkeypatch.setattr("pydrbd.admin.cli._run", fail)
    result = run("status")
    assert result.code == 70 and "Traceback" in result.err and "oops" in result.err
    assert result.err.splitlines()[-1].startswith("pydrbd: this is an error in pydrbd itself")


def test_a_group_of_known_errors_is_told_as_lines(monkeypatch, run):
    """What Trio raises as a group is told like any other error; the first one's code counts."""
    group = ExceptionGroup("", [ExceptionGroup("", [errors.BusyError("the port is taken")])])

    def fail(_words):
        raise group

    monkeypatch.setattr("pydrbd.admin.cli._run", fail)
    run("serve", "r0").complains(69, "the port is taken")


def test_an_interrupt_is_silent(monkeypatch, run):
    def interrupt(_words):
        raise KeyboardInterrupt

    monkeypatch.setattr("pydrbd.admin.cli._run", interrupt)
    result = run("status")
    assert (result.code, result.err) == (130, "")


def test_python_m_pydrbd_is_the_command(place, process):
    """The module is the same command, with its exit code."""
    words = [sys.executable, "-m", "pydrbd", "--run-dir", place.run_dir, "-c", place.config, "--node", "alpha"]
    done = subprocess.run([*words, "cstate", "r0"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Connected\n", "")
    done = subprocess.run([*words, "cstate", "r1"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (78, "") and done.stderr.startswith("pydrbd: no resource 'r1'")


def test_a_question_to_a_running_process_loads_little(place, process):
    """Most verbs are run often and shall be quick: no Trio, no native code, no configuration parser."""
    code = (
        "import sys; from pydrbd.admin.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'trio', 'cffi', 'pydrbd._native', 'pydrbd.config.load', 'subprocess', 'asyncio'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else code)"
    )
    for verb in ("status", "primary"):
        words = [sys.executable, "-c", code, verb, "r0", "--run-dir", place.run_dir]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr


def test_demo_gets_all_words(monkeypatch):
    """The demonstration has options of its own."""
    import types

    seen = []
    fake = types.SimpleNamespace(main=lambda words: seen.append(words) or 3)
    monkeypatch.setitem(sys.modules, "pydrbd.admin.demo", fake)
    monkeypatch.setattr("pydrbd.admin.demo", fake, raising=False)
    assert main(["demo", "--keep", "--size", "1G"]) == 3
    assert seen == [["--keep", "--size", "1G"]]


def test_every_code_of_the_table_is_used():
    """Nothing is documented that can't happen: each code is an error's, or an end that is none of ours."""
    modules = (errors, exit_codes, output)
    classes = [found for module in modules for found in vars(module).values() if isinstance(found, type)]
    used = {found.exit_code for found in classes if issubclass(found, PydrbdError)}
    assert set(EXIT_CODES) - used == {0, 130}
