"""Run boxes as children of ours: in namespaces where the host allows it, else under a subreaper.

Needs no daemon and no root. ``kmem-init`` (see ``interposer/native/init.c``) does the work: its
guard ends the box when the target, we, or the controller die.
"""

from __future__ import annotations

import array
import errno
import functools
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import (
    ConfigurationError,
    KmemHarnessError,
    ShimError,
    UnkillableTaskError,
    UnsupportedHostError,
)
from kmem_harness.procfs.readable import is_readable
from kmem_harness.runtimes.backstop import Backstop, make_backstop
from kmem_harness.runtimes.command import check_command
from kmem_harness.runtimes.isolations import ISOLATIONS, isolations_by_preference
from kmem_harness.runtimes.spec import BoxSpec, ContainerSpec, ExitStatus
from kmem_harness.runtimes.stuck import namespace_of, tasks_of, thaw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.box import Box
    from kmem_harness.runtimes.stuck import Task

__all__ = [
    "INIT",
    "ISOLATIONS",
    "SHIM",
    "LocalBox",
    "LocalRuntime",
    "best_isolation",
    "probe",
    "start_failure",
]

_BIN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "interposer", "bin")
SHIM = os.path.join(_BIN, "kmem-shim")
INIT = os.path.join(_BIN, "kmem-init")

_STATUS = struct.Struct("=Ii24s")  # struct status of init.c
(
    _STATUS_INIT,
    _STATUS_EXITED,
    _STATUS_SIGNALED,
    _STATUS_FAILED,
    _STATUS_READY,
    _STATUS_REFUSED,
    _STATUS_LEFT,
) = range(1, 8)
_END_OF_BOX = 255  # of init.c: what a signal's number could be
_START_SECONDS = 10.0
#: Once a box has been told to end, or its target has ended, the rest of it may take so long.
_END_SECONDS = 5.0
#: ... and what a box has frozen is let go on after this.
_THAW_SECONDS = 0.3
_GUARD_FAILED = 125
_NO_SECCOMP = (
    "the seccomp system call is denied here, or not in the kernel: run on Linux 5.5 or later and "
    "outside of sandboxes, or, in a container, allow it (Docker: --security-opt seccomp=FILE)"
)
#: What to do about what the kernel, or a sandbox around us, says where no listener can be had.
_NO_LISTENER = {
    errno.EBUSY: "no second seccomp listener can be had: run outside of other sandboxes that "
    "supervise system calls",
    errno.EINVAL: "this kernel has no seccomp user notification: run on Linux 5.5 or later",
    errno.ENOSYS: _NO_SECCOMP,
    errno.EPERM: _NO_SECCOMP,
}


