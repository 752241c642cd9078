"""nbd-attach, nbd-detach: an export as a block device of this machine's kernel, that outlives its server's absence."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydrbd.admin.context import Context
from pydrbd.admin.exit_codes import CommandFailed, NotInstalled, os_error_text
from pydrbd.admin.nbd_address import ServerAddress, open_first, parse_uri
from pydrbd.admin.nbd_client import NbdClient
from pydrbd.admin.nbd_device import BACKEND_PREFIX, NbdDevice, find_backend
from pydrbd.admin.nbd_handshake import NbdClientError
from pydrbd.admin.output import say
from pydrbd.errors import BusyError, DiskError, NotRunningError, PydrbdError, UsageError
from pydrbd.runtime.run_directory import make_run_directory
from pydrbd.runtime.systemd import notify

if TYPE_CHECKING:
    from pydrbd.admin.nbd_keeper import Wish
    from pydrbd.admin.nbd_netlink import NbdKernel

__all__ = ["attach", "detach"]

_ANSWER_TIMEOUT_S: Final = 60.0
_FLUSH_TIMEOUT_S: Final = 30.0
_DETACH_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.05
_MODULE: Final = Path("/sys/module/nbd")
_PAGE_BYTES: Final = (4096, 16384, 65536)
_SWAP_SIGNATURES: Final = (b"SWAPSPACE2", b"SWAP-SPACE")


def attach(
    context: Context,
    names: list[str],
    uris: list[str],
    *,
    dead_timeout_s: int,
    connections: int,
    force: bool,
    foreground: bool,
    dry_run: bool,
) -> int:
    """RES[/VNR] [/dev/nbdN]: make the export a block device, and leave a helper with it.

    Without `uris` the server is this machine's process of the resource. Raises UsageError, NotRunningError, BusyError,
    DiskError, NbdClientError, PermissionError, NotInstalled.
    """
    _check_netlink()
    from pydrbd.admin.nbd_keeper import Wish, pid_of_keeper

    export, asked_for = _names(names)
    addresses = [parse_uri(uri) for uri in uris] or _own_addresses(context, export)
    wish = Wish(export, addresses, asked_for.index if asked_for else None, dead_timeout_s, context.run_dir, connections)
    if dry_run:
        say(f"pydrbd nbd-attach: {asked_for.path if asked_for else 'a free device'} from {addresses[0]}")
        return 0
    with _kernel() as kernel:
        device = find_backend(wish.backend)
        if device is not None and asked_for not in (None, device):
            raise BusyError(f"{export} is attached already, to {device.path}")
        if device is not None and pid_of_keeper(context.run_dir, device) is not None:
            _grow(wish, kernel, device)
            say(f"{export} is attached already: {device.path}")
            return 0
    if device is None and not force:
        _refuse_swap(wish)
    make_run_directory(context.run_dir)
    if foreground:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")

        def attached(found: NbdDevice) -> None:
            say(f"{export} is {found.path}")
            notify("READY=1")

        _keep(wish, device, attached)
        return 0
    return _in_background(wish, device)


def detach(context: Context, names: list[str], *, force: bool, dry_run: bool) -> int:
    """RES[/VNR], or /dev/nbdN: write what is buffered, detach. One that is not attached is done already.

    Refused while somebody uses the device, and while its server does not take what was written, unless `force`, which
    gives that up. Raises BusyError, DiskError, UsageError, PermissionError, NotInstalled.
    """
    _check_netlink()
    from pydrbd.admin.nbd_keeper import pid_of_keeper

    device = _attached(names)
    if device is None or not device.is_attached:
        say(f"{names[0]} is not attached")
        return 0
    if not device.backend.startswith(BACKEND_PREFIX):
        raise BusyError(f"{device.path} was not attached by 'pydrbd nbd-attach': whoever did so detaches it")
    if dry_run:
        say(f"pydrbd nbd-detach: {device.path}")
        return 0
    if not force:
        device.check_unused()
        try:
            device.flush(_FLUSH_TIMEOUT_S)
        except DiskError as error:
            raise DiskError(f"{error}: bring the server back first, or give that up by --force") from None
    export = device.backend.removeprefix(BACKEND_PREFIX)
    keeper = pid_of_keeper(context.run_dir, device)
    with _kernel() as kernel:
        kernel.disconnect(device.index)
    deadline = time.monotonic() + _DETACH_TIMEOUT_S
    while device.is_attached:
        if time.monotonic() > deadline:
            raise BusyError(f"{device.path} is still attached: somebody has it open")
        time.sleep(_POLL_S)
    if keeper is not None:
        with contextlib.suppress(ProcessLookupError):  # it has seen so itself
            os.kill(keeper, signal.SIGTERM)
    device.drop_link(export)
    return 0


# --- names ---


def _names(names: list[str]) -> tuple[str, NbdDevice | None]:
    """The export's name (volume 0 is the resource's), and the device if one was asked for."""
    if len(names) > 2 or names[0].startswith("/dev/"):
        raise UsageError("expected RES[/VNR], and perhaps /dev/nbdN")
    resource, _, vnr = names[0].partition("/")
    if vnr and not (vnr.isascii() and vnr.isdigit() and len(vnr) <= 5):
        raise UsageError(f"'{names[0]}' names no volume: expected RES or RES/VNR")
    export = f"{resource}/{int(vnr)}" if vnr and int(vnr) else resource
    return export, NbdDevice.of_path(names[1]) if len(names) == 2 else None


def _attached(names: list[str]) -> NbdDevice | None:
    if len(names) != 1:
        raise UsageError("expected RES[/VNR] or /dev/nbdN")
    if names[0].startswith("/dev/"):
        return NbdDevice.of_path(names[0])
    return find_backend(BACKEND_PREFIX + _names(names)[0])


def _own_addresses(context: Context, export: str) -> list[ServerAddress]:
    resource = export.partition("/")[0]
    found = []
    for uri in context.ask_running(resource).get("nbd", ()):
        try:
            found.append(parse_uri(str(uri)))
        except UsageError:
            continue  # one that a kernel's device can't be made of
    if not found:
        raise NotRunningError(f"{resource} has no NBD address that a device can be made of")
    return found


# --- the kernel ---


def _check_netlink() -> None:
    """Before anything that imports it. Raises NotInstalled if pyroute2 is missing."""
    try:
        import pydrbd.admin.nbd_netlink  # noqa: F401
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pyroute2"):
            raise
        raise NotInstalled(
            "pyroute2 is missing, which speaks netlink: pip install pyroute2, or apt-get install python3-pyroute2"
        ) from None


def _kernel() -> NbdKernel:
    """The nbd module, loaded if it is not yet. Raises NbdKernelError."""
    from pydrbd.admin.nbd_netlink import NbdKernel, NbdKernelError

    if not _MODULE.exists():
        try:
            subprocess.run(["modprobe", "nbd"], capture_output=True, check=True, timeout=_ANSWER_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise NbdKernelError("this kernel has no nbd module that could be loaded (modprobe nbd)") from error
    return NbdKernel()


def _refuse_swap(wish: Wish) -> None:
    """A machine that swaps to a server of its own stops for good when the server needs memory."""
    for address in wish.addresses:
        try:
            with NbdClient.connect(address.place, wish.export) as client:
                head = client.read(0, min(_PAGE_BYTES[-1], client.size_bytes))
        except NbdClientError:
            if address is wish.addresses[-1]:
                raise
            continue
        for page_bytes in _PAGE_BYTES:
            if head[page_bytes - 10 : page_bytes] in _SWAP_SIGNATURES:
                raise DiskError(
                    f"{wish.export} is a swap area: a machine must not swap to a server that needs memory to answer "
                    "(--force: it is to become something else)"
                )
        return


def _grow(wish: Wish, kernel: NbdKernel, device: NbdDevice) -> None:
    """A device that is attached takes the export's new size over."""
    sock, opened = open_first(wish.addresses, wish.export)
    sock.close()
    if opened.size_bytes > device.size_bytes:
        kernel.resize(device.index, wish.backend, opened.size_bytes)


