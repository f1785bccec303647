"""Name the system calls we trap or deny, per architecture. Knows numbers; knows no prices.

Source: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (v6.6),
include/uapi/linux/audit.h. Only x86_64 was run; aarch64 is cross-compiled and table-checked.
"""

from __future__ import annotations

import os

from kmem_harness.core.errors import UnsupportedHostError

__all__ = ["ARCHITECTURES", "CLONE_THREAD", "Architecture", "native_architecture"]

CLONE_THREAD = 0x00010000


class Architecture:
    """One system call ABI: its audit token and the numbers of the calls we care about.

    ``x32_bit`` is set in the number of a call of a second ABI that shares the audit token.
    """

    def __init__(
        self, name: str, audit_token: int, numbers: dict[str, int], x32_bit: int = 0
    ) -> None:
        """Hold what the kernel's headers say. There is one object of each."""
        self.name = name
        self.audit_token = audit_token
        self.numbers = numbers
        self.x32_bit = x32_bit


# The same on every architecture: added after the tables were unified (v5.1).
_COMMON = {
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "faccessat2": 439,
    "pidfd_getfd": 438,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "fsopen": 430,
    "fsmount": 432,
    "fspick": 433,
    "landlock_create_ruleset": 444,
    "memfd_secret": 447,
    "open_tree_attr": 467,
}

X86_64 = Architecture(
    name="x86_64",
    audit_token=0xC000003E,
    x32_bit=0x40000000,
    numbers=_COMMON
    | {
        "write": 1,
        "open": 2,
        "stat": 4,
        "lstat": 6,
        "mmap": 9,
        "mprotect": 10,
        "brk": 12,
        "rt_sigaction": 13,
        "ioctl": 16,
        "writev": 20,
        "access": 21,
        "pipe": 22,
        "mremap": 25,
        "madvise": 28,
        "shmget": 29,
        "dup": 32,
        "dup2": 33,
        "socket": 41,
        "connect": 42,
        "accept": 43,
        "bind": 49,
        "listen": 50,
        "socketpair": 53,
        "setsockopt": 54,
        "getsockopt": 55,
        "clone": 56,
        "fork": 57,
        "vfork": 58,
        "kill": 62,
        "semget": 64,
        "msgget": 68,
        "msgsnd": 69,
        "fcntl": 72,
        "fsync": 74,
        "ftruncate": 77,
        "rename": 82,
        "mkdir": 83,
        "rmdir": 84,
        "creat": 85,
        "link": 86,
        "unlink": 87,
        "symlink": 88,
        "readlink": 89,
        "ptrace": 101,
        "mknod": 133,
        "mount": 165,
        "setxattr": 188,
        "lsetxattr": 189,
        "fsetxattr": 190,
        "io_setup": 206,
        "epoll_create": 213,
        "timer_create": 222,
        "exit_group": 231,
        "execve": 59,
        "execveat": 322,
        "epoll_ctl": 233,
        "mq_open": 240,
        "add_key": 248,
        "inotify_init": 253,
        "inotify_add_watch": 254,
        "openat": 257,
        "mkdirat": 258,
        "mknodat": 259,
        "newfstatat": 262,
        "unlinkat": 263,
        "renameat": 264,
        "linkat": 265,
        "symlinkat": 266,
        "readlinkat": 267,
        "faccessat": 269,
        "unshare": 272,
        "signalfd": 282,
        "timerfd_create": 283,
        "eventfd": 284,
        "fallocate": 285,
        "accept4": 288,
        "signalfd4": 289,
        "eventfd2": 290,
        "epoll_create1": 291,
        "dup3": 292,
        "pipe2": 293,
        "inotify_init1": 294,
        "perf_event_open": 298,
        "fanotify_init": 300,
        "open_by_handle_at": 304,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "renameat2": 316,
        "memfd_create": 319,
        "bpf": 321,
        "userfaultfd": 323,
        "statx": 332,
    },
)

AARCH64 = Architecture(
    name="aarch64",
    audit_token=0xC00000B7,
    numbers=_COMMON
    | {
        "io_setup": 0,
        "setxattr": 5,
        "lsetxattr": 6,
        "fsetxattr": 7,
        "eventfd2": 19,
        "epoll_create1": 20,
        "epoll_ctl": 21,
        "dup": 23,
        "dup3": 24,
        "fcntl": 25,
        "inotify_init1": 26,
        "inotify_add_watch": 27,
        "ioctl": 29,
        "mknodat": 33,
        "mkdirat": 34,
        "unlinkat": 35,
        "symlinkat": 36,
        "linkat": 37,
        "renameat": 38,
        "mount": 40,
        "ftruncate": 46,
        "fallocate": 47,
        "faccessat": 48,
        "openat": 56,
        "pipe2": 59,
        "write": 64,
        "writev": 66,
        "signalfd4": 74,
        "readlinkat": 78,
        "newfstatat": 79,
        "fsync": 82,
        "timerfd_create": 85,
        "exit_group": 94,
        "execve": 221,
        "execveat": 281,
        "unshare": 97,
        "timer_create": 107,
        "ptrace": 117,
        "kill": 129,
        "rt_sigaction": 134,
        "mq_open": 180,
        "msgget": 186,
        "msgsnd": 189,
        "semget": 190,
        "shmget": 194,
        "socket": 198,
        "socketpair": 199,
        "bind": 200,
        "listen": 201,
        "accept": 202,
        "connect": 203,
        "setsockopt": 208,
        "getsockopt": 209,
        "brk": 214,
        "mremap": 216,
        "add_key": 217,
        "clone": 220,
        "mmap": 222,
        "mprotect": 226,
        "madvise": 233,
        "perf_event_open": 241,
        "accept4": 242,
        "fanotify_init": 262,
        "open_by_handle_at": 265,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "renameat2": 276,
        "memfd_create": 279,
        "bpf": 280,
        "userfaultfd": 282,
        "statx": 291,
    },
)

ARCHITECTURES = {architecture.name: architecture for architecture in (X86_64, AARCH64)}


def native_architecture() -> Architecture:
    """Give the table of the machine we run on.

    Raises: UnsupportedHostError on a machine without a table.
    """
    machine = os.uname().machine
    try:
        return ARCHITECTURES[machine]
    except KeyError:
        message = f"no system call table for {machine}"
        raise UnsupportedHostError(
            message,
            missing=f"a system call table for {machine}",
            remedy=f"run on one of {', '.join(ARCHITECTURES)}",
        ) from None