def probe(isolation: str) -> str | None:
    """Try *isolation* on this host by setting up an empty box; say what failed, or ``None``."""
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        reading,
        writing,
        subprocess.Popen(
            [
                INIT,
                f"isolation={isolation}",
                f"status={writing.fileno()}",
                *_id_maps(isolation),
            ],
            pass_fds=(writing.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as guard,
    ):
        writing.close()
        # Not Popen.wait(timeout), which looks again and again: its end is the socket's.
        while is_readable(reading.fileno(), _START_SECONDS):
            message = reading.recv(_STATUS.size)
            if len(message) != _STATUS.size:
                break
            kind, value, step = _STATUS.unpack(message)
            if kind == _STATUS_FAILED:
                guard.wait()
                return f"{_text(step)}: {os.strerror(value)}"
        else:
            guard.kill()
        code = guard.wait()
    return None if code == 0 else f"the probe ended with {code}"


@functools.cache
def best_isolation() -> str:
    """Find the best isolation this host allows. Raises: UnsupportedHostError if none works."""
    for isolation in isolations_by_preference():
        failure = probe(isolation)
        if failure is None:
            return isolation
    message = f"no box can be set up on this host: {failure}"
    raise UnsupportedHostError(message, missing="processes", remedy="run kmem-harness doctor")


class LocalBox:
    """A box that runs on this machine, as a child of ours."""

    def __init__(self, spec: BoxSpec, isolation: str, command: list[str], ties: list[int]) -> None:
        """Start *command*; it is ended when a process of *ties* (pidfds) dies.

        Raises: UnsupportedHostError if a step before the target failed.
        """
        self._status = ExitStatus.exited(_GUARD_FAILED)
        self._command = list(spec.command)
        self._ended = False
        self._unkillable: UnkillableTaskError | None = None
        #: Whoever is forked off us holds copies of all this, and none of it is his.
        self._owner = os.getpid()
        self._pids_max = spec.pids_max
        self._pids_refused: int | None = None
        self._left_behind: bool | None = False if spec.grace_seconds else None
        self._backstop: Backstop | None = None
        if spec.pids_max is not None:
            self._backstop = make_backstop(spec.name, spec.pids_max, isolation)
        self._reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        leash, self._leash = os.pipe()
        ties = [*ties, os.pidfd_open(os.getpid())]
        arguments = [
            *(INIT, f"isolation={isolation}", f"status={writing.fileno()}", f"leash={leash}"),
            f"session={'own' if spec.own_session else 'caller'}",
            *(f"tie={pidfd}" for pidfd in ties),
            *(f"pass={fd}" for fd in spec.pass_fds),
            *_id_maps(isolation),
            *(self._backstop.options() if self._backstop else ()),
            *((f"grace={round(spec.grace_seconds * 1000)}",) if spec.grace_seconds else ()),
        ]
        try:
            self._guard = subprocess.Popen(
                [*arguments, "--", *command],
                stdin=spec.stdin,
                stdout=spec.stdout,
                stderr=spec.stderr,
                env=dict(spec.env) if spec.env is not None else None,
                cwd=spec.cwd,
                pass_fds=(writing.fileno(), leash, *ties, *spec.pass_fds),
                start_new_session=spec.own_session,
            )
        except BaseException:
            self._reading.close()
            os.close(self._leash)
            self._remove_backstop()
            raise
        finally:
            writing.close()
            for fd in (leash, ties[-1]):
                os.close(fd)
        self.stdin, self.stdout, self.stderr = (
            self._guard.stdin,
            self._guard.stdout,
            self._guard.stderr,
        )
        self.init_pid = 0
        #: What tells how many System V objects of each kind there are in the box, or nothing.
        self.system_v: tuple[int, ...] = ()
        self._init_pidfd = -1
        self._namespace = 0
        self._guard_pidfd = _end_of(self._guard.pid)
        self._over = select.epoll()
        self._end = threading.Lock()
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise
        # Whatever is said from here on is that the target has ended.
        for fd in (self._reading.fileno(), self._guard_pidfd):
            self._over.register(fd, select.EPOLLIN)

    @property
    def guard_pid(self) -> int:
        """The process outside that watches over the box."""
        return self._guard.pid

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until nothing of the box is left.

        Raises: TimeoutError, the box goes on then; UnkillableTaskError if something of it stays.
        """
        if not self._ended:
            # Not Popen.wait(timeout): that looks only every 50 ms.
            if not is_readable(self._over.fileno(), timeout):
                message = f"the box still runs after {timeout} s"
                raise TimeoutError(message)
            self._finish()
        if self._unkillable is not None:
            raise self._unkillable
        return self._status

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read the target's output to its end, as subprocess.Popen.communicate does."""
        try:
            return self._guard.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            error.cmd = self._command  # and not what guards it
            raise

    def fileno(self) -> int:
        """Give a descriptor that is readable once the target has ended."""
        return self._over.fileno()

    def signal(self, number: int) -> None:
        """Send a signal to the target, through guard and init."""
        if number == signal.SIGKILL:
            self._order(_END_OF_BOX)
        elif 0 < number < signal.NSIG:
            self._order(number)

    def kill(self) -> None:
        """End the box and everything in it, and wait for that. Raises: UnkillableTaskError."""
        if self._ended or os.getpid() != self._owner:
            return
        self._order(_END_OF_BOX)
        self._finish()
        if self._unkillable is not None:
            raise self._unkillable

    def stop(self, grace: float) -> ExitStatus:
        """Ask the target to end with SIGTERM; end it after *grace* seconds."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(grace)
        except TimeoutError:
            self.kill()
            return self.wait()

    def remove(self) -> None:
        """End the box; nothing of one that has ended is left."""
        self.kill()

    discard = remove

    def describe(self) -> dict[str, Any]:
        """Say what the kernel's own bound on tasks refused, and whether anything outlasted its grace."""
        said: dict[str, Any] = {}
        if self._left_behind is not None:
            said["left_behind"] = self._left_behind
        if self._pids_max is not None:
            refused = self._pids_refused
            if refused is None and self._backstop is not None:
                refused = self._backstop.refused()
            said["pids"] = {"max": self._pids_max, "refused": refused}
        return said

    def _order(self, order: int) -> None:
        with self._end:
            if not self._ended:
                with suppress(BrokenPipeError):  # the guard is gone already
                    os.write(self._leash, bytes([order]))

    def _finish(self) -> None:
        """Collect the guard and all it had to say; whichever thread comes first does so."""
        gone = is_readable(self._guard_pidfd, _THAW_SECONDS)
        if not gone:
            thawed = thaw(self._left())
            gone = is_readable(self._guard_pidfd, _END_SECONDS - _THAW_SECONDS)
            for cgroup in thawed:
                with suppress(OSError):  # somebody else is in it
                    os.rmdir(cgroup)
        if gone:
            self._guard.wait()
        with self._end:
            if not self._ended:
                if gone:
                    self._read_status()
                else:
                    self._unkillable = _unkillable(self._left())
                self._release(gone=gone)
                self._ended = True

    def _left(self) -> list[Task]:
        return tasks_of(self._namespace, self._guard.pid)

    def _read_status(self) -> None:
        # A killed guard leaves init a moment to follow. Not its pid: whoever adopted an init
        # without a guard may be slow to reap it.
        if self._init_pidfd >= 0:
            is_readable(self._init_pidfd, _START_SECONDS)
        heard = False
        for kind, value, _ in self._last_messages():
            if kind == _STATUS_EXITED:
                self._status, heard = ExitStatus.exited(value), True
            elif kind == _STATUS_SIGNALED:
                self._status, heard = ExitStatus.killed(value), True
            elif kind == _STATUS_REFUSED:
                self._pids_refused = value
            elif kind == _STATUS_LEFT:
                self._left_behind = True
        # Guard or init was killed, by us or by somebody else, and took the target along. Where
        # SIGCHLD is ignored nobody says how the guard ended: 0 then.
        if not heard and self._guard.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL):
            self._status = ExitStatus.killed(signal.SIGKILL)

    def _last_messages(self) -> Iterator[tuple[int, int, str]]:
        """Read what is there, not to the end: a process forked off us may hold the other one open."""
        self._reading.setblocking(False)
        with suppress(BlockingIOError):
            yield from _messages(self._reading.fileno())

    def _release(self, *, gone: bool = True) -> None:
        self._over.close()
        self._reading.close()
        self.let_go_of_counts()
        for fd in (self._leash, self._guard_pidfd, self._init_pidfd):
            if fd >= 0:
                os.close(fd)
        if gone:
            self._remove_backstop()

    def let_go_of_counts(self) -> None:
        """Close what the controller has a copy of by now."""
        for fd in self.system_v:
            os.close(fd)
        self.system_v = ()

    def _remove_backstop(self) -> None:
        if self._backstop is not None:
            if self._pids_refused is None:
                self._pids_refused = self._backstop.refused()
            with suppress(OSError):
                self._backstop.remove()

    def _await_ready(self) -> None:
        """Learn init's pid, and wait until init has set the box up."""
        while True:
            message: bytes = b""
            fds: tuple[int, ...] = ()
            if is_readable(self._reading.fileno(), _START_SECONDS):
                message, fds = _receive(self._reading)
            if len(message) != _STATUS.size:
                raise KmemHarnessError("the box's init did not start")
            kind, value, step = _STATUS.unpack(message)
            if kind == _STATUS_INIT:
                self.init_pid = value
                with suppress(ProcessLookupError):
                    self._init_pidfd = os.pidfd_open(value)
            elif kind == _STATUS_READY:
                self.system_v = fds
                self._namespace = namespace_of(self.init_pid)
                return
            elif kind == _STATUS_FAILED:
                raise UnsupportedHostError(
                    f"the box could not be set up: {_text(step)}: {os.strerror(value)}",
                    missing=_text(step),
                    remedy="run kmem-harness doctor to see what works",
                )


