"""Who is in a container and under how many filters, told of processes that would be others."""

from __future__ import annotations

import ctypes
import os

import pytest

from kmem_harness.procfs.census import comm_of
from kmem_harness.procfs.entrants import filters_of, newcomer, pid_inside

PR_SET_NAME = 15


@pytest.fixture
def named():
    """Give this process another name, for the test."""
    libc = ctypes.CDLL(None)
    before = comm_of(os.getpid()).encode()
    yield lambda name: libc.prctl(PR_SET_NAME, name, 0, 0, 0)
    libc.prctl(PR_SET_NAME, before, 0, 0, 0)


@pytest.mark.parametrize("line_end", [b"\r", b"\n", b"\x0b", b"\x1c", "\x85".encode()])
def test_process_when_its_name_claims_another_pid_then_has_its_own(named, line_end):
    """Only newlines are escaped in a name: a carriage return made a line of its own of the rest."""
    filters = filters_of(os.getpid())
    for claim in (b"NSpid:\t1", b"PPid:\t1"):
        named(b"x" + line_end + claim)
        assert pid_inside(os.getpid()) == str(os.getpid())
        assert filters_of(os.getpid()) == filters
    assert newcomer(2**22 + 1, set()) == 0
