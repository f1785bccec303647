"""What runs without faults have in common, file by file."""

from __future__ import annotations

import pytest

from kmem_harness.faults.common import common_of
from kmem_harness.faults.outcome import Outcome


def common(*runs, ignore=()):
    return common_of([Outcome(0, files=files) for files in runs], ignore)


STAMPED = [{"stamp": str(run), "out": "folder", "out/b": "1"} for run in range(3)]
NAMED = [{f"tmp.{run}": "folder", f"tmp.{run}/a": "1", "kept": "1"} for run in range(3)]


@pytest.mark.parametrize(
    ("runs", "left", "said"),
    [
        (STAMPED[:2], STAMPED[2], ""),
        (STAMPED[:2], {"stamp": "9"}, "out missing"),
        (STAMPED[:2], {**STAMPED[2], "out/b": "2"}, "out/b with other content"),
        (STAMPED[:2], {**STAMPED[2], "core": "1"}, "core that should not be there"),
        (STAMPED[:2], {}, "out missing"),
        (NAMED[:2], NAMED[2], ""),
        (NAMED[:2], {"tmp.9": "folder"}, "kept missing"),
        (NAMED[:2], {"kept": "2"}, "kept with other content"),
    ],
)
def test_differences_when_one_file_changes_by_itself_then_the_others_are_compared(runs, left, said):
    assert common(*runs).differences(left) == said


def test_common_when_files_change_then_says_which_were_set_aside():
    found = common(*STAMPED[:2])
    assert found.set_aside()["files"] == ["stamp"]
    assert common(*NAMED[:2]).set_aside()["names_in"] == ["."]


@pytest.mark.parametrize("glob", ["out", "out/*", "b", "*/b"])
def test_common_when_files_are_to_be_ignored_then_they_are_not_compared(glob):
    found = common(*STAMPED[:2], ignore=(glob,))
    assert "out/b" not in found.files
    assert found.differences({"stamp": "1", "out": "folder", "out/b": "2"}) == ""


def test_common_when_files_cannot_be_read_then_none_is_compared():
    assert common({"a": "1"}, None).differences({"a": "2"}) == ""
