"""Which file systems a box's processes see, asked of processes that may hide it."""

from __future__ import annotations

import os
from contextlib import closing

from kmem_harness.interposer.file_systems import FileSystems


def test_processes_when_one_hides_its_namespace_then_may_have_mounts_of_its_own(monkeypatch):
    """A target without namespaces, run as our own user, undumped itself: the controller died."""
    with closing(FileSystems(os.getpid())) as systems:
        assert systems.are_all_seen_by([os.getpid()])

        def denied(path):
            raise PermissionError(path)

        monkeypatch.setattr(os, "readlink", denied)
        assert not systems.are_all_seen_by([os.getpid()])


def test_processes_when_one_is_gone_then_it_has_no_mounts():
    with closing(FileSystems(os.getpid())) as systems:
        assert systems.are_all_seen_by([2**22 + 1])
