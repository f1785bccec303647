"""Listing pids in steps: all of them, whatever their length, and somebody comes between."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmem_harness.procfs import pids
from kmem_harness.procfs.pids import list_numbers
from kmem_harness.procfs.steps import result_of


@pytest.fixture
def proc():
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def entry(name: bytes, filler: bytes) -> bytes:
    """One directory entry, as the kernel lays it out; what is behind the name is not cleared."""
    length = (19 + len(name) + 1 + 7) // 8 * 8
    head = struct.pack("<QqHB", 4 << 32, 1, length, 4)
    return (head + name + b"\0" + filler * 8)[:length]


@given(
    st.lists(st.one_of(st.integers(1, 9_999), st.integers(10_000, 4_194_304)), max_size=60),
    st.sampled_from([b"\0", b"7", b"\xff"]),
    st.booleans(),
)
def test_entries_when_names_are_of_any_length_then_numbers_among_them_are_found(
    numbers, filler, with_others
):
    names = [str(number).encode() for number in numbers]
    others = [b"self", b"sys", b"thread-self"] if with_others else []
    entries = b"".join(entry(name, filler) for name in others + names)
    assert pids._numbers(entries) == [str(number) for number in numbers]


def test_pids_when_there_are_hundreds_then_all_are_listed_in_several_steps(proc, monkeypatch):
    monkeypatch.setattr(pids, "_AT_ONCE", 1024)
    with_children = [subprocess.Popen(["/bin/sleep", "60"]) for _ in range(300)]
    try:
        nr_steps = sum(1 for _ in list_numbers(proc))
        found = result_of(list_numbers(proc))
        later = result_of(list_numbers(proc, 258))
        wanted = {str(child.pid) for child in with_children}
        assert wanted <= set(found)
        assert wanted <= set(later)
        assert len(found) == len(set(found))
        assert nr_steps > 300 * 24 // 1024
    finally:
        for child in with_children:
            child.kill()
        for child in with_children:
            child.wait()


def test_pids_when_the_c_library_has_no_such_call_then_are_listed_at_once(proc, monkeypatch):
    monkeypatch.setattr(pids, "libc", object)
    assert str(os.getpid()) in result_of(list_numbers(proc))


def test_pids_when_it_is_no_directory_then_says_so():
    fd = os.open("/proc/self/stat", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        result_of(list_numbers(fd))
    os.close(fd)
