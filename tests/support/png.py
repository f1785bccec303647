"""Read the pixels of a picture that a browser wrote."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["pixels"]

_CHANNELS = {2: 3, 6: 4}  # by colour type: RGB, RGBA


def pixels(path: Path) -> Iterator[tuple[int, int, int]]:
    """Give red, green and blue of each pixel of a PNG with 8 bits for each, row by row."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed, width, channels = 8, b"", 0, 0
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if name == b"IHDR":
            width, _, depth, colours = struct.unpack_from(">IIBB", body)
            assert depth == 8
            channels = _CHANNELS[colours]
        elif name == b"IDAT":
            packed += body
        at += 12 + length
    stride = width * channels
    raw, above = zlib.decompress(packed), bytearray(stride)
    for begin in range(0, len(raw), stride + 1):
        row = bytearray(raw[begin + 1 : begin + 1 + stride])
        _unfilter(raw[begin], row, above, channels)
        above = row
        for x in range(0, stride, channels):
            yield row[x], row[x + 1], row[x + 2]


def _unfilter(kind: int, row: bytearray, above: bytearray, channels: int) -> None:
    if kind == 0:
        return
    for x in range(len(row)):
        left = row[x - channels] if x >= channels else 0
        corner = above[x - channels] if x >= channels else 0
        if kind == 1:
            add = left
        elif kind == 2:
            add = above[x]
        elif kind == 3:
            add = (left + above[x]) // 2
        else:
            guess = left + above[x] - corner
            add = min(left, above[x], corner, key=lambda one: abs(guess - one))
        row[x] = (row[x] + add) & 0xFF
