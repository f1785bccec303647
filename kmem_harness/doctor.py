"""Test what this host offers. Every finding comes from doing the thing, not from a version number."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.interposer.filter import WAIT_KILLABLE_RECV
from kmem_harness.interposer.syscalls import ARCHITECTURES
from kmem_harness.runtimes.backstop import Backstop, make_backstop
from kmem_harness.runtimes.local import INIT, ISOLATIONS, SHIM, probe

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Finding", "examine", "print_findings"]

_FORK_ONCE = """
import os, sys
try:
    pid = os.fork()
except OSError as error:
    sys.exit(error.errno)
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""
_ENOMEM = 12


@dataclass(frozen=True)
class Finding:
    """One facility: is it there, how that was tested, what to do if it is not."""

    facility: str
    ok: bool
    required: bool
    tested: str
    detail: str
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        return asdict(self)


def examine() -> list[Finding]:
    """Test every facility. Takes well under a second and leaves nothing behind."""
    return [
        _architecture(),
        _programs(),
        _fast_path(),
        _pidfd(),
        *_isolations(),
        *_enforcement(),
        _children_files(),
        *_sights(),
        _hard_bound(),
        _docker(),
    ]


def print_findings(findings: list[Finding]) -> None:
    """Print a table for people, with remedies under it."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        mark = "[green]yes" if finding.ok else "[red]NO" if finding.required else "[yellow]no"
        detail = f"{finding.detail} [dim](tested by {finding.tested})[/dim]"
        table.add_row(mark, f"[bold]{finding.facility}", detail)
    console.print(table, highlight=False)
    for finding in findings:
        if not finding.ok:
            need = "needed" if finding.required else "optional"
            console.print(
                f"[bold]{finding.facility}[/bold] ({need}): {finding.remedy}", highlight=False
            )


def _architecture() -> Finding:
    machine = platform.machine()
    return Finding(
        "system call table",
        machine in ARCHITECTURES,
        required=True,
        tested="looking up this machine's architecture",
        detail=f"{machine}, Linux {platform.release()}",
        remedy=f"run on one of {', '.join(ARCHITECTURES)}",
    )


def _programs() -> Finding:
    missing = [path for path in (SHIM, INIT) if not os.access(path, os.X_OK)]
    return Finding(
        "shim and init programs",
        not missing,
        required=True,
        tested="looking for the two executables in the package",
        detail="missing: " + ", ".join(missing) if missing else "installed",
        remedy="install again with pip: the wheel's build compiles them with cc or ziglang",
    )


def _fast_path() -> Finding:
    from kmem_harness.interposer.fast_path import FastPath

    def wait() -> None:
        other, end = os.pipe()
        try:
            FastPath(other).wait(0)
        finally:
            os.close(other)
            os.close(end)

    failure = _failure(wait)
    return Finding(
        "fast path",
        failure is None,
        required=False,
        tested="loading the library and waiting with it",
        detail=failure or "works",
        remedy="install again with pip; without it Python answers every call: the same, in more than "
        "twice the time",
    )


def _pidfd() -> Finding:
    failure = _failure(lambda: os.close(os.pidfd_open(os.getpid())))
    return Finding(
        "pidfd",
        failure is None,
        required=True,
        tested="pidfd_open of this process",
        detail=failure or "works",
        remedy="run on Linux 5.5 or later; in a container, allow pidfd_open",
    )


def _isolations() -> list[Finding]:
    names = {
        "user": "user + pid + mount namespaces",
        "pid": "pid + mount namespaces",
        "none": "subreaper without namespaces",
    }
    remedies = {
        "user": "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
        "kernel.apparmor_restrict_unprivileged_userns=0; not possible in a chroot)",
        "pid": "run as root with CAP_SYS_ADMIN; not needed where user namespaces work",
        "none": "allow this user to start processes",
    }
    findings = []
    for isolation in ISOLATIONS:
        try:
            failure = probe(isolation)
        except OSError as error:
            failure = str(error)
        findings.append(
            Finding(
                names[isolation],
                failure is None,
                required=isolation == "none",
                tested="setting up an empty box",
                detail=failure or "works",
                remedy=remedies[isolation],
            )
        )
    return findings


def _enforcement() -> list[Finding]:
    """Let a real box run into a limit: all of shim, listener and controller must work for it."""
    from kmem_harness.harness import Harness

    wait_killable = False
    failure: str | None = None
    try:
        with Harness("v4") as harness:
            command = [sys.executable, "-I", "-S", "-c", _FORK_ONCE]
            with harness.run(command, kmem_limit=4096) as box:
                status = box.wait(timeout=20)
                if int(status) != _ENOMEM or len(box.refusals) != 1:
                    failure = f"a fork over the limit ended with status {int(status)}"
                wait_killable = bool(box.filter_flags & WAIT_KILLABLE_RECV)
    except (KmemHarnessError, OSError) as error:
        failure = str(error)
    return [
        Finding(
            "seccomp user notification",
            failure is None,
            required=True,
            tested="a fork over a limit in a real box",
            detail=failure or "refused with ENOMEM, as it should be",
            remedy="run on Linux 5.5 or later, outside of sandboxes that supervise system calls; "
            "in a container, allow the seccomp system call",
        ),
        Finding(
            "wait-killable notifications",
            wait_killable,
            required=False,
            tested="the flags that box's filter was installed with",
            detail="works" if wait_killable else "the filter was installed without",
            remedy="run on Linux 5.19 or later; without it signals interrupt trapped calls",
        ),
    ]


def _children_files() -> Finding:
    failure = _failure(lambda: _read(f"/proc/self/task/{os.getpid()}/children"))
    return Finding(
        "/proc/TID/children",
        failure is None,
        required=False,
        tested="reading our own",
        detail=failure or "readable",
        remedy="use a kernel with CONFIG_PROC_CHILDREN; without it some forks near a limit wait "
        "up to 20 ms for an answer",
    )


def _sights() -> list[Finding]:
    """Try what the censuses of descriptors and names look with; without it they see less."""
    from kmem_harness.procfs.descriptors import compares_files, waiting_descriptors
    from kmem_harness.procfs.names import tells_births

    def waiting() -> bool:
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            return waiting_descriptors(os.getpid(), str(one.fileno())) is not None

    tests = (
        (
            "files told apart (kcmp)",
            compares_files,
            "comparing a descriptor of ours with its duplicate",
            "use a kernel with CONFIG_KCMP; else files that a fork shares count twice",
        ),
        (
            "descriptors in messages (scm_fds)",
            waiting,
            "reading the fdinfo of a socket of ours",
            "use Linux 5.7 or later; else descriptors in unread messages are not seen",
        ),
        (
            "births of inodes (statx)",
            tells_births,
            "asking for that of a file made in the temporary directory",
            "use a file system that keeps them, as tmpfs from Linux 5.18",
        ),
    )
    return [
        Finding(
            name,
            works(),
            required=False,
            tested=how,
            detail="works" if works() else "missing",
            remedy=remedy,
        )
        for name, works, how, remedy in tests
    ]


def _hard_bound() -> Finding:
    made: list[Backstop] = []
    failure = _failure(lambda: made.append(make_backstop(f"doctor-{os.getpid()}", 64, "user")))
    for backstop in made:
        backstop.remove()
    how = "a pids cgroup" if made and made[0].cgroup else "RLIMIT_NPROC"
    return Finding(
        "hard bound on tasks (--pids-max)",
        failure is None,
        required=False,
        tested="making one",
        detail=failure or how,
        remedy="mount a pids cgroup, or run as an ordinary user",
    )


def _docker() -> Finding:
    def ping() -> None:
        import docker

        from kmem_harness.runtimes.engine import check_engine, local_socket, readable_errors
        from kmem_harness.runtimes.labels import sweep

        socket = local_socket()
        with readable_errors(socket):
            client = docker.DockerClient(base_url=f"unix://{socket}", timeout=3)
        try:
            version.update(check_engine(client, socket))
            swept.extend(sweep(client.api))
        finally:
            client.close()

    version: dict[str, Any] = {}
    swept: list[str] = []
    remedy = "start dockerd or set DOCKER_HOST; the local runtime needs none"
    try:
        ping()
        detail = f"version {version.get('Version', '?')}, on this kernel"
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        detail, remedy = str(error), getattr(error, "remedy", remedy)
    if swept:
        detail += f"; removed what dead runs had left: {', '.join(swept)}"
    return Finding(
        "Docker engine",
        bool(version),
        required=False,
        tested="asking for its version through its API",
        detail=detail,
        remedy=remedy,
    )


def _failure(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        return f"{type(error).__name__}: {error}"
    return None


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
