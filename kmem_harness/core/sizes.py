"""Sizes as people write them at our own edges: options, markers, unit files.

The control files do not use this: they take exactly what a kernel takes, see ``limit_text``.
"""

from __future__ import annotations

import re

from kmem_harness.core.errors import ConfigurationError

__all__ = ["UNLIMITED", "format_size", "parse_size"]

UNLIMITED = -1
"""Our edges' token for "no limit"; counters hold the emulated kernel's own big number."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,19})(?:([KMGT])(?:IB|B)?)?", re.IGNORECASE | re.ASCII)
_LARGEST = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Turn ``"4096"``, ``"8k"``, ``"8MiB"``, ``"1G"`` into bytes, ``"-1"`` and ``"max"`` into -1.

    Units are powers of two and nothing is rounded here; the memcg rounds to pages later.
    Raises: ConfigurationError unless the whole text is one size.
    """
    if text in {"-1", "max"}:
        return UNLIMITED
    match = _SIZE.fullmatch(text)
    if match is None:
        message = (
            f"not a size: {text!r}. A size is digits with at most one suffix K, M, G or T, "
            "-1 or max. Write for example 4096, 8k, 8MiB or 1G."
        )
        raise ConfigurationError(message)
    nbytes = int(match[1]) * _UNITS[(match[2] or "").upper()]
    if nbytes > _LARGEST:
        message = f"size too large: {text!r} is over {_LARGEST} bytes. Write max for no limit."
        raise ConfigurationError(message)
    return nbytes


def format_size(nbytes: int) -> str:
    """Show *nbytes* for people: ``"8.0M"``, ``"512B"``, ``"unlimited"``."""
    if nbytes == UNLIMITED:
        return "unlimited"
    size = float(nbytes)
    for unit in ("B", "K", "M", "G"):
        if abs(size) < 1024:  # noqa: PLR2004 - the step between binary units
            return f"{nbytes}B" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}T"
