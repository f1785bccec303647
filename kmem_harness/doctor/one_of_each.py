"""Make one kernel object of each kind, and keep them: a program, run by its path in a box.

Needs the standard library alone. It says what it made, and what it could not make and why, as one
line of JSON, and lets go of everything at the end of its input.
"""

from __future__ import annotations

import _socket
import _thread
import ctypes
import json
import os
import select
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_IPC_CREAT_0600 = 0o1600
_IPC_RMID = 0
_PRIVATE_ANONYMOUS = 0x22
_IN_MODIFY = 2


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _socket_of(family: int, kind: int) -> Callable[[], object]:
    return lambda: _socket.socket(family, kind)


def _fork() -> int:
    pid = os.fork()
    if pid == 0:
        select.poll().poll()
    return pid


def _watched() -> object:
    watcher = select.epoll()
    watcher.register(0, select.EPOLLIN)
    return watcher


def _named(directory: str) -> dict[str, Callable[[], object]]:
    """Give the makers of what has a name on a file system, in *directory*."""

    def watched() -> int:
        watcher = _checked(_libc.inotify_init1(os.O_CLOEXEC))
        _checked(_libc.inotify_add_watch(watcher, directory.encode(), _IN_MODIFY))
        return watcher

    return {
        "file": lambda: os.open("/", os.O_RDONLY),
        "file-*": lambda: os.close(os.open(f"{directory}/file", os.O_CREAT | os.O_WRONLY)),
        "dir-*": lambda: os.mkdir(f"{directory}/directory"),
        "inotify-watch": watched,
    }


_MAKERS: dict[str, Callable[[], object]] = {
    "task": _fork,
    "pipe": os.pipe,
    "anon-file": lambda: _checked(_libc.eventfd(0, 0)),
    "epoll-watch": _watched,
    "memfd": lambda: os.memfd_create("doctor"),
    "unix-socket": _socket_of(_socket.AF_UNIX, _socket.SOCK_STREAM),
    "tcp-socket": _socket_of(_socket.AF_INET, _socket.SOCK_STREAM),
    "udp-socket": _socket_of(_socket.AF_INET, _socket.SOCK_DGRAM),
    "netlink-socket": _socket_of(_socket.AF_NETLINK, _socket.SOCK_DGRAM),
    "vma": lambda: _libc.mmap(None, ctypes.c_size_t(1 << 20), 0, _PRIVATE_ANONYMOUS, -1, 0),
    "sysv-sem": lambda: _checked(_libc.semget(0, 1, _IPC_CREAT_0600)),
    "sysv-msg": lambda: _checked(_libc.msgget(0, _IPC_CREAT_0600)),
    "sysv-shm": lambda: _checked(_libc.shmget(0, ctypes.c_size_t(4096), _IPC_CREAT_0600)),
}


def _end(pid: int) -> None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)


#: What would outlive the program.
_LET_GO: dict[str, Callable[[int], object]] = {
    "sysv-sem": lambda identifier: _libc.semctl(identifier, 0, _IPC_RMID),
    "sysv-msg": lambda identifier: _libc.msgctl(identifier, _IPC_RMID, None),
    "sysv-shm": lambda identifier: _libc.shmctl(identifier, _IPC_RMID, None),
    "task": _end,
}


def _thread_that_waits() -> object:
    lock = _thread.allocate_lock()
    lock.acquire()
    return _thread.start_new_thread(lock.acquire, ())


def _main() -> None:
    held: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="kmem-doctor-") as directory:
        # The thread last: a fork should have had none beside it.
        for kind, make in {**_MAKERS, **_named(directory), "thread": _thread_that_waits}.items():
            try:
                held[kind] = make()
            except OSError as error:  # noqa: PERF203 - a dozen, once
                failed[kind] = error.strerror or str(error.errno)
        sys.stdout.write(json.dumps({"made": list(held), "failed": failed}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    for kind, let_go in _LET_GO.items():
        if kind in held:
            let_go(held[kind])


if __name__ == "__main__":
    _main()
