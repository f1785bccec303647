"""Plugins are found where they are installed, and nothing slow is imported where none is."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:]
from kmem_harness.hooks import Hooks
print(*(name for name, _ in Hooks().manager.list_name_plugin()), sep=",")
print("importlib.metadata" in sys.modules)
"""


def names_and_import(*path: str, cwd: Path | None = None) -> tuple[list[str], bool]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *path], capture_output=True, text=True, check=True, cwd=cwd
    )
    names, imported = ended.stdout.splitlines()
    return names.split(","), imported == "True"


def install(directory: Path, about: str) -> None:
    (directory / "a_plugin.py").write_text("")
    (directory / "a_plugin-1.dist-info").mkdir()
    (directory / "a_plugin-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: a-plugin\nVersion: 1\n"
    )
    (directory / "a_plugin-1.dist-info" / "entry_points.txt").write_text(about)


def test_plugins_when_one_is_installed_then_it_is_found(tmp_path: Path) -> None:
    install(tmp_path, "[kmem_harness]\nmine = a_plugin\n")
    names, _ = names_and_import(str(tmp_path))
    assert "mine" in names


def test_plugins_when_one_lies_in_the_working_directory_then_it_is_found(tmp_path: Path) -> None:
    install(tmp_path, "[kmem_harness]\nmine = a_plugin\n")
    names, _ = names_and_import("", cwd=tmp_path)
    assert "mine" in names


def test_plugins_when_none_is_installed_then_metadata_is_not_imported(tmp_path: Path) -> None:
    _, imported = names_and_import()
    if imported:
        pytest.skip("a plugin is installed beside this one")
    install(tmp_path, "[another_project]\nmine = a_plugin\n")
    names, imported = names_and_import(str(tmp_path))
    assert "mine" not in names
    assert not imported
