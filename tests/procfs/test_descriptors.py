"""What a process's tables hold is counted by kind, each object once, and nothing is left out."""

from __future__ import annotations

import array
import mmap
import os
import select
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from kmem_harness.procfs import descriptors
from kmem_harness.procfs.descriptors import count_descriptors
from kmem_harness.procfs.memory_maps import size_of
from kmem_harness.procfs.steps import result_of

WATCHES = frozenset({"epoll-watch"})


def counted(*pids):
    found = result_of(count_descriptors(list(pids) or [os.getpid()], {}, WATCHES))
    assert found.complete
    return found


@pytest.fixture
def before():
    return counted()


def more(before, kind, *pids):
    return counted(*pids).kinds[kind] - before.kinds[kind]


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ((socket.AF_UNIX, socket.SOCK_STREAM), "unix-socket"),
        ((socket.AF_UNIX, socket.SOCK_DGRAM), "unix-socket"),
        ((socket.AF_INET, socket.SOCK_STREAM), "tcp-socket"),
        ((socket.AF_INET6, socket.SOCK_STREAM), "tcp6-socket"),
        ((socket.AF_INET, socket.SOCK_DGRAM), "udp-socket"),
        ((socket.AF_NETLINK, socket.SOCK_RAW), "netlink-socket"),
    ],
)
def test_socket_when_open_then_is_counted_by_its_protocol(before, family, kind):
    with socket.socket(*family):
        assert more(before, kind) == 1
    assert more(before, kind) == 0


def test_pipe_when_open_at_both_ends_then_is_one(before):
    ends = os.pipe()
    assert more(before, "pipe") == 1
    os.close(ends[0])
    assert more(before, "pipe") == 1
    os.close(ends[1])
    assert more(before, "pipe") == 0


def test_epoll_when_it_watches_then_each_watch_is_an_object(before):
    with select.epoll() as epoll, socket.socket() as watched:
        epoll.register(watched.fileno())
        assert more(before, "anon-file") == 1
        assert more(before, "epoll-watch") == 1


def test_file_when_a_child_inherited_it_then_is_one_object(before):
    with open("/proc/self/exe", "rb"):  # noqa: PTH123 - a descriptor is what is wanted
        ready, release = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.write(ready[1], b"x")
            os.read(release[0], 1)
            os._exit(0)
        try:
            os.read(ready[0], 1)
            assert more(before, "file", os.getpid(), child) == 1
        finally:
            os.write(release[1], b"x")
            os.waitpid(child, 0)
            for end in (*ready, *release):
                os.close(end)


def test_descriptors_when_in_an_unread_message_then_are_counted_where_they_wait(before):
    with ExitStack() as each:
        here, there = (each.enter_context(end) for end in socket.socketpair())
        ends = os.pipe()
        here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))])
        for end in ends:
            os.close(end)
        found = counted()
        assert found.kinds["pipe"] == before.kinds["pipe"]
        assert found.in_flight - before.in_flight == 2
        there.recv(1)  # without room for descriptors: the kernel drops them
        assert counted().in_flight == before.in_flight


def test_pipe_when_an_end_is_opened_again_then_the_file_counts_and_a_copy_does_not(before):
    """The table showed nothing new, so what was opened was taken to be closed, without end."""
    reading, writing = os.pipe()
    copies = [os.dup(reading), os.dup(writing)]
    assert (more(before, "pipe"), more(before, "file")) == (1, 0)
    opened = [os.open(f"/proc/self/fd/{reading}", os.O_RDONLY) for _ in range(3)]
    assert (more(before, "pipe"), more(before, "file")) == (1, 3)
    for fd in (reading, writing, *copies, *opened):
        os.close(fd)
    assert (more(before, "pipe"), more(before, "file")) == (0, 0)


def test_memfd_when_opened_again_then_the_file_counts(before):
    memfd = os.memfd_create("x")
    opened = [os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY) for _ in range(3)]
    assert (more(before, "memfd"), more(before, "file")) == (1, 3)
    for fd in (memfd, *opened):
        os.close(fd)


@pytest.mark.skipif(not os.access("/", os.W_OK), reason="no file can be made in /")
def test_file_when_named_as_a_memfd_then_is_a_file_each_time_it_is_opened(before):
    """Many open files of one inode were one memfd: there was no limit to them."""
    memfds = size_of(os.getpid()).memfds
    path = f"/memfd:{os.getpid()}"
    opened = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3)]
    try:
        assert (more(before, "memfd"), more(before, "file")) == (0, 3)
        os.ftruncate(opened[0], 4096)
        with mmap.mmap(opened[0], 4096):
            Path(path).unlink()
            # The map has a copy of its own, which is no further file.
            assert (more(before, "memfd"), more(before, "file")) == (0, 4)
            assert size_of(os.getpid()).memfds == memfds
    finally:
        for fd in opened:
            os.close(fd)


def test_process_when_gone_then_holds_nothing():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert counted(child).kinds == {}


_THREADS = """
import ctypes, os, sys, threading
own, count = sys.argv[1] == "own", int(sys.argv[2])
over, ready = threading.Event(), threading.Barrier(count + 1)
def live():
    if own:
        ctypes.CDLL(None).unshare(0x400)  # CLONE_FILES
    ends = os.pipe() if own else ()
    ready.wait()
    over.wait()
    for end in ends:
        os.close(end)
threads = [threading.Thread(target=live) for _ in range(count)]
for thread in threads:
    thread.start()
ready.wait()
print("ready", flush=True)
sys.stdin.readline()
over.set()
for thread in threads:
    thread.join()
print("over", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def threads():
    """Start processes with threads; each ends its threads when it is told a line."""
    started = []

    def start(tables, count):
        words = [sys.executable, "-I", "-S", "-c", _THREADS, tables, str(count)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def compared(monkeypatch):
    """List what is asked of kcmp, which answers all the same."""
    asked = []
    real = descriptors._kcmp

    def ask(*words):
        asked.append(words)
        return real(*words)

    monkeypatch.setattr(descriptors, "_kcmp", ask)
    return asked


def test_threads_when_each_has_a_table_of_its_own_then_all_are_counted_by_few_comparisons(
    threads, compared
):
    count = 200
    process = threads("own", count)
    found = result_of(count_descriptors([process.pid], {}, frozenset()))
    assert found.complete
    assert found.kinds["pipe"] == count + 2  # and its input and output
    of_tables = [words for words in compared if words[2] == descriptors._KCMP_FILES]
    assert len(of_tables) <= count * 10


def test_threads_when_they_end_during_a_count_then_it_takes_no_longer(threads, compared):
    """Each that was gone was held against all that were gone before it: the controller was deaf."""
    count = 200
    process = threads("shared", count)

    def end_them():
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "over\n"

    look = count_descriptors([process.pid], {}, frozenset())
    while not compared:  # the threads are listed by then
        next(look)
    end_them()
    found = result_of(look)
    assert found.kinds["pipe"] == 2
    assert len(compared) <= count * 3
