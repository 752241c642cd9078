"""The inquisitor's decisions, in virtual time: when it feeds, when it warns, when the node must die."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydrbd_fence.errors import Refused
from pydrbd_fence.extension import Letter, Record, Stage, State
from pydrbd_fence.judge import Acknowledge, Arm, Die, Health, Judge, Kick, Leave, Log, Rules
from pydrbd_fence.layout import Command
from pydrbd_fence.reading import Verdict, check_start, delay_s, read_first, read_running
from pydrbd_fence.timeouts import derive_timeouts

TIMES = derive_timeouts(5)
BOOT, OLD_BOOT = b"B" * 16, b"O" * 16
PILL = Letter(2, "beta", True, True, 1, b"p" * 16, b"s" * 16, BOOT)


class Node:
    """A judge, its clock, and what goes on around it: `step` passes a second."""

    def __init__(self, devices=1, cluster=False, **rules):
        names = tuple(f"disk{i}" for i in range(devices))
        self.judge = Judge(Rules(names, TIMES, cluster, **rules), 0.0)
        self.now = 0.0
        self.seen = set(range(devices))
        self.health = {"pacemaker": Health.well, "corosync": Health.well} if cluster else {}
        self.log = []

    def step(self, seconds=1.0):
        self.now += seconds
        for index in self.seen:
            self.judge.on_device_seen(index, self.now)
        for name, health in self.health.items():
            self.judge.on_health(name, health, self.now, "why")
        return self.decide()

    def decide(self):
        decisions = self.judge.decide(self.now)
        self.log += [d.text for d in decisions if isinstance(d, Log)]
        return [d for d in decisions if not isinstance(d, Log)]

    def until_end(self, limit=60):
        """The second in which the final decision came, and the decision; (None, None) if it lives on."""
        begin = self.now
        for _ in range(limit):
            for decision in self.step():
                if isinstance(decision, Die | Leave):
                    return self.now - begin, decision
        return None, None


def test_the_first_good_vote_arms_the_watchdog():
    """Not before: a node that never saw a device only fails to start."""
    node = Node()
    node.seen = set()
    assert [node.step() for _ in range(30)] == [[]] * 30
    node.seen = {0}
    assert node.step() == [Arm(), Kick()]
    assert node.step() == [Kick()]


@pytest.mark.parametrize(
    ("devices", "fresh", "lives"),
    [(1, 1, True), (1, 0, False), (2, 2, True), (2, 1, True), (2, 0, False), (3, 2, True), (3, 1, False)],
)
def test_the_majority_rule(devices, fresh, lives):
    """One of one, one of two, two of three."""
    node = Node(devices)
    node.step()
    node.seen = set(range(fresh))
    after, end = node.until_end()
    assert (end is None) == lives
    if not lives:
        assert isinstance(end, Die) and after <= TIMES.death_s


def test_a_device_that_hangs_is_news_until_it_is_stale():
    """No error, just no answer: fresh for io + loop, then nothing feeds, then death by the watchdog's time."""
    node = Node()
    node.step()
    node.seen = set()
    fed = 0
    while Kick() in node.step():
        fed += 1
    assert fed == TIMES.fresh_s
    after, end = node.until_end()
    assert isinstance(end, Die) and end.action == "reboot" and "No liveness" in end.why
    assert fed + 1 + after <= TIMES.death_s
    assert any("No liveness" in line and "dead at" in line for line in node.log)


def test_news_count_from_when_the_looking_began():
    """A look that took 20 seconds says nothing about now."""
    node = Node()
    node.step()
    node.seen = set()
    node.now += 4.5
    node.judge.on_device_seen(0, node.now - 20)
    assert Kick() not in node.decide()


def test_a_return_in_time_saves_the_node_and_one_too_late_does_not():
    """Past the watchdog's time the node dies although all is well again: others count on it."""
    for gap, saved in ((4.0, True), (6.0, False)):
        node = Node()
        node.step()
        node.judge.on_device_lost(0, "gone")
        node.now += gap
        assert (node.step(0) == [Kick()]) == saved
        if not saved:
            assert isinstance(node.judge.final, Die)


def test_a_stopped_inquisitor_that_wakes_up_dies():
    """Nothing was lost, but nothing was fed either (SIGSTOP, a paused machine)."""
    node = Node()
    node.step()
    node.now += 30
    assert [type(d) for d in node.step(0)] == [Die]
    assert "itself was stopped" in node.judge.final.why


@pytest.mark.parametrize("ill", ["pacemaker", "corosync"])
def test_with_its_disks_a_node_does_not_need_the_cluster(ill):
    """SBD's default: the peers' pill is what kills it then."""
    node = Node(cluster=True)
    node.step()
    node.health[ill] = Health.ill
    assert node.until_end() == (None, None)


