"""Build the images of the workloads here, from local files only: ``python containers/build.py [NAME...]``.

Compiles the C, sends each image's files to the engine of $DOCKER_HOST, and pulls nothing. Knows
compilers and engines; knows nothing of the harness.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "LABEL",
    "NAMES",
    "BuildError",
    "build",
    "build_image",
    "busybox_root",
    "compile_static",
    "controller_root",
]

_HERE = Path(__file__).resolve().parent
#: Every image of ours, in the order they are built.
NAMES = sorted(path.parent.name for path in _HERE.glob("*/Dockerfile"))
#: What all of our images carry, to find and remove them by.
LABEL = "kmem-harness.workload"
_FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-pthread", "-s"]
_WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion"]
# The first run of zig builds its libc.
_COMPILE_SECONDS = 600
#: What the kernel calls a machine, and what engines call it.
_ARCHITECTURES = {"x86_64": {"amd64", "x86_64"}, "aarch64": {"arm64", "aarch64"}}


_PACKAGE = _HERE.parent / "kmem_harness"
#: Of the standard library, what no controller imports.
_NOT_NEEDED = (
    *("__pycache__", "config-*", "dist-packages", "ensurepip", "idlelib", "lib2to3"),
    *("lib-dynload", "pydoc_data", "site-packages", "test", "tests", "tkinter", "turtledemo"),
)
#: What ``kmem-harness`` is in the controller's image: it needs no other package there.
_START = """#!{python} -IS
import sys
sys.path.insert(0, "/kmem")
from kmem_harness.controller.door.remote import main
sys.exit(main([word for word in sys.argv[1:] if word != "controller"]))
"""


class BuildError(RuntimeError):
    """An image cannot be built; the message says why and what to do."""


def build(client: Any, names: Iterable[str] = NAMES, *, prefix: str = "kmem-") -> list[str]:
    """Build the images *names* on the engine of the docker-py *client*; give their tags.

    Raises: BuildError, docker.errors.DockerException.
    """
    _check_engine(client)
    tags = []
    for name in names:
        directory = _HERE / name
        dockerfile = directory / "Dockerfile"
        if not dockerfile.exists():
            raise BuildError(f"there is no image {name!r}; known are {', '.join(NAMES)}")
        with tempfile.TemporaryDirectory(prefix="kmem-image-") as scratch:
            files: dict[str, Path] = {}
            for source in directory.glob("*.c"):
                files[source.stem] = Path(scratch, source.stem)
                compile_static(source, files[source.stem])
            if name in _ROOTS:
                files["root"] = _ROOTS[name](Path(scratch, "root"))
            tags.append(f"{prefix}{name}")
            build_image(client, tags[-1], dockerfile.read_text(encoding="utf-8"), files)
    return tags


def build_image(client: Any, tag: str, dockerfile: str, files: Mapping[str, Path]) -> None:
    """Build one image from the text of a Dockerfile and the *files* it may copy, by name.

    Raises: docker.errors.DockerException.
    """
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        text = dockerfile.encode()
        about = tarfile.TarInfo("Dockerfile")
        about.size = len(text)
        archive.addfile(about, io.BytesIO(text))
        for name, path in files.items():
            archive.add(path, name, filter=_owned_by_root)
    context.seek(0)
    client.images.build(
        fileobj=context,
        custom_context=True,
        tag=tag,
        labels={LABEL: tag},
        network_mode="none",
        rm=True,
        forcerm=True,
    )


def compile_static(source: Path, program: Path) -> None:
    """Compile *source* into a static *program* with the first compiler here that can.

    Raises: BuildError.
    """
    failures = []
    for compiler in _compilers():
        command = [*compiler, *_FLAGS, *_WARNINGS, str(source), "-o", str(program)]
        outcome = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
        )
        if outcome.returncode == 0:
            program.chmod(0o755)
            return
        failures.append(f"{shlex.join(command)}:\n{outcome.stderr}")
    raise BuildError(
        f"no compiler here makes a static program of {source}: install gcc and libc6-dev, or the "
        "ziglang package\n" + "\n".join(failures)
    )


def busybox_root(into: Path) -> Path:
    """Make a root directory of the machine's static busybox and a link for each of its applets.

    Raises: BuildError.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise BuildError("there is no busybox here: install busybox-static")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name, mode in {"bin": 0o755, "etc": 0o755, "tmp": 0o1777}.items():
        (into / name).mkdir(parents=True)
        (into / name).chmod(mode)
    shutil.copy(busybox, into / "bin" / "busybox")
    for applet in set(listed.stdout.split()) - {"busybox"}:
        (into / "bin" / applet).symlink_to("busybox")
    (into / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n", encoding="ascii")
    (into / "etc" / "group").write_text("root:x:0:\n", encoding="ascii")
    if b"/ld-linux" in Path(busybox).read_bytes():
        raise BuildError(f"{busybox} is not static: install busybox-static")
    return into


def controller_root(into: Path) -> Path:
    """Make a root directory of this machine's Python and the package, which a controller needs alone.

    Each file keeps the path that it has here: Python finds its library by that.
    Raises: BuildError.
    """
    shim = _PACKAGE / "interposer" / "bin" / "kmem-shim"
    if not shim.exists():
        raise BuildError(f"there is no {shim}: install the package (pip install -e .) first")
    python = Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}").resolve()
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shutil.copytree(library, _under(into, library), ignore=shutil.ignore_patterns(*_NOT_NEEDED))
    shutil.copytree(
        _PACKAGE, into / "kmem" / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")
    )
    modules = Path(sysconfig.get_config_var("DESTSHARED") or library / "lib-dynload").glob("*.so")
    needed = _libraries(python)
    # A module that needs a library of its own, such as sqlite3's, is none of the controller's.
    wanted = [one for one in modules if "_ctypes" in one.name or _libraries(one) <= needed]
    for path in {python, *wanted}.union(*map(_libraries, [python, *wanted])):
        _under(into, path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, _under(into, path))
    start = into / "bin" / "kmem-harness"
    start.parent.mkdir(exist_ok=True)
    start.write_text(_START.format(python=python), encoding="utf-8")
    start.chmod(0o755)
    (into / "tmp").mkdir(exist_ok=True)
    return into


