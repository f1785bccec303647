"""The library: built of these sources, loaded without a C library of its own, waiting as poll does."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from kmem_harness.interposer import fast_path
from kmem_harness.interposer.fast_path import FastPath

SOURCE = Path(fast_path.__file__).with_name("native") / "fast_path.c"


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_sizes_when_the_source_has_them_then_are_the_same_here():
    if not SOURCE.exists():
        pytest.skip("an installed package has no C source")
    there = dict(re.findall(r"^\t([A-Z]+) = (\d+),", SOURCE.read_text(), re.MULTILINE))
    for name in ("NUMBERS", "CHARGES", "FORKS", "TESTS", "DEPTH"):
        assert int(there[name]) == getattr(fast_path, name)
    assert int(there["TOUCHED"]) == fast_path._TOUCHED
    assert int(there["CHANGES"]) == fast_path._CHANGES


def test_library_when_read_then_needs_no_other():
    library = Path(fast_path.LIBRARY).read_bytes()
    assert b"libc.so" not in library
    assert b"GLIBC_" not in library
    assert b"__stack_chk_fail" not in library


def test_library_when_it_is_of_other_sources_then_says_so(monkeypatch):
    monkeypatch.setattr(fast_path.ctypes, "sizeof", lambda _: 1)
    with pytest.raises(OSError, match="other sources"):
        FastPath(0)


def test_library_when_it_is_not_there_then_says_so(monkeypatch):
    monkeypatch.setattr(fast_path, "LIBRARY", "/nonexistent/kmem-fast-path.so")
    with pytest.raises(OSError, match="nonexistent"):
        FastPath(0)


def test_wait_when_nothing_happens_then_is_as_long_as_asked(pipe):
    path = FastPath(pipe[0])
    began = time.monotonic()
    assert path.wait(30_000_000) == []
    assert 0.03 <= time.monotonic() - began < 1
    assert path.wait(0) == []


def test_wait_when_something_is_ready_then_gives_it_and_hang_ups_too(pipe):
    path = FastPath(pipe[0])
    others = [os.pipe() for _ in range(40)]
    for read, _ in others:
        path.watch(read)
    os.write(others[33][1], b"x")
    assert path.wait(-1) == [others[33][0], 1, 0]
    os.close(others[7][1])
    os.write(pipe[1], b"x")
    assert path.wait(-1) == [pipe[0], 1, 0, others[7][0], 16, 0, others[33][0], 1, 0]
    path.forget(others[7][0])
    path.forget(others[33][0])
    assert path.wait(-1) == [pipe[0], 1, 0]
    for number, (read, write) in enumerate(others):
        os.close(read)
        if number != 7:
            os.close(write)


def test_accounts_and_counters_when_there_are_more_than_before_then_keep_what_they_held(pipe):
    path = FastPath(pipe[0])
    path.make_counter(3)
    path.counters[15:18] = memoryview(b"\1" * 24).cast("q")
    path.account(2).nr_counters = 7
    path.account(500)
    path.make_counter(900)
    assert list(path.counters[15:18]) == [0x0101010101010101] * 3
    assert path.account(2).nr_counters == 7
    assert path.empty_account(2).nr_counters == 0
