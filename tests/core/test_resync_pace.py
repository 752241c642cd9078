"""The pace of a resync, in numbers: steps of 0.1 s, no clock but the one that is given."""

from __future__ import annotations

from pydrbd.core.resync_pace import PACE_STEP_S, Pace, PaceOptions, Yielding
from pydrbd.units import KIB, MIB


def run(options: PaceOptions, steps: int, answered_per_step: int = 1 << 40) -> list[int]:
    """What is asked for in each step, when the source answers at most so much in a step."""
    pace, in_flight, asked = Pace(0.0), 0, []
    for number in range(steps):
        pace.step(options, number * PACE_STEP_S * 1.0001, in_flight)
        amount = max(0, pace.allowance_bytes)
        pace.asked(amount)
        asked.append(amount)
        in_flight += amount
        answered = min(in_flight, answered_per_step)
        in_flight -= answered
        pace.came_in(answered)
    return asked


def test_a_fixed_rate_is_the_same_in_every_step() -> None:
    """c-plan-ahead 0: a tenth of resync-rate each time."""
    assert run(PaceOptions(fixed_kib_s=1000), 5) == [100 * KIB] * 5


def test_a_cap_alone_allows_all_of_it_at_once() -> None:
    """c-max-rate without a word about the controller."""
    assert run(PaceOptions(max_kib_s=102400), 3) == [10 * MIB] * 3


def test_the_controller_begins_with_resync_rate_and_settles_at_what_the_link_carries() -> None:
    """What is under way nears c-fill-target, and each step asks for what a step brings in."""
    options = PaceOptions(plan_steps=20, start_kib_s=1000, fill_target_bytes=4 * MIB)
    asked = run(options, 400, answered_per_step=MIB)
    assert asked[0] == 1000 * KIB * 20 // 10 // 20
    assert all(abs(amount - MIB) < MIB // 10 for amount in asked[-50:])


def under_way(options: PaceOptions, *, most_in_a_step: int) -> int:
    """Bytes that are under way after 400 steps, with a source that sends no more than this in a step."""
    pace, in_flight = Pace(0.0), 0
    for number in range(400):
        pace.step(options, number * 0.1001, in_flight)
        in_flight += max(0, pace.allowance_bytes)
        pace.asked(max(0, pace.allowance_bytes))
        came_in = min(in_flight, most_in_a_step)
        in_flight -= came_in
        pace.came_in(came_in)
    return in_flight


def test_the_controller_fills_up_to_its_target() -> None:
    """With a source that is slower than asked, in flight is what c-fill-target says."""
    options = PaceOptions(plan_steps=20, fill_target_bytes=4 * MIB)
    in_flight = under_way(options, most_in_a_step=256 * KIB)
    assert 3 * MIB < in_flight < 5 * MIB


def test_the_controller_goes_by_delay_when_there_is_no_fill_target() -> None:
    """Under way is what c-delay-target's time brings in."""
    options = PaceOptions(plan_steps=20, start_kib_s=20000, delay_target_steps=5)
    in_flight = under_way(options, most_in_a_step=512 * KIB)
    assert 2 * MIB < in_flight < 3.5 * MIB


def test_the_controller_is_capped() -> None:
    options = PaceOptions(plan_steps=20, start_kib_s=1 << 20, fill_target_bytes=64 * MIB, max_kib_s=10240)
    assert max(run(options, 100)) == MIB


def test_what_was_too_much_is_owed_and_what_was_not_used_is_lost() -> None:
    """A piece may be longer than what is allowed; an idle target saves nothing up."""
    options, pace = PaceOptions(fixed_kib_s=1000), Pace(0.0)
    pace.step(options, 0.0, 0)
    pace.asked(250 * KIB)
    pace.step(options, 0.05, 0)
    assert pace.allowance_bytes == -150 * KIB
    pace.step(options, 0.1001, 0)
    assert pace.allowance_bytes == -50 * KIB
    pace.step(options, 7.0, 0)
    assert pace.allowance_bytes == 50 * KIB
    pace.step(options, 8.0, 0)
    assert pace.allowance_bytes == 100 * KIB


def test_a_source_yields_while_the_application_is_active() -> None:
    """More than 64 sectors in a step; then a tenth of c-min-rate is served in each."""
    options, yielding = PaceOptions(min_kib_s=1000), Yielding(0.0, 0)
    assert not yielding.yields(options, 0.05, 500)
    yielding.served(MIB)
    assert yielding.yields(options, 0.11, 1000)
    assert yielding.yields(options, 0.15, 1000)
    assert not yielding.yields(options, 0.22, 1064)
    assert not PaceOptions().bounds


def test_a_source_without_a_least_rate_never_yields() -> None:
    """c-min-rate 0, or not named."""
    yielding = Yielding(0.0, 0)
    yielding.served(MIB)
    assert not yielding.yields(PaceOptions(), 0.2, 1 << 20)


def test_an_application_is_busy_until_it_has_been_quiet_for_a_step() -> None:
    """With any options: the target has less under way then."""
    yielding, options = Yielding(0.0, 100), PaceOptions()
    assert not yielding.is_busy(options, 0.05, 1000)
    assert yielding.is_busy(options, 0.11, 1000)
    assert yielding.is_busy(options, 0.2, 1000)
    assert not yielding.is_busy(options, 0.22, 1000)
