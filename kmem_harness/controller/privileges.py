"""Give up what a controller does not need. Knows prctl, capabilities and limits; knows no boxes."""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from kmem_harness.procfs.libc import libc

__all__ = ["KEPT_CAPABILITIES", "MOST_DATA", "harden"]

#: include/uapi/linux/capability.h: to look at processes of other users and at what they hold, to
#: end them, and to reach the event pipes and engines that the owner named. Root alone has any; where
#: the last is not among what it has, see :func:`harden`.
KEPT_CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SYS_PTRACE": 19,
}
#: Some thirty times what a controller with thousands of tasks takes. Units: bytes.
MOST_DATA = 1 << 30

_LAST_CAPABILITY = 63  # of those that would fit; the kernel has fewer
_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: the low halves, then the high
_LOW_HALF = 0xFFFFFFFF
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38


def harden() -> None:
    """Keep few privileges and little memory, and let nobody of our user look into ours.

    No core dump either: one could show what boxes were given. Nobody but root may trace us then.
    There is room for as many boxes as descriptors may be had. Without CAP_SYS_PTRACE, all
    capabilities that a target may have are kept: the kernel shows us no other one's descriptors.
    """
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc().prctl(option, value, 0, 0, 0) < 0:
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    _drop_capabilities()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, most in ((resource.RLIMIT_NOFILE, None), (resource.RLIMIT_DATA, MOST_DATA)):
        _, hard = resource.getrlimit(limit)
        if most is not None:
            hard = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (hard, hard))
    os.umask(0o077)


def _drop_capabilities() -> None:
    """Keep of what there is what is needed, so that no program of ours could have more.

    Without CAP_SYS_PTRACE, as in a default container, the kernel shows what a task holds to those
    alone who have every capability that it has (cap_ptrace_access_check): there, all is kept that
    a target gets, which is what we have ourselves.
    """
    kept = sum(1 << number for number in KEPT_CAPABILITIES.values())
    header = _HEADER.pack(_VERSION_3, 0)
    sets = ctypes.create_string_buffer(_SETS.size)
    if libc().capget(header, sets) < 0:
        raise OSError(ctypes.get_errno(), "capget")
    halves = _SETS.unpack(sets.raw)
    held = halves[1] | halves[4] << 32
    left = held & kept if held >> KEPT_CAPABILITIES["CAP_SYS_PTRACE"] & 1 else held
    for number in range(_LAST_CAPABILITY + 1):
        if not kept >> number & 1:
            # EINVAL: the kernel has none of that number. EPERM: we have none at all to give up.
            libc().prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    low, high = left & _LOW_HALF, left >> 32
    if libc().capset(header, _SETS.pack(low, low, 0, high, high, 0)) < 0:
        raise OSError(ctypes.get_errno(), "capset")
