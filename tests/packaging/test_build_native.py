"""The build hook: which compiler it takes, and what wheels, source trees and source distributions get."""

from __future__ import annotations

import ctypes
import os
import pty
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import termios
import zipfile
from contextlib import suppress
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling builds the package: pip install hatchling")

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from kmem_harness.interposer import build_native

ROOT = Path(__file__).parents[2]
ROOM = "kmem_harness/interposer"
HOOK = ROOT / ROOM / "build_native.py"
C_PROGRAM = "#include <unistd.h>\nint main(void) { return close(-1) == 0; }\n"


needs_compiler = pytest.mark.skipif(
    build_native.find_compiler() is None,
    reason="no system compiler links statically, and ziglang takes too long here: "
    "apt-get install gcc libc6-dev",
)


@pytest.fixture
def project(tmp_path):
    """A copy of the project as git would check it out, with two small programs for the real ones."""
    tree = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "bin", ".*")
    for name in ("kmem_harness", "tests", "containers"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "noxfile.py",
        ".gitignore",
    ):
        shutil.copy(ROOT / name, tree / name)
    for source in build_native.PROGRAMS:
        (tree / ROOM / "native" / source).write_text(C_PROGRAM)
    return tree


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)


def wheel_of(project, out, version="standard"):
    (wheel,) = WheelBuilder(str(project)).build(directory=str(out), versions=[version])
    return Path(wheel)


