"""Run a demo's program under a bound of the kernel's own, where there is no pids cgroup to hold it.

A program of its own, run as ``python -I -S hold_back.py MOST PROGRAM [ARGUMENT...]``: it gives up
root, whom RLIMIT_NPROC does not hold, takes a limit of MOST tasks, and goes on as PROGRAM. That is
read before root is given up: nobody else may be able to.
"""

from __future__ import annotations

import os
import resource
import sys

__all__ = ["main"]

_NOBODY = 65534


def main(arguments: list[str]) -> None:
    """Go on as the command line says."""
    most, program = arguments[:2]
    with open(program, encoding="utf-8") as file:
        code = compile(file.read(), program, "exec")
    resource.setrlimit(resource.RLIMIT_NPROC, (int(most), int(most)))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    sys.argv = arguments[1:]
    exec(code, {"__name__": "__main__"})  # noqa: S102 - a file of ours, which the caller named


if __name__ == "__main__":
    main(sys.argv[1:])
