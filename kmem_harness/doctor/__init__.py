"""Test what this host offers. Every finding comes from doing the thing, not from a version number."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kmem_harness.interposer.syscalls import ARCHITECTURES
from kmem_harness.runtimes.backstop import Backstop, make_backstop
from kmem_harness.runtimes.isolations import ISOLATIONS
from kmem_harness.runtimes.local import INIT, SHIM, probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.doctor.trial import Trial

__all__ = ["ENOUGH", "INEXACT", "NOTHING", "Diagnosis", "Finding", "examine"]

#: Verdicts, and the command's exit status.
ENOUGH, INEXACT, NOTHING = range(3)
_LEAST_ISOLATION = "none"
#: What a listener takes away, or cannot do, by who installs it.
_LISTENERS = {
    "shim": (
        "calls of the i386 and x32 ABIs, and io_uring, fail with ENOSYS",
        "in a container, what `docker exec` starts by another way than ours is not under the filter",
    ),
    "native": (
        "a call of the i386 or x32 ABI ends its process (SIGSYS)",
        "a command under the engine's own init is charged itself",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One facility: is it there, how that was tested, what to do if it is not."""

    facility: str
    ok: bool
    #: Nothing can be enforced without it.
    required: bool
    tested: str
    detail: str
    remedy: str
    #: Something is less exact, or less apart, without it.
    exact: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """All findings, what boxes get here, and what follows from it."""

    findings: list[Finding]
    isolation: str
    listeners: dict[str, str]

    @property
    def verdict(self) -> int:
        """Give :data:`ENOUGH`, :data:`INEXACT` or :data:`NOTHING`."""
        missing = [finding for finding in self.findings if not finding.ok]
        if any(finding.required for finding in missing):
            return NOTHING
        return INEXACT if any(finding.exact for finding in missing) else ENOUGH

    @property
    def sentence(self) -> str:
        """Say the verdict."""
        what = ", ".join(
            finding.facility
            for finding in self.findings
            if not finding.ok and (finding.required if self.verdict == NOTHING else finding.exact)
        )
        if self.verdict == NOTHING:
            return f"no limit can be enforced here: {what}"
        if self.verdict == INEXACT:
            return f"limits hold here, with something less exact: {what}"
        return "all that boxes need is here"

    def takes_away(self) -> dict[str, tuple[str, ...]]:
        """Give, by isolation and listener, what programs miss in a box here."""
        taken = {}
        if self.isolation:
            taken[f"isolation {self.isolation}"] = ISOLATIONS[self.isolation].takes_away
        for listener in dict.fromkeys(self.listeners.values()):
            taken[f"listener {listener}"] = _LISTENERS[listener]
        return taken

    def as_dict(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        return {
            "verdict": self.verdict,
            "summary": self.sentence,
            "isolation": self.isolation or None,
            "listeners": self.listeners,
            "takes_away": self.takes_away(),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine() -> Diagnosis:
    """Test every facility, and run what a box runs. Takes a second or two, and leaves nothing."""
    from kmem_harness.doctor.trial import run_trial

    trial = run_trial()
    engine, listener = _docker()
    findings = [
        _architecture(),
        _programs(),
        _fast_path(),
        _pidfd(),
        *_isolations(),
        *_tried(trial),
        _children_files(),
        *_sights(),
        _hard_bound(),
        engine,
    ]
    listeners = {"local": "shim", **({"docker": listener} if listener else {})}
    return Diagnosis(findings, trial.isolation, listeners)


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
        exact=True,
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
    failures = {}
    for name in ISOLATIONS:
        try:
            failures[name] = probe(name)
        except OSError as error:  # noqa: PERF203 - three, once
            failures[name] = str(error)
    findings = [
        Finding(
            f"isolation {name}",
            failure is None,
            required=name == _LEAST_ISOLATION,
            tested="setting up an empty box",
            detail=failure or ISOLATIONS[name].made_of,
            remedy=ISOLATIONS[name].remedy,
        )
        for name, failure in failures.items()
    ]
    apart = [name for name, failure in failures.items() if failure is None and name != "none"]
    return [
        *findings,
        Finding(
            "boxes in namespaces",
            bool(apart),
            required=False,
            tested="setting up empty boxes",
            detail=f"by isolation {' or '.join(apart)}" if apart else "none can be made",
            remedy="as for the isolations; without one a box sees the processes of the host, and the "
            "controller, and may signal what its user may",
            exact=True,
        ),
    ]


def _tried(trial: Trial) -> list[Finding]:
    """Say what a real limit, one object of each kind, a census and an end came to."""
    return [
        Finding(
            "a limit binds",
            trial.limit is None,
            required=True,
            tested="forking in a box until one was refused",
            detail=trial.limit or "refused with ENOMEM, once as many ran as fit",
            remedy="run on Linux 5.5 or later, outside of sandboxes that supervise system calls; "
            "in a container, allow the seccomp system call",
        ),
        Finding(
            "every kind is counted",
            trial.kinds is None,
            required=False,
            tested="making one object of each kind in a box, and a census",
            detail=trial.kinds or f"{trial.nr_kinds} kinds charged, and found",
            remedy="what the sandbox around us denies is not charged; run outside of it for these",
            exact=True,
        ),
        Finding(
            "what is gone is given back",
            trial.end is None,
            required=False,
            tested="a census after the end of that box",
            detail=trial.end or "nothing was left",
            remedy="please report this, with the output of kmem-harness doctor --json",
            exact=True,
        ),
        Finding(
            "exact reports",
            not trial.partial,
            required=False,
            tested="the report of that box",
            detail="; ".join(trial.partial) or "nothing is missing in it",
            remedy="see what the report says",
            exact=True,
        ),
        Finding(
            "signals fail no call",
            trial.signals is None,
            required=False,
            tested="a timer whose handler lacks SA_RESTART, in a box",
            detail=trial.signals or "what they interrupt starts over",
            remedy="let processes of ours trace a box's: kernel.yama.ptrace_scope at most 1, and not "
            "isolation none where that is 1",
            exact=True,
        ),
        Finding(
            "wait-killable notifications",
            trial.is_wait_killable,
            required=False,
            tested="the flags that a box's filter was installed with",
            detail="works" if trial.is_wait_killable else "the filter was installed without",
            remedy="run on Linux 5.19 or later; without it signals interrupt trapped calls",
            exact=True,
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
            (
                "use a kernel with CONFIG_KCMP, and allow kcmp where a container denies it (Docker: "
                "--cap-add SYS_PTRACE); else files that a fork shares count twice"
            ),
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
            exact=True,
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


def _docker() -> tuple[Finding, str]:
    """Ask the engine; say, too, which listener its containers get."""

    def ping() -> None:
        import docker

        from kmem_harness.runtimes.engine import check_engine, local_socket, readable_errors
        from kmem_harness.runtimes.labels import sweep
        from kmem_harness.runtimes.native import NativeListener

        socket = local_socket()
        with readable_errors(socket):
            client = docker.DockerClient(base_url=f"unix://{socket}", timeout=3)
        try:
            version.update(check_engine(client, socket))
            chosen.append(NativeListener(client, version).chosen("auto", {}))
            swept.extend(sweep(client.api))
        finally:
            client.close()

    version: dict[str, Any] = {}
    swept: list[str] = []
    chosen: list[bool] = []
    remedy = "start dockerd or set DOCKER_HOST; the local runtime needs none"
    try:
        ping()
        detail = f"version {version.get('Version', '?')}, on this kernel"
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        detail, remedy = str(error), getattr(error, "remedy", remedy)
    if swept:
        detail += f"; removed what dead runs had left: {', '.join(swept)}"
    finding = Finding(
        "Docker engine",
        bool(version),
        required=False,
        tested="asking for its version through its API",
        detail=detail,
        remedy=remedy,
    )
    return finding, ("native" if chosen[0] else "shim") if chosen else ""


def _failure(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        return f"{type(error).__name__}: {error}"
    return None


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