@needs_compiler
def test_wheel_has_platform_tag_and_both_programs(project, tmp_path):
    wheel = wheel_of(project, tmp_path / "dist")

    machine = os.uname().machine
    assert wheel.name.endswith(f"-py3-none-linux_{machine}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for program in (*build_native.PROGRAMS.values(), *build_native.LIBRARIES.values()):
            member = archive.getinfo(f"{ROOM}/bin/{program}")
            assert archive.read(member)[:4] == b"\x7fELF"
            assert member.external_attr >> 16 & 0o111 == 0o111
        (about,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        fields = Parser().parsestr(archive.read(about).decode())
    assert fields["Root-Is-Purelib"] == "false"
    assert fields["Tag"] == f"py3-none-linux_{machine}"
    modules = {
        path.relative_to(project).as_posix()
        for path in (project / "kmem_harness").rglob("*.py")
        if path.name != HOOK.name
    }
    assert modules <= names
    assert not [name for name in names if name.endswith((".c", HOOK.name))]


@needs_compiler
def test_wheel_build_leaves_source_tree_as_it_was(project, tmp_path):
    before = sorted(project.rglob("*"))
    wheel_of(project, tmp_path / "dist")
    assert sorted(path for path in project.rglob("*") if "__pycache__" not in path.parts) == before


@needs_compiler
def test_editable_build_puts_programs_in_source_tree_over_running_ones(project, tmp_path):
    directory = project / ROOM / "bin"
    directory.mkdir()
    stale = directory / "kmem-shim"
    shutil.copy("/bin/sleep", stale)
    with subprocess.Popen([str(stale), "60"]) as running:
        wheel_of(project, tmp_path / "dist", "editable")
        running.kill()
    built = {*build_native.PROGRAMS.values(), *build_native.LIBRARIES.values()}
    assert {path.name for path in directory.iterdir()} == built
    for program in directory.iterdir():
        assert build_native.machine_of(program) == os.uname().machine
        assert stat.S_IMODE(program.stat().st_mode) == 0o755


def test_sdist_carries_sources_and_no_programs(project, tmp_path):
    (project / ROOM / "bin").mkdir()
    (project / ROOM / "bin" / "kmem-shim").write_bytes(b"stale")
    (sdist,) = SdistBuilder(str(project)).build(directory=str(tmp_path / "dist"))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = (*build_native.PROGRAMS, *build_native.LIBRARIES)
    wanted = {f"{ROOM}/native/{source}" for source in sources}
    wanted |= {"pyproject.toml", "README.md", "LICENSE", f"{ROOM}/{HOOK.name}"}
    assert wanted <= names
    assert not [name for name in names if name.startswith(f"{ROOM}/bin")]


@needs_compiler
def test_source_that_does_not_compile_ends_build_with_its_error(project, tmp_path, capfd):
    (project / ROOM / "native" / "shim.c").write_text("int main(void) { return missing; }\n")
    with pytest.raises(SystemExit):
        wheel_of(project, tmp_path / "dist")
    said = "".join(capfd.readouterr())
    assert "shim.c" in said
    assert "missing" in said


@needs_compiler
def test_compiler_that_cannot_link_statically_is_passed_over(tmp_path, monkeypatch):
    """Fedora's gcc has no static libc, conda's is named by $CC: the next candidate must get its turn."""
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert build_native.find_compiler() not in (None, [str(broken)])


@needs_compiler
def test_cc_with_arguments_is_taken_first(monkeypatch):
    found = build_native.find_compiler() or []
    monkeypatch.setenv("CC", shlex.join([*found, "-pipe"]))
    assert build_native.find_compiler() == [*found, "-pipe"]


@needs_compiler
def test_ziglang_is_not_asked_for_where_there_is_a_compiler(project):
    requirements = WheelBuilder(str(project)).config.dependencies
    assert not [text for text in requirements if text.startswith("ziglang")]


@pytest.mark.usefixtures("no_compiler")
def test_without_compiler_hook_asks_for_ziglang(project):
    assert build_native.ZIGLANG in WheelBuilder(str(project)).config.dependencies


@pytest.mark.usefixtures("no_compiler")
def test_with_neither_compiler_nor_ziglang_build_names_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(build_native, "find_spec", lambda _: None)
    with pytest.raises(build_native.NativeBuildError, match="apt-get install gcc libc6-dev"):
        build_native.build_programs(ROOT / ROOM / "native", tmp_path)


def test_library_when_zig_compiles_it_then_it_loads(tmp_path, monkeypatch):
    """Told to link no C library, zig finds no errno.h either: it was the end of each such build."""
    pytest.importorskip("ziglang", reason="ziglang is the compiler tried here")
    for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    compiler = build_native.ziglang_compiler(os.uname().machine)
    ((source, name),) = build_native.LIBRARIES.items()
    build_native.build_library(compiler, ROOT / ROOM / "native" / source, tmp_path / name)
    assert ctypes.CDLL(str(tmp_path / name)).kmem_wait


def test_build_when_python_is_too_old_then_says_so_before_it_compiles(project, monkeypatch, capfd):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    monkeypatch.setattr("platform.python_version", lambda: "3.9.18")
    with pytest.raises(SystemExit):
        _ = WheelBuilder(str(project)).config.dependencies
    said = "".join(capfd.readouterr())
    assert "kmem-harness needs Python 3.10 or later, and this is Python 3.9.18" in said


def test_oldest_python_of_the_hook_is_the_one_that_pip_is_told():
    oldest = ".".join(map(str, build_native.OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()


TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
TELL = "from kmem_harness.interposer import build_native as b; b.tell_user('half done')"
BEHIND = "if os.fork(): sys.exit(os.wait()[1])\nos.setpgid(0, 0)\n"


@pytest.mark.parametrize(("code", "is_shown"), [(TAKE + TELL, True), (TAKE + BEHIND + TELL, False)])
def test_progress_when_pip_keeps_the_output_then_is_on_the_terminal(tmp_path, code, is_shown):
    """Not if the build runs in the background: there a terminal may stop whoever writes to it."""
    terminal, inside = pty.openpty()
    modes = termios.tcgetattr(inside)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(inside, termios.TCSANOW, modes)
    with (
        (tmp_path / "kept").open("w") as kept,
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=inside,
            stderr=kept,
            cwd=ROOT,
            start_new_session=True,
        ) as build,
    ):
        assert build.wait(30) == 0
    assert (tmp_path / "kept").read_text() == "kmem-harness: half done\n"
    os.set_blocking(terminal, False)
    shown = b""
    with suppress(BlockingIOError):
        shown = os.read(terminal, 4096)
    for end in (terminal, inside):
        os.close(end)
    assert (b"kmem-harness: half done" in shown) is is_shown


def test_build_on_another_system_says_linux_only(project, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SystemExit):
        wheel_of(project, tmp_path / "dist")
    said = "".join(capfd.readouterr())
    assert "builds on Linux only, not on darwin" in said


def elf(machine=62, bits=2, segments=(1,)):
    """Write just as much of an ELF header as is read."""
    header = bytearray(64)
    header[:6] = b"\x7fELF" + bytes([bits, 1])
    struct.pack_into("<H", header, 18, machine)
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(segments))
    return bytes(header) + b"".join(struct.pack("<I52x", kind) for kind in segments)


@pytest.mark.parametrize(("number", "machine"), [(62, "x86_64"), (183, "aarch64")])
def test_machine_of_static_program_is_read_from_header(tmp_path, number, machine):
    program = tmp_path / "program"
    program.write_bytes(elf(number))
    assert build_native.machine_of(program) == machine


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"MZ\x90\x00", "no ELF program"),
        (elf(bits=1), "only 64-bit"),
        (elf(machine=243), "ELF machine 243 is not supported, only x86_64 and aarch64 are"),
        (elf(segments=(1, 3)), "dynamic program"),
    ],
)
def test_program_for_no_known_machine_is_refused(tmp_path, image, complaint):
    program = tmp_path / "program"
    program.write_bytes(image)
    with pytest.raises(build_native.NativeBuildError, match=complaint):
        build_native.machine_of(program)


def test_test_extra_asks_for_the_same_ziglang_as_the_hook():
    assert f'"{build_native.ZIGLANG}"' in (ROOT / "pyproject.toml").read_text()
