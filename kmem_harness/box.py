"""One container under test, as its owner sees it: wait for it, end it, read its report."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from kmem_harness.controller.owner.client import ControllerDiedError
from kmem_harness.core.errors import (
    ConfigurationError,
    KmemHarnessError,
    ShimError,
    UnkillableTaskError,
)
from kmem_harness.ended import Ended, how_it_ended
from kmem_harness.logged import is_wanted, log
from kmem_harness.runtimes.local import start_failure
from kmem_harness.runtimes.spec import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from typing_extensions import Self

    from kmem_harness.controller.owner.client import Connection
    from kmem_harness.handles import MemcgHandle
    from kmem_harness.hooks import Hooks, PluginError
    from kmem_harness.runtimes.spec import BoxSpec, Running

__all__ = ["Box", "RefusalCard", "Session"]

REPORT_VERSION = 1


class Session(NamedTuple):
    """What all boxes of one harness share."""

    controller: Connection
    kernel: str
    runtime: str
    isolation: str
    hooks: Hooks
    #: Whether an account lasts when its target has ended: a container may be started again.
    lasting: bool = False
    #: Whether the runtime takes the steps, however they were asked for, with their hooks.
    fires_own_hooks: bool = False


@dataclass(frozen=True)
class RefusalCard:
    """One refused call: who asked for what, and which counter said no.

    Units: bytes, seconds since the epoch. Reads like the JSON it came from, too:
    ``card["errno"]``.
    """

    time: float
    box: str
    pid: int
    tid: int
    comm: str
    syscall: str
    kind: str
    nbytes: int
    errno: str
    memcg: str
    refused_by: str
    counter: str
    usage: int
    limit: int
    live: dict[str, int]
    #: Of a call that a fault rule failed (counter "injected"): the rule, the how-manieth of the
    #: calls it matched, and of all calls of this name.
    rule: str | None = None
    number: int | None = None
    nth_of_call: int | None = None
    #: The processes that held most then: pid, comm, objects by kind, bytes, a few descriptors.
    holders: tuple[dict[str, Any], ...] = ()

    def __getitem__(self, name: str) -> Any:
        """Give a field by name."""
        return getattr(self, name)


class Box:
    """One container under test, and its account.

    Leaving it as a context manager, like :meth:`close`, ends what still runs in it.
    """

    #: What runs in it, from the start on (a container's: from its creation on).
    running: Running

    def __init__(
        self,
        session: Session,
        spec: BoxSpec,
        memcg: MemcgHandle,
        armed: dict[str, Any],
        *,
        own_memcg: bool,
    ) -> None:
        """Hold the account of a box that the controller has *armed*; :meth:`attach` says what runs."""
        self.name = spec.name
        self.spec = spec
        self.memcg = memcg
        #: Where its shim reports, ``None`` where nothing binds the box.
        self.socket: str | None = armed["socket"]
        self.filtered = self.socket is not None
        #: Whether its engine's runtime installs the filter, and not our shim.
        self.native = False
        #: Whether fault rules count its calls.
        self.has_faults = False
        self.controller_died = False
        self.closed = False
        self._session = session
        self._own_memcg = own_memcg
        self._armed = armed
        self._began = time.monotonic()
        self._wall_seconds: float | None = None
        self._status: ExitStatus | None = None
        self._final: dict[str, Any] | None = None
        self._seen: dict[str, Any] | None = None
        self._hook_failure: PluginError | None = None
        self._ended_by: str | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        """Give the box itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.close()

    @property
    def status(self) -> ExitStatus | None:
        """How the target ended, ``None`` while it runs."""
        return self._status

    @property
    def ended(self) -> Ended | None:
        """Why it ended, or its command failed, with the card that proves it; ``None`` while it runs."""
        return None if self._status is None else self._judge_end(self._account()["report"], {})

    @property
    def runtime(self) -> str:
        """The name of the runtime it runs in."""
        return self._session.runtime

    @property
    def isolation(self) -> str:
        """How the box is kept apart: "user", "pid", "container" or "none"."""
        return self._session.isolation

    @property
    def container(self) -> Any:
        """The real docker-py container. Raises: ConfigurationError for a local box."""
        return self._of_container("container")

    @property
    def filter_flags(self) -> int:
        """The flags the seccomp filter was installed with, 0 without a filter."""
        return int(self._account()["filter_flags"])

    @property
    def under_way(self) -> int:
        """How many calls may be over or not: what they made counts as live, though it may be gone.

        Calls whose callers sleep, as in accept, are not among them: they may last for ever.
        """
        try:
            return int(self._session.controller.request("under_way", box=self.name)["calls"])
        except (ControllerDiedError, ConfigurationError):  # its account is closed
            return 0

    # -- steps -----------------------------------------------------------------------------

    @contextmanager
    def step(self, name: str, **more: Any) -> Iterator[None]:
        """Take one lifecycle step between its hooks; a hook that fails ends the box.

        Raises: PluginError.
        """
        self._call(f"kmem_before_{name}", more)
        yield
        self._call(f"kmem_after_{name}", more)

    def attach(self, running: Running) -> None:
        """Learn what runs in the box."""
        self.running = running

    def announce(self, pid: int, system_v: tuple[int, ...] = ()) -> None:
        """Tell the controller which process may put the box under its filter, and wait for that.

        *system_v* are descriptors that tell how many System V objects there are in the box.
        Raises: ShimError, UnsupportedHostError.
        """
        self._restarted()
        try:
            self._session.controller.request("expect", system_v, box=self.name, pid=pid)
        except ControllerDiedError:
            pass  # the box ends with it, and says so
        except ProcessLookupError as error:
            if self.filtered:  # else its command was quick
                message = f"box {self.name} ended before its command was started"
                raise ShimError(message, step="start", errno=error.errno or 0) from error
        except ShimError as error:
            raise start_failure(error) from error

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until the target has ended and nothing of the box is left. Units: seconds.

        Raises: TimeoutError, and the box goes on; UnkillableTaskError if the kernel does not let
        some of it end; ControllerDiedError if the box was ended because
        the controller died; PluginError if it was ended because a plugin failed; EngineError if
        it outlived its engine, so that it is not known how it ended.
        """
        with self._settling_for_what_stays():
            status = self.running.wait(timeout)
        self.settle(status)
        if self.controller_died:
            message = f"box {self.name} was ended: the controller died"
            raise ControllerDiedError(message)
        if self._hook_failure is not None:
            raise self._hook_failure
        if self._engine_died is not None:
            raise self._engine_died
        return status

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read the target's output to its end, as subprocess.Popen.communicate does."""
        return self.running.communicate(timeout)

    def signal(self, number: int) -> None:
        """Send a signal to the target."""
        self.running.signal(number)

    def kill(self, reason: str = "interrupted") -> None:
        """End the box and everything in it at once; *reason* is what :attr:`ended` says then."""
        if self._status is not None:
            return
        before, self._ended_by = self._ended_by, reason
        with self._own_step("kill"), self._settling_for_what_stays():
            self.running.kill()
        status = self.running.wait()
        if status.signal != signal.SIGKILL:  # it had just ended by itself
            self._ended_by = before
        self.settle(status)

    def stop(self, grace: float = 10.0) -> ExitStatus:
        """Ask the target to end with SIGTERM; end it after *grace* seconds."""
        self.ends_for("interrupted")
        with self._own_step("stop"), self._settling_for_what_stays():
            status = self.running.stop(grace)
        self.settle(status)
        return status

    def ends_for(self, reason: str) -> None:
        """Have :attr:`ended` say *reason*, one of ``ended.py``, however the target ends now."""
        if self._status is None:
            self._ended_by = reason

    def pause(self) -> None:
        """Stop everything in a container where it is. Raises: ConfigurationError for a local box."""
        self._of_container("pause")()

    def unpause(self) -> None:
        """Let a paused container go on. Raises: ConfigurationError for a local box."""
        self._of_container("unpause")()

    def restart(self, grace: float = 10.0) -> None:
        """End a container and start it again, in the same account.

        Raises: ConfigurationError for a local box.
        """
        self._of_container("restart")(grace)

    def exec(self, command: Sequence[str] | str, **options: Any) -> Any:
        """Run *command* in a container beside its first one, under the same limits.

        Takes and gives what docker-py's ``exec_run`` does. Raises: ConfigurationError for a local box.
        """
        return self._of_container("exec")(command, **options)

    def logs(self, **options: Any) -> Any:
        """Give what a container wrote, as docker-py's ``logs`` does."""
        return self._of_container("logs")(**options)

    # -- figures ---------------------------------------------------------------------------

    @property
    def refusals(self) -> list[RefusalCard]:
        """The first hundred refusals, oldest first."""
        return [RefusalCard(**card) for card in self._account()["report"]["refusals"]["cards"]]

    def report(self) -> dict[str, Any]:
        """Give the report: JSON-ready, all sizes in bytes. Its shape is the contract that the guide shows."""
        self._look()
        account = self._account()["report"]
        status = self._status
        report = {
            "version": REPORT_VERSION,
            "runtime": self._session.runtime,
            "isolation": self._session.isolation,
            "kernel": self._session.kernel,
            "command": list(self.spec.command),
            "exit_code": None if status is None else status.exit_code,
            "signal": None if status is None else status.signal,
            "wall_seconds": round(self._seconds(), 6),
            "mode": account["mode"] if self.filtered else "off",
            "memcg": account["memcg"],
            "kinds": account["kinds"],
            "refusals": account["refusals"],
            "notifications": account["notifications"],
            "interrupted": account["interrupted"],
            "census": account["census"],
            **{name: account[name] for name in ("unanswered",) if name in account},
            "partial": account["partial"],
            "events_lost": account["events_lost"],
            "holders": account["holders"],
            "peak": account["peak"],
            "timeline": account["timeline"],
            **({"faults": account["faults"]} if "faults" in account else {}),
            "controller_died": self.controller_died,
            **self.running.describe(),
        }
        report["ended"] = None if status is None else self._judge_end(account, report).as_dict()
        self._session.hooks.call("kmem_report", box=self, report=report)
        return report

    def entrants(self) -> list[dict[str, Any]]:
        """List the processes in a container that are under no filter of ours."""
        try:
            return list(self._session.controller.request("entrants", box=self.name)["entrants"])
        except (ControllerDiedError, ConfigurationError):  # its account is closed
            return []

    def listen_natively(
        self, profile: dict[str, Any], flags: list[str]
    ) -> tuple[dict[str, Any], str]:
        """Have the filter put into the seccomp *profile* of its engine's runtime.

        Gives that profile, and the path of a file for it, which is gone with the controller.
        Raises: ConfigurationError for a profile that cannot hold it.
        """
        reply = self._session.controller.request(
            "listen_natively", box=self.name, profile=profile, flags=flags
        )
        self.native = True
        return dict(reply["profile"]), str(reply["file"])

    def bequeath(self, socket: str, message: str) -> None:
        """Have the controller send *message* to *socket* should we be gone before the box is."""
        with suppress(ControllerDiedError):
            self._session.controller.request(
                "bequeath", box=self.name, socket=socket, message=message
            )

    # -- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """End what still runs, and remove the memcg that was made for this box alone."""
        if self.closed or not self._session.controller.is_ours():
            return
        try:
            self.kill()
        finally:
            with self._own_step("remove"):
                self.running.remove()
                if not self._session.fires_own_hooks:  # else its remove step has closed the account
                    self.close_account()

    def close_account(self) -> None:
        """Close the books for good; nothing of the box runs any more."""
        with self._lock:
            if self.closed:
                return
            self._finish(keep=False)
            self.closed = True
            # Not after the lock: whoever else closes it, for the engine told so, finds all of it gone.
            if self._own_memcg:
                with suppress(OSError, ControllerDiedError):
                    self.memcg.remove()
            self._own_memcg = False

    def fail(self, error: PluginError) -> None:
        """End the box because a plugin failed; whoever waits for it is told."""
        self._hook_failure = error
        self.discard()

    def discard(self) -> None:
        """End the box and take away all of it, without a step more: something has failed."""
        running = getattr(self, "running", None)
        self.ends_for("harness")
        with suppress(KmemHarnessError, OSError):
            if running is not None:
                running.discard()
                if self._status is None:
                    self.settle(running.wait())
        self.close_account()

    @contextmanager
    def _settling_for_what_stays(self) -> Iterator[None]:
        """Take the box for ended where the kernel does not let some of it end: nobody can do more."""
        try:
            yield
        except UnkillableTaskError:
            self.settle(ExitStatus.exited(125))
            raise

    def _own_step(self, name: str) -> AbstractContextManager[None]:
        """Take a step whose hooks the runtime does not call itself."""
        return nullcontext() if self._session.fires_own_hooks else self.step(name)

    def _call(self, hook: str, more: dict[str, Any]) -> None:
        try:
            self._session.hooks.call(hook, box=self, **more)
        except BaseException:
            self.discard()
            raise

    def _of_container(self, name: str) -> Any:
        found = getattr(self.running, name, None)
        if found is None:
            message = (
                f"a box of runtime {self.runtime!r} has no {name!r}; run it with runtime='docker'"
            )
            raise ConfigurationError(message)
        return found

    def _seconds(self) -> float:
        if self._wall_seconds is not None:
            return self._wall_seconds
        return time.monotonic() - self._began

    def _look(self) -> None:
        """Take note of the end of a container that somebody else waited for."""
        poll = getattr(self.running, "poll", None)
        if poll is not None and self._status is None and not self.closed:
            status = poll()
            if status is not None:
                self.settle(status)

    def _restarted(self) -> None:
        with self._lock:
            self._status = self._wall_seconds = self._ended_by = None

    def settle(self, status: ExitStatus) -> None:
        """Take down how the target ended, and its last figures."""
        with self._lock:
            if self._status is not None:
                return
            self._wall_seconds = time.monotonic() - self._began
            self._finish(keep=self._session.lasting)
            self._status = status
        if is_wanted("error"):
            self._log_end(status)

    def _judge_end(self, account: dict[str, Any], report: dict[str, Any]) -> Ended:
        by_owner = self._ended_by
        if self.controller_died or account.get("given_up") or self._engine_died is not None:
            by_owner = "harness"
        status = self._status or ExitStatus.exited(0)
        return how_it_ended(
            status.exit_code,
            status.signal,
            account["refusals"]["cards"],
            by_owner=by_owner,
            pids_refused=report.get("pids", account.get("pids", {})).get("refused", 0),
        )

    @property
    def _engine_died(self) -> BaseException | None:
        return getattr(self.running, "engine_died", None)

    def _log_end(self, status: ExitStatus) -> None:
        reason = self.ended.reason if self.ended else ""
        account = self._account()["report"]
        log(
            "error" if reason == "harness" else "info",
            "box.ended",
            box=self.name,
            memcg=self.memcg.path,
            reason=reason,
            exit_code=status.exit_code,
            signal=status.signal,
            wall_seconds=round(self._seconds(), 3),
            refused=account["refusals"]["total"],
        )
        for doubt in account["partial"]:
            log("warning", "figures.doubted", box=self.name, why=doubt)

    def _finish(self, *, keep: bool) -> None:
        """Wait for the last task, and close the account unless it is to be kept for a restart."""
        if self._final is not None:
            return
        try:
            final = self._session.controller.request(
                "finish", box=self.name, keep=keep, pids=self._pids()
            )
        except ControllerDiedError:
            self.controller_died = True
            final = self._last_account()
        if "report" not in final:  # the controller failed at it
            final = {**final, **self._last_account()}
            final["report"]["partial"].append(final["doubt"])
        if keep and not self.controller_died:
            self._seen = final
        else:
            self._final = final

    def _pids(self) -> dict[str, Any] | None:
        """Give what the kernel's own bound on tasks refused, where it did."""
        running = getattr(self, "running", None)
        pids: dict[str, Any] | None = running and running.describe().get("pids")
        return pids if pids and pids["refused"] else None

    def _account(self) -> dict[str, Any]:
        with self._lock:  # another thread may be closing it
            if self._final is not None:
                return self._final
            try:
                state = self._session.controller.request("state", box=self.name)
            except ControllerDiedError:
                return self._last_account()
            self._seen = state
            return state

    def _last_account(self) -> dict[str, Any]:
        """Give what was last seen of the account, for a report after the controller's death."""
        return self._seen or {
            "filter_flags": 0,
            "report": {
                "mode": "enforce",
                "memcg": self._armed["memcg"],
                "kinds": {},
                "refusals": {"total": 0, "first": None, "cards": [], "by": {}},
                "notifications": 0,
                "interrupted": 0,
                "census": {"count": 0, "seconds": 0.0},
                "partial": [],
                "events_lost": 0,
                "holders": [],
                "peak": {"usage": 0, "holders": []},
                "timeline": {"began": 0.0, "seconds": [], "usage": [], "refused": [], "live": {}},
            },
        }