def _libraries(program: Path) -> set[Path]:
    """List the dynamic libraries that *program* is linked with, the loader among them."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    words = (word for line in listed.stdout.splitlines() for word in line.split())
    return {Path(word) for word in words if word.startswith("/")}


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


#: Images that are more than one program: how to put their root directory together.
_ROOTS = {"busybox": busybox_root, "controller": controller_root}


def main() -> None:
    """Build the images named on the command line, or all."""
    from docker import from_env  # noqa: PLC0415  --help needs none
    from docker.errors import DockerException  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--prefix", default="kmem-", help="of the tags (default: kmem-)")
    parser.add_argument("--remove", action="store_true", help="remove the images instead")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    try:
        client = from_env()
        if arguments.remove:
            for name in names:
                client.images.remove(f"{arguments.prefix}{name}")
            return
        for tag in build(client, names, prefix=arguments.prefix):
            print(tag)
    except BuildError as error:
        sys.exit(f"containers/build.py: {error}")
    except DockerException as error:
        sys.exit(
            f"containers/build.py: {error}\nIs an engine running? $DOCKER_HOST is "
            f"{os.environ.get('DOCKER_HOST', 'not set, so the socket is /var/run/docker.sock')}."
        )


def _compilers() -> list[list[str]]:
    asked = shlex.split(os.environ.get("CC", ""))
    found = [asked] if asked else []
    found += [[name] for name in ("cc", "gcc", "clang") if shutil.which(name)]
    if find_spec("ziglang"):
        target = f"{platform.machine()}-linux-musl"  # zig links statically with musl only
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", target])
    return found


def _check_engine(client: Any) -> None:
    theirs = client.version().get("Arch", "")
    ours = _ARCHITECTURES.get(platform.machine(), {platform.machine()})
    if theirs not in ours:
        raise BuildError(
            f"the engine's machine is {theirs!r}, and this one's compiler makes programs for "
            f"{platform.machine()}: build on a machine like the engine's"
        )


def _owned_by_root(about: tarfile.TarInfo) -> tarfile.TarInfo:
    about.uid = about.gid = 0
    about.uname = about.gname = "root"
    about.mtime = 0  # else the engine's cache never knows a layer again
    return about


if __name__ == "__main__":
    main()
