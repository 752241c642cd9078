"""metrics: the names that drbd-reactor's exporter uses, served over HTTP; the dashboard asks for what there is."""

from __future__ import annotations

import json
import re
import socket
import threading
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pydrbd.admin.context import Context
from pydrbd.admin.metrics import METRICS, metrics_text
from pydrbd.admin.nbd_client import NbdClient
from pydrbd.admin.verbs_metrics import Exporter
from pydrbd.config.settings import Listen, parse_settings
from pydrbd.errors import ConfigError
from pydrbd.runtime.latency import BOUNDS_S
from tests.admin.snapshots import a_snapshot, a_volume, alone, syncing

DASHBOARD = Path(__file__).resolve().parents[2] / "docs/grafana-dashboard.json"
REACTOR = [
    "drbdreactor_up", "drbd_version", "drbd_resource_resources", "drbd_resource_role", "drbd_resource_suspended",
    "drbd_resource_maypromote", "drbd_resource_promotionscore", "drbd_resource_forceiofailures",
    "drbd_connection_state", "drbd_peerdevice_outofsync_bytes", "drbd_peerdevice_sent_bytes",
    "drbd_peerdevice_received_bytes", "drbd_connection_congested", "drbd_connection_apinflight_bytes",
    "drbd_connection_rsinflight_bytes", "drbd_device_state", "drbd_device_client",
    "drbd_device_unintentionaldiskless", "drbd_device_quorum", "drbd_device_open", "drbd_device_size_bytes",
    "drbd_device_read_bytes_total", "drbd_device_written_bytes_total", "drbd_device_alwrites_total",
    "drbd_device_bmwrites_total", "drbd_device_upperpending", "drbd_device_lowerpending",
    "drbd_device_alsuspended",
]  # fmt: skip
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)+)\})? (-?[0-9.e+-]+)')


