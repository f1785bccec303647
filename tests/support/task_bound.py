"""Say what the hard bound on a box's tasks counts here. Knows isolations; bounds nothing."""

from __future__ import annotations

import os

from kmem_harness.runtimes.local import probe

__all__ = ["shares_its_task_bound"]


def shares_its_task_bound() -> bool:
    """Tell whether other tasks of this user count in it, which come and go meanwhile.

    So it is for an ordinary user without user namespaces: all there is, is RLIMIT_NPROC.
    """
    return os.geteuid() != 0 and probe("user") is not None