# --- the helper ---


def _keep(wish: Wish, device: NbdDevice | None, on_attached: Callable[[NbdDevice], None]) -> None:
    from pydrbd.admin.nbd_keeper import Keeper

    with _kernel() as kernel:
        keeper = Keeper(wish, kernel)
        if device is None:
            device = keeper.attach()
            on_attached(device)
        else:
            on_attached(device)
            keeper.adopt(device)
        keeper.stay()


def _in_background(wish: Wish, device: NbdDevice | None) -> int:
    """Fork the helper; what it has to say about its start comes through a pipe, as `CODE TEXT`."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        os._exit(_be_helper(wish, device, theirs))
    os.close(theirs)
    with open(ours, encoding="utf-8") as answer:  # noqa: PTH123 - a descriptor, not a path
        words = answer.read()
    code, _, text = words.partition(" ")
    if not code:
        raise CommandFailed(f"{wish.export}: the helper ended without a word: see {_log_path(wish)}")
    if code != "0":
        raise _Failed(int(code), text)
    say(text)
    return 0


def _be_helper(wish: Wish, device: NbdDevice | None, answer: int) -> int:
    """The whole life of the forked process; its exit code."""
    from pydrbd.errors import exit_code_of
    from pydrbd.runtime.log_file import LogFile

    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    logging.basicConfig(
        level=logging.INFO, handlers=[LogFile(_log_path(wish))], format="%(asctime)s %(levelname)s %(message)s"
    )

    def tell(found: NbdDevice) -> None:
        os.write(answer, f"0 {wish.export} is {found.path}".encode())
        os.close(answer)

    try:
        _keep(wish, device, tell)
    except (PydrbdError, OSError) as error:
        words = os_error_text(error) if isinstance(error, OSError) else str(error)
        logging.error("%s", words)
        with contextlib.suppress(OSError):  # it was told already that all was well
            os.write(answer, f"{exit_code_of(error)} {words}".encode())
        return exit_code_of(error)
    except BaseException:
        logging.exception("an error in pydrbd itself")
        return 70
    return 0


class _Failed(PydrbdError):
    """What the helper has met: its exit code and its words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]  # known only now


def _log_path(wish: Wish) -> Path:
    return wish.run_dir / f"{wish.export.replace('/', '-')}.attach.log"
