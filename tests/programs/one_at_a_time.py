"""Make and remove one object at a time, again and again, while something makes it hard to see that it is gone.

usage: one_at_a_time.py CAUSE WHAT CYCLES DIRECTORY; prints ``refused=N``. Runs by itself in a box.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import sys
import threading
import time
from contextlib import suppress

NEWNS, NEWUSER, NEWPID, FILES = 0x20000, 0x10000000, 0x20000000, 0x400
PRIVATE = 1 << 18 | 1 << 14
PR_SET_DUMPABLE = 4
LIBC = ctypes.CDLL(None, use_errno=True)
KEPT: list[object] = []


def unshare(flags: int) -> None:
    if LIBC.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def mount_tmpfs(where: bytes) -> None:
    LIBC.mount(b"none", b"/", None, PRIVATE, None)
    if LIBC.mount(b"none", where, b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")


def child(prepare) -> None:
    """Keep a process that has prepared itself."""
    reader, writer = os.pipe()
    if not os.fork():
        prepare()
        os.write(writer, b".")
        time.sleep(1000)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)


def undumped() -> None:
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def own_mounts() -> None:
    unshare(NEWNS)
    mount_tmpfs(b"/mnt")
    for number in range(50):
        open(f"/mnt/{number}", "w").close()


def pid_namespace() -> None:
    unshare(NEWPID)
    if not os.fork():
        time.sleep(1000)


def in_flight(kind=socket.SOCK_STREAM, *, nested=False) -> None:
    """Keep a socket that is only in a message, and perhaps one in a message that waits at it."""
    sender, receiver = socket.socketpair()
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    if nested:
        inner = socket.socket(socket.AF_UNIX)
        socket.send_fds(one, [b"."], [inner.fileno()])
        inner.close()
    socket.send_fds(sender, [b"."], [other.fileno()])
    other.close()
    KEPT.extend((sender, receiver, one))


def backlog() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0one-at-a-time-{os.getpid()}")
    listener.listen(5)
    caller, sent = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    caller.connect(listener.getsockname())
    socket.send_fds(caller, [b"."], [sent.fileno()])
    sent.close()
    KEPT.extend((listener, caller))


def mapped() -> None:
    fd = os.memfd_create("kept")
    os.ftruncate(fd, 4096)
    KEPT.append(mmap.mmap(fd, 4096))
    os.close(fd)


def own_tables() -> None:
    def run() -> None:
        unshare(FILES)
        time.sleep(1000)

    threading.Thread(target=run, daemon=True).start()


def short_lived() -> None:
    if not os.fork():
        while True:
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)


def short_lived_mounts() -> None:
    """Let file systems come and go, with all that is on them."""
    if not os.fork():
        while True:
            pid = os.fork()
            if not pid:
                with suppress(OSError):
                    own_mounts()
                os._exit(0)
            os.waitpid(pid, 0)


def make_name(where: str) -> None:
    os.close(os.open(f"{where}/name", os.O_CREAT | os.O_WRONLY))
    os.unlink(f"{where}/name")


def make_pipe(_: str) -> None:
    for fd in os.pipe():
        os.close(fd)


def make_process(_: str) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


CAUSES = {
    "nothing": lambda: None,
    "own mounts": lambda: child(own_mounts),
    "own users": lambda: child(lambda: unshare(NEWUSER)),
    "own users and mounts": lambda: child(lambda: unshare(NEWUSER | NEWNS)),
    "own pids": lambda: child(pid_namespace),
    "own root": lambda: child(lambda: os.chroot("/usr")),
    "short-lived mounts": short_lived_mounts,
    "undumped": lambda: child(undumped),
    "undumped itself": undumped,
    "another user": lambda: child(lambda: (os.setgid(65534), os.setuid(65534))),
    "in flight": in_flight,
    "in flight, datagrams": lambda: in_flight(socket.SOCK_DGRAM),
    "in flight in one in flight": lambda: in_flight(nested=True),
    "in a backlog": backlog,
    "mapped": mapped,
    "own tables": own_tables,
    "short-lived": short_lived,
}
KINDS = {
    "name": make_name,
    "directory": lambda where: (os.mkdir(f"{where}/name"), os.rmdir(f"{where}/name")),
    "file": lambda _: os.close(os.open("/", os.O_RDONLY)),
    "socket": lambda _: socket.socket(socket.AF_UNIX).close(),
    "pair": lambda _: [one.close() for one in socket.socketpair()],
    "tcp": lambda _: socket.socket().close(),
    "eventfd": lambda _: os.close(os.eventfd(0)),
    "memfd": lambda _: os.close(os.memfd_create("gone")),
    "pipe": make_pipe,
    "mapping": lambda _: mmap.mmap(-1, 4096).close(),
    "process": make_process,
}


def main(cause: str, what: str, cycles: str, where: str) -> None:
    CAUSES[cause]()
    refused = 0
    for _ in range(int(cycles)):
        try:
            KINDS[what](where)
        except (OSError, RuntimeError):
            refused += 1
    print(f"refused={refused}", flush=True)
    os._exit(0)


main(*sys.argv[1:])
