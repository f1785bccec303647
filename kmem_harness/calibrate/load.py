"""Make kernel objects of one kind, so many at a time, and keep them: a program, run by its path.

    python -I -S load.py WORKLOAD DIRECTORY

Needs the standard library alone. It does its own start-up first, and makes the first few objects
only when told: each line of its input is a number of objects to make, each line of its output how
many it has by then, or an errno's name. It ends with its input.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WORKLOADS"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_PR_SET_PDEATHSIG = 1
_PRIVATE_ANONYMOUS_NORESERVE = 0x4022
_MADV_NOHUGEPAGE = 15
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: What one page of page table maps, with entries of 8 bytes: 2 MiB if pages have 4 KiB.
_REACH = _PAGE // 8 * _PAGE
#: Room for as many tables as are made at most.
_RESERVED = 4096 * _REACH
_CLOEXEC = 0o2000000
_IN_MODIFY = 2
_STACK = 65536
_WATCHED = 6000
#: What waits in a pipe is charged, too, and is not modelled: hence the smallest there is.
_STRESS = ("--temp-path", ".", "--pipe-size", "4K")

#: What a workload prepares before its first object.
_prepared: Any = None
#: Held for good: threads wait for it.
_gate = _thread.allocate_lock()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _fork(_: int) -> None:
    """Make a child that waits; go on once it does."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(reading)
        os.write(writing, b".")
        os.close(writing)
        while True:
            signal.pause()
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)


def _exec(_: int) -> None:
    """Make a child that runs another program, which waits."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execvp("sleep", ["sleep", "1000"])  # noqa: S606 - found as any shell finds it
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)


def _thread_waits(_: int) -> None:
    _gate.acquire(blocking=False)
    _thread.stack_size(_STACK)
    _thread.start_new_thread(_gate.acquire, ())


def _socket(family: int, kind: int) -> Callable[[int], int]:
    return lambda _: socket.socket(family, kind).detach()


def _anonymous(name: str, *arguments: int) -> Callable[[int], None]:
    make = getattr(_libc, name)

    def one(_: int) -> None:
        _checked(make(*arguments))

    return one


def _signalfd(_: int) -> None:
    _checked(_libc.signalfd(-1, ctypes.create_string_buffer(128), _CLOEXEC))


def _memfd(_: int) -> None:
    os.memfd_create("x")


def _watched(nr: int) -> None:
    """Watch one eventfd; all were made before the first was watched."""
    epoll, files = _prepared
    epoll.register(files[nr], select.EPOLLIN)


def _directory_watched(nr: int) -> None:
    """Watch a directory that somebody else made."""
    _checked(_libc.inotify_add_watch(_prepared, f"w{nr}".encode(), _IN_MODIFY))


def _mapped(nr: int) -> None:
    # Protections in turn, so that no two neighbours become one.
    address = _libc.mmap(None, _PAGE, nr % 2, _PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    if address == ctypes.c_void_p(-1).value:
        _checked(-1)


def _touched(nr: int) -> None:
    """Fill a page table: one byte in each stretch that has one of its own."""
    ctypes.memset(_prepared + nr * _REACH, 1, 1)


def _grown(nr: int) -> None:
    os.dup2(0, (4096 << nr) - 1)


def _created(nr: int) -> None:
    os.close(os.open(f"f{nr}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


WORKLOADS: dict[str, Callable[[int], object]] = {
    "vma": _mapped,
    "page-table": _touched,
    "descriptor-table": _grown,
    "file": lambda _: os.open("/proc/self/exe", os.O_RDONLY),
    "pipe": lambda _: os.pipe(),
    "eventfd": _anonymous("eventfd", 0, 0),
    "timerfd": _anonymous("timerfd_create", 1, 0),
    "epoll": _anonymous("epoll_create1", 0),
    "signalfd": _signalfd,
    "inotify": _anonymous("inotify_init1", 0),
    "inotify-watch": _directory_watched,
    "epoll-watch": _watched,
    "memfd": _memfd,
    "unix-socket": _socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "tcp-socket": _socket(socket.AF_INET, socket.SOCK_STREAM),
    "tcp6-socket": _socket(socket.AF_INET6, socket.SOCK_STREAM),
    "udp-socket": _socket(socket.AF_INET, socket.SOCK_DGRAM),
    "netlink-socket": _socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "sysv-sem": lambda _: _checked(_libc.semget(0, 1, 0o600)),
    "sysv-msg": lambda _: _checked(_libc.msgget(0, 0o600)),
    "sysv-shm": lambda _: _checked(_libc.shmget(0, ctypes.c_size_t(_PAGE), 0o600)),
    "dir-tmpfs": lambda nr: os.mkdir(f"d{nr}"),
    "file-tmpfs": _created,
    "dir-ext4": lambda nr: os.mkdir(f"d{nr}"),
    "file-ext4": _created,
    "thread": _thread_waits,
    "task": _fork,
    "exec": _exec,
}
#: What the mixed load makes, at each turn: a bit of everything, tasks last.
MIXED = {
    "file": 40,
    "pipe": 40,
    "eventfd": 40,
    "timerfd": 20,
    "epoll": 20,
    "unix-socket": 40,
    "tcp-socket": 20,
    "udp-socket": 20,
    "memfd": 20,
    "vma": 100,
    "dir-tmpfs": 40,
    "file-tmpfs": 40,
    "thread": 4,
    "task": 4,
}


def _mixed(nr: int) -> None:
    for name, count in MIXED.items():
        for each in range(count):
            WORKLOADS[name](nr * count + each)


def _stressed(nr: int) -> None:
    """Start a stressor of stress-ng, which goes on by itself, with little data in its pipes."""
    if not nr:
        name = sys.argv[1].partition(":")[2]
        if os.fork() == 0:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            quiet = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(quiet, fd)
            os.execvp("stress-ng", ["stress-ng", *_STRESS, f"--{name}", "2"])  # noqa: S606


def _prepare(workload: str) -> Any:
    """Make what the objects need, which is not to be counted."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    # On one processor nothing is left over in the stock of another.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if workload not in ("descriptor-table", "task", "exec", "mixed") and ":" not in workload:
        # A table that need not grow.
        os.dup2(0, min(limits[1], 16384) - 1)
    if workload == "epoll-watch":
        return select.epoll(), [_checked(_libc.eventfd(0, 0)) for _ in range(_WATCHED)]
    if workload == "inotify-watch":
        return _checked(_libc.inotify_init1(0))
    if workload == "page-table":
        start = _libc.mmap(None, _RESERVED, 3, _PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
        _checked(_libc.madvise(start, _RESERVED, _MADV_NOHUGEPAGE))
        return start + (-start) % _REACH
    return None


def _more(make: Callable[[int], object], made: int, nr: int) -> tuple[int, str]:
    """Make *nr* more than the *made* there are; give how many there are then, and the answer."""
    goal = made + nr
    try:
        while made < goal:
            make(made)
            made += 1
    except OSError as error:
        return made, errno.errorcode.get(error.errno or 0, "error")
    return made, str(made)


def _main(workload: str, directory: str) -> None:
    global _prepared  # noqa: PLW0603 - a program of its own, with one workload
    os.chdir(directory)
    _prepared = _prepare(workload)
    if workload.startswith("stress:"):
        make: Callable[[int], object] = _stressed
    else:
        make = _mixed if workload == "mixed" else WORKLOADS[workload]
    gc.disable()
    made = 0
    _say("ready")
    while line := sys.stdin.readline():
        made, answer = _more(make, made, int(line))
        _say(answer)


def _say(answer: str) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
