"""What may happen to a cluster: each case is a fault, and says after how many seconds the service answered."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.cluster.cluster import STATUS_TIMEOUT_S, Cluster
from tests.cluster.judge import Judge, role_of
from tests.cluster.machine import Machine
from tests.lab.guest import GuestFailed
from tests.lab.waiting import wait_until

DEATH_TIMEOUT_S = 300.0
ANSWERS = 20
LOG_DISK = "/var/fill"

Case = Callable[[Cluster, Judge, Machine], float]
"""`primary` is where the service runs when it begins; the repair comes afterwards."""


def power_off_primary(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """The other node makes sure that it is dead, and takes over."""
    moment = time.monotonic()
    primary.power_off()
    return judge.wait_served(moment, cluster.other(primary).name)


def power_off_secondary(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """The service waits until the connection is given up, and goes on where it is."""
    moment = time.monotonic()
    cluster.other(primary).power_off()
    return _alone_on(cluster, judge, primary, moment)


def cut_the_replication_link(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """The cluster is whole, only the copies part: nobody dies, and the service goes on where it is."""
    moment = time.monotonic()
    cluster.other(primary).cut_wire()
    served_s = _alone_on(cluster, judge, primary, moment)
    assert all(node.runs for node in cluster.nodes), "a node has died"
    return served_s


def cut_all_links_between_the_nodes(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """Both see the witness, and not each other: exactly one dies, and it is not the one with the service."""
    moment = time.monotonic()
    for node in cluster.nodes:
        node.split()
    other = cluster.other(primary)
    _wait_death(cluster, other)
    served_s = _alone_on(cluster, judge, primary, moment)
    assert primary.runs, "both nodes have died"
    return served_s


def unplug_the_primary(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """It sees nobody, the witness neither: its watchdog ends it, and the other one takes over."""
    moment = time.monotonic()
    primary.cut()
    primary.cut_wire()
    served_s = judge.wait_served(moment, cluster.other(primary).name)
    assert not primary.runs, "it still runs, and somebody else serves"
    return served_s


def hang_pydrbd_on_the_primary(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """Its monitor fails. Whether it is restarted, moved or fenced is Pacemaker's to say."""
    primary.shell("kill -STOP $(cat /run/pydrbd/r0.pid)")
    return judge.wait_served(time.monotonic())


def kill_pydrbd_on_the_primary(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """The file system above has no server: it is unmounted with errors, in time, and nobody is fenced for that."""
    moment = time.monotonic()
    primary.shell("kill -KILL $(cat /run/pydrbd/r0.pid)")
    served_s = judge.wait_served(moment)
    assert all(node.runs for node in cluster.nodes), "a node has died"
    return served_s


def hang_the_primary(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """All its processes stop. Nobody feeds its watchdog: it resets the machine."""
    moment = time.monotonic()
    primary.hang()
    served_s = judge.wait_served(moment, cluster.other(primary).name)
    assert not primary.runs, "it still runs, and somebody else serves"
    return served_s


def fill_the_log_disk(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """/var is full, for logs and for what Pacemaker writes down: the service goes on."""
    moment = time.monotonic()
    primary.run("sh", "-c", f"cat /dev/zero >{LOG_DISK}", timeout_s=240.0, check=False)
    used = primary.shell("df --output=avail /var | tail -n 1").split()
    assert used == ["0"], f"the disk is not full: {used}"
    judge.wait_answers(5 * ANSWERS)
    served_s = judge.client.longest_pause_s(moment)
    primary.run("rm", LOG_DISK)
    return served_s


def move_the_service(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """`crm resource move`, under load."""
    other, moment = cluster.other(primary), time.monotonic()
    primary.run("crm", "resource", "move", "service", other.name, "force", timeout_s=120.0)
    served_s = judge.wait_served(moment, other.name)
    primary.run("crm", "resource", "clear", "service", timeout_s=120.0)
    return served_s


def standby(cluster: Cluster, judge: Judge, primary: Machine) -> float:
    """`crm node standby`, under load, and `online` again."""
    other, moment = cluster.other(primary), time.monotonic()
    primary.run("crm", "node", "standby", primary.name, timeout_s=120.0)
    served_s = judge.wait_served(moment, other.name)
    primary.run("crm", "node", "online", primary.name, timeout_s=120.0)
    return served_s


def _alone_on(cluster: Cluster, judge: Judge, node: Machine, moment: float) -> float:
    """The service goes on on that node without the other copy; the longest pause until then."""
    wait_until(lambda: _is_alone(cluster, node), f"{node.name} to be alone", DEATH_TIMEOUT_S, cluster.describe)
    since = time.monotonic()
    judge.wait_answers(ANSWERS)
    judge.wait_served(since, node.name)
    return judge.client.longest_pause_s(moment)


def _is_alone(cluster: Cluster, node: Machine) -> bool:
    try:
        return cluster.volume(node)["cstate"] != "Connected" and role_of(node, STATUS_TIMEOUT_S) == "Primary"
    except (GuestFailed, ValueError, KeyError, TypeError):
        return False


def _wait_death(cluster: Cluster, node: Machine) -> None:
    wait_until(lambda: not node.runs, f"{node.name} to die", DEATH_TIMEOUT_S, cluster.describe)


SHORT: tuple[Case, ...] = (power_off_primary,)
LONG: tuple[Case, ...] = (
    power_off_secondary,
    cut_the_replication_link,
    cut_all_links_between_the_nodes,
    unplug_the_primary,
    hang_pydrbd_on_the_primary,
    kill_pydrbd_on_the_primary,
    hang_the_primary,
    fill_the_log_disk,
    move_the_service,
    standby,
)
