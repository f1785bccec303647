"""Who the adversaries are: what each tries, what it makes, what is promised and seen.

Knows nothing of how they are run. ``python -m tests.adversary.roster`` prints the guide's table.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, field

__all__ = [
    "ADVERSARIES",
    "ELSEWHERE",
    "MEMCG",
    "NOT_PROMISED",
    "Adversary",
    "for_this_machine",
    "markdown",
]

#: Where a box under attack is; one of them writes to it.
MEMCG = "/attacked"
NAMESPACES = ("user", "pid")
LOCAL = ("user", "pid", "none")
CONTAINER = ("container",)
EVERYWHERE = (*LOCAL, *CONTAINER)
_WHERE = {
    EVERYWHERE: "",
    NAMESPACES: "; has no meaning without a pid namespace",
    LOCAL: "; on the local runtime",
    CONTAINER: "; in containers, which have that socket",
}


@dataclass(frozen=True)
class Adversary:
    """One program of ``programs``, run with a number of tries and *words*."""

    name: str
    tries: str  # what it tries, for the guide
    #: What it makes, by the name of a counter in ``counting.py``.
    makes: str = "task"
    nr_tries: int = 60
    words: tuple[str, ...] = ()
    #: Words it must print, and the errnos of which its first refusal is one.
    prints: dict[str, str] = field(default_factory=dict)
    errnos: tuple[str, ...] = ("ENOMEM",)
    #: Whether it fills its limit, so that one object more would show.
    fills: bool = True
    #: Whether it can be ended by what it does to itself.
    may_die: bool = False
    #: Whether it is run with every test run; the others are slow tests.
    quick: bool = False
    isolations: tuple[str, ...] = EVERYWHERE
    machines: tuple[str, ...] = ("x86_64", "aarch64")


_NO_CALL = {"errnos": ("ENOSYS",), "fills": False}
_X86_64 = {"machines": ("x86_64",)}

ADVERSARIES = [
    Adversary(
        "i386_calls", "the 32-bit entry, with its other numbers", quick=True, **_NO_CALL, **_X86_64
    ),
    Adversary("x32_calls", "the numbers of the x32 ABI", **_NO_CALL, **_X86_64),
    Adversary("io_uring_threads", "threads of an io_uring, made without a call", **_NO_CALL),
    Adversary(
        "clone3_rewritten",
        "arguments of `clone3` rewritten during the call",
        # Flags that cannot be had together; and in a chroot there are no user namespaces.
        errnos=("ENOMEM", "EINVAL", "EPERM"),
        nr_tries=300,
        quick=True,
    ),
    Adversary("vfork_chain", "a chain of `vfork`s, all in the call at once"),
    Adversary(
        "ptrace_rewritten",
        "a tracer that turns another call into `fork`",
        errnos=("ENOMEM", "EPERM"),  # no ptrace at all without a pid namespace
        fills=False,
        **_X86_64,
        quick=True,
    ),
    Adversary(
        "suspended_filter",
        "`PTRACE_O_SUSPEND_SECCOMP`",
        errnos=("EPERM", "EINVAL", "ENOMEM"),
    ),
    Adversary(
        "nested_filters",
        "filters of its own above ours, and a listener of its own",
        prints={"listener": "EBUSY"},
        quick=True,
    ),
    Adversary(
        "nested_namespaces",
        "user and pid namespaces in namespaces",
        errnos=("ENOMEM", "EPERM", "ENOSPC"),
        fills=False,
        quick=True,
    ),
    Adversary("joined_namespace", "`setns` into the pid namespace of a child"),
    Adversary("orphans", "daemons: sessions of their own, parents that are gone"),
    Adversary(
        "interrupted_calls",
        "a timer that interrupts every call",
        # A signal that comes before we have taken the call ends it, unless its handler restarts.
        errnos=("ENOMEM", "EINTR"),
    ),
    Adversary(
        "killed_in_call",
        "tasks killed in the middle of `fork`",
        nr_tries=300,
        # Most tries are spent on those that die: on a busy machine it never comes to its limit.
        errnos=("ENOMEM", "none"),
        fills=False,
    ),
    Adversary(
        "exec_in_thread",
        "a thread that executes while another forks, and takes over its id",
        nr_tries=300,
        errnos=("ENOMEM", "EAGAIN", "none"),
        fills=False,
        quick=True,
    ),
    Adversary("reused_tids", "thread ids given out again while a call is not known to be over"),
    Adversary("zombies", "children that end and are never collected"),
    Adversary(
        "all_at_once", "many threads that fork at the same moment", words=("10",), quick=True
    ),
    Adversary(
        "signals_to_init",
        "every signal to the box's init and to all it can see",
        isolations=NAMESPACES,
    ),
    Adversary("stopped_in_call", "tasks stopped and continued in the middle of `fork`"),
    Adversary(
        "hidden_tasks",
        "tasks that are not dumpable, with `no_new_privs` and other `prctl`s: who looks sees less",
        quick=True,
    ),
    Adversary(
        "odd_names",
        "names and arguments, the longest there are among them, made to fool whoever parses `/proc`",
    ),
    Adversary(
        "clock_jumps", "children whose clocks are decades off, in time namespaces of their own"
    ),
    Adversary(
        "trapped_threads",
        "10,000 threads that wait for an answer at once",
        makes="pipe",
        words=("10000",),
        prints={"threads": "10000"},
        errnos=("ENFILE",),
        isolations=LOCAL,
    ),
    Adversary(
        "forged_handshakes",
        "forged, silent and half-open handshakes at the socket mounted into its container",
        prints={"dialled": "300", "accepted": "0"},
        isolations=CONTAINER,
        quick=True,
    ),
    Adversary(
        "stolen_init",
        "taking over the box's init, which no limit binds",
        errnos=("EPERM",),
        fills=False,
        may_die=True,  # where it may trace init, init's own filter ends the box
        isolations=NAMESPACES,
        **_X86_64,
        quick=True,
    ),
    Adversary(
        "stolen_listener",
        "taking our listener from a process it can see, by `pidfd_getfd` and `/proc/PID/fd`",
        prints={"listeners": "0"},
    ),
    Adversary(
        "control_socket",
        "asking the controller for a higher limit",
        words=(MEMCG,),
        prints={"dialled": "20", "raised": "0"},
        isolations=LOCAL,
        quick=True,
    ),
]

#: What other tests prove, each where that is.
ELSEWHERE = {
    "descriptors in unread messages, memfds only mapped, files unlinked and held": (
        "tests/e2e/test_objects.py"
    ),
    "pipes and memfds opened again through `/proc`, files named as memfds are": (
        "tests/e2e/test_objects.py, tests/interposer/test_descriptors.py"
    ),
    "chains of directories, one in the other, with whoever made them at the end": (
        "tests/e2e/test_objects.py"
    ),
    "forged, silent and half-open handshakes of the announced process itself": (
        "tests/controller/test_handshake.py"
    ),
    "thousands of silent clients of the control socket, and descriptors that run out": (
        "tests/controller/test_siege.py"
    ),
    "forged listeners at the socket of a container's runtime": "tests/controller/test_native.py",
    "file systems that are never answered for, or mounted at names with line ends": (
        "tests/controller/test_siege.py, tests/interposer/test_file_systems.py"
    ),
    "a service that speaks for our program in its box": "tests/services/engine/test_service.py",
    "whatever can be written to a socket, a file or `/proc`: ten million odd inputs": "tests/fuzz",
}

#: What was looked at and is not promised, each with the reason.
NOT_PROMISED = {
    "a target that runs as root where there are no user namespaces": (
        "it is the host's root, and may trace or kill the controller; a killed controller ends the box"
    ),
    "a target of your own user under isolation `none`": (
        "it may signal, and where the host allows it trace, every other process of yours"
    ),
    "having somebody outside work for it": (
        "Docker's socket, cron, `ssh localhost`, `systemd-run`: what starts tasks elsewhere is not in the box"
    ),
    "a process that an engine's exec puts in from elsewhere": (
        "no filter of ours can be put on it; it is reported as a breach, and `pids_limit` bounds it"
    ),
    "files of its own user, such as the control socket's directory": (
        "it may remove them: nobody else reaches that controller then, and nothing else changes"
    ),
    "time": "a box that makes calls without end takes a share of the one thread that answers all",
}


def for_this_machine() -> list[Adversary]:
    """List those that can be built here."""
    return [one for one in ADVERSARIES if platform.machine() in one.machines]


def markdown() -> str:
    """Give the guide's table: what was tried, and how it stands."""
    rows = ["| tried | how it ended | what it was told, where that is, or why |", "|---|---|---|"]
    for one in ADVERSARIES:
        where = _WHERE[one.isolations]
        errnos = ", ".join(name for name in one.errnos if name != "none")
        ends = f"{errnos} at the limit" if one.fills else errnos
        rows.append(f"| {one.tries} | held | {ends}{where} |")
    rows += [f"| {what} | held | {where} |" for what, where in ELSEWHERE.items()]
    rows += [f"| {what} | not promised | {why} |" for what, why in NOT_PROMISED.items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
