"""Be the first process in a service's box: start, signal and reap on behalf of the manager outside.

A program of its own, run as ``python -I -S inside.py [NOTIFY_SOCKET]`` with a SOCK_SEQPACKET
socket as its standard input; standard library only, and of that what is quick to import. It stands
in for what systemd is to a service: it reaps, is the parent of daemons that let go of theirs, and
listens for sd_notify(3). Decides nothing. One JSON object a packet::

    -> {"op": "spawn", "serial": 1, "argv": [..], "path": "/bin/x", "env": {..}, ..}
    <- {"serial": 1, "pid": 4}                     or {"serial": 1, "errno": 12}
    -> {"op": "signal", "serial": 2, "number": 15, "pids": [4]}     (all of them without "pids")
    <- {"event": "exited", "pid": 4, "code": 0}    or "signal": 9
    <- {"event": "executed", "pid": 4}             or {"event": "failed", "step", "reason"}
    <- {"event": "notify", "pid": 4, "text": "READY=1"}
    <- {"event": "empty"}                          nobody is left

Pids are those of the box. It ends when the manager hangs up, and the box with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress

__all__ = ["main"]

_PR_SET_CHILD_SUBREAPER = 36
_PACKET = 200_000
_CREDENTIALS = struct.Struct("3i")
#: Exit statuses of the steps before exec. Source: systemd.exec(5), PROCESS EXIT CODES.
_STEPS = {
    "chdir": 200,
    "nice": 201,
    "exec": 203,
    "limits": 205,
    "oom_score": 206,
    "stdin": 208,
    "stdout": 209,
    "group": 216,
    "user": 217,
    "setsid": 220,
    "stderr": 222,
}


class _Inside:
    def __init__(self, link: socket.socket, notify: str) -> None:
        self._link = link
        self._poll = select.poll()
        self._executing: dict[int, int] = {}  # the reading end of a pipe: who is about to exec
        self._watched: set[int] = set()
        #: How orphans ended that nobody has asked about yet: one may turn out to be the main one.
        self._ended: dict[int, dict[str, int]] = {}
        self._told_empty = True
        self._children, writing = os.pipe()
        for fd in (self._children, writing):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._notify = _open_notify(notify) if notify else None
        for source in (link, self._children, self._notify):
            if source is not None:
                self._poll.register(source, select.POLLIN)

    def serve(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._link.fileno():
                    packet = self._link.recv(_PACKET)
                    if not packet:
                        return
                    self._obey(json.loads(packet))
                elif fd == self._children:
                    with suppress(BlockingIOError):
                        os.read(fd, 512)
                elif self._notify is not None and fd == self._notify.fileno():
                    self._hear(self._notify)
                else:
                    self._executed(fd)
            # What was said before an exit is told before it.
            if self._notify is not None:
                self._hear(self._notify)
            self._reap()

    def _tell(self, message: dict[str, object]) -> None:
        with suppress(OSError):  # the manager is gone; the link says so next
            self._link.send(json.dumps(message).encode())

    # -- what is asked ---------------------------------------------------------------------

    def _obey(self, order: dict) -> None:  # type: ignore[type-arg]
        answer: dict[str, object] = {"serial": order["serial"]}
        try:
            answer.update(getattr(self, f"_do_{order['op']}")(order))
        except OSError as error:
            answer["errno"] = error.errno or 0
        self._tell(answer)

    def _do_spawn(self, order: dict) -> dict[str, object]:  # type: ignore[type-arg]
        reading, writing = os.pipe()
        # A signal that comes before the child has our handlers off must wait, not be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _become(order, writing)
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._executing[reading] = pid
        self._watched.add(pid)
        self._told_empty = False
        self._poll.register(reading, select.POLLIN)
        return {"pid": pid}

    def _do_watch(self, order: dict) -> dict[str, object]:  # type: ignore[type-arg]
        """Have the end of a process told that was not started here."""
        pid = int(order["pid"])
        if pid in self._ended:
            return {"alive": False, **self._ended.pop(pid)}
        if pid not in _descendants():
            return {"alive": False}
        self._watched.add(pid)
        return {"alive": True}

    def _do_signal(self, order: dict) -> dict[str, object]:  # type: ignore[type-arg]
        pids = order.get("pids")
        spared = set(order.get("spared", ()))
        count = 0
        for pid in list(_descendants()) if pids is None else pids:
            if pid not in spared:
                with suppress(ProcessLookupError):
                    os.kill(pid, order["number"])
                    count += 1
        return {"count": count}

    def _do_list(self, _: dict) -> dict[str, object]:  # type: ignore[type-arg]
        """List who is alive; ``own`` are children of this process."""
        parents = _descendants()
        own = sorted(pid for pid, parent in parents.items() if parent == os.getpid())
        return {"pids": sorted(parents), "own": own}

    # -- what happens ----------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                return
            ended = _ending(status)
            for fd in [fd for fd, one in self._executing.items() if one == pid]:
                self._executed(fd)
            if pid in self._watched:
                self._watched.discard(pid)
                self._tell({"event": "exited", "pid": pid, **ended})
            else:
                self._ended[pid] = ended
                if len(self._ended) > 4096:  # noqa: PLR2004 - a bomb's; only the last may matter
                    del self._ended[next(iter(self._ended))]
        if not self._told_empty:
            self._told_empty = True
            self._tell({"event": "empty"})

    def _executed(self, fd: int) -> None:
        """Learn that a child has become its program, or which step failed."""
        said = os.read(fd, 64).decode()
        pid = self._executing.pop(fd)
        self._poll.unregister(fd)
        os.close(fd)
        if said:
            step, _, number = said.partition(" ")
            reason = os.strerror(int(number))
            self._tell({"event": "failed", "pid": pid, "step": step, "reason": reason})
        else:
            self._tell({"event": "executed", "pid": pid})

    def _hear(self, notify: socket.socket) -> None:
        while True:
            try:
                body, ancillary, _, _ = notify.recvmsg(8192, socket.CMSG_SPACE(256) * 2)
            except OSError:
                return
            sender = 0
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    for at in range(0, len(data) - len(data) % 4, 4):
                        os.close(struct.unpack_from("i", data, at)[0])  # as BARRIER=1 waits for
                elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    sender = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
            self._tell({"event": "notify", "pid": sender, "text": body.decode("utf-8", "replace")})


def _ending(status: int) -> dict[str, int]:
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status), "core": int(os.WCOREDUMP(status))}
    return {"code": os.WEXITSTATUS(status)}


def _open_notify(path: str) -> socket.socket:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.setblocking(False)
    notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    notify.bind(path)
    os.chmod(path, 0o777)  # noqa: S103 - a service may run as another user; its folder is ours
    return notify


def _list_proc() -> list[str]:
    """List ``/proc``. A call that is supervised can be interrupted, and Python does not repeat this."""
    while True:
        with suppress(InterruptedError):
            return os.listdir("/proc")


def _descendants() -> dict[int, int]:
    """List all living processes below this one, each with its parent."""
    parents: dict[int, int] = {}
    for name in _list_proc():
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # comm may hold anything, brackets too
                state, above = file.read(512).rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    parents[int(name)] = int(above)
    below: dict[int, int] = {}
    ours = {os.getpid()}
    grown = True
    while grown:
        grown = False
        for pid, parent in parents.items():
            if parent in ours and pid not in ours:
                ours.add(pid)
                below[pid] = parent
                grown = True
    return below


def _become(order: dict, writing: int) -> None:  # type: ignore[type-arg]
    """Turn into the program; never returns."""
    step = "setsid"
    try:
        for name, take in _WAY:
            step = name
            take(order)
    except OSError as error:
        os.write(writing, f"{step} {error.errno}".encode())
    finally:
        os._exit(_STEPS[step])


def _start_session(order: dict) -> None:  # type: ignore[type-arg]
    os.setsid()
    _default_signals(ignore_pipe=order["ignore_sigpipe"])
    os.umask(order["umask"])


def _set_nice(order: dict) -> None:  # type: ignore[type-arg]
    if order["nice"] is not None:
        with suppress(PermissionError):  # as near as we may, which is where we are
            os.setpriority(os.PRIO_PROCESS, 0, order["nice"])


def _set_oom_score(order: dict) -> None:  # type: ignore[type-arg]
    if order["oom_score"] is not None:
        # Where we may not, we are in a container, and systemd goes on, too.
        with (
            suppress(PermissionError),
            open("/proc/self/oom_score_adj", "w", encoding="ascii") as file,
        ):
            file.write(str(order["oom_score"]))


def _set_limits(order: dict) -> None:  # type: ignore[type-arg]
    for name, soft, hard in order["limits"]:
        _set_limit(name, soft, hard)


def _change_group(order: dict) -> None:  # type: ignore[type-arg]
    if order["groups"] is not None:
        os.setgroups(order["groups"])
    if order["gid"] is not None:
        os.setgid(order["gid"])


def _change_user(order: dict) -> None:  # type: ignore[type-arg]
    if order["uid"] is not None:
        os.setuid(order["uid"])


def _change_directory(order: dict) -> None:  # type: ignore[type-arg]
    try:
        os.chdir(order["cwd"])
    except OSError:
        if not order["cwd_may_fail"]:
            raise


def _execute(order: dict) -> None:  # type: ignore[type-arg]
    environment = dict(order["env"])
    for name in order["pid_variables"]:
        environment[name] = str(os.getpid())
    os.execve(order["path"], order["argv"], environment)


#: The steps from the fork to the program, in systemd's order: files are opened before the user changes.
_WAY = (
    ("setsid", _start_session),
    ("nice", _set_nice),
    ("oom_score", _set_oom_score),
    ("limits", _set_limits),
    ("stdin", lambda order: _redirect(0, order["stdin"])),
    ("stdout", lambda order: _redirect(1, order["stdout"])),
    ("stderr", lambda order: _redirect(2, order["stderr"])),
    ("group", _change_group),
    ("user", _change_user),
    ("chdir", _change_directory),
    ("exec", _execute),
)


def _default_signals(*, ignore_pipe: bool) -> None:
    signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        with suppress(OSError, ValueError):  # SIGKILL, SIGSTOP, and the C library's own
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN if ignore_pipe else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _set_limit(name: str, soft: int, hard: int) -> None:
    """Set a limit as near to what is asked as this user may, as systemd does."""
    kind = getattr(resource, name, None)
    if kind is None:
        return
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError):
        most = resource.getrlimit(kind)[1]
        capped = [most if one < 0 or 0 <= most < one else one for one in (soft, hard)]
        resource.setrlimit(kind, (capped[0], capped[1]))


def _redirect(target: int, to: list[object] | None) -> None:
    """Open ``[path, flags]``, or duplicate the descriptor that a number names."""
    if isinstance(to, list):
        fd = os.open(str(to[0]), int(str(to[1])), 0o666)
        os.dup2(fd, target)
        os.close(fd)
    elif isinstance(to, int):
        os.dup2(to, target)


def main() -> None:
    """Take the socket off standard input, and serve it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    link = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the manager decides when the box ends
    _Inside(link, sys.argv[1] if len(sys.argv) > 1 else "").serve()


if __name__ == "__main__":
    main()