class LocalRuntime:
    """Start boxes on this machine."""

    name = "local"
    lasting = False
    fires_own_hooks = False

    def __init__(self, ties: list[int], isolation: str | None = None) -> None:
        """End every box with the processes *ties* (pidfds); choose the best isolation by default.

        Raises: UnsupportedHostError for an isolation, or a program of ours, that is not there.
        """
        missing = [path for path in (SHIM, INIT) if not os.access(path, os.X_OK)]
        if missing:
            raise UnsupportedHostError(
                f"no box can be set up: {missing[0]} is missing",
                missing=os.path.basename(missing[0]),
                remedy="install again with pip: the wheel's build compiles it with cc or ziglang",
            )
        if isolation is not None:
            known = tuple(ISOLATIONS)
            failure = probe(isolation) if isolation in known else f"known are {known}"
            if failure is not None:
                raise UnsupportedHostError(
                    f"isolation {isolation!r} cannot be had: {failure}",
                    missing=f"isolation {isolation!r}",
                    remedy="leave it out: the best this host allows is then chosen",
                )
        self.isolation = isolation or best_isolation()
        self._ties = ties

    def check(self, spec: BoxSpec) -> BoxSpec:
        """See that the command can be executed. Raises: ConfigurationError."""
        if spec.image is not None:
            message = (
                f"image {spec.image!r} needs an engine: give runtime='docker' (--runtime docker), "
                "or leave the image out to run the command on this machine"
            )
            raise ConfigurationError(message)
        if spec.options:
            message = f"options {', '.join(sorted(spec.options))} are an engine's: leave them out"
            raise ConfigurationError(message)
        return spec._replace(command=check_command(spec.command, spec.env, spec.cwd))

    def run(self, box: Box) -> None:
        """Start what *box* describes, and see it under its filter."""
        spec = box.spec
        made = ContainerSpec(
            runtime=self.name,
            image=None,
            memcg=box.memcg.path,
            command=list(spec.command),
            env=None if spec.env is None else dict(spec.env),
        )
        with box.step("create", spec=made):
            spec = spec._replace(command=tuple(made.command), env=made.env)
        with box.step("start"):
            running = self.start(spec, box.socket)
            box.attach(running)
            box.announce(running.init_pid, running.system_v)
            running.let_go_of_counts()

    def close(self) -> None:
        """Hold nothing."""

    def start(self, spec: BoxSpec, socket: str | None) -> LocalBox:
        """Start *spec*, under the shim unless *socket* is ``None``."""
        command = list(spec.command) if socket is None else [SHIM, socket, *spec.command]
        return LocalBox(spec, self.isolation, command, self._ties)


