"""Compile the programs and the fast path when a wheel is built. Knows compilers; knows no seccomp.

Hatchling loads this file by its path, and ``nox -s shim`` runs it as a program, so it imports nothing of
the package. Wheels do not carry it, nor the C sources: an installed package needs the programs only.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "MACHINES",
    "OLDEST_PYTHON",
    "PROGRAMS",
    "ZIGLANG",
    "NativeBuildError",
    "NativeBuildHook",
    "build_library",
    "build_program",
    "build_programs",
    "find_compiler",
    "machine_of",
    "tell_user",
    "ziglang_compiler",
]

# Source in native/, program in bin/.
PROGRAMS = {
    "shim.c": "kmem-shim",
    "init.c": "kmem-init",
    "restarter.c": "kmem-restarter",
    "look.c": "kmem-look",
    "runtime.c": "kmem-runtime",
}
LIBRARIES = {"fast_path.c": "kmem-fast-path.so"}

# ELF e_machine (elf.h) of each machine that the filter has a syscall table for.
MACHINES = {62: "x86_64", 183: "aarch64"}

_PT_INTERP = 3  # elf.h: the segment that names a dynamic loader
_REFUSED = 125  # what all of them exit with when their arguments make no sense

# Tried: 0.13.0, 0.15.2 and 0.17.1. Capped because zig breaks its command line before its 1.0.
ZIGLANG = "ziglang>=0.13,<0.18"

# No -Werror here: a compiler we have not met may warn of something new, and a user who installs the
# package cannot mend that. `nox -s shim` adds it, so that no warning of a known compiler gets in.
_COMMON = ["-std=gnu11", "-O2"]
_STATIC = ["-s", "-static"]
# Linked against no C library, so that it is at home with any: it finds that of its process. Hence no
# symbol of one of them alone, as the checks that some compilers put in would be.
_POSITION_INDEPENDENT = [
    *("-fPIC", "-fno-stack-protector", "-U_FORTIFY_SOURCE"),
    *("-fno-sanitize=all",),  # zig's own default
]
_SHARED = ["-s", "-shared", "-nostdlib"]
_WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion"]

# Needs what the programs need: the static libc and the kernel's headers.
_PROBE = (
    "#include <linux/seccomp.h>\n#include <unistd.h>\nint main(void) { return close(-1) == 0; }\n"
)

# The first run of zig builds its libc: half a minute on two idle cores, more than ten on busy ones.
_COMPILE_SECONDS = 3600

# pyproject.toml's requires-python, which pip looks at only when all is built.
OLDEST_PYTHON = (3, 10)

_REMEDY = (
    "install a C compiler with its static libc (Debian, Ubuntu: apt-get install gcc libc6-dev), "
    "or the ziglang package, which pip does by itself unless it is told --no-build-isolation"
)


class NativeBuildError(RuntimeError):
    """A native program cannot be built; the message says why and what to do."""


def _say_nothing(_progress: str) -> None:
    pass


def machine_of(program: Path) -> str:
    """Read from its ELF header which machine a static program is for.

    Raises: NativeBuildError if it is not ELF, not static, or for a machine the filter does not know.
    """
    image = program.read_bytes()
    if image[:4] != b"\x7fELF":
        message = f"{program.name}: the compiler made no ELF program, so it is not one for Linux"
        raise NativeBuildError(message)
    if image[4:6] != b"\x02\x01":  # ELFCLASS64, ELFDATA2LSB: the only kind in MACHINES
        message = f"{program.name}: only 64-bit little-endian machines are supported"
        raise NativeBuildError(message)
    (number,) = struct.unpack_from("<H", image, 18)
    if number not in MACHINES:
        known = " and ".join(MACHINES.values())
        message = f"{program.name}: ELF machine {number} is not supported, only {known} are"
        raise NativeBuildError(message)
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    kinds = [struct.unpack_from("<I", image, table + index * size)[0] for index in range(count)]
    if _PT_INTERP in kinds:  # a container may not have that loader
        message = f"{program.name}: the compiler made a dynamic program in spite of -static"
        raise NativeBuildError(message)
    return MACHINES[number]


def find_compiler(machine: str | None = None) -> list[str] | None:
    """Find a system compiler that really links a static program for *machine*, by letting it try.

    With ``None`` any machine will do: what $CC makes is then what the wheel is for.
    """
    names = ["cc", "gcc", "clang"]
    if machine not in {None, platform.machine()}:
        names = [f"{machine}-linux-gnu-gcc"]
    candidates = [[name] for name in names if shutil.which(name)]
    if asked := shlex.split(os.environ.get("CC", "")):
        candidates.insert(0, asked)
    for compiler in candidates:
        made = _probe(compiler)
        if made is not None and machine in {None, made}:
            return compiler
    return None


def ziglang_compiler(machine: str) -> list[str]:
    """Name the ziglang package's compiler; musl, because zig links glibc dynamically only."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl"]