def samples(text):
    """(name, labels) to value; every line is a comment or a sample, and every sample's family was announced."""
    found, announced = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            announced.add(line.split()[2])
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] in announced or match[1].rpartition("_")[0] in announced, line
            labels = tuple(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            assert (match[1], labels) not in found, line
            found[match[1], labels] = float(match[3])
    return found


def test_every_name_of_drbd_reactor_is_there():
    """What its exporter serves, with its labels; existing dashboards and alerts find it."""
    log = {"slot_count": 1237, "hot_count": 4, "eviction_count": 9}
    found = samples(metrics_text([a_snapshot(a_volume(activity_log=log)), syncing() | {"name": "r1"}]))
    assert {name for name, _ in found} >= set(REACTOR)
    assert {name for name, _ in found} <= set(METRICS)
    assert found["drbd_resource_resources", ()] == 2
    device = (("name", "r0"), ("volume", "0"), ("minor", "0"))
    peer = (("name", "r0"), ("conn_name", "beta"), ("peer_node_id", "1"))
    assert found["drbd_device_size_bytes", device] == 1 << 20
    assert found["drbd_resource_role", (("name", "r0"), ("drbd_resource_role", "Primary"))] == 1
    assert found["drbd_resource_role", (("name", "r0"), ("drbd_resource_role", "Secondary"))] == 0
    assert found["drbd_connection_state", (*peer, ("drbd_connection_state", "Connected"))] == 1
    assert found["drbd_device_state", (*device, ("drbd_device_state", "UpToDate"))] == 1
    stale = (("name", "r1"), ("conn_name", "beta"), ("peer_node_id", "1"), ("volume", "0"))
    assert found["drbd_peerdevice_outofsync_bytes", stale] == 75 * 4096
    assert found["pydrbd_resync_done_ratio", stale] == 0.25


def test_each_enumeration_has_one_that_is_true():
    """Whatever the state: one of its samples is 1, all others 0."""
    for snapshot in (alone("StandAlone"), a_snapshot(a_volume(disk="Diskless")), syncing("Secondary")):
        found = samples(metrics_text([snapshot]))
        for family in ("drbd_resource_role", "drbd_connection_state", "drbd_device_state"):
            assert sorted(value for (name, _), value in found.items() if name == family)[-2:] == [0, 1]


def test_how_long_clients_wait_is_a_histogram():
    """As Prometheus reads one: each bucket has those below it, too; without a bound all of them; their sum."""
    counts = [0] * (len(BOUNDS_S) + 1)
    counts[0], counts[3], counts[-1] = 5, 2, 1
    kinds = {"write": {"counts": counts, "sum_s": 61.25}}
    text = metrics_text([a_snapshot(latencies={"0": kinds})])
    assert "# TYPE pydrbd_request_seconds histogram\n" in text
    found = {key: value for key, value in samples(text).items() if key[0].startswith("pydrbd_request_seconds")}
    labels = (("name", "r0"), ("volume", "0"), ("minor", "0"), ("operation", "write"))
    assert found["pydrbd_request_seconds_sum", labels] == 61.25
    assert found["pydrbd_request_seconds_count", labels] == 8
    buckets = [value for (name, _), value in found.items() if name.endswith("_bucket")]
    assert buckets == [5, 5, 5, *[7] * (len(BOUNDS_S) - 3), 8]
    assert ("pydrbd_request_seconds_bucket", (*labels, ("le", "+Inf"))) in found
    assert ("pydrbd_request_seconds_bucket", (*labels, ("le", "0.0001"))) in found


def test_names_can_be_anything():
    """What would end a label is escaped."""
    assert 'name="a\\"b\\\\c"' in metrics_text([a_snapshot(name='a"b\\c')])


def test_once(place, process):
    """On standard output; a process that does not answer hides no other."""
    assert samples(place("metrics", "--once").out)["drbd_resource_resources", ()] == 1
    process.raw = b"garbage\n"
    result = place("metrics", "--once")
    assert "drbd_resource_resources 0" in result.out and "answers what no pydrbd process answers" in result.err


@pytest.fixture
def exporter(place, process):
    """`exporter(Listen)` serves in a thread."""
    started = []

    def start(where, **limits):
        made = Exporter(Context(None, None, str(place.run_dir)), where, **limits)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((made, thread))
        return made

    yield start
    for made, thread in started:
        made.shutdown()
        thread.join()
        made.server_close()


def test_it_is_scraped_over_tcp(exporter):
    """As Prometheus does it; other paths are not there."""
    port = exporter(Listen(host="127.0.0.1", port=0)).server_address[1]
    for path, status in (("/metrics", 200), ("/nothing", 404)):
        client = HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", path)
        answer = client.getresponse()
        text = answer.read().decode()
        assert answer.status == status
        if status == 200:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert samples(text)["drbdreactor_up", ()] == 1
        client.close()


def test_it_is_scraped_over_a_unix_socket(exporter, short_tmp):
    """For an agent on the same machine; what a dead one has left is no obstacle, a living one is."""
    path = short_tmp / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    exporter(Listen(path=str(path)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            assert b"200 OK" in answer.readline() and b"drbdreactor_up 1" in answer.read()


def test_a_client_that_says_nothing_keeps_nobody_out(exporter, short_tmp):
    """Others are served beside it; when there are as many as may be, the next one waits until one of them goes."""
    path = short_tmp / "metrics.sock"
    exporter(Listen(path=str(path)), clients_max=2)

    def client():
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(30)
        made.connect(str(path))
        return made

    with client() as silent, client() as another, client() as asking:
        silent.sendall(b"GET /met")
        another.sendall(b"GET /met")
        asking.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        another.close()
        with asking.makefile("rb") as answer:
            assert b"200 OK" in answer.readline() and b"drbdreactor_up 1" in answer.read()
        silent.sendall(b"rics HTTP/1.0\r\n\r\n")
        with silent.makefile("rb") as answer:
            assert b"200 OK" in answer.readline()


def test_a_client_that_takes_for_ever_is_cut_off(exporter, short_tmp):
    """Its place is another one's then."""
    path = short_tmp / "metrics.sock"
    exporter(Listen(path=str(path)), clients_max=1, request_s=0.05)
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as silent:
            silent.settimeout(30)
            silent.connect(str(path))
            assert silent.recv(1) == b""


@pytest.mark.parametrize("refused", ["client", "timer"])
def test_a_thread_that_cannot_be_started_costs_one_client(exporter, short_tmp, monkeypatch, refused):
    """For want of threads a client is let go of; its place is the next one's."""
    path = short_tmp / "metrics.sock"
    exporter(Listen(path=str(path)), clients_max=1)
    start, asked = threading.Thread.start, []

    def start_or_refuse(thread):
        if isinstance(thread, threading.Timer) is (refused == "timer") and not asked:
            asked.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    for expected in (b"", b"HTTP/1.0 200 OK\r\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            if expected:
                client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with client.makefile("rb") as answer:
                assert answer.readline() == expected
    assert len(asked) == 1


def test_where_it_listens(place):
    """The file's word, checked; a place that is taken."""
    assert parse_settings('[metrics]\nlisten = "tcp:[::1]:9942"').metrics == Listen(host="::1", port=9942)
    assert parse_settings("").metrics is None
    for text, words in (("[metrics]\nport = 1", "metrics.port"), ('[metrics]\nlisten = "x"', "metrics.listen")):
        with pytest.raises(ConfigError, match=words):
            parse_settings(text)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place("metrics", "--listen", f"tcp:127.0.0.1:{port}").complains(69, "can't serve metrics", str(port))
    place("metrics", "--listen", "nowhere").complains(64, "--listen can't be 'nowhere'")


def test_the_dashboard_loads_and_asks_for_what_there_is():
    """Grafana's import: unique ids, no panel over another, a data source to choose, and no query of an unknown name."""
    board = json.loads(DASHBOARD.read_text())
    assert board["__inputs"][0]["name"] == "DS_PROMETHEUS" and board["schemaVersion"] >= 30
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and all(x < 24 for x, _ in cells)
        taken |= cells
        assert panel["type"] in ("stat", "timeseries") and panel["targets"]
        for target in panel["targets"]:
            asked = set(re.findall(r"\b(?:py)?drbd[a-z]*_[a-z_]+(?=[{\[])", target["expr"]))
            assert asked and {name.removesuffix("_bucket") for name in asked} <= set(METRICS), target["expr"]
    for variable in board["templating"]["list"]:
        assert re.search(r"label_values\(([a-z_]+),", variable["definition"])[1] in METRICS


def test_a_clients_writes_get_into_the_histogram(node):
    """Of a node that is alone, so that no lane serves them."""
    assert node("create-md", "r0").code == node("up", "r0").code == node("primary", "--force", "r0").code == 0
    with NbdClient.connect(node.run_dir / "r0.nbd.sock", "r0", depth=4) as client:
        for number in range(4):
            client.write(number * 4096, b"x" * 4096)
    found = samples(node("metrics", "--once").out)
    labels = (("name", "r0"), ("volume", "0"), ("minor", "0"), ("operation", "write"))
    assert found["pydrbd_request_seconds_count", labels] == 4