def start_failure(error: ShimError) -> KmemHarnessError:
    """Say what the failing step of a shim means: where no listener can be had, the host lacks it."""
    if error.step == "install filter" and error.errno in _NO_LISTENER:
        return UnsupportedHostError(
            f"the box cannot be put under a filter: {error}",
            missing="seccomp user notification",
            remedy=f"{_NO_LISTENER[error.errno]}; and see kmem-harness doctor",
        )
    return error


def _id_maps(isolation: str) -> list[str]:
    """Map ids to themselves: what is root inside is root's equal in files, and nothing more."""
    if isolation != "user":
        return []
    maps = []
    for which, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        text = f"{own} {own} 1"
        if os.geteuid() == 0:
            with open(f"/proc/self/{which}", encoding="ascii") as extents:
                rows = [line.split() for line in extents]
            text = "\n".join(f"{start} {start} {count}" for start, _, count in rows)
        maps.append(f"{which}={text}")
    return maps


def _unkillable(left: list[Task]) -> UnkillableTaskError:
    named = ", ".join(map(str, left[:8])) or "its init, of which no task can be seen from here"
    return UnkillableTaskError(
        f"the box was ended and {_END_SECONDS:.0f} s later is still there: {named} cannot be killed; "
        "it goes when what it waits for answers, such as the server of a FUSE or network file system"
    )


def _end_of(child: int) -> int:
    """Give a descriptor that is readable once *child* has ended: its pidfd, unless it is gone already.

    Where SIGCHLD is ignored nothing of a child is left to be waited for.
    """
    try:
        return os.pidfd_open(child)
    except ProcessLookupError:
        reading, writing = os.pipe()
        os.close(writing)
        return reading


def _receive(connection: socket.socket) -> tuple[bytes, tuple[int, ...]]:
    """Read one status message, with the descriptors that ride along."""
    message, ancillary, _, _ = connection.recvmsg(
        _STATUS.size, socket.CMSG_SPACE(3 * 4), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data)
    return message, tuple(fds)


def _messages(fd: int) -> Iterator[tuple[int, int, str]]:
    """Read status messages up to the end of the pipe."""
    while len(message := os.read(fd, _STATUS.size)) == _STATUS.size:
        kind, value, step = _STATUS.unpack(message)
        yield kind, value, _text(step)


def _text(step: Any) -> str:
    return bytes(step).rstrip(b"\0").decode("ascii", "replace")