def build_programs(
    sources: Path,
    into: Path,
    machine: str | None = None,
    extra_flags: Sequence[str] = (),
    report: Callable[[str], None] = _say_nothing,
) -> tuple[str, str]:
    """Build every program of *sources* in the directory *into*, each appearing whole or not at all.

    Where it takes its time, *report* is given a sentence for each step.
    Shape: the machine they are for, and the command that compiled them.
    Raises: NativeBuildError if there is no compiler, or one of the sources does not compile.
    """
    compiler = find_compiler(machine)
    zig_caches: tuple[str, ...] = ()
    if compiler is not None:
        report = _say_nothing  # it takes a second
    else:
        if find_spec("ziglang") is None:
            message = f"no compiler links a static program for {machine or 'Linux'}: {_REMEDY}"
            raise NativeBuildError(message)
        compiler = ziglang_compiler(machine or platform.machine())
        report(
            "no C compiler with a static libc is here, so the ziglang package compiles a few small "
            "programs; it builds its own libc first, which takes about a minute"
        )
        # Zig keeps the libc it builds, 80 MB, under a key that holds zig's own path. That is another
        # one in each isolated build, so the usual cache, in the user's home, would grow and not serve.
        zig_caches = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    into.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=into, prefix=".building-") as scratch,
        tempfile.TemporaryDirectory(prefix="kmem-harness-zig-") as zig_cache,
    ):
        environment = dict.fromkeys(zig_caches, zig_cache)
        command = [*compiler, *_COMMON, *_WARNINGS, *extra_flags]
        made = []
        for sources_to_names, build in ((PROGRAMS, build_program), (LIBRARIES, build_library)):
            for source, name in sources_to_names.items():
                made.append(Path(scratch, name))
                build(command, sources / source, made[-1], environment)
                report(f"{name} is compiled")
        (machine,) = {machine_of(program) for program in made}
        # Renamed, not overwritten: a program that is running cannot be written to.
        for program in made:
            program.chmod(0o755)
            program.replace(into / program.name)
    return machine, shlex.join(compiler)


