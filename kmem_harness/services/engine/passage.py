"""Have a folder that services of every user can get to. Knows no services."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile

__all__ = ["Passage"]

_EVERYBODY_MAY_PASS = 0o711


class Passage:
    """A folder for sockets and directories of services, in *directory* or elsewhere.

    Where root runs services as other users, they must be able to pass through every folder above it:
    a login's ``XDG_RUNTIME_DIR`` lets nobody else in.
    """

    def __init__(self, directory: str) -> None:
        """Make it below *directory*, which is ours, if that can be."""
        self._own: str | None = None
        if os.geteuid() != 0:
            self.path = os.path.join(directory, "s")
        elif all(_lets_pass(above) for above in _above(directory)):
            os.chmod(directory, _EVERYBODY_MAY_PASS)
            self.path = os.path.join(directory, "s")
        else:
            self.path = self._own = tempfile.mkdtemp(prefix="kmem-s-")
            os.chmod(self.path, _EVERYBODY_MAY_PASS)
        os.makedirs(self.path, exist_ok=True)

    def close(self) -> None:
        """Remove it, if it is not *directory*'s owner who does."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


def _above(directory: str) -> list[str]:
    found = []
    path = os.path.abspath(directory)
    while (parent := os.path.dirname(path)) != path:
        found.append(parent)
        path = parent
    return found


def _lets_pass(directory: str) -> bool:
    return bool(os.stat(directory).st_mode & stat.S_IXOTH)
