"""What each verb on the control socket may be given: names and kinds, looked at before anything is done.

A request comes from whoever may open the socket, not only from our own command line: a misspelled name must not mean
"all volumes", and a wrong kind must not meet the core.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from pydrbd.limits import VERIFY_MAP_CELLS_MAX

__all__ = ["decode_request", "wrong_arguments"]


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_seconds(value: Any) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(word, str) for pair in value.items() for word in pair)


_KINDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "force": (_is_flag, "true or false"),
    "discard_my_data": (_is_flag, "true or false"),
    "tentative": (_is_flag, "true or false"),
    "clear_bitmap": (_is_flag, "true or false"),
    "assume_clean": (_is_flag, "true or false"),
    "assume_peer_has_space": (_is_flag, "true or false"),
    "size_sectors": (lambda value: value is None or _is_number(value), "a number of sectors"),
    "al_stripes": (lambda value: value is None or (_is_number(value) and 1 <= value <= 1024), "1 to 1024"),
    "al_stripe_size_kib": (
        lambda value: value is None or (_is_number(value) and 4 <= value <= 1 << 24 and value % 4 == 0),
        "a multiple of 4, from 4 to 16777216",
    ),
    "start_sector": (_is_number, "a number of sectors"),
    "stop_sector": (_is_number, "a number of sectors"),
    "volume": (_is_number, "a volume's number"),
    "timeout_s": (_is_seconds, "seconds"),
    "cells": (lambda value: _is_number(value) and 1 <= value <= VERIFY_MAP_CELLS_MAX, "a number of parts"),
    "dry_run": (_is_flag, "true or false"),
    "defaults": (_is_flag, "true or false"),
    "section": (lambda value: value in ("net", "disk", "options"), "net, disk or options"),
    "options": (_are_options, "an object of strings"),
    "config": (lambda value: isinstance(value, str) and value.startswith("/"), "the absolute path of a file"),
}

_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "primary": frozenset({"force"}),
    "secondary": frozenset({"force"}),
    "connect": frozenset({"discard_my_data", "tentative"}),
    "disconnect": frozenset({"force"}),
    "detach": frozenset({"force"}),
    "verify": frozenset({"start_sector", "stop_sector"}),
    "verify-report": frozenset({"cells"}),
    "new-current-uuid": frozenset({"clear_bitmap", "volume"}),
    "resize": frozenset(
        {"size_sectors", "assume_clean", "assume_peer_has_space", "al_stripes", "al_stripe_size_kib", "volume"}
    ),
    "adjust": frozenset({"config", "dry_run"}),
    "options": frozenset({"section", "options", "volume"}),
    "show": frozenset({"defaults"}),
    "wait-connect": frozenset({"timeout_s"}),
    "wait-sync": frozenset({"timeout_s"}),
}
"""Verbs that are not here take nothing."""

_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {"adjust": ("config",), "options": ("section", "options")}


def decode_request(line: bytes) -> tuple[str, dict[str, Any]] | str:
    """The verb and the arguments of a line; or, in words, why it is no request."""
    try:
        request = json.loads(line)
        verb, arguments = request["verb"], request.get("arguments") or {}
        if not isinstance(verb, str) or not isinstance(arguments, dict):
            raise TypeError("verb must be a string, arguments an object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"not a request: {error}"
    return verb, arguments


def wrong_arguments(verb: str, arguments: Mapping[str, Any], volumes: Collection[int]) -> str:
    """What is wrong with a request, in words; "" if nothing is. `volumes`: the numbers that the resource has."""
    known = _NAMES.get(verb, frozenset())
    for name in _NEEDED.get(verb, ()):
        if name not in arguments:
            return f"{verb} needs the argument {name!r}"
    for name, value in arguments.items():
        if name not in known:
            return f"{verb} has no argument {name!r} (but {', '.join(sorted(known)) or 'none'})"
        is_right, words = _KINDS[name]
        if not is_right(value):
            return f"{verb}: {name} must be {words}"
        if name == "volume" and value not in volumes:
            return f"{verb}: there is no volume {value}"
    return ""
