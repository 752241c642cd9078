"""Becoming a daemon: the caller's process waits until the node is watched, and ends with what it was told."""

from __future__ import annotations

import os
import sys

__all__ = ["Parent"]


class Parent:
    """The process that the user started. In the foreground there is no other one."""

    def __init__(self, foreground: bool) -> None:
        self._foreground = foreground
        self._read, self._write = (-1, -1) if foreground else os.pipe()

    def fork(self) -> bool:
        """True in the parent, False in the daemon. Before any thread is started."""
        if self._foreground:
            return False
        if os.fork():
            os.close(self._write)
            return True
        os.close(self._read)
        os.setsid()
        return False

    def wait(self) -> int:
        """The exit code that the daemon told; 1 if it ended without a word."""
        told = b""
        while piece := os.read(self._read, 4096):
            told += piece
        code, _, words = told.partition(b" ")
        if words:
            sys.stderr.write(words.decode())
        return int(code) if code else 1

    def tell(self, code: int, words: str = "") -> None:
        """Once: up (0), or why not. A daemon that is up lets go of the terminal."""
        if self._foreground:
            if words:
                sys.stderr.write(words)
                sys.stderr.flush()
            return
        if self._write < 0:
            return
        os.write(self._write, f"{code} {words}".encode())
        os.close(self._write)
        self._write = -1
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
