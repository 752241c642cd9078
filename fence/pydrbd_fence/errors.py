"""Errors by blame. Every one is told to the user in one line and ends the command with sbd's exit code, 1."""

from __future__ import annotations

__all__ = ["DeviceError", "DeviceTimeout", "FormatError", "Refused", "SbdError", "UsageError"]


class SbdError(Exception):
    """The root of what we raise on purpose: the message says what is wrong, where, and what to do."""


class UsageError(SbdError):
    """The command line or the settings are wrong."""


class DeviceError(SbdError):
    """A device can't be opened, read or written; for the vote it is lost."""


class DeviceTimeout(DeviceError):
    """The device gave no answer in time. The I/O may still happen later."""


class FormatError(SbdError):
    """What is on the device is not what SBD 2.1 writes there."""


class Refused(SbdError):
    """It could be done, but it must not be."""