def test_without_its_disks_the_cluster_keeps_it_alive():
    """Losing the disk, or the NBD server, does not kill a healthy cluster; both lost does."""
    node = Node(cluster=True)
    node.step()
    node.seen = set()
    node.judge.on_device_lost(0, "server gone")
    assert node.until_end(30) == (None, None)
    assert "Majority of devices lost - surviving on pacemaker" in node.log
    node.seen = {0}
    node.step()
    assert "the majority of the devices is back" in node.log
    node.seen = set()
    node.judge.on_device_lost(0, "server gone")
    node.health["corosync"] = Health.ill
    after, end = node.until_end()
    assert isinstance(end, Die) and after <= TIMES.watchdog_s + 1


def test_the_cluster_is_asked_only_while_the_vote_may_hang_on_it():
    """With its disk fresh a running node needs no other proof; as soon as the disk is late, or lost, it does."""
    node = Node(cluster=True)
    assert node.judge.asks_cluster(node.now)
    node.step()
    assert not node.judge.asks_cluster(node.now)
    assert not node.judge.asks_cluster(node.now + TIMES.fresh_s / 2)
    assert node.judge.asks_cluster(node.now + TIMES.fresh_s / 2 + 0.1)
    node.judge.on_device_lost(0, "server gone")
    assert node.judge.asks_cluster(node.now)
    for other in (Node(0, cluster=True), Node(cluster=True, cluster_first=True)):
        other.step()
        assert other.judge.asks_cluster(other.now)
    three = Node(3, cluster=True)
    three.step()
    three.judge.on_device_lost(2, "server gone")
    assert not three.judge.asks_cluster(three.now)
    three.judge.on_device_lost(1, "server gone")
    assert three.judge.asks_cluster(three.now)
    assert not Node().judge.asks_cluster(0.0)


def test_what_a_slow_tool_saw_is_as_old_as_its_look():
    """News count from when the looking began: a node that was cut off then is dead within the time others count on."""
    node = Node(cluster=True)
    node.step()
    node.seen, node.health = set(), {}
    node.judge.on_device_lost(0, "server gone")
    looked_at = node.now
    node.now += TIMES.fresh_s - 0.5
    for source in ("pacemaker", "corosync"):
        node.judge.on_health(source, Health.well, looked_at)
    assert node.decide() == [Kick()]
    _, end = node.until_end()
    assert isinstance(end, Die) and node.now - looked_at <= TIMES.death_s


def test_cluster_first_needs_both():
    """-z: disks alone are not enough once the cluster was well."""
    node = Node(cluster=True, cluster_first=True)
    node.step()
    node.health["pacemaker"] = Health.silent
    assert isinstance(node.until_end()[1], Die)
    node = Node(cluster=True, cluster_first=True)
    node.step()
    node.seen = set()
    assert isinstance(node.until_end()[1], Die)


def test_without_disks_the_cluster_is_the_proof():
    """Before it was ever well the node is fed; then either reporter's silence kills."""
    node = Node(0, cluster=True)
    node.health = {"pacemaker": Health.silent, "corosync": Health.well}
    assert node.step() == [Arm(), Kick()]
    assert node.until_end(30) == (None, None)
    node.health["pacemaker"] = Health.well
    assert node.until_end(10) == (None, None)
    node.health["corosync"] = Health.silent
    after, end = node.until_end()
    assert isinstance(end, Die) and after <= TIMES.death_s


def test_a_cluster_that_stops_on_purpose_is_waited_for():
    """Without disks: no death after an orderly stop of Pacemaker."""
    node = Node(0, cluster=True)
    node.step()
    node.health = {"pacemaker": Health.stopped}
    assert node.until_end(30) == (None, None)
    assert sum("stopped on purpose" in line for line in node.log) == 1


@pytest.mark.parametrize(
    ("command", "action"), [(Command.reset, "reboot"), (Command.off, "off"), (Command.crashdump, "crashdump")]
)
def test_a_pill_of_ours_is_acknowledged_and_obeyed(command, action):
    """First the promise, then the end, and never a feed again."""
    node = Node(2)
    node.step()
    node.judge.on_letter(1, Letter(command, "beta", True, True, 1, b"p" * 16, b"s" * 16, BOOT))
    decisions = node.step()
    assert decisions == [Acknowledge(b"p" * 16, command), Die(action, False, "told by beta")]
    assert f"Received command {command.name} from beta on disk disk1" in node.log
    assert node.step() == [node.judge.final]


def test_a_pill_of_sbd_is_obeyed_without_acknowledgement():
    """Nobody reads one."""
    node = Node()
    node.step()
    node.judge.on_letter(0, Letter(2, "beta"))
    assert node.step() == [Die("reboot", False, "told by beta")]


def test_the_time_out_action_is_chosen_by_the_settings():
    """off, without flush."""
    node = Node(action="off", flush=False)
    node.step()
    node.judge.on_device_lost(0, "gone")
    node.seen = set()
    _, end = node.until_end()
    assert (end.action, end.flush) == ("off", False)


