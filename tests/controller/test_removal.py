"""Removing a directory with all that is in it."""

from __future__ import annotations

import socket

from kmem_harness.controller.owner.removal import remove_tree


def test_tree_when_removed_then_links_lead_nowhere(tmp_path):
    tree, kept = tmp_path / "tree", tmp_path / "kept"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_text("x")
    kept.mkdir()
    (kept / "file").write_text("x")
    (tree / "a" / "link").symlink_to(kept)
    (tree / "loop").symlink_to(tree)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "s"))
    remove_tree(str(tree))
    assert not tree.exists()
    assert (kept / "file").read_text() == "x"
    remove_tree(str(tree))  # what is gone is gone
