"""From runs to a table: medians, ratios within a repetition, order, noise, options."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import report, table
from benchmarks.cpu import Clock, parse_machine_stat, parse_process_stat, parse_session_stat, process_seconds
from benchmarks.goals import GOALS
from benchmarks.measure import Plan, Run, measure, order
from benchmarks.options import read_options
from benchmarks.outcome import Outcome, joined
from benchmarks.peers import PEERS, can
from benchmarks.rows import ROWS
from benchmarks.servers import Server, ServerError, wait_for_socket

ROW = ROWS["write-4k-32"]
SURROUNDINGS = {
    "started": "2020-01-01T00:00:00+00:00",
    "machine": {"cpu": "Z80", "cpu_count": 1, "memory_mib": 1, "kernel": "0.1", "file_system": "ext2"},
    "versions": {"pydrbd": "0", "nbdkit": ""},
    "how": "by hand",
}


def a_run(peer, repetition, rate, cpu_us=10.0, other_cpu_s=0.0, counted=None):
    result = Outcome(int(rate), int(rate) * 4096, 1.0, int(rate), 0, {"50": 1.0, "99": 2.0})
    return Run(ROW.name, peer, repetition, result, rate * cpu_us / 1e6, other_cpu_s, counted or {})


def built(*runs, peers=("pydrbd", "nbdkit"), **more):
    plan = Plan((ROW,), peers, 1.0, 3, 1 << 20)
    return report.build_group("here", plan, runs, {**SURROUNDINGS, **more})


def goals_of(group):
    """(against, what) -> what was found."""
    return {(tuple(goal["against"]), goal["what"]): goal for row in group["rows"] for goal in row["goals"]}


def test_a_ratio_is_the_median_of_the_ratios_within_a_repetition():
    """The machine became ten times slower after the first repetition: medians of each side alone would say 0.05."""
    runs = [a_run("pydrbd", 0, 500), a_run("nbdkit", 0, 1000)]
    runs += [a_run("pydrbd", n, 50, cpu_us=30) for n in (1, 2)] + [a_run("nbdkit", n, 100) for n in (1, 2)]
    group = built(*runs)
    found = goals_of(group)
    assert found[("nbdkit",), "rate"]["ratio"] == pytest.approx(0.5)
    assert found[("nbdkit",), "cpu_per_request"]["ratio"] == pytest.approx(3.0)
    assert group["rows"][0]["peers"]["pydrbd"]["rate"] == 50


def test_the_better_of_two_is_what_a_goal_means():
    """Four times the mirror is twice the quorum: that is the ratio, and it is not enough; with less CPU it is."""
    runs = [a_run("pydrbd", 0, 400), a_run("mirror", 0, 100, cpu_us=50), a_run("quorum", 0, 200, cpu_us=40)]
    found = goals_of(built(*runs, peers=("pydrbd", "mirror", "quorum")))
    assert found[("mirror", "quorum"), "rate"]["ratio"] == pytest.approx(2.0)
    assert not found[("mirror", "quorum"), "rate"]["reached"]
    assert found[("mirror", "quorum"), "cpu_per_request"]["ratio"] == pytest.approx(0.25)
    assert found[("mirror", "quorum"), "cpu_per_request"]["reached"]


def test_a_goal_against_who_is_not_there_is_no_figure():
    """Half of `the better of two` would be a lie."""
    assert not goals_of(built(a_run("pydrbd", 0, 400), a_run("mirror", 0, 100), peers=("pydrbd", "mirror")))


def test_wakeups_are_counted_over_all_runs():
    """A mean of means would weigh a short run like a long one."""
    runs = [
        a_run("pydrbd", 0, 10, counted={"nbd_requests": 10, "nbd_wakeups": 10}),
        a_run("pydrbd", 1, 90, counted={"nbd_requests": 90, "nbd_wakeups": 10}),
    ]
    assert built(*runs)["rows"][0]["peers"]["pydrbd"]["requests_per_wakeup"] == 5.0


def test_the_table_shows_rates_ratio_and_noise():
    """One line a row; a run that others disturbed is marked; a program without version is left out."""
    busy = (os.cpu_count() or 1) * 0.5
    group = built(a_run("pydrbd", 0, 1234, other_cpu_s=busy), a_run("nbdkit", 0, 2468))
    text = table.markdown(report.merge([group], None))
    line = next(line for line in text.splitlines() if line.startswith(f"| {ROW.title}"))
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["1,234/s (n1)", "2,468/s", "10, 10"]
    assert f"| {ROW.title} | nbdkit file | 0.50 | 0.55 | not reached |" in text
    assert len({line.count("|") for line in table.figures(group).splitlines()}) == 1
    assert "nbdkit ." not in text and "distrust" in text


def test_a_failure_and_half_a_run_still_make_a_report():
    """The first peer was measured, then something broke: the report says so, and shows what there is."""
    text = table.markdown(report.merge([built(a_run("pydrbd", 0, 100), failure="WRONG: differs")], None))
    assert "100/s" in text and "WRONG: differs" in text
    assert table.markdown(report.merge([built()], None))


def test_what_was_not_measured_again_is_kept_from_the_report_before():
    """A run without the lab does not throw the lab's figures away; those of another schema nobody can read."""
    here, lab = built(a_run("pydrbd", 0, 1)), {**built(), "place": "lab"}
    before = report.merge([built(), lab], None)
    assert report.merge([here], before)["groups"] == [here, lab]
    assert report.merge([here], {**before, "schema": 1})["groups"] == [here]


