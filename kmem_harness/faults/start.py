"""Say when a rule begins to count: ``from=CALL``, ``from=PATH``, ``from=exec`` or ``from=mark``.

So that an interpreter's own start is not what is failed. Data and its reader; what a call names, and
who makes it, is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from kmem_harness.faults import calls

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MARK", "SHIM", "Start", "read_start"]

#: What a program names to say that it has begun: ``env true kmem-start``, or any file of that name.
MARK = "kmem-start"
#: What the shim is called while it becomes the target.
SHIM = "kmem-shim"
_EXECS = frozenset({"execve", "execveat"})
_OPENS = frozenset({"creat", "open", "openat", "openat2"})


@dataclass(frozen=True)
class Start:
    """One such moment; the call that makes it counts already, but for a mark, which is nobody's need."""

    what: str
    value: str = ""

    @property
    def counts(self) -> bool:
        """Whether the call that makes it counts, too."""
        return self.what != "mark"

    @property
    def calls(self) -> frozenset[str]:
        """Name the calls that have to be seen for it."""
        return {
            "call": frozenset({self.value}),
            "exec": _EXECS,
            "mark": _EXECS | _OPENS,
            "path": _EXECS | frozenset(calls.PATH_ARGUMENT),
        }[self.what]

    def is_at(
        self,
        name: str,
        comm: Callable[[], str],
        path: Callable[[], str | None],
        argument: Callable[[], str | None],
    ) -> bool:
        """Say whether call *name* makes it.

        *path* gives what the call names, *argument* the second word of a command that is executed.
        """
        if name not in self.calls:
            return False
        if self.what == "call":
            return True
        if self.what == "exec":
            return comm() != SHIM
        named = path() or ""
        if self.what == "path":
            return fnmatchcase(named, self.value) or fnmatchcase(named, f"*/{self.value}")
        return named.rpartition("/")[2] == MARK or (name in _EXECS and argument() == MARK)


def read_start(text: str) -> Start | None:
    """Read what follows ``from=``; ``None`` for what is none."""
    if text in ("exec", "after-exec"):
        return Start("exec")
    if text == "mark":
        return Start("mark")
    if text in calls.injectable():
        return Start("call", text)
    if set(text) & set("/*?["):
        return Start("path", text)
    return None
