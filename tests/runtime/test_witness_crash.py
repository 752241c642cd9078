"""A witness that dies in the middle of writing a lease down: whoever was told has it, and nobody else gets it.

What it asks of the file system is recorded, step by step; after each step the machine may stop. What was not made
durable by then is there, not there, or there in part: every such state of the directory is made, and opened.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from pydrbd.admin.demo_pair import PROGRAM
from pydrbd.admin.verbs_witness import witness as verb
from pydrbd.config.settings import Listen
from pydrbd.core.lease import Lease, decide
from pydrbd.errors import MetaDataError
from pydrbd.runtime.lease_files import LeaseFiles
from pydrbd.wire.witness import Verb, Verdict, WitnessRequest
from tests.runtime.test_witness import ask, holder, plan

NAME = "r0:a,b"
FREE, OURS, THEIRS = Lease("", 5, 3), Lease("a", 5, 3), Lease("b", 5, 3)


class Recorder:
    """What happens in one directory: what each name has durably, and what it may have when the power fails now."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.durable = {entry.name: entry.read_bytes() for entry in directory.iterdir()}
        self.states: list[dict[str, bytes]] = []
        self._synced: dict[str, bytes] = {}
        fsync, replace = os.fsync, Path.replace

        def recorded_fsync(fd: int) -> None:
            path = Path(f"/proc/self/fd/{fd}").readlink()
            self._look()
            fsync(fd)
            if path.is_dir():
                self.durable = {entry.name: entry.read_bytes() for entry in directory.iterdir()}
            else:
                self._synced[path.name] = path.read_bytes()
            self._look()

        def recorded_replace(fresh: Path, path: Path) -> Path:
            self._look()
            content = fresh.read_bytes()
            found = replace(fresh, path)
            if self._synced.pop(fresh.name, None) != content:  # the name may be durable before the content is
                self.states += [self.durable | {path.name: content[:size]} for size in range(len(content))]
            self._look()
            return found

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(Path, "replace", recorded_replace)

    def _look(self) -> None:
        """Each name that differs from what is durable has its old content, its new one, or a part of that."""
        now = {entry.name: entry.read_bytes() for entry in self.directory.iterdir()}
        choices = []
        for name in sorted(now.keys() | self.durable.keys()):
            old, new = self.durable.get(name), now.get(name)
            found = [old] if old == new else [old, new]
            if old != new and new and self._synced.get(name) != new and name.endswith(".new"):
                found += [new[: len(new) // 2], bytes(len(new)), b""]
            choices.append([(name, content) for content in found])
        for picked in itertools.product(*choices):
            self.states.append({name: content for name, content in picked if content is not None})


def recorded(
    place: Path, before: Lease | None, act: Callable[[LeaseFiles], None]
) -> tuple[list[dict[str, bytes]], Path]:
    """Every state of the directory that a crash during `act` can leave."""
    directory = place / "leases"
    files = LeaseFiles(directory)
    if before is not None:
        files.write(NAME, before)
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(directory, patch)
        act(files)
    files.close()
    return recorder.states, directory


def found_in(place: Path, state: dict[str, bytes]) -> Lease:
    """What a witness that starts in this state knows."""
    place.mkdir()
    for name, content in state.items():
        (place / name).write_bytes(content)
    files = LeaseFiles(place)
    files.close()
    return files.leases.get(NAME, Lease())


@pytest.mark.parametrize("before", [None, FREE, OURS, THEIRS], ids=["new", "free", "ours", "theirs"])
@pytest.mark.parametrize("verb_", Verb)
def test_a_crash_at_any_step_leaves_the_old_or_the_new_lease(tmp_path: Path, before: Lease | None, verb_: Verb) -> None:
    """Readable, and one of the two; so the other node is never told that the lease is its own, too."""
    old = before or Lease()
    new, answer = decide(old, WitnessRequest(verb_, NAME, "a", 9, 3))
    states, directory = recorded(tmp_path, before, lambda files: new != old and files.write(NAME, new))
    assert (len(states) > 8) == (new != old)
    places = (tmp_path / f"crash{number}" for number in itertools.count())
    after = [found_in(next(places), state) for state in states]
    assert set(after) <= {old, new} and (new == old or set(after) == {old, new})
    for lease in {*after, old}:
        for node in "ab":
            said = decide(lease, WitnessRequest(Verb.ACQUIRE, NAME, node))[1].verdict
            assert said is (Verdict.HELD if lease.holder not in ("", node) else Verdict.GRANTED)
    # What was said is said after the last step: from then on only the new one is there.
    files = LeaseFiles(directory)
    files.close()
    assert files.leases.get(NAME, Lease()) == new and answer.holder == new.holder


def test_a_crash_while_an_operator_has_it_forgotten(tmp_path: Path) -> None:
    """The same for `witness --forget`."""
    files = LeaseFiles(tmp_path / "leases")
    files.write(NAME, THEIRS)
    files.close()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(tmp_path / "leases", patch)
        assert verb(None, str(tmp_path / "leases"), None, NAME) == 0
    found = {found_in(tmp_path / f"crash{number}", state) for number, state in enumerate(recorder.states)}
    assert found == {THEIRS, Lease("", 5, 4)}


def test_the_recorder_sees_a_write_that_is_not_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is able to fail: without the fsync of the file half a lease may take the name of the whole one."""
    monkeypatch.setattr("pydrbd.runtime.lease_files.replace_file", lambda path, text: _hasty(path, text))
    states, _directory = recorded(tmp_path, FREE, lambda files: files.write(NAME, OURS))
    with pytest.raises(MetaDataError, match="is no lease"):
        for number, state in enumerate(states):
            found_in(tmp_path / f"crash{number}", state)


def _hasty(path: Path, content: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    fresh.replace(path)


def test_any_history_with_crashes_never_gives_the_lease_to_both(tmp_path: Path, seed: int) -> None:
    """Two nodes ask in a random order, the power fails in each fifth write: who was told of it is alone."""
    rng = random.Random(seed)
    directory, told, lease = tmp_path / "leases", {"a": 0, "b": 0}, Lease()
    files = LeaseFiles(directory)
    places = (tmp_path / f"crash{number}" for number in itertools.count())
    for _ in range(150):
        node, word = rng.choice("ab"), rng.choice(list(Verb))
        new, answer = decide(lease, WitnessRequest(word, NAME, node, 1, told[node]))
        if new != lease and rng.random() < 0.2:
            with pytest.MonkeyPatch.context() as patch:
                recorder = Recorder(directory, patch)
                files.write(NAME, new)
            files.close()
            directory = next(places)
            assert found_in(directory, rng.choice(recorder.states)) in (lease, new)
            files = LeaseFiles(directory)
            lease = files.leases.get(NAME, Lease())
            if word is Verb.RELEASE:
                told[node] = 0  # it is of no use to it any more, whether that has arrived or not
        else:
            if new != lease:
                files.write(NAME, new)
            lease = new
            if word is Verb.ACQUIRE and answer.verdict is Verdict.GRANTED:
                told[node] = answer.term
            elif word is Verb.RELEASE and told[node]:
                told[node] = 0
        for each, other in (("a", "b"), ("b", "a")):
            if told[each]:
                assert lease.holder == each and not told[other]
    files.close()


# --- the process itself ---


def start(place: Path) -> subprocess.Popen[bytes]:
    """A witness as a process of its own, listening."""
    words = ["witness", "--listen", f"unix:{place}/w", "--state", str(place / "leases")]
    process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and b"a witness listens at" in process.stdout.readline()
    return process


def test_a_witness_that_is_killed_forgets_nothing_that_it_said(short_tmp: Path) -> None:
    """SIGKILL between questions of both nodes: whoever was granted it is the holder after each restart."""
    place = Listen(path=str(short_tmp / "w"))
    plans = {node: plan(short_tmp, node, place) for node in ("alpha", "beta")}

    async def one(node: str, what: Verb, term: int = 0) -> tuple[str, int]:
        effect = await ask(plans[node], what, term=term)
        assert effect.answer is not None, effect.error
        return holder(effect), effect.answer.term

    with start(short_tmp) as process:
        assert trio.run(one, "alpha", Verb.ACQUIRE)[0] == "GRANTED alpha 1"
        process.send_signal(signal.SIGKILL)
    with start(short_tmp) as process:
        assert trio.run(one, "beta", Verb.ACQUIRE)[0] == "HELD alpha 1"
        assert trio.run(one, "alpha", Verb.RELEASE, 1)[0] == "GRANTED  1"
        process.send_signal(signal.SIGKILL)
    with start(short_tmp) as process:
        assert trio.run(one, "beta", Verb.ACQUIRE)[0] == "GRANTED beta 2"
        process.send_signal(signal.SIGKILL)


def test_a_lease_that_does_not_fit_on_the_disk_is_not_acknowledged(short_tmp: Path) -> None:
    """The limit of a file's size stands for a full disk: FULL, a line in its log, nothing on disk, and it goes on."""
    place = Listen(path=str(short_tmp / "w"))
    alpha = plan(short_tmp, "alpha", place)
    with start(short_tmp) as process:
        usual = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16, usual[1]))
        refused = trio.run(ask, alpha)
        assert holder(refused) == "FULL  0"
        assert not list((short_tmp / "leases").glob("*.lease"))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, usual)
        assert holder(trio.run(ask, alpha)) == "GRANTED alpha 1"
        process.terminate()
        assert process.wait(30) == 0 and process.stderr is not None
        assert b"the lease of r0:alpha,beta can't be written: " in process.stderr.read()


@pytest.mark.parametrize("what", ["no directory", "no file", "full"])
def test_a_directory_that_can_not_be_written_is_said_at_the_start(short_tmp: Path, what: str) -> None:
    """An exit code and the place, before anybody relies on it."""
    state = short_tmp / "leases"
    if what == "no directory":
        state.write_text("a file")
    else:
        state.mkdir()
        if what == "no file":
            (state / "lock").mkdir()
    words = ["witness", "--listen", f"unix:{short_tmp}/w", "--state", str(state)]
    limit = ["prlimit", "--fsize=0:0"] if what == "full" else []
    done = subprocess.run([*limit, *PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 74 and done.stdout == ""
    assert done.stderr.startswith(f"pydrbd: witness: its leases can't be kept in {state}: "), done.stderr
    assert not (short_tmp / "w").exists()
