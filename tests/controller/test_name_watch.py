"""That a name was made or removed is proven by inodes, whatever the path in memory says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kmem_harness.controller.audit.looks import Looks
from kmem_harness.controller.loop import Loop
from kmem_harness.procfs.file_systems import FileSystems
from tests.controller.looking import Caller, children, run_until


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def looks(loop):
    before = children()
    looks = Looks(loop)
    yield looks
    looks.close()
    run_until(loop, lambda: children() <= before)


@pytest.fixture
def caller(loop, looks):
    return Caller(loop, looks)


def test_name_when_made_then_is_seen_and_only_once(caller, tmp_path):
    caller.about_to("mkdirat", tmp_path / "d")
    (tmp_path / "d").mkdir()
    assert caller.seen() == (1, 0, 0)
    assert caller.seen() == (0, 0, 0)


def test_name_when_the_call_fails_then_nothing_was_made(caller, tmp_path):
    (tmp_path / "d").mkdir()
    os.utime(tmp_path / "d")
    caller.about_to("mkdir", tmp_path / "d" / "missing" / "x")
    caller.about_to("mkdir", tmp_path / "d")
    (tmp_path / "other").mkdir()
    assert caller.seen() == (0, 0, 0)


def test_file_when_unlinked_then_is_gone_once_nobody_holds_it(caller, tmp_path):
    path = tmp_path / "f"
    path.touch()
    caller.about_to("unlink", path)
    with path.open():
        path.unlink()
        assert caller.seen() == (0, 0, 0)
        caller.about_to("mkdir", tmp_path)  # the call before is over
        assert caller.seen() == (0, 0, 0)
    assert caller.seen() == (0, 1, 0)
    assert caller.seen() == (0, 0, 0)


def test_file_when_the_call_fails_then_is_not_gone_by_anothers_later(caller, tmp_path):
    path = tmp_path / "f"
    path.touch()
    caller.about_to("unlink", path)
    caller.about_to("mkdir", tmp_path)
    path.unlink()
    assert caller.seen() == (0, 0, 0)


def test_file_when_it_has_another_name_then_is_not_gone(caller, tmp_path):
    path = tmp_path / "f"
    path.touch()
    os.link(path, tmp_path / "g")
    caller.about_to("unlink", path)
    path.unlink()
    assert caller.seen() == (0, 0, 0)


def test_file_when_another_took_its_name_before_the_call_then_is_not_gone(caller, tmp_path):
    """A target may rename behind our back: what its path leads to afterwards proves nothing."""
    mine, other = tmp_path / "f", tmp_path / "g"
    mine.touch()
    other.touch()
    os.link(other, tmp_path / "h")
    caller.about_to("unlink", mine)
    mine.rename(tmp_path / "kept")
    other.rename(mine)
    mine.unlink()
    assert caller.seen() == (0, 0, 0)


def test_file_when_older_than_the_box_then_its_end_is_no_business_of_the_box(caller, tmp_path):
    path = tmp_path / "f"
    path.touch()
    caller.watch._began += 60_000_000_000
    caller.about_to("unlink", path)
    path.unlink()
    assert caller.seen() == (0, 0, 0)


def test_file_when_renamed_over_then_what_was_there_is_gone(caller, tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    new.touch()
    old.touch()
    caller.about_to("rename", old)
    new.rename(old)
    assert caller.seen() == (0, 1, 0)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, os.mkfifo, lambda p: p.symlink_to("x")])
def test_names_of_each_kind_when_removed_then_are_gone(make, caller, tmp_path):
    path = tmp_path / "it"
    make(path)
    remove = path.rmdir if path.is_dir() else path.unlink
    caller.about_to("unlinkat", path)
    remove()
    assert caller.seen() == (0, 1, 0)


def test_names_when_made_one_after_the_other_then_each_is_seen(caller, tmp_path):
    for number in range(500):
        caller.about_to("mkdirat", tmp_path / str(number))
        (tmp_path / str(number)).mkdir()
        if not number % 50:
            time.sleep(0.03)  # loose ends are put away
    assert caller.seen() == (500, 0, 0)


def test_names_when_made_and_removed_again_and_again_then_all_are_seen(caller, tmp_path):
    for _ in range(200):
        caller.about_to("mkdir", tmp_path / "d")
        (tmp_path / "d").mkdir()
        caller.about_to("rmdir", tmp_path / "d")
        (tmp_path / "d").rmdir()
    assert caller.seen() == (200, 200, 0)


def test_names_when_made_and_removed_before_the_clocks_next_tick_then_are_the_boxs_own(
    loop, looks, tmp_path
):
    for _ in range(20):
        caller = Caller(loop, looks)
        (tmp_path / "d").mkdir()
        caller.about_to("rmdir", tmp_path / "d")
        (tmp_path / "d").rmdir()
        assert caller.seen() == (0, 1, 0)
        caller.watch.close()


def test_names_when_two_boxes_watch_then_each_has_its_own(loop, looks, tmp_path):
    one, other = Caller(loop, looks), Caller(loop, looks, os.getppid())
    (tmp_path / "f").touch()
    one.about_to("unlink", tmp_path / "f")
    (tmp_path / "f").unlink()
    one.about_to("mkdir", tmp_path / "d")
    (tmp_path / "d").mkdir()
    assert other.seen() == (0, 0, 0)
    assert one.seen() == (1, 1, 0)


def test_path_when_it_goes_by_links_and_upwards_then_leads_where_the_call_does(caller, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "near").symlink_to("a/b")
    (tmp_path / "far").symlink_to(tmp_path / "a")
    for path in ("near/x", "far/b/x", "near/../b/x", "./a//b/./x/", "far/../near/x"):
        caller.about_to("mkdir", f"{tmp_path}/{path}")
        (tmp_path / "a" / "b" / "x").mkdir()
        caller.about_to("rmdir", f"{tmp_path}/{path}")
        (tmp_path / "a" / "b" / "x").rmdir()
        assert caller.seen() == (1, 1, 0), path
    loop = tmp_path / "loop"
    loop.symlink_to("loop/x")
    caller.about_to("mkdir", loop / "x")
    assert caller.seen() == (0, 0, 0)


def test_path_when_from_a_descriptor_then_leads_where_the_call_does(caller, tmp_path):
    at = os.open(tmp_path, os.O_RDONLY)
    try:
        caller.about_to("mkdirat", "d", at)
        (tmp_path / "d").mkdir()
        assert caller.seen() == (1, 0, 0)
    finally:
        os.close(at)


_FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
os.chdir(sys.argv[2])
from pathlib import Path
from kmem_harness.controller.audit.looks import Looks
from kmem_harness.controller.loop import Loop
from tests.controller.looking import Caller, children, run_until
loop = Loop()
looks = Looks(loop)
told, tell = os.pipe()
target = os.fork()
if not target:
    {inside}
    os.write(tell, b"x")
    import signal
    signal.pause()
try:
    assert os.read(told, 1) == b"x"
    caller = Caller(loop, looks, {who})
    {outside}
finally:
    os.kill(target, 9)
"""


