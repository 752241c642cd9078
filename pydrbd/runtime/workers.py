"""A few threads that do blocking work for a Trio task, at the cost of a queue and a shared wake-up.

Trio's own to_thread costs a task, a limiter and a wake-up for each call. Here jobs go through one queue, results
gather in a deque, and the first result of a lot wakes the Trio side through an eventfd; it then takes all that are
there.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import trio

from pydrbd.errors import InternalError

__all__ = ["Workers"]

JobT = TypeVar("JobT")
DoneT = TypeVar("DoneT")


class Workers(Generic[JobT, DoneT]):
    """`thread_count` threads call `work(job)` for the jobs in turn; what it returns, unless None, is a result.

    `work` must not raise: an exception is a broken invariant, which `wait` raises in the Trio task. The threads are
    daemons: one that the kernel never lets go must not keep the process from ending.
    """

    def __init__(self, work: Callable[[JobT], DoneT | None], thread_count: int, name: str) -> None:
        assert thread_count > 0
        self._work = work
        self._jobs: SimpleQueue[JobT | None] = SimpleQueue()
        self._done: deque[DoneT] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_woken = False
        self._crash: BaseException | None = None
        self._is_ending = False
        self._ended_lock = threading.Lock()
        self._running_count = thread_count
        self.wakeups = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(thread_count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: JobT) -> None:
        """Queue a job; never blocks."""
        assert not self._is_ending
        self._jobs.put(job)

    async def wait(self) -> list[DoneT]:
        """Wait for the next results and take all that are there; may be empty. For one task at a time.

        Raises InternalError, once, when a job has raised.
        """
        await trio.lowlevel.wait_readable(self._wake_fd)
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return []
        self.wakeups += 1
        # Before the deque is looked at: a result that comes later than our look then wakes us again.
        self._is_woken = False
        if self._crash is not None:
            crash, self._crash = self._crash, None  # once: whoever cleans up waits again
            raise InternalError(f"a worker thread failed: {crash!r}") from crash
        return [self._done.popleft() for _ in range(len(self._done))]

    def take_queued(self) -> list[JobT]:
        """The jobs that no thread has begun; they won't be done."""
        jobs: list[JobT] = []
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs
            if job is not None:
                jobs.append(job)

    def end(self) -> None:
        """Let every thread end after its present job; drop what is queued (see take_queued)."""
        self._is_ending = True
        self.take_queued()
        for _ in self._threads:
            self._jobs.put(None)

    @property
    def have_ended(self) -> bool:
        """Whether all threads are through and all their results taken."""
        return self._running_count == 0 and not self._done

    def close(self) -> None:
        """Join the threads and give the wake-up descriptor back; only when they have ended."""
        assert self.have_ended
        for thread in self._threads:
            thread.join()
        if self._wake_fd >= 0:
            trio.lowlevel.notify_closing(self._wake_fd)
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                done = self._work(job)
                # Nothing may keep a finished job's buffers alive while this thread waits for the next.
                del job
                if done is not None:
                    self._done.append(done)
                    del done
                    self._wake()
        except BaseException as crash:
            self._crash = crash  # raised again, in the Trio task
        finally:
            with self._ended_lock:
                self._running_count -= 1
            self._wake()

    def _wake(self) -> None:
        # Two threads may both see False here and both write: that is a wake-up too many, never one too few.
        if not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._wake_fd, 1)
