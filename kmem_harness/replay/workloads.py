"""The workloads traces name: which kind of object each makes, and how it is held.

Data. What a kind costs stands in the cost tables, how one is made in ``machine``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["WORKLOADS", "Workload"]


@dataclass(frozen=True)
class Workload:
    """What one object of a workload is.

    :param kind: the kind in the cost table; a kernel whose table lacks it charges nothing.
    :param fds: descriptors each object takes.
    :param tasks: whether each object is a task, "process" or "thread".
    :param errnos: errnos a library turns into others (K92).
    :param churns: each object is freed again at once.
    :param grows_table: object i is a descriptor 256 * 2**i - 1.
    """

    kind: str
    fds: int = 0
    tasks: str | None = None
    errnos: dict[str, str] = field(default_factory=dict)
    churns: bool = False
    grows_table: bool = False


_THREAD = {"ENOMEM": "EAGAIN"}
_MADE: dict[str, Workload] = {
    "fork-pause": Workload("task", tasks="process"),
    "fork-nohandshake": Workload("fork", tasks="process"),
    "fork-zombie": Workload("fork", tasks="process"),
    "vfork": Workload("fork", tasks="process"),
    "fork-exec": Workload("exec", tasks="process"),
    "pthread": Workload("thread", tasks="thread", errnos=_THREAD),
    "open-file": Workload("file", fds=1),
    "dup-fd": Workload("descriptor", fds=1),
    "fdtable-dup2": Workload("descriptor", grows_table=True),
    "pipe": Workload("pipe", fds=2),
    "inotify": Workload("inotify", fds=1),
    "memfd": Workload("memfd", fds=1),
    "unix-socket": Workload("unix-socket", fds=1),
    "tcp-socket": Workload("tcp-socket", fds=1),
    "tcp6-socket": Workload("tcp6-socket", fds=1),
    "udp-socket": Workload("udp-socket", fds=1),
    "netlink-socket": Workload("netlink-socket", fds=1),
    "mmap-vma": Workload("vma"),
    "page-tables": Workload("page-table"),
    "anon-64k": Workload("anon-64k"),
    "sysv-sem": Workload("sysv-sem"),
    "sysv-msg": Workload("sysv-msg"),
    "sysv-shm": Workload("sysv-shm"),
    "posix-timer": Workload("posix-timer"),
}
_MADE.update(
    {
        name: Workload("anon-file", fds=1)
        for name in ("eventfd", "epoll", "timerfd", "signalfd", "pidfd")
    }
)
for _fs in ("tmpfs", "ext4"):
    _MADE[f"mkdir-chain-{_fs}"] = Workload(f"dir-{_fs}")
    _MADE[f"mkdir-flat-{_fs}"] = Workload(f"dir-{_fs}")
    _MADE[f"create-{_fs}"] = Workload(f"file-{_fs}")
_MADE["negative-lookup-ext4"] = Workload("dentry")
# tmpfs keeps no dentry of a name that is not there.
_MADE["negative-lookup-tmpfs"] = Workload("dentry", churns=True)

_CHURNS = {
    "churn-open-close": "open-file",
    "churn-pipe-close": "pipe",
    "churn-eventfd-close": "eventfd",
    "churn-epoll-close": "epoll",
    "churn-memfd-close": "memfd",
    "churn-unix-socket-close": "unix-socket",
    "churn-tcp-socket-close": "tcp-socket",
    "churn-udp-socket-close": "udp-socket",
    "churn-create-unlink-tmpfs": "create-tmpfs",
    "churn-create-unlink-ext4": "create-ext4",
    "churn-mkdir-rmdir-tmpfs": "mkdir-flat-tmpfs",
    "churn-mkdir-rmdir-ext4": "mkdir-flat-ext4",
    "churn-negative-lookup-tmpfs": "negative-lookup-ext4",
    "churn-fork-exit-wait": "fork-nohandshake",
    "churn-fork-exec-wait": "fork-exec",
    "churn-pthread-join": "pthread",
    "churn-pthread-create-join": "pthread",
    "churn-mmap-munmap": "mmap-vma",
}

WORKLOADS: dict[str, Workload] = {
    **_MADE,
    **{
        name: Workload(kind=_MADE[made].kind, errnos=_MADE[made].errnos, churns=True)
        for name, made in _CHURNS.items()
    },
}
