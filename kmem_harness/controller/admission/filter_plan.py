"""Which calls a box's filter traps, and which it denies. Knows prices and rules; installs nothing."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kmem_harness.controller.admission.restarts import WATCHED
from kmem_harness.interposer.filter import Condition, FilterPlan

if TYPE_CHECKING:
    from kmem_harness.controller.account.box import Box
    from kmem_harness.interposer.syscalls import Architecture

__all__ = ["plan_filter"]

_ALWAYS_DENIED = dict.fromkeys(
    # A ring makes files, directories and sockets without a system call of their own.
    ("io_uring_setup", "io_uring_enter", "io_uring_register"),
    errno.ENOSYS,
)
#: Where a box shares our pid namespace it could reach us or its neighbours with these.
_DENIED_WITHOUT_NAMESPACE = dict.fromkeys(
    ("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kill"), errno.EPERM
)
_ONLY_IF = {"kill": Condition(arg=0, equal=(-1,))}  # kill(-1): everyone we may signal


def plan_filter(box: Box, architecture: Architecture, isolation: str) -> FilterPlan:
    """Trap what *box* is charged for and what its fault rules name."""
    deny = dict(_ALWAYS_DENIED)
    if isolation == "none":
        deny |= _DENIED_WITHOUT_NAMESPACE
    kinds, faults = box.kinds, box.faults
    if kinds["thread"].nbytes > kinds["task"].nbytes or (faults and faults.needs_clone_flags):
        # What clone3 makes cannot be seen, and "a task" would be too little. Without clone3, as
        # on older kernels, libraries use clone.
        deny["clone3"] = errno.ENOSYS
    injected: frozenset[str] = frozenset() if faults is None else faults.names()
    narrowed = _ONLY_IF | WATCHED | box.prices.only_if
    return FilterPlan(
        architecture=architecture,
        trap=(box.prices.names | injected | WATCHED.keys()) - deny.keys(),
        deny=deny,
        # A rule counts every call of a name, whatever narrows what is charged.
        only_if={name: one for name, one in narrowed.items() if name not in injected},
    )
