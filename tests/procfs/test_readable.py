"""Waiting for one descriptor."""

from __future__ import annotations

import os
import resource

import pytest

from kmem_harness.procfs.readable import is_readable

BEYOND_SELECT = 1024


@pytest.fixture
def many_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] <= BEYOND_SELECT:
        pytest.skip("this host allows no descriptor of such a number (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (BEYOND_SELECT + 1, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
def test_descriptor_when_beyond_what_select_takes_then_can_be_waited_for():
    reader, writer = os.pipe()
    high = os.dup2(reader, BEYOND_SELECT)
    try:
        assert not is_readable(high, 0.001)
        os.write(writer, b"x")
        assert is_readable(high, None)
    finally:
        for fd in (reader, writer, high):
            os.close(fd)


def test_descriptor_when_at_its_end_then_is_readable():
    reader, writer = os.pipe()
    os.close(writer)
    assert is_readable(reader, 0)
    os.close(reader)
