"""Reading a path where the target keeps it: all of it, and not a byte of anything else."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess

import pytest

from kmem_harness.procfs.libc import libc
from kmem_harness.procfs.target_memory import LONGEST_TEXT, read_text

PAGE = mmap.PAGESIZE
PROT_NONE = 0


@pytest.fixture
def memory():
    """Give two pages of this process, with nothing behind them, and where they begin."""
    with mmap.mmap(-1, 3 * PAGE) as pages:
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        assert not libc().mprotect(ctypes.c_void_p(start + 2 * PAGE), PAGE, PROT_NONE)
        try:
            yield pages, start
        finally:
            libc().mprotect(ctypes.c_void_p(start + 2 * PAGE), PAGE, 3)
            del start


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, b"a/b"),
        (PAGE - 3, b"across/two/pages"),
        (PAGE, b"x" * (LONGEST_TEXT - 1)),
        (2 * PAGE - 4, b"end"),
        (7, b""),
    ],
)
def test_path_when_it_ends_with_a_nul_then_is_read_up_to_there(at, text, memory):
    pages, start = memory
    pages[at : at + len(text) + 1] = text + b"\0"
    assert read_text(os.getpid(), start + at) == text


def test_path_when_it_has_no_end_then_is_what_memory_there_is(memory):
    pages, start = memory
    pages[: 2 * PAGE] = b"y" * 2 * PAGE
    assert read_text(os.getpid(), start) == b"y" * LONGEST_TEXT
    assert read_text(os.getpid(), start + 2 * PAGE - 5) == b"y" * 5  # and nothing read before


@pytest.mark.parametrize("address", [0, 8, (1 << 47) + 5, (1 << 64) - 1])
def test_path_when_there_is_no_memory_then_is_an_error(address):
    with pytest.raises(OSError, match=r"."):
        read_text(os.getpid(), address)


def test_path_when_its_process_is_gone_then_is_an_error():
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(OSError, match=r"."):
        read_text(gone.pid, 4096)
