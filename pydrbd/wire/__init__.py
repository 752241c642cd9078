"""Bytes and values: the DRBD wire protocol and NBD. Pure: no sockets, no clocks.

`packets` has a dataclass for each DRBD packet, `framing` the headers around them, `bitmap_code` the exchange of
out-of-sync bitmaps.
"""

from __future__ import annotations

__all__: list[str] = []
