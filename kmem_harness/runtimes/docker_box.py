"""Hold one container: its steps, its end, and what was done to it behind our back."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker.errors
import requests.exceptions
import tenacity

from kmem_harness.core.errors import ShimError, UnsupportedHostError
from kmem_harness.runtimes import wrapping
from kmem_harness.runtimes.engine import EngineError
from kmem_harness.runtimes.followed import Followed
from kmem_harness.runtimes.labels import KEPT
from kmem_harness.runtimes.local import SHIM
from kmem_harness.runtimes.spec import ExitStatus
from kmem_harness.runtimes.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.box import Box
    from kmem_harness.runtimes.docker import DockerRuntime
    from kmem_harness.runtimes.spec import ContainerSpec

__all__ = ["SHORT_ID", "DockerBox"]

_END_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_EXEC_SECONDS = 0.5
_INSPECT_SECONDS = 2.0
#: Looking through all processes takes a while where a bomb is burning.
_ENTRANTS_SECONDS = 0.25
_SIGNALED = 128
_MOST_SIGNAL = 64
_CONFLICT = 409  # HTTP
#: What engines say to a signal for a container that has ended, or is gone.
_HAS_ENDED = (404, _CONFLICT)
#: An id as short as the engine's own short form still names one container.
SHORT_ID = 12
#: Of a container that outlived its engine, which alone could say how it ended.
_UNKNOWN = 125
#: Processes an engine puts into a container for a moment, on the way to what it runs there.
_ENGINES_OWN = ("runc", "crun", "conmon")


class DockerBox:
    """One container: its engine's handle, and what we hold of its current run."""

    def __init__(self, runtime: DockerRuntime, box: Box, image: str) -> None:
        """Belong to *box*; nothing is created yet."""
        self.box = box
        self.image = image
        self.init_pid = 0
        self.container: Any = None
        self.container_id = ""
        self.stdin = self.stdout = self.stderr = None
        #: Why it is not known how the container ended.
        self.engine_died: EngineError | None = None
        #: Puts a create request under the shim; it needs the image, which is known then.
        self.rewrite: Callable[[ContainerSpec], None] = lambda _: None
        self._runtime = runtime
        self._streams: Streams | None = None
        self._followed: weakref.WeakSet[Followed] = weakref.WeakSet()
        #: Readable once the first process of the current run has ended; a pidfd where we see it.
        self._pidfd = -1
        self._lifeline = -1
        self._cutting = threading.Lock()
        self._taking = threading.RLock()
        self._status: ExitStatus | None = None
        self._gone = False
        self._by_engine = False
        self._oom_killed = False
        self._restarts = 0
        self._next_look = 0.0
        self._breaches: list[dict[str, Any]] = []
        self._judged: set[str] = set()

    # -- steps, asked for by us or by docker-py's own calls ----------------------------------

    def created(self, container_id: str) -> None:
        """Learn which container it is; have it removed should we be gone before it is."""
        self.container_id = container_id
        if self._runtime.engine_socket is None:
            return  # a controller elsewhere, without its engine: it ends what runs
        path = f"/containers/{container_id}?force=true&v=true"
        self.box.bequeath(
            self._runtime.engine_socket,
            f"DELETE {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n",
        )

    def adopt(self) -> None:
        """Fetch docker-py's handle of the container."""
        self.container = self._runtime.client.containers.get(self.container_id)

    def take(self, name: str, action: Callable[[], Any]) -> Any:
        """Take the step *name*, of which *action* is docker-py's part."""
        if name == "restart":
            with self.box.step("stop"), self._taking, self.box.step("start"):
                return action()
        if name == "remove":
            with self._taking, self.box.step("remove"):
                if not self._is_held():
                    for followed in list(self._followed):
                        followed.read_ahead()
                result = action()
                self._forget()
            return result
        if name != "start":
            with self.box.step(name):
                return action()
        with self._taking:
            if self._is_held():
                return action()
            with self.box.step("start"):
                return action()

    def bind(self) -> None:
        """See the container under its limits, right after it has started.

        Raises: ShimError, UnsupportedHostError.
        """
        state = self._state()
        pid = int(state.get("Pid") or 0)
        if pid == self.init_pid and self._is_held():
            return
        self._hold(pid)
        if not pid:
            # Under a runtime's own filter a command may be quick; under the shim it waits for us.
            if self.box.filtered and not self.box.native and not self._by_engine:
                raise self._start_failure(state)
            return
        if self.box.filtered and not self._runtime.remote:
            _see_inside(pid)
        try:
            self.box.announce(pid)
        except ShimError as error:
            failure = self._start_failure(self._state(), error)
            if not self._by_engine:
                raise failure from error
            # Its engine will try again, or not: that is for its restart policy to say.
            self._runtime.log.warning("container.start_failed", error=str(failure))

    def attach(self) -> None:
        """Connect the streams that the caller wants, before the start."""
        tty = bool(self.container.attrs["Config"].get("Tty"))
        api = self._runtime.client.api
        self._streams = Streams(api, self.container_id, self.box.spec, tty=tty)
        self.stdin, self.stdout, self.stderr = (
            self._streams.stdin,
            self._streams.stdout,
            self._streams.stderr,
        )

    # -- what its owner asks -----------------------------------------------------------------

    def fileno(self) -> int:
        """Give a descriptor that is readable once the container's first process has ended."""
        return self._pidfd

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until the container has ended for good. Raises: TimeoutError, and it goes on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                message = f"the container still runs after {timeout} s"
                raise TimeoutError(message)
            if self._is_held():
                self._await_end(left)
            else:  # the engine takes some 30 ms to see the end, or is about to start it again
                time.sleep(_LOOK_SECONDS)
        if self._streams is not None:
            self._streams.drain(_END_SECONDS)
        return status

    def poll(self) -> ExitStatus | None:
        """Give how the container ended, ``None`` while it runs or will be started again."""
        if self._status is not None:
            return self._status
        if self._is_held():
            return None
        try:
            state = self._state()
        except requests.exceptions.ConnectionError as error:
            self.engine_died = EngineError(
                f"the engine of container {self.container_id[:SHORT_ID]} does not answer any more, "
                f"so how it ended is not known ({error}); start the engine again"
            )
            self._status = ExitStatus.exited(_UNKNOWN)
            return self._status
        if state.get("Status") in ("exited", "dead") and not state.get("Restarting"):
            self._oom_killed = self._oom_killed or bool(state.get("OOMKilled"))
            self._status = _status(int(state.get("ExitCode") or 0))
        elif self._gone or state.get("Status") == "created":
            self._status = ExitStatus.killed(9)
        return self._status

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read to its end what was asked for as a pipe."""
        return (None, None) if self._streams is None else self._streams.communicate(timeout)

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process, as docker kill -s does."""
        try:
            self.container.kill(signal=number)
        except docker.errors.APIError as error:
            if error.status_code not in _HAS_ENDED:
                raise
        except requests.exceptions.ConnectionError:  # the engine is gone: we can do without
            if self._pidfd < 0 or self._runtime.remote:
                raise
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End the container, and wait for that."""
        if self.container is None or self.poll() is not None:
            return
        self.signal(9)
        self._await_end(_END_SECONDS)

    def stop(self, grace: float) -> ExitStatus:
        """Ask the container to end, as docker stop does."""
        self.container.stop(timeout=max(round(grace), 0))
        return self.wait(_END_SECONDS)

    def pause(self) -> None:
        """Freeze the container."""
        self.container.pause()

    def unpause(self) -> None:
        """Let it go on."""
        self.container.unpause()

    def restart(self, grace: float) -> None:
        """End the container and start it again."""
        self.container.restart(timeout=max(round(grace), 0))

    def exec(self, command: Any, **options: Any) -> Any:
        """Run a command in the container, under its limits; see docker-py's ``exec_run``."""
        return self.container.exec_run(command, **options)

    def logs(self, **options: Any) -> Any:
        """Give what the container wrote; see docker-py's ``logs``."""
        return self.container.logs(**options)

    def remove(self) -> None:
        """Remove the container with its anonymous volumes, running or not."""
        if self._gone:
            self.removed_by_engine()
            return
        try:
            _remove(self.container)
        except (docker.errors.NotFound, requests.exceptions.ConnectionError):
            self.removed_by_engine()

    def keep(self, name: str) -> None:
        """End the container and leave it with its engine as *name*: it is no longer ours."""
        self.kill()
        self.container.rename(f"{KEPT}{name}")
        self._forget()

    def discard(self) -> None:
        """Remove the container without a step: something has failed."""
        with suppress(docker.errors.DockerException, requests.exceptions.RequestException):
            if self.container_id and not self._gone:
                self._runtime.plain("remove_container", self.container_id, v=True, force=True)
        self._release()

    def describe(self) -> dict[str, Any]:
        """Give the report's ``container`` and ``breaches``."""
        if self._is_held():
            self._look_for_entrants()
        return {
            "container": {
                "id": self.container_id,
                "name": self.container.name if self.container else "",
                "image": self.image,
                "listener": self._listener(),
                "oom_killed": self._oom_killed,
                "restarts": self._restarts,
            },
            "breaches": list(self._breaches),
        }

    def follow(self, logs: Callable[..., Any], how: dict[str, Any]) -> Any:
        """Follow the log through docker-py's *logs*, asked to do so as *how* says."""
        followed = Followed(
            logs(**{**how, "stream": True, "follow": True}),
            lambda: logs(**{**how, "stream": True, "follow": False}),
        )
        self._followed.add(followed)
        return followed if how["stream"] else b"".join(followed)

    # -- what the engine did by itself -------------------------------------------------------

    def started_by_engine(self) -> None:
        """Hold a container that its engine started: under a restart policy, or for another client."""
        with self._taking:
            # The event of a start that was ours may come late, after its end.
            if int(self._state().get("Pid") or 0) in (0, self.init_pid):
                return
            self._by_engine = True
            try:
                with self.box.step("start"):
                    pass
            finally:
                self._by_engine = False

    def died(self, exit_code: int) -> None:
        """Take note that a container has ended, and how if its engine may remove it at once."""
        state = self._state() if self._runtime.remote else {}
        if self._runtime.remote and state.get("Pid") != self.init_pid:
            self.cut_lifeline()
        if self.container and self.container.attrs["HostConfig"].get("AutoRemove"):
            self._status = _status(exit_code)

    def ran_out_of_memory(self) -> None:
        """Remember that the kernel killed in it."""
        self._oom_killed = True

    def removed_by_engine(self) -> None:
        """Close the account of a container that was removed without us."""
        with self._taking:  # the event of a removal that is ours comes before its end
            self._gone = True
            if not self.box.closed:
                with self.box.step("remove"):
                    self._forget()

    def entered(self, exec_id: str) -> None:
        """Report a command that somebody runs in the container outside of our filter."""
        if not self.box.filtered or self.box.native:
            return
        for one in [exec_id] if exec_id else self._exec_ids():  # podman's event does not say
            if one not in self._judged:
                self._judged.add(one)
                self._judge_exec(one)

    def _exec_ids(self) -> list[str]:
        with suppress(docker.errors.APIError):
            found = self._runtime.client.api.inspect_container(self.container_id)
            return list(found.get("ExecIDs") or [])
        return []

    def _judge_exec(self, exec_id: str) -> None:
        facts: dict[str, Any] = {}
        deadline = time.monotonic() + _EXEC_SECONDS
        with suppress(docker.errors.APIError):
            while True:
                facts = self._runtime.client.api.exec_inspect(exec_id)
                # The event comes a little before the process; podman gives 0 to one that runs.
                over = facts.get("ExitCode") is not None and not facts.get("Running")
                if facts.get("Pid") or over:
                    break
                if time.monotonic() > deadline:
                    break
                time.sleep(_LOOK_SECONDS)
        process = facts.get("ProcessConfig")
        if not process:  # it is no more; what it has left behind is found by itself
            return
        words = [process.get("entrypoint") or "?", *(process.get("arguments") or [])]
        if not wrapping.is_wrapped(words):
            self._breach("exec", int(facts.get("Pid") or 0), words)

    def _listener(self) -> str | None:
        """Say who installs the filter."""
        if not self.box.filtered:
            return None
        return "native" if self.box.native else "shim"

    # -- the rest ----------------------------------------------------------------------------

    def _look_for_entrants(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _ENTRANTS_SECONDS
        known = {breach["pid"] for breach in self._breaches}
        for entrant in self.box.entrants():
            if entrant["comm"].startswith(_ENGINES_OWN) or self._is_shim(entrant):
                continue
            if entrant["pid"] not in known:
                self._breach("found", entrant["pid"], [entrant["comm"]])

    def _is_shim(self, entrant: dict[str, Any]) -> bool:
        """Say whether it is a shim about to hand over its listener, or is gone."""
        if self._runtime.remote:
            return str(entrant["comm"]) == os.path.basename(wrapping.PREFIX[0])
        with suppress(OSError):
            return os.path.samestat(os.stat(f"/proc/{entrant['pid']}/exe"), os.stat(SHIM))
        return True

    def _breach(self, how: str, pid: int, command: list[str]) -> None:
        breach = {"time": time.time(), "how": how, "pid": pid, "command": command}
        with self._taking:
            known = [one["pid"] for one in self._breaches]
            if pid and pid in known:  # found by two threads at once; the engine's word is better
                if how == "exec":
                    self._breaches[known.index(pid)] = breach
                return
            self._breaches.append(breach)
        self._runtime.log.warning(
            "exec.unwrapped",
            container=self.container_id[:SHORT_ID],
            memcg=self.box.memcg.path,
            pid=pid,
            command=" ".join(command),
            remedy="run it through the container's .kmem, or a client of kmem_harness.docker",
        )

    def _hold(self, pid: int) -> None:
        self._drop_pidfd()
        self.init_pid = pid
        self._status = None
        if not pid:
            return
        if not self._runtime.remote:
            with suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(pid)
            return
        self._pidfd, self._lifeline = os.pipe()
        if self._state().get("Pid") != pid:  # the event of its end came before this
            self.cut_lifeline()

    def cut_lifeline(self) -> None:
        """Let those go on who wait for the end of a process that we cannot see."""
        with self._cutting:
            lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)

    def _is_held(self) -> bool:
        """Say whether the first process of the current run is alive."""
        return self._pidfd >= 0 and not _ready(self._pidfd, 0)

    def _await_end(self, seconds: float | None) -> None:
        if self._pidfd >= 0:
            _ready(self._pidfd, seconds)

    def _state(self) -> dict[str, Any]:
        try:
            found = _inspect(self._runtime.client.api, self.container_id)
        except docker.errors.NotFound:
            self._gone = True
            return {}
        self._restarts = max(self._restarts, int(found.get("RestartCount") or 0))
        return dict(found["State"])

    def _start_failure(self, state: dict[str, Any], error: ShimError | None = None) -> ShimError:
        """Say why a container never came under its filter, in the shim's own words."""
        said = ""
        with suppress(docker.errors.DockerException):
            said = self.container.logs(tail=5).decode("utf-8", "replace").strip()
        message = (
            f"container {self.container_id[:SHORT_ID]} of image {self.image!r} ended before its "
            f"command was started, with {state.get('ExitCode')}: {said or error or 'it said nothing'}"
        )
        return ShimError(
            message, step=error.step if error else "start", errno=error.errno if error else 0
        )

    def _forget(self) -> None:
        """Close the account of a container that is no more."""
        self._gone = True
        self.cut_lifeline()
        self._await_end(_END_SECONDS)
        if self._status is None:
            self._status = ExitStatus.killed(9)
        self.box.settle(self._status)
        self.box.close_account()
        self._release()

    def _release(self) -> None:
        self._gone = True
        self.cut_lifeline()
        self._runtime.forget(self)
        self._await_end(_END_SECONDS)
        self._drop_pidfd()
        if self._status is None:
            self._status = ExitStatus.killed(9)

    def _drop_pidfd(self) -> None:
        self.cut_lifeline()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)