def build_program(
    compiler: list[str], source: Path, program: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Compile one static program.

    Raises: NativeBuildError if it does not compile.
    """
    _run_compiler([*compiler, *_STATIC, str(source), "-o", str(program)], environment)


def build_library(
    compiler: list[str], source: Path, library: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Compile one library that is linked against nothing.

    Raises: NativeBuildError if it does not compile.
    """
    # Not in one step: a zig that is told to link no C library finds none of its headers.
    halfway = library.with_suffix(".o")
    compiling = [*_POSITION_INDEPENDENT, "-c", str(source), "-o", str(halfway)]
    _run_compiler([*compiler, *compiling], environment)
    _run_compiler([*compiler, *_SHARED, str(halfway), "-o", str(library)], environment)


def tell_user(progress: str) -> None:
    """Tell whoever waits, past pip, which keeps to itself what a build says until it has failed."""
    line = f"kmem-harness: {progress}\n"
    sys.stderr.write(line)
    if sys.stderr.isatty():
        return
    # A terminal may stop a job in the background that writes to it.
    with suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal:
        if os.tcgetpgrp(terminal.fileno()) == os.getpgrp():
            terminal.write("\n" + line)


class NativeBuildHook(BuildHookInterface[BuilderConfig]):
    """Put the programs into wheels, or into the source tree for an editable install."""

    def dependencies(self) -> list[str]:
        """Ask for ziglang only where no system compiler will do: it is a download of 100 MB."""
        if sys.version_info < OLDEST_PYTHON:
            self.app.abort(
                f"kmem-harness needs Python {'.'.join(map(str, OLDEST_PYTHON))} or later, and this "
                f"is Python {platform.python_version()}: make the environment with a newer one, as "
                "in python3.11 -m venv .venv"
            )
        return [ZIGLANG] if sys.platform == "linux" and find_compiler() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the programs, before hatchling collects the files."""
        if sys.platform != "linux":
            self.app.abort(
                f"kmem-harness builds on Linux only, not on {sys.platform}: it rests on Linux's "
                "seccomp. Use a Linux machine, virtual machine or container."
            )
        room = Path(self.root, "kmem_harness", "interposer")
        try:
            if version == "editable":
                machine, _ = build_programs(room / "native", room / "bin", report=tell_user)
            else:
                machine = self._build_for_wheel(room / "native", build_data)
        except (NativeBuildError, OSError) as error:
            self.app.abort(f"kmem-harness: {error}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine}"

    def clean(self, versions: list[str]) -> None:  # noqa: ARG002
        """Remove what an editable install put into the source tree."""
        shutil.rmtree(Path(self.root, "kmem_harness", "interposer", "bin"), ignore_errors=True)

    def _build_for_wheel(self, sources: Path, build_data: dict[str, Any]) -> str:
        # Outside the source tree, which may be read-only, or hold an editable install in use.
        # The directory goes when this hook does, on failure too.
        self._scratch = tempfile.TemporaryDirectory(prefix="kmem-harness-build-")
        into = Path(self._scratch.name)
        machine, _ = build_programs(sources, into, report=tell_user)
        for name in (*PROGRAMS.values(), *LIBRARIES.values()):
            build_data["force_include"][str(into / name)] = f"kmem_harness/interposer/bin/{name}"
        return machine


def _probe(compiler: list[str]) -> str | None:
    """Say which machine *compiler* links static programs for; ``None`` if it cannot."""
    with tempfile.TemporaryDirectory(prefix="kmem-harness-probe-") as scratch:
        source, program = Path(scratch, "probe.c"), Path(scratch, "probe")
        source.write_text(_PROBE, encoding="ascii")
        try:
            build_program([*compiler, *_COMMON], source, program)
            return machine_of(program)
        except (NativeBuildError, OSError):
            return None


def _run_compiler(command: list[str], environment: Mapping[str, str] | None) -> None:
    try:
        outcome = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMPILE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"{shlex.join(command)} still ran after {_COMPILE_SECONDS} s"
        raise NativeBuildError(message) from error
    if outcome.returncode:
        message = (
            f"{shlex.join(command)} failed with status {outcome.returncode}:\n{outcome.stderr}"
        )
        raise NativeBuildError(message)
    sys.stderr.write(outcome.stderr)


def _load(library: Path, machine: str) -> str:
    """Load a library here, if it is for this machine, to see that nothing it needs is missing."""
    if machine != platform.machine():
        return "built, not loaded"
    ctypes.CDLL(str(library))
    return "built and loaded"


def _run(program: Path, machine: str) -> str:
    """Start *program* with an argument that each of them refuses, to see that it starts at all."""
    command = [str(program), "nonsense="]
    if machine != platform.machine():
        emulator = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
        if emulator is None:
            return "built, not run (no qemu-user here)"
        command.insert(0, emulator)
    status = subprocess.run(command, capture_output=True, timeout=10, check=False).returncode
    if status != _REFUSED:
        message = f"{shlex.join(command)} ended with status {status}, not {_REFUSED}"
        raise NativeBuildError(message)
    return "built and run" if machine == platform.machine() else "built, and run under qemu-user"


def main() -> None:
    """Build for each machine with every warning an error, and say which were built and run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("machines", nargs="+", choices=list(MACHINES.values()))
    parser.add_argument("--into", type=Path, required=True, help="gets a directory per machine")
    arguments = parser.parse_args()
    for machine in arguments.machines:
        into = arguments.into / machine
        try:
            sources = Path(__file__).parent / "native"
            _, compiler = build_programs(sources, into, machine, ["-Werror"])
            for see, names in ((_run, PROGRAMS), (_load, LIBRARIES)):
                for name in names.values():
                    outcome = see(into / name, machine)
                    size = (into / name).stat().st_size
                    sys.stdout.write(f"{machine} {name}: {outcome}, {size} bytes, by {compiler}\n")
        except NativeBuildError as error:
            sys.exit(f"{machine}: {error}")


if __name__ == "__main__":
    main()
