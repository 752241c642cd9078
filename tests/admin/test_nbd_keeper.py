"""The helper of nbd-attach, and what it and the kernel's module may refuse: each has its words and its exit code."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging

import pytest

pytest.importorskip("pyroute2")
from pyroute2.netlink.exceptions import NetlinkError

from pydrbd.admin import nbd_keeper, nbd_netlink, verbs_nbd
from pydrbd.admin.nbd_address import parse_uri
from pydrbd.admin.nbd_device import NbdDevice
from pydrbd.admin.nbd_handshake import NbdClientError
from pydrbd.admin.nbd_keeper import Keeper, Wish
from pydrbd.errors import BusyError
from pydrbd.wire.nbd import TransmissionFlag
from tests.admin import kernel_devices
from tests.admin.kernel_devices import Kernel, Server


@pytest.fixture
def server(short_tmp):
    made = Server(short_tmp / "nbd.sock")
    yield made
    made.close()


@pytest.fixture
def kernel(monkeypatch, short_tmp):
    made = Kernel(kernel_devices.use(monkeypatch, short_tmp))
    yield made
    made.close()


@pytest.fixture
def keeper(kernel, server, short_tmp):
    """Of a device with three connections."""
    return Keeper(Wish("r0", [parse_uri(server.uri)], None, 60, short_tmp, connections=3), kernel)


def stop_at_sleep(monkeypatch, kernel):
    """When the helper has nothing to do but to wait, its device is detached."""
    monkeypatch.setattr(nbd_keeper.time, "sleep", lambda _seconds: (kernel.block / "nbd0/pid").unlink())


# --- several connections ---


def test_a_device_has_as_many_connections_as_are_asked_for(keeper, kernel, server):
    """One server gives all of them; requests may take longer then, before another one gets them."""
    assert keeper.attach() == NbdDevice(0)
    assert (kernel.told, server.opened) == ([("connect", 3)], 3)
    assert (kernel.block / "nbd0/queue/io_timeout").read_text() == "15000\n"


def test_after_a_dead_connection_each_may_be_replaced(keeper, kernel):
    """Which of them are dead only the kernel knows."""
    keeper.attach()
    kernel.news.send(b"!")
    kernel.reconfigure = lambda index, _backend, _sock: (
        kernel.told.append(index),
        len(kernel.told) == 4 and (kernel.block / "nbd0/pid").unlink(),
    )
    keeper.stay()
    assert kernel.told == [("connect", 3), 0, 0, 0]


def test_a_server_may_allow_one_connection_only(keeper, kernel, server):
    """69, before the kernel is asked."""
    server.flags = TransmissionFlag.HAS_FLAGS
    with pytest.raises(NbdClientError, match="allows one connection to 'r0', and not 3") as caught:
        keeper.attach()
    assert caught.value.exit_code == 69 and not kernel.told


@pytest.mark.parametrize("count", ["0", "17", "many"])
def test_there_is_a_bound(run, count):
    """64."""
    run("nbd-attach", "-C", count, "r0").complains(64, f"invalid number from 1 to 16 value: '{count}'")


# --- the helper ---


def test_a_second_helper_of_a_device_is_refused(keeper, kernel, monkeypatch, short_tmp):
    """69, after the first one had its time to see that its device is gone; the device that it made is detached."""
    monkeypatch.setattr(nbd_keeper, "_LOOK_S", 0)
    with (short_tmp / "nbd0.attach.pid").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match=r"another process holds .*nbd0\.attach\.pid: it looks") as caught:
            keeper.attach()
    assert caught.value.exit_code == 69
    assert kernel.told == [("connect", 3), ("disconnect", 0)]


def test_a_server_with_fewer_bytes_is_not_taken(keeper, kernel, server, monkeypatch, caplog):
    """It is said once, in the helper's log, and the device waits for another server."""
    stop_at_sleep(monkeypatch, kernel)
    kernel.make_device(server.size_bytes + 4096, "pydrbd:r0")
    with caplog.at_level(logging.WARNING):
        keeper.adopt(NbdDevice(0))
    assert f"the server's {server.size_bytes} bytes are fewer than /dev/nbd0 has" in caplog.text
    assert not kernel.told


