"""The workloads traces name: which kind of object each makes, and how it is held.

Data, and the grammar of names. What a kind costs stands in the cost tables, how one is made in
``machine``. A name nobody recorded yet is found all the same if it is put together as the others
are: ``KIND``, ``KIND-FILESYSTEM``, and ``churn-`` before a kind whose objects are freed at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache

__all__ = ["WORKLOADS", "Workload", "workload_named"]


@dataclass(frozen=True)
class Workload:
    """What one object of a workload is.

    :param kind: the kind in the cost table; a kernel whose table lacks it charges nothing.
    :param fds: descriptors each object takes.
    :param tasks: whether each object is a task: "process", "thread", or "zombie" for a process
        that has exited and is not reaped.
    :param errnos: errnos a library turns into others (K92).
    :param churns: each object is freed again at once.
    :param grows_table: object i is a descriptor 256 * 2**i - 1.
    :param enters: the worker's working directory is in the last one.
    """

    kind: str
    fds: int = 0
    tasks: str | None = None
    errnos: dict[str, str] = field(default_factory=dict)
    churns: bool = False
    grows_table: bool = False
    enters: bool = False


_THREAD = {"ENOMEM": "EAGAIN"}
_ANONYMOUS_FILES = (
    "eventfd",
    "epoll",
    "timerfd",
    "signalfd",
    "pidfd",
    "userfaultfd",
    "perf-event",
    "bpf-map",
)
_SOCKETS = (
    "unix-socket",
    "tcp-socket",
    "tcp6-socket",
    "udp-socket",
    "udp6-socket",
    "raw-socket",
    "raw6-socket",
    "ping-socket",
    "packet-socket",
    "netlink-socket",
)
# Nothing is charged for these: their caches are accounted in later kernels only.
_FREE_OF_CHARGE = ("posix-timer", "file-lock", "key", "bind-mount", "xattr")
WORKLOADS: dict[str, Workload] = {
    "fork-pause": Workload("task", tasks="process"),
    "fork-nohandshake": Workload("fork", tasks="process"),
    "fork-zombie": Workload("zombie", tasks="zombie"),
    "fork-exec": Workload("exec", tasks="process"),
    "vfork": Workload("vfork", tasks="process"),
    "pthread": Workload("thread", tasks="thread", errnos=_THREAD),
    "clone-thread": Workload("thread", tasks="thread"),
    "open-file": Workload("file", fds=1),
    "dup-fd": Workload("descriptor", fds=1),
    "fdtable-dup2": Workload("descriptor", grows_table=True),
    "pipe": Workload("pipe", fds=2),
    "socketpair": Workload("socketpair", fds=2),
    # One set watches a descriptor but once: each is another, made by dup.
    "epoll-watch": Workload("epoll-watch", fds=1),
    "inotify": Workload("inotify", fds=1),
    "inotify-watch": Workload("inotify-watch"),
    "fanotify": Workload("inotify", fds=1),
    "memfd": Workload("memfd", fds=1),
    "posix-mq": Workload("posix-mq", fds=1),
    "pty": Workload("pty", fds=1),
    "mmap-vma": Workload("vma"),
    "page-tables": Workload("page-table"),
    "anon-64k": Workload("anon-64k"),
    "sysv-sem": Workload("sysv-sem"),
    "sysv-msg": Workload("sysv-msg"),
    "sysv-shm": Workload("sysv-shm"),
    "msg-send": Workload("sysv-message"),
    "uts-namespace": Workload("uts-namespace"),
    # tmpfs keeps no dentry of a name that is not there.
    "negative-lookup-tmpfs": Workload("dentry", churns=True),
    "negative-lookup-ext4": Workload("dentry"),
    **{name: Workload("anon-file", fds=1) for name in _ANONYMOUS_FILES},
    **{name: Workload(name, fds=1) for name in _SOCKETS},
    **{name: Workload("nothing") for name in _FREE_OF_CHARGE},
}
for _fs in ("tmpfs", "ext4"):
    WORKLOADS |= {
        f"mkdir-chain-{_fs}": Workload(f"dir-{_fs}", enters=True),
        f"mkdir-flat-{_fs}": Workload(f"dir-{_fs}"),
        f"create-{_fs}": Workload(f"file-{_fs}"),
        f"open-tmpfile-{_fs}": Workload(f"open-tmpfile-{_fs}", fds=1),
        f"symlink-{_fs}": Workload(f"node-{_fs}"),
        f"mknod-{_fs}": Workload(f"node-{_fs}"),
        f"link-{_fs}": Workload(f"link-{_fs}"),
        f"rename-{_fs}": Workload("dentry", churns=True),
    }

# Other words for the same, each tried on a whole name without file system and "churn-".
_ALSO = {
    "fork": "fork-nohandshake",
    "clone": "fork-nohandshake",
    "zombie": "fork-zombie",
    "fork-exit": "fork-zombie",
    "spawn": "fork-exec",
    "posix-spawn": "fork-exec",
    "vfork-exec": "fork-exec",
    "exec": "fork-exec",
    "thread": "clone-thread",
    "thread-clone": "clone-thread",
    "pthread-create": "pthread",
    "open": "open-file",
    "file": "open-file",
    "dup": "dup-fd",
    "dup2": "dup-fd",
    "fcntl-dupfd": "dup-fd",
    "fd": "dup-fd",
    "fdtable": "fdtable-dup2",
    "pipe2": "pipe",
    "unix-socketpair": "socketpair",
    "socketpair-unix": "socketpair",
    "socket": "unix-socket",
    "unix": "unix-socket",
    "unix-stream-socket": "unix-socket",
    "unix-dgram-socket": "unix-socket",
    "unix-dgram": "unix-socket",
    "tcp": "tcp-socket",
    "tcp4-socket": "tcp-socket",
    "tcp6": "tcp6-socket",
    "udp": "udp-socket",
    "udp4-socket": "udp-socket",
    "udp6": "udp6-socket",
    "raw": "raw-socket",
    "icmp-socket": "ping-socket",
    "netlink": "netlink-socket",
    "packet": "packet-socket",
    "epoll-create": "epoll",
    "epoll-ctl": "epoll-watch",
    "epoll-add": "epoll-watch",
    "eventpoll": "epoll",
    "timer-fd": "timerfd",
    "inotify-init": "inotify",
    "inotify-instance": "inotify",
    "inotify-add-watch": "inotify-watch",
    "memfd-create": "memfd",
    "mq": "posix-mq",
    "mq-open": "posix-mq",
    "mqueue": "posix-mq",
    "posix-mqueue": "posix-mq",
    "ptmx": "pty",
    "tty": "pty",
    "mmap": "mmap-vma",
    "vma": "mmap-vma",
    "page-table": "page-tables",
    "anon": "anon-64k",
    "sem": "sysv-sem",
    "semget": "sysv-sem",
    "msg": "sysv-msg",
    "msgget": "sysv-msg",
    "shm": "sysv-shm",
    "shmget": "sysv-shm",
    "msgsnd": "msg-send",
    "sysv-msg-send": "msg-send",
    "timer": "posix-timer",
    "timer-create": "posix-timer",
    "flock": "file-lock",
    "fcntl-lock": "file-lock",
    "posix-lock": "file-lock",
    "add-key": "key",
    "keys": "key",
    "keyring": "key",
    "unshare-uts": "uts-namespace",
    "mkdir": "mkdir-flat",
    "creat": "create",
    "touch": "create",
    "open-create": "create",
    "lookup": "negative-lookup",
    "stat-negative": "negative-lookup",
    "mkfifo": "mknod",
    "fifo": "mknod",
    "hardlink": "link",
    "tmpfile": "open-tmpfile",
    "o-tmpfile": "open-tmpfile",
}
_NAME = re.compile(r"(churn-)?(.+?)(-tmpfs|-ext4)?")
# What undoes an object, at the end of a churn's name.
_UNDONE = re.compile(
    r"-(close|unlink|rmdir|wait|exit-wait|exit|reap|join|create-join|munmap|free|rm|delete|remove)"
)


@lru_cache(maxsize=256)
def workload_named(name: str) -> Workload | None:
    """Find a workload by the name a trace gives it; ``None`` if nobody knows it.

    A file system's objects without the file system's name are tmpfs's.
    """
    if name in WORKLOADS:
        return WORKLOADS[name]
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    churn, body, fs = match[1], match[2], match[3] or ""
    if churn:
        while undone := _UNDONE.search(body):
            body = body[: undone.start()] + body[undone.end() :]
        if body == "fork":
            # Without a handshake there is nothing to wait for but the child's own end.
            body = "fork-nohandshake"
    body = _ALSO.get(body, body)
    places = (f"{body}{fs}", body) if fs else (body, f"{body}-tmpfs")
    found = next((WORKLOADS[place] for place in places if place in WORKLOADS), None)
    if found is None or not churn:
        return found
    return replace(found, fds=0, tasks=None, churns=True, enters=False)
