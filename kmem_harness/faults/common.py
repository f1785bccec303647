"""Say what runs without faults have in common, file by file: only there a difference tells something.

Knows outcomes as data: digests of what was printed and of each file that was left.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmem_harness.faults.outcome import Outcome

__all__ = ["NOTHING", "Common", "common_of"]

_SHOWN = 3
_TOP = "."


@dataclass(frozen=True)
class Common:
    """What is compared of a run, and what is set aside. Paths are relative to the run's TMPDIR."""

    output: bool = False
    #: Digests of the files that all runs without faults left alike, ``None`` if nobody looked.
    files: Mapping[str, str] | None = None
    #: Files that differ from run to run, and folders in which each run makes names of its own.
    changing: tuple[str, ...] = ()
    own_names: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def differences(self, files: Mapping[str, str] | None) -> str:
        """Say in words how *files* differ from those of runs without faults; empty if they do not."""
        if self.files is None or files is None:
            return ""
        missing = [path for path in self.files if path not in files]
        changed = [
            path for path in self.files if files.get(path, self.files[path]) != self.files[path]
        ]
        new = [path for path in sorted(files) if self._is_new(path)]
        said = [
            f"{_listed(paths)} {what}"
            for paths, what in (
                (_topmost(missing), "missing"),
                (changed, "with other content"),
                (_topmost(new), "that should not be there"),
            )
            if paths
        ]
        return ", ".join(said)

    def set_aside(self) -> dict[str, object]:
        """Give what is not compared, JSON-ready."""
        return {
            "output": not self.output,
            "files": list(self.changing),
            "names_in": list(self.own_names),
            "ignored": list(self.ignored),
        }

    def _is_new(self, path: str) -> bool:
        if self.files is None or path in self.files or path in self.changing:
            return False
        parts = path.split("/")
        above = (("/".join(parts[:at]) or _TOP) for at in range(len(parts)))
        return not any(folder in self.own_names for folder in above) and not _matches(
            path, self.ignored
        )


#: Nothing is compared, as where a test's own body judges.
NOTHING = Common()


def common_of(runs: Sequence[Outcome], ignore: Sequence[str] = ()) -> Common:
    """Find what *runs*, all without faults, have in common; files that match *ignore* are left out."""
    first = runs[0]
    output = first.output is not None and all(one.output == first.output for one in runs)
    left = [one.files for one in runs]
    known = [files for files in left if files is not None]
    if len(known) < len(left):
        return Common(output, None, ignored=tuple(ignore))
    everywhere = set.intersection(*(set(files) for files in known))
    anywhere = set.union(*(set(files) for files in known))
    own = {path.rpartition("/")[0] or _TOP for path in _topmost(sorted(anywhere - everywhere))}
    same = {
        path: known[0][path]
        for path in sorted(everywhere)
        if all(files[path] == known[0][path] for files in known)
    }
    kept = {path: digest for path, digest in same.items() if not _matches(path, ignore)}
    changing = [path for path in sorted(everywhere - set(same)) if not _matches(path, ignore)]
    named = [path for path in sorted(own) if not _matches(path, ignore)]
    return Common(output, kept, tuple(changing), tuple(named), tuple(ignore))


def _matches(path: str, globs: Sequence[str]) -> bool:
    """Say whether *path*, a folder above it, or its name alone is meant by one of *globs*."""
    parts = path.split("/")
    forms = {"/".join(parts[: at + 1]) for at in range(len(parts))} | set(parts)
    return any(fnmatchcase(form, glob) for glob in globs for form in forms)


def _topmost(paths: Sequence[str]) -> list[str]:
    """Leave out what lies below another one of *paths*."""
    found = set(paths)
    return [
        path
        for path in paths
        if not any("/".join(path.split("/")[:at]) in found for at in range(1, path.count("/") + 1))
    ]


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
