"""The fork bombs of the tests, as commands."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.programs import Programs

__all__ = ["BOMBS", "COMPILED_BOMBS", "bomb_command"]

#: Each is a program of ``tests/programs`` and the words before SECONDS.
COMPILED_BOMBS = {
    "tree": ["bomb_tree"],
    "threads": ["bomb_threads"],
    "vfork": ["bomb_vfork"],
    "posix_spawn": ["bomb_posix_spawn"],
    "clone3-process": ["bomb_clone3", "process"],
    "clone3-thread": ["bomb_clone3", "thread"],
    "clone3-mixed": ["bomb_clone3", "mixed"],
    "rawclone-process": ["bomb_rawclone", "process"],
    "rawclone-thread": ["bomb_rawclone", "thread"],
    "rawclone-mixed": ["bomb_rawclone", "mixed"],
}

#: dash, the sh of Debian, takes no function named ":"; in it the same bomb has another name.
_SHELL_BOMBS = {
    "sh": ["sh", "bomb(){ bomb|bomb& };bomb"],
    "bash": ["bash", ":(){ :|:& };:"],
}

BOMBS = [*COMPILED_BOMBS, *(name for name in _SHELL_BOMBS if shutil.which(name))]


def bomb_command(name: str, programs: Programs, seconds: int) -> list[str]:
    """Give the command of a bomb that is over after *seconds*."""
    if name in _SHELL_BOMBS:
        shell, bomb = _SHELL_BOMBS[name]
        # A shell that cannot fork ends at once, the first one too: the bomb gets one of its own.
        return ["sh", "-c", f"{shell} -c '{bomb}' & exec sleep {seconds}"]
    program, *words = COMPILED_BOMBS[name]
    return [str(programs[program]), *words, str(seconds)]