def test_exit_ends_cleanly_and_a_pill_is_stronger():
    """exit or a signal: leave with 0; a pill that comes with it kills."""
    node = Node()
    node.step()
    node.judge.on_letter(0, Letter(Command.exit, "beta"))
    assert node.step() == [Leave(0, "told by beta")]
    node.judge.on_letter(0, PILL)
    assert isinstance(node.step()[-1], Die)
    node = Node()
    node.judge.on_terminate()
    assert isinstance(node.step()[-1], Leave)
    node = Node()
    node.judge.on_letter(0, PILL)
    node.judge.on_terminate()
    assert isinstance(node.step()[-1], Die)


def test_unknown_commands_are_told():
    """Never ignored in silence, and no reason to die."""
    node = Node()
    node.step()
    for code in (77, 200):
        node.judge.on_letter(0, Letter(code, "beta"))
    assert node.step() == [Kick()]
    assert sum("Received unknown command" in line for line in node.log) == 2


@given(st.lists(st.tuples(st.sampled_from(["seen", "lost", "late", "time"]), st.integers(0, 2)), max_size=60))
def test_no_feed_without_fresh_news(story):
    """Whatever happens: each feed has two of three devices seen within io + loop, and none follows a gap."""
    judge = Judge(Rules(("a", "b", "c"), TIMES, False), 0.0)
    seen, lost, now, fed = {}, set(), 0.0, None
    for what, index in story:
        if what == "seen":
            judge.on_device_seen(index, now)
            seen[index] = now
            lost.discard(index)
        elif what == "late":
            judge.on_device_seen(index, now - 10)
            seen[index] = max(seen.get(index, now - 10), now - 10)
            lost.discard(index)
        elif what == "lost":
            judge.on_device_lost(index, "gone")
            lost.add(index)
        else:
            now += index
        if Kick() in judge.decide(now):
            fresh = [i for i, at in seen.items() if now - at <= TIMES.fresh_s and i not in lost]
            assert len(fresh) >= 2
            assert fed is None or now - fed <= TIMES.watchdog_s
            fed = now


CLAIM = Letter(0, "beta", True, True, 1, b"c" * 16, b"s" * 16, BOOT, Stage.claim)
RECORD = Record("alpha", True, 5, BOOT, 1, State.watching)


@pytest.mark.parametrize(
    ("letter", "doubted", "verdict"),
    [
        (Letter(), False, Verdict.nothing),
        (Letter(0, "beta"), False, Verdict.nothing),
        (CLAIM, False, Verdict.nothing),
        (PILL, False, Verdict.obey),
        (Letter(3, "beta"), False, Verdict.obey),
        (Letter(2, "beta", True, True, 1, b"p" * 16, b"s" * 16, OLD_BOOT), False, Verdict.drop),
        (Letter(2, "beta", True, True, 1, b"p" * 16, b"s" * 16), False, Verdict.obey),
        (Letter(2, "beta", True, False), False, Verdict.doubt),
        (Letter(2, "beta", True, False), True, Verdict.obey),
        (Letter(0, "beta", True, False), True, Verdict.drop),
        (Letter(1, "beta"), False, Verdict.take),
        (Letter(4, "beta"), False, Verdict.take),
        (Letter(77, "beta"), False, Verdict.take),
        (Letter(200, "beta"), False, Verdict.take),
    ],
)
def test_what_a_running_daemon_does_with_a_letter(letter, doubted, verdict):
    """A pill for another boot is dropped; damage is looked at twice, and a damaged kill obeyed."""
    assert read_running(letter, BOOT, doubted).verdict is verdict


@pytest.mark.parametrize(
    ("letter", "record", "verdict"),
    [
        (Letter(), Record("alpha"), Verdict.nothing),
        (Letter(2, "beta"), Record("alpha"), Verdict.drop),
        (Letter(2, "beta"), RECORD, Verdict.obey),
        (PILL, Record("alpha"), Verdict.obey),
        (Letter(2, "beta", True, True, 1, b"p" * 16, b"s" * 16, OLD_BOOT), RECORD, Verdict.drop),
        (Letter(4, "beta"), RECORD, Verdict.drop),
        (CLAIM, RECORD, Verdict.drop),
    ],
)
def test_what_lies_in_the_box_at_the_start(letter, record, verdict):
    """A pill for this boot counts, also one that came while no daemon ran; older ones have done their work."""
    assert read_first(letter, BOOT, record).verdict is verdict


def test_start_mode_clean():
    """Only `clear` and `exit` may lie there; the words say what to do."""
    check_start([("/dev/a", Letter(2, "beta"))], False)
    check_start([("/dev/a", Letter()), ("/dev/b", Letter(4, "beta"))], True)
    with pytest.raises(Refused, match=r"Manual intervention required.*message LOCAL clear"):
        check_start([("/dev/a", Letter(2, "beta"))], True)


def test_start_delay():
    """None is sbd's `yes`."""
    assert [delay_s(None, 12, 5, True), delay_s(None, 12, 5, False), delay_s(40, 12, 5, True)] == [12, 10, 40]
