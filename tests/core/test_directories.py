"""Directories: what a path may name, and the errno of each refusal (K78, as recorded)."""

from __future__ import annotations

import errno

import pytest

from tests.core.bench import Lab, fails

OK = 0


def outcome(call, *args):
    try:
        call(*args)
    except OSError as error:
        return error.errno
    return OK


@pytest.fixture
def tree():
    lab = Lab("5.10")
    for path in ("g", "g/c", "k"):
        lab.group(path)
    return lab.tree


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (".", errno.EEXIST),
        ("/", errno.EEXIST),
        ("g/.", errno.EEXIST),
        ("g/..", errno.EEXIST),
        ("nosuch/.", errno.ENOENT),
        ("g/tasks", errno.EEXIST),
        ("g/tasks/x", errno.ENOTDIR),
        ("g/c/../d", OK),
        ("g//e/", OK),
        ("h/i", errno.ENOENT),
    ],
)
def test_mkdir_when_path_is_odd_then_answers_as_a_cgroupfs(tree, path, number):
    assert outcome(tree.make, path) == number


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (".", errno.EINVAL),
        ("/", errno.EBUSY),
        ("g/c/.", errno.EINVAL),
        ("g/c/..", errno.ENOTEMPTY),
        ("g/tasks", errno.ENOTDIR),
        ("g", errno.EBUSY),
        ("g/../k", OK),
    ],
)
def test_rmdir_when_path_is_odd_then_answers_as_a_cgroupfs(tree, path, number):
    assert outcome(tree.remove, path) == number


@pytest.mark.parametrize(
    ("path", "new_path", "number"),
    [
        ("g", "h", OK),
        ("g", "g", OK),
        ("g", "k", errno.EEXIST),
        ("g", "g/c/x", errno.EINVAL),
        ("g/c", "g", errno.ENOTEMPTY),
        ("g/c", "c", errno.EIO),
        ("g", "new\nline", errno.EINVAL),
        ("g", "tasks", errno.ENOTDIR),
        (".", "h", errno.EBUSY),
        ("g", "k/..", errno.EBUSY),
        ("nosuch", "h", errno.ENOENT),
        ("g", "nosuch/h", errno.ENOENT),
        ("g/tasks", "g/c", errno.EISDIR),
        ("g/tasks", "g/x", errno.ENOTDIR),
        ("g/tasks", "g/tasks", OK),
    ],
)
def test_rename_when_tried_then_answers_as_a_cgroupfs(tree, path, new_path, number):
    assert outcome(tree.rename, path, new_path) == number


def test_agent_when_written_then_is_read_back_and_never_started(tree):
    tree.write("/", "release_agent", "/sbin/agent\n")
    assert tree.read("/", "release_agent") == "/sbin/agent\n"
    with fails(errno.E2BIG):
        tree.write("/", "release_agent", "x" * 4096)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1 2", errno.EINVAL),
        ("77 3 4096", errno.EBADF),
        ("77", errno.EINVAL),
        ("junk", errno.EINVAL),
        ("77 x", errno.EINVAL),
    ],
)
def test_event_control_when_written_then_asks_for_descriptors(tree, text, number):
    """K101: the writer's standard files are no eventfds, and others it has not."""
    with fails(number):
        tree.write("g", "cgroup.event_control", text)
