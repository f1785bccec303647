"""How a descriptor table grows, and what its allocations cost.

Source: fs/file.c alloc_fdtable and mm/util.c kvmalloc_node (5.10). Knows sizes; charges nothing.
"""

from __future__ import annotations

from kmem_harness.core.limit_text import PAGE

__all__ = ["EMBEDDED", "KMALLOC_MAX", "slab_nbytes", "table_blocks", "table_size_for"]

EMBEDDED = 64
"""Descriptors that fit in the table inside ``files_struct``."""
KMALLOC_MAX = 4 << 20
_SLABS = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
_OWNERSHIP = 8
_POINTER = 8
_STEP = 1024 // _POINTER
_STRUCT = 56
_CACHE_LINE = 64
_BITS = 64


def table_size_for(highest: int) -> int:
    """Say how many entries the table gets that is to hold descriptor *highest*."""
    units = highest // _STEP + 1
    size = 1
    while size < units:
        size *= 2
    return size * _STEP


def table_blocks(size: int) -> tuple[int, int, int]:
    """List the bytes of the three blocks of a table of *size* entries."""
    words = -(-size // _BITS)
    bitmaps = 2 * size // 8 + -(-words // _BITS) * 8
    return _STRUCT, size * _POINTER, max(bitmaps, _CACHE_LINE)


def slab_nbytes(nbytes: int) -> int | None:
    """Give what a kmalloc of *nbytes* charges, or ``None`` if it is a block of pages."""
    for slab in _SLABS:
        if nbytes <= slab:
            return slab + _OWNERSHIP
    return None


def block_nbytes(nbytes: int) -> int:
    """Give the bytes of the power-of-two block of pages a large kmalloc takes."""
    block = PAGE
    while block < nbytes:
        block *= 2
    return block
