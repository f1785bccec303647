"""Remove a directory with all that is in it, where a start or an end waits for that.

Like shutil.rmtree with ignore_errors, whose import alone takes longer than a box.
"""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["remove_tree"]


def remove_tree(path: str) -> None:
    """Remove *path* and everything below, as far as we may; no symbolic link is followed."""
    with suppress(FileNotFoundError):
        for _, directories, files, fd in os.fwalk(path, topdown=False):
            for name in files:
                with suppress(OSError):
                    os.unlink(name, dir_fd=fd)
            for name in directories:
                with suppress(OSError):
                    os.rmdir(name, dir_fd=fd)
                with suppress(OSError):  # a link to one
                    os.unlink(name, dir_fd=fd)
    with suppress(OSError):
        os.rmdir(path)
