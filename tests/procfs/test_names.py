"""That a name was made or removed is proven by inodes, whatever the path in memory says."""

from __future__ import annotations

import ctypes
import os

import pytest

from kmem_harness.procfs.file_systems import FileSystems
from kmem_harness.procfs.names import NameWatch, held_unlinked
from kmem_harness.procfs.steps import result_of

AT_FDCWD = 0xFFFFFF9C


class Caller:
    """Ask a watch about calls of this process, as a notification would tell of them."""

    def __init__(self):
        self.watch = NameWatch()
        self._kept = []

    def about_to(self, syscall, path):
        text = ctypes.create_string_buffer(os.fsencode(path))
        self._kept.append(text)
        address = ctypes.addressof(text)
        words = [AT_FDCWD, address] if syscall.endswith("at") else [address]
        if syscall == "rename":
            words = [0, address]
        arguments = [*words, *[0] * (6 - len(words))]
        self.watch.watch(os.getpid(), syscall, (1, os.getpid(), 0, 0, 0, 0, *arguments))


@pytest.fixture
def caller():
    caller = Caller()
    yield caller
    caller.watch.close()


def seen(caller):
    found = caller.watch.settle()
    return found.made, found.gone


def test_name_when_made_then_is_seen_and_only_once(caller, tmp_path):
    caller.about_to("mkdirat", tmp_path / "d")
    (tmp_path / "d").mkdir()
    assert seen(caller) == (1, 0)
    assert seen(caller) == (0, 0)


def test_name_when_the_call_fails_then_nothing_was_made(caller, tmp_path):
    (tmp_path / "d").mkdir()
    os.utime(tmp_path / "d")
    caller.about_to("mkdir", tmp_path / "d" / "missing" / "x")
    assert seen(caller) == (0, 0)


@pytest.mark.parametrize("held", [False, True])
def test_file_when_unlinked_then_is_proven_gone_and_known_to_be_held(caller, tmp_path, held):
    path = tmp_path / "f"
    path.touch()
    caller.about_to("unlink", path)
    with path.open() as file:
        before = result_of(held_unlinked([os.getpid()]))
        path.unlink()
        assert seen(caller) == (0, 1)
        if not held:
            file.close()
        assert len(result_of(held_unlinked([os.getpid()])) - before) == held


def test_file_when_it_has_another_name_then_is_not_gone(caller, tmp_path):
    path = tmp_path / "f"
    path.touch()
    os.link(path, tmp_path / "g")
    caller.about_to("unlink", path)
    path.unlink()
    assert seen(caller) == (0, 0)


def test_file_when_older_than_the_box_then_its_end_is_no_business_of_the_box(tmp_path):
    path = tmp_path / "f"
    path.touch()
    caller = Caller()
    caller.watch._began += 60_000_000_000
    caller.about_to("unlink", path)
    path.unlink()
    assert seen(caller) == (0, 0)
    caller.watch.close()


def test_file_when_renamed_over_then_what_was_there_is_gone(caller, tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    new.touch()
    old.touch()
    caller.about_to("rename", old)
    new.rename(old)
    assert seen(caller) == (0, 1)


def test_watch_when_closed_then_holds_no_descriptor(tmp_path):
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    caller = Caller()
    (tmp_path / "f").touch()
    caller.about_to("unlink", tmp_path / "f")
    caller.about_to("mkdir", tmp_path / "d")
    caller.watch.close()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_file_systems_when_a_file_is_made_then_one_more_inode_is_in_use():
    systems = FileSystems(os.getpid())
    try:
        used = systems.used()
        assert used
        assert all(count >= 0 for count in used.values())
        assert {systems.class_of(device) for device in used} <= {"tmpfs", "disk"}
        assert systems.see([os.getpid()])
    finally:
        systems.close()


def test_names_when_made_one_after_the_other_then_each_is_seen(caller, tmp_path):
    """Births are stamped with a clock that is behind, and was seen behind by 17 ms."""
    for number in range(500):
        caller.about_to("mkdirat", tmp_path / str(number))
        (tmp_path / str(number)).mkdir()
        assert seen(caller) == (1, 0), number


def test_names_when_made_and_removed_before_the_clocks_next_tick_then_are_the_boxs_own(tmp_path):
    for _ in range(20):
        caller = Caller()
        (tmp_path / "d").mkdir()
        caller.about_to("rmdir", tmp_path / "d")
        (tmp_path / "d").rmdir()
        assert seen(caller) == (0, 1)
        caller.watch.close()