def test_resyncs_one_after_the_other_are_one_figure():
    """Their bytes and their seconds; the curve is the first one's."""
    first, second = Outcome(1, 4096, 1.0, curve=[(0.0, 0.0), (1.0, 1.0)]), Outcome(2, 8192, 5.0)
    assert joined([first, second]) == Outcome(3, 12288, 6.0, curve=first.curve)
    assert joined([first, second]).bytes_per_s == 2048


def test_a_report_is_written_whole(tmp_path):
    """JSON can be read back; nothing else stays behind."""
    made = report.merge([built(a_run("pydrbd", 0, 100), a_run("nbdkit", 0, 200))], None)
    report.write(made, tmp_path / "results")
    assert json.loads((tmp_path / "results/latest.json").read_text()) == json.loads(json.dumps(made))
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["latest.json", "latest.md"]


def test_peers_take_turns_in_going_first():
    """So that neither always has the warmer or the wearier machine."""
    ahead, behind = ("nbdkit", "pydrbd"), ("pydrbd", "nbdkit")
    found = [(row.name, repetition, name) for row, repetition, name in order((ROW,), ("nbdkit", "pydrbd"), 3)]
    assert found == [(ROW.name, n, name) for n, pair in enumerate((ahead, behind, ahead)) for name in pair]


def test_peers_that_cannot_do_a_row_are_left_out_of_it():
    """nbdkit keeps one copy: there is nothing to resync."""
    row = ROWS["resync-full"]
    assert not can("nbdkit", row) and can("pydrbd", row) and can("nbdkit", ROW)
    assert [name for _row, _n, name in order((row,), ("pydrbd", "nbdkit"), 1)] == ["pydrbd"]
    assert Plan((row, ROW), ("pydrbd", "nbdkit"), 1.0, 5, 1).run_count == 15


class WrongPeer:
    """Answers well, and keeps two copies that differ."""

    def cpu_seconds(self):
        return process_seconds([os.getpid()])

    def drive(self, row, seconds, seed):
        return Outcome(1, 4096, 1.0, 1), 0.0

    def prepare_resync(self, row, seed):
        """It has nothing to do."""

    def resync(self, row):
        return Outcome(1, 4096, 1.0)

    def counters(self):
        return {}

    def verify(self, row, counted, requests):
        raise ServerError("WRONG: after the row the copies differ")


@pytest.mark.parametrize("name", ["write-4k-32", "resync-full"])
def test_a_fast_wrong_answer_ends_the_measurement(name):
    """No figure comes out of a run whose copies differ."""
    heard = []
    with pytest.raises(ServerError, match="WRONG"):
        measure(Plan((ROWS[name],), ("pydrbd",), 1.0, 1, 1), {"pydrbd": WrongPeer()}, heard.append)
    assert not heard


def test_processor_time_is_read_from_proc():
    """A process name may hold blanks and brackets; guest time is part of user time and not counted twice."""
    stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 40 2 100 200 20 0 1 0"
    assert parse_process_stat(stat) == 42
    assert parse_session_stat(stat) == (3, 342)
    assert parse_machine_stat("cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 1 1 1 1 1 1 1 1 1 1\n") == 63


def test_a_process_is_seen_to_work():
    """Of some work here, both the process's and the machine's clock show a part."""
    clock = Clock.start(lambda: process_seconds([os.getpid()]))
    while clock.since()[0] < 0.05:
        sum(range(10_000))
    servers_s, machine_s = clock.since()
    assert servers_s >= 0.05 and machine_s > 0


def test_a_server_that_ends_at_once_is_an_error_with_its_words(tmp_path):
    """Not a time-out half a minute later."""
    with (
        pytest.raises(ServerError, match=r"code 3.*no such disk"),
        Server(["sh", "-c", "echo no such disk; exit 3"], tmp_path / "log", tmp_path) as server,
    ):
        wait_for_socket(tmp_path / "nothing", server)


def test_options_choose_rows_peers_and_lengths(monkeypatch, tmp_path, need):
    """BENCH sets the lengths, words on the command line go before it."""
    need("fio")
    monkeypatch.setenv("BENCH", "quick")
    plan = read_options(["--rows", "read-4k-32,write-4k-1", "--peers", "pydrbd", "--repeat", "2"]).plans["here"]
    assert [row.name for row in plan.rows] == ["read-4k-32", "write-4k-1"]
    assert (plan.peers, plan.repeat, plan.seconds) == (("pydrbd",), 2, 1.0)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rows", "no-such"], "no-such"),
        (["--peers", ""], "not one of"),
        (["--seconds", "0"], "not a positive number"),
        (["--repeat", "x"], "not a positive number"),
        (["--dir", "/nowhere-at-all"], "no such directory"),
    ],
)
def test_wrong_options_are_named(words, complaint, capsys):
    """Exit code 2, and which word is wrong."""
    with pytest.raises(SystemExit) as ended:
        read_options(words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_wrong_bench_is_named(monkeypatch, capsys):
    """BENCH=fast is no length."""
    monkeypatch.setenv("BENCH", "fast")
    with pytest.raises(SystemExit):
        read_options([])
    assert "'fast'" in capsys.readouterr().err


def test_a_missing_program_is_named(monkeypatch, capsys, tmp_path):
    """And what installs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        read_options([])
    assert "fio, nbdkit" in capsys.readouterr().err


def test_the_tables_have_names_that_the_command_line_can_say():
    """No comma, no blank; the first peer is ours."""
    assert all(name == ROWS[name].name and name.isprintable() and not set(", ") & set(name) for name in ROWS)
    assert next(iter(PEERS)) == "pydrbd"
    assert {name for goal in GOALS for name in (goal.ours, *goal.against) if name in PEERS} >= {"pydrbd", "mirror"}
    assert {goal.row for goal in GOALS} <= set(ROWS)
    assert Path(report.__file__).parent.name == "benchmarks"
