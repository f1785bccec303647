"""Hold one container: its steps, its end, and what was done to it behind our back."""

from __future__ import annotations

import signal
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import docker.errors
import requests.exceptions

from kmem_harness.core.errors import ShimError
from kmem_harness.runtimes.breaches import Breaches
from kmem_harness.runtimes.engine import (
    CONFLICT,
    EngineError,
    inspect_container,
    readable_errors,
    remove_container,
    see_inside,
)
from kmem_harness.runtimes.first_process import FirstProcess
from kmem_harness.runtimes.followed import Followed
from kmem_harness.runtimes.labels import KEPT
from kmem_harness.runtimes.spec import ExitStatus
from kmem_harness.runtimes.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmem_harness.box import Box
    from kmem_harness.runtimes.docker import DockerRuntime
    from kmem_harness.runtimes.spec import ContainerSpec

__all__ = ["DockerBox"]

_END_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_SIGNALED = 128
_MOST_SIGNAL = 64
#: What engines say to a signal for a container that has ended, or is gone.
_HAS_ENDED = (404, CONFLICT)
#: As much of an id as engines show.
SHORT_ID = 12
#: Of a container that outlived its engine, which alone could say how it ended.
_UNKNOWN = 125


class DockerBox:
    """One container: its engine's handle, and what we hold of its current run."""

    def __init__(self, runtime: DockerRuntime, box: Box, image: str) -> None:
        """Belong to *box*; nothing is created yet."""
        self.box = box
        self.image = image
        #: The first process of the container's current run.
        self.first = FirstProcess()
        self.container_id = ""
        #: What was asked for of what our shim stands before, as the engine's API has it.
        self.asked: dict[str, Any] = {}
        self.stdin = self.stdout = self.stderr = None
        #: Why it is not known how the container ended.
        self.engine_died: EngineError | None = None
        #: Puts a create request under the shim; it needs the image, which is known then.
        self.rewrite: Callable[[ContainerSpec], None] = lambda _: None
        self._runtime = runtime
        self._container: Any = None
        self._streams: Streams | None = None
        self._followed: weakref.WeakSet[Followed] = weakref.WeakSet()
        self._taking = threading.RLock()
        self._status: ExitStatus | None = None
        self._gone = False
        self._by_engine = False
        self._oom_killed = False
        self._restarts = 0
        self._breaches = Breaches(runtime, box)

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

    def adopt(self, container: Any) -> None:
        """Take docker-py's handle of the container, one of our own client."""
        self._container = container

    def take(self, name: str, action: Callable[[], Any]) -> Any:
        """Take the step *name*, of which *action* is docker-py's part."""
        if name == "restart":
            with self.box.step("stop"), self._taking, self.box.step("start"):
                return action()
        if name == "remove":
            with self._taking, self.box.step("remove"):
                if not self.first.is_alive():
                    for followed in list(self._followed):
                        followed.read_ahead()
                result = action()
                self._forget()
            return result
        if name != "start":
            with self.box.step(name):
                return action()
        with self._taking:
            if self.first.is_alive():
                return action()
            with self.box.step("start"):
                return action()

    def bind(self) -> None:
        """See the container under its limits, right after it has started.

        Raises: ShimError.
        """
        state = self._state()
        pid = int(state.get("Pid") or 0)
        if pid == self.first.pid and self.first.is_alive():
            return
        self._hold(pid)
        if not pid:
            # Under a runtime's own filter a command may be quick; under the shim it waits for us.
            if self.box.filtered and not self.box.native and not self._by_engine:
                raise self._start_failure(state)
            return
        if self.box.filtered and not self._runtime.remote:
            see_inside(pid)
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

    @property
    def container(self) -> Any:
        """docker-py's handle of the container, ``None`` before there is one."""
        if self._container is None and self.container_id:  # a hook asks before the create is over
            self.adopt(self._runtime.client.containers.get(self.container_id))
        return self._container

    @property
    def name(self) -> str:
        """The container's name, empty as long as nobody has asked the engine for it."""
        return self._container.name if self._container is not None else ""

    @property
    def init_pid(self) -> int:
        """The pid of the container's first process, 0 before the first start."""
        return self.first.pid

    def fileno(self) -> int:
        """Give a descriptor that is readable once the container's first process has ended."""
        return self.first.fd

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until the container has ended for good. Raises: TimeoutError, and it goes on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                message = f"the container still runs after {timeout} s"
                raise TimeoutError(message)
            if self.first.is_alive():
                self.first.await_end(left)
            else:  # the engine takes some 30 ms to see the end, or is about to start it again
                time.sleep(_LOOK_SECONDS)
        if self._streams is not None:
            self._streams.drain(_END_SECONDS)
        return status

    def poll(self) -> ExitStatus | None:
        """Give how the container ended, ``None`` while it runs or will be started again."""
        if self._status is not None:
            return self._status
        if self.first.is_alive():
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
            if self.first.fd < 0 or self._runtime.remote:
                raise
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.first.fd, number)

    def kill(self) -> None:
        """End the container, and wait for that."""
        if self.container is None or self.poll() is not None:
            return
        self.signal(9)
        self.first.await_end(_END_SECONDS)

    def stop(self, grace: float) -> ExitStatus:
        """Ask the container to end, as docker stop does."""
        if not self._gone:
            with readable_errors(self._runtime.socket):
                self.container.stop(timeout=max(round(grace), 0))
        return self.wait(_END_SECONDS)

    def pause(self) -> None:
        """Freeze the container."""
        with self._asking():
            self.container.pause()

    def unpause(self) -> None:
        """Let it go on."""
        with self._asking():
            self.container.unpause()

    def restart(self, grace: float) -> None:
        """End the container and start it again."""
        with self._asking():
            self.container.restart(timeout=max(round(grace), 0))

    def exec(self, command: Any, **options: Any) -> Any:
        """Run a command in the container, under its limits; see docker-py's ``exec_run``."""
        with self._asking():
            return self.container.exec_run(command, **options)

    def logs(self, **options: Any) -> Any:
        """Give what the container wrote; see docker-py's ``logs``."""
        with self._asking():
            return self.container.logs(**options)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the engine for something, if it still has the container. Raises: EngineError."""
        if self._gone:
            raise EngineError(
                f"container {self.container_id[:SHORT_ID]} of image {self.image!r} is gone: it was removed "
                "by somebody else; its report is still there, and the command can be run again"
            )
        with readable_errors(self._runtime.socket):
            yield

    def remove(self) -> None:
        """Remove the container with its anonymous volumes, running or not."""
        if self._gone:
            self.removed_by_engine()
            return
        try:
            remove_container(self.container)
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
        if self.first.is_alive():
            self._breaches.look(self.container_id)
        return {
            "container": {
                "id": self.container_id,
                "name": self.name,
                "image": self.image,
                "listener": self._listener(),
                "oom_killed": self._oom_killed,
                "restarts": self._restarts,
            },
            "breaches": self._breaches.found(),
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
            if int(self._state().get("Pid") or 0) in (0, self.first.pid):
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
        if self._runtime.remote and state.get("Pid") != self.first.pid:
            self.first.cut()
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
        """Judge a command that somebody runs in the container; podman does not say which."""
        if self.box.filtered and not self.box.native:
            self._breaches.judge(self.container_id, exec_id)

    def _listener(self) -> str | None:
        """Say who installs the filter."""
        if not self.box.filtered:
            return None
        return "native" if self.box.native else "shim"

    # -- the rest ----------------------------------------------------------------------------

    def _hold(self, pid: int) -> None:
        self._status = None
        self.first.hold(pid, seen=not self._runtime.remote)
        if pid and self._runtime.remote and self._state().get("Pid") != pid:
            self.first.cut()  # the event of its end came before this

    def _state(self) -> dict[str, Any]:
        try:
            found = inspect_container(self._runtime.client.api, self.container_id)
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
        self.first.cut()
        self.first.await_end(_END_SECONDS)
        if self._status is None:
            self._status = ExitStatus.killed(9)
        self.box.settle(self._status)
        self.box.close_account()
        self._release()

    def _release(self) -> None:
        self._gone = True
        self.first.cut()
        self._runtime.forget(self)
        self.first.await_end(_END_SECONDS)
        self.first.drop()
        if self._status is None:
            self._status = ExitStatus.killed(9)


def _status(code: int) -> ExitStatus:
    # The engine says 128 + N after signal N; a program that exits with that number looks the same.
    return (
        ExitStatus.killed(code - _SIGNALED)
        if _SIGNALED < code <= _SIGNALED + _MOST_SIGNAL
        else ExitStatus.exited(code)
    )
