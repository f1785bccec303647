"""Compile the small C programs of the tests, once for each test session.

Knows compilers; knows nothing of what the programs do. The programs are static, so that they run in
any box.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CompileError", "Programs", "find_compiler", "warm_up", "why_no_compiler"]

_SOURCES = Path(__file__).parent.parent / "programs"
_FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-pthread"]
_WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
_PROBE = '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'
#: Zig builds its libc at its first run: a minute on two idle cores, more than ten on busy ones.
_COMPILE_SECONDS = 3600


class CompileError(RuntimeError):
    """A program does not compile; the message is the compiler's."""


def find_compiler() -> list[str] | None:
    """Find what makes static programs here: $CC, cc, gcc, clang, or the ziglang package."""
    candidates = [[name] for name in ("cc", "gcc", "clang") if shutil.which(name)]
    if os.environ.get("CC"):
        candidates.insert(0, shlex.split(os.environ["CC"]))
    if find_spec("ziglang"):
        target = f"{platform.machine()}-linux-musl"  # zig links statically with musl only
        candidates.append([sys.executable, "-m", "ziglang", "cc", "-target", target])
    return next((command for command in candidates if _links_statically(command)), None)


def warm_up(say: Callable[[str], None]) -> None:
    """Have zig build its libc, where it will be needed: not within the first test that compiles.

    That test would take minutes, and look as if it hung. The libc is kept in zig's own cache.
    """
    if find_spec("ziglang") and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        say(
            "no C compiler is here: ziglang builds its libc for the tests' programs, once, in minutes"
        )
        find_compiler()


def why_no_compiler() -> str:
    """Name what is missing and the remedy, for the reason of a skip."""
    return "no C compiler that links statically: install gcc and libc6-dev, or the ziglang package"


def _links_statically(command: list[str]) -> bool:
    """Try it: a compiler without the static libc is of no use here."""
    with TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text(_PROBE)
        arguments = [*command, *_FLAGS, str(source), "-o", str(source.with_suffix(""))]
        try:
            outcome = subprocess.run(
                arguments, capture_output=True, timeout=_COMPILE_SECONDS, check=False
            )
        except OSError:
            return False
        return outcome.returncode == 0


class Programs:
    """The programs of one directory, each compiled when first asked for.

    Shape: ``programs["fork_pause"]`` is the path of an executable, which any user may run
    if *directory* lets them in.
    Raises: CompileError; KeyError for a program there is no source of.
    """

    def __init__(self, directory: Path, compiler: list[str], sources: Path = _SOURCES) -> None:
        """Compile into *directory* with *compiler*, see ``find_compiler``.

        The headers of ``tests/programs`` are there for programs from elsewhere, too.
        """
        self._directory = directory
        self._compiler = [*compiler, f"-I{_SOURCES}"]
        self._sources = sources
        headers = [path for place in {sources, _SOURCES} for path in place.glob("*.h")]
        texts = b"".join(path.read_bytes() for path in sorted(headers))
        self._common = texts + repr([compiler, _FLAGS]).encode()

    def names(self) -> list[str]:
        """List all programs there are sources of."""
        return sorted(source.stem for source in self._sources.glob("*.c"))

    def __getitem__(self, name: str) -> Path:
        """Compile *name* if this source was not compiled before, and return the executable."""
        source = self._sources / f"{name}.c"
        if not source.exists():
            raise KeyError(name)
        version = hashlib.sha256(self._common + source.read_bytes()).hexdigest()[:12]
        program = self._directory / version / name
        if not program.exists():
            program.parent.mkdir(parents=True, exist_ok=True)
            self._compile(source, program)
        return program

    def _compile(self, source: Path, program: Path) -> None:
        # Under another name first: sessions that share the directory never see half a program.
        unfinished = program.with_name(f"{program.name}.{os.getpid()}")
        command = [*self._compiler, *_FLAGS, *_WARNINGS, str(source), "-o", str(unfinished)]
        outcome = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
        )
        if outcome.returncode:
            message = f"{shlex.join(command)}\n{outcome.stderr}"
            raise CompileError(message)
        unfinished.chmod(0o755)
        unfinished.rename(program)