def run_apart(where, outside, inside="pass", who="os.getpid()"):
    """Run in a mount namespace of its own a program that asks about itself, or its child *target*."""
    program = _FORK.format(inside=inside, outside=outside.replace("\n", "\n    "), who=who)
    root = Path(__file__).parent.parent.parent
    command = ["unshare", "--mount", sys.executable, "-c", program, str(root), str(where)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert not outcome.returncode, outcome.stderr


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount without further ado")


@needs_root
def test_path_when_its_process_has_another_root_then_leads_where_the_call_does(tmp_path):
    """Upwards, and by links to the root, it ended in our own root instead of the container's."""
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "up").symlink_to("/a")
    run_apart(
        tmp_path,
        """for path in ("/a/b", "b", "../../a/b", "/up/b", "../up/b"):
    caller.about_to("mkdir", path)
    Path("root/a/b").mkdir()
    caller.about_to("rmdir", path)
    Path("root/a/b").rmdir()
    assert caller.seen() == (1, 1, 0), path""",
        "os.chroot('root'); os.chdir('/a')",
        "target",
    )


@needs_root
def test_mount_when_names_on_it_were_watched_then_can_be_unmounted_at_once(tmp_path):
    """A descriptor of what was looked at kept it busy: mount, touch, rm, umount."""
    (tmp_path / "m").mkdir()
    run_apart(
        tmp_path,
        """for directory in (".", "m"):
    assert not os.system("mount -t tmpfs none m")
    os.chdir(directory)
    up = "" if directory == "m" else "m/"
    caller.about_to("mkdir", up + "d")
    Path(up + "d").mkdir()
    Path(up + "f").touch()
    caller.about_to("unlink", f"{os.getcwd()}/{up}f")
    Path(up + "f").unlink()
    os.chdir(sys.argv[2])
    assert not os.system("umount m")
    assert caller.seen() == (1, 1, 0), directory""",
    )


def test_watch_when_its_process_is_stopped_then_says_so_and_counts_what_may_be_gone(
    loop, looks, tmp_path
):
    one, other = Caller(loop, looks), Caller(loop, looks)
    (tmp_path / "f").touch()
    (tmp_path / "g").touch()
    other.about_to("unlink", tmp_path / "g")
    os.kill(looks._process.pid, signal.SIGSTOP)
    one.about_to("unlink", tmp_path / "f")
    assert one.asker.late
    assert one.seen() == (0, 0, 1)
    one.about_to("unlink", tmp_path / "f")
    assert one.seen() == (0, 0, 1)
    assert not other.asker.late
    # What was watched by the one that was ended.
    assert other.seen() == (0, 0, 1)
    other.about_to("mkdir", tmp_path / "d")
    (tmp_path / "d").mkdir()
    assert other.seen() == (1, 0, 0)


def test_watch_when_more_than_enough_is_watched_then_the_rest_may_be_gone(caller, tmp_path):
    files = []
    for number in range(260):
        path = tmp_path / str(number)
        path.touch()
        files.append(path.open())
        caller.about_to("unlink", path)
        path.unlink()
    assert caller.seen() == (0, 0, 4)
    for file in files:
        file.close()
    assert caller.seen() == (0, 256, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may look into it")
def test_process_that_looks_when_nothing_is_watched_then_holds_nothing_and_sleeps(
    loop, looks, tmp_path
):
    caller = Caller(loop, looks)
    (tmp_path / "f").touch()
    caller.about_to("unlink", tmp_path / "f")
    caller.about_to("mkdir", tmp_path / "d")
    caller.watch.close()
    caller.seen()
    held = f"/proc/{looks._process.pid}/fd"
    assert {os.readlink(f"{held}/{fd}").partition(":")[0] for fd in os.listdir(held)} == {  # noqa: PTH115, PTH208
        "socket",
        os.devnull,
        "anon_inode",
    }
    for fd in os.listdir(held):  # noqa: PTH208
        assert "wd:" not in Path(f"{held}info/{fd}").read_text()


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