def test_a_server_that_has_grown_grows_the_device(keeper, kernel, server):
    """After the new connections, as the kernel wants it."""
    kernel.make_device(server.size_bytes - 4096, "pydrbd:r0")
    keeper.adopt(NbdDevice(0))
    assert kernel.told == [("reconfigure", 0), ("resize", server.size_bytes), ("reconfigure", 0), ("reconfigure", 0)]


def test_a_helper_that_says_nothing_is_named(place, server, monkeypatch):
    """10: killed in its first moments, say; its log is where to look."""
    monkeypatch.setattr(verbs_nbd, "_kernel", contextlib.nullcontext)
    monkeypatch.setattr(verbs_nbd, "_refuse_swap", lambda _wish: None)
    monkeypatch.setattr(verbs_nbd, "_be_helper", lambda *_: 0)
    place("nbd-attach", "--uri", server.uri, "r0").complains(
        10, "r0: the helper ended without a word: see ", "r0.attach.log"
    )


def test_what_a_helper_meets_is_the_commands_end(place, server, monkeypatch, short_tmp):
    """Its words and its exit code come through."""
    monkeypatch.setattr(verbs_nbd, "_kernel", contextlib.nullcontext)
    monkeypatch.setattr(verbs_nbd, "_refuse_swap", lambda _wish: None)

    def refused(*_):
        raise BusyError("/dev/nbd3 can't be attached: it is in use")

    monkeypatch.setattr(verbs_nbd, "_keep", refused)
    done = place("nbd-attach", "--uri", server.uri, "r0", "/dev/nbd3")
    done.complains(69, "/dev/nbd3 can't be attached: it is in use")


# --- the kernel ---


@pytest.mark.parametrize("verb", ["nbd-attach", "nbd-detach"])
def test_what_is_no_nbd_device(place, server, verb):
    """64."""
    words = ["--uri", server.uri, "r0"] if verb == "nbd-attach" else []
    place(verb, *words, "/dev/sda").complains(64, "'/dev/sda' is no nbd device: expected /dev/nbd0, /dev/nbd1, ...")


def test_a_kernel_without_the_module(place, server, monkeypatch, short_tmp):
    """69."""
    monkeypatch.setattr(verbs_nbd, "_MODULE", short_tmp / "no-module")
    monkeypatch.setenv("PATH", str(short_tmp))
    place("nbd-attach", "--uri", server.uri, "r0").complains(
        69, "this kernel has no nbd module that could be loaded (modprobe nbd)"
    )


class Netlink:
    """What pyroute2 has, for one command that the kernel refuses."""

    prid = 1

    def __init__(self, code):
        self.code = code

    def bind(self, *_, **_named):
        raise NetlinkError(self.code)

    nlm_request = bind

    def close(self):
        pass


def test_a_module_that_does_not_answer(monkeypatch, place, server, short_tmp):
    """69: it is being unloaded, say."""
    monkeypatch.setattr(verbs_nbd, "_MODULE", short_tmp)
    monkeypatch.setattr(nbd_netlink, "GenericNetlinkSocket", lambda: Netlink(errno.ENOENT))
    done = place("nbd-attach", "--uri", server.uri, "r0")
    done.complains(69, "the kernel's nbd module can't be asked: ", "modprobe nbd")


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        (errno.EPERM, 77, "/dev/nbd0 can't be detached: only root may"),
        (errno.EBUSY, 69, "/dev/nbd0 can't be detached: it is in use"),
        (errno.EINVAL, 69, "/dev/nbd0 can't be detached: EINVAL"),
    ],
)
def test_what_the_module_refuses(place, kernel, monkeypatch, code, exit_code, words):
    """No permission, in use, and what else it may find."""
    kernel.make_device(4096, "pydrbd:r0")
    made = object.__new__(nbd_netlink.NbdKernel)
    made._netlink = Netlink(code)
    monkeypatch.setattr(verbs_nbd, "_kernel", lambda: made)
    place("nbd-detach", "--force", "/dev/nbd0").complains(exit_code, words)
