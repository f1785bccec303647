"""Write a cost table: the measured kinds in place of those of the profile it is based on.

Knows the TOML that ``costs/table.py`` reads; measures nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.calibrate.measure import Measurement
    from kmem_harness.costs.table import Kind, Part

__all__ = ["cost_text", "scaled_parts"]

_HEAD = """\
# What kernel objects cost on {release}, measured there by `kmem-harness calibrate`.
#
# Kinds that are not listed are those of the profile it is based on. What was measured is one object
# in all; how its parts share that, and what a call fails with, is as in that profile.

base = "{base}"
"""


def scaled_parts(parts: tuple[Part, ...], nbytes: int) -> list[int]:
    """Share *nbytes* among *parts* as their own sizes do. Units: bytes, times a part's ``every``.

    What is freed early is not part of what lasts: it keeps its size, and comes on top.
    """
    lasting = [part for part in parts if part.freed != "early"]
    total = sum(part.nbytes / part.every for part in lasting)
    sizes = [
        part.nbytes if part.freed == "early" else int(part.nbytes * nbytes / total)
        for part in parts
    ]
    # What rounding left over goes to the largest part that is not shared.
    largest = max(
        (at for at, part in enumerate(parts) if part.freed != "early" and part.every == 1),
        key=lambda at: sizes[at],
    )
    sizes[largest] += nbytes - round(
        sum(
            size / part.every
            for size, part in zip(sizes, parts, strict=True)
            if part.freed != "early"
        )
    )
    return sizes


def cost_text(
    base: str, kinds: Mapping[str, Kind], found: Mapping[str, Measurement], release: str
) -> str:
    """Give the file's text: each kind in *found*, shaped as in *kinds*, those of profile *base*."""
    tables = [_HEAD.format(release=release, base=base)]
    for name, measurement in found.items():
        tables.append(_table(kinds[name], measurement, release))
    return "\n".join(tables)


def _table(kind: Kind, found: Measurement, release: str) -> str:
    lasting = round(found.nbytes)
    sizes = scaled_parts(kind.parts, lasting)
    early = sum(part.nbytes for part in kind.parts if part.freed == "early")
    measured = (
        f"{found.nbytes:.0f} +- {found.error:.0f} bytes each, {found.objects} objects, {release}"
    )
    lines = [
        f"[kinds.{kind.name}]",
        f"nbytes = {lasting + early}",
        f'errno = "{kind.errno_name}"',
        f'source = {{ measured = "{measured}" }}',
        f'held_by = "{kind.held_by}"',
        f"user_nbytes = {kind.user_nbytes}",
        f"time_us = {kind.time_us}",
        f"memory_limit_stretch = {kind.memory_limit_stretch}",
        f"included = {kind.included}",
        "parts = [",
    ]
    lines += [_part(part, size) for part, size in zip(kind.parts, sizes, strict=True)]
    return "\n".join([*lines, "]"]) + "\n"


def _part(part: Part, nbytes: int) -> str:
    pages = str(part.pages).lower()
    return (
        f'  {{ name = "{part.name}", nbytes = {nbytes}, errno = "{part.errno_name}", '
        f'pages = {pages}, freed = "{part.freed}", every = {part.every} }},'
    )