@tenacity.retry(
    # podman looks for the process of a container that is just ending, and says so with a 500.
    retry=tenacity.retry_if_exception(
        lambda error: isinstance(error, docker.errors.APIError) and error.is_server_error()
    ),
    stop=tenacity.stop_after_delay(_INSPECT_SECONDS),
    wait=tenacity.wait_fixed(_LOOK_SECONDS),
    reraise=True,
)
def _inspect(api: Any, container_id: str) -> dict[str, Any]:
    return dict(api.inspect_container(container_id))


@tenacity.retry(
    # Another removal of it is under way: it is over when the container is not found.
    retry=tenacity.retry_if_exception(
        lambda error: isinstance(error, docker.errors.APIError) and error.status_code == _CONFLICT
    ),
    stop=tenacity.stop_after_delay(_END_SECONDS),
    wait=tenacity.wait_fixed(_LOOK_SECONDS),
    reraise=True,
)
def _remove(container: Any) -> None:
    container.remove(v=True, force=True)


def _see_inside(pid: int) -> None:
    """See that the container's tasks can be counted. Raises: UnsupportedHostError."""
    try:
        os.close(os.open(f"/proc/{pid}/root/proc", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError as error:
        raise UnsupportedHostError(
            f"this user may not look into the engine's containers: {error}",
            missing="the right to count a container's tasks (/proc/PID/root)",
            remedy="run as the user the engine's containers run as: as root, or with a rootless "
            "engine of your own; the local runtime (--runtime local) needs neither",
        ) from error
    except FileNotFoundError:  # it has ended already, which the controller will say
        pass


def _ready(fd: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(seconds, 0) * 1000))


def _status(code: int) -> ExitStatus:
    # The engine says 128 + N after signal N; a program that exits with that number looks the same.
    return (
        ExitStatus.killed(code - _SIGNALED)
        if _SIGNALED < code <= _SIGNALED + _MOST_SIGNAL
        else ExitStatus.exited(code)
    )
