"""The gfp flags that decide how an accounted allocation may behave, as the rules name them."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["GFP_ATOMIC", "GFP_KERNEL", "GFP_NOFS", "Gfp", "Situation"]


class Gfp(IntFlag):
    """What one allocation may do. ``ACCOUNT`` is the opt-in of K31 and is in ``GFP_KERNEL``."""

    WAIT = 1
    FS = 2
    NORETRY = 4
    NOFAIL = 8
    ACCOUNT = 16
    ATOMIC = 32


# Named without ACCOUNT in the kernel; every request of this package is an accounted one.
GFP_KERNEL = Gfp.WAIT | Gfp.FS | Gfp.ACCOUNT
GFP_NOFS = Gfp.WAIT | Gfp.ACCOUNT
GFP_ATOMIC = Gfp.ATOMIC | Gfp.ACCOUNT


class Situation(IntFlag):
    """Where the allocating task stands; the gate of K32 and the bypass of K47 read it."""

    NORMAL = 0
    INTERRUPT = 1
    NO_MM = 2
    KERNEL_THREAD = 4
    FATAL_SIGNAL = 8
    OOM_VICTIM = 16
