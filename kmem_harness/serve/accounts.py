"""Accounts by OCI id: opened when a runtime hands over a container's listener, closed behind it.

Every door ends here. A container keeps its account over restarts; it is closed when its last task
has gone and its engine has removed it, or some time has passed.
"""

from __future__ import annotations

import array
import hashlib
import json
import os
import platform
import select
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kmem_harness.core.errors import ConfigurationError, KmemHarnessError, UnsupportedHostError
from kmem_harness.interposer.profile import ALLOW_ALL, WAIT_KILLABLE
from kmem_harness.runtimes.spec import BoxSpec, ContainerSpec, ExitStatus
from kmem_harness.serve.state import is_id
from kmem_harness.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.box import Box
    from kmem_harness.controller.loop import Loop
    from kmem_harness.harness import Harness
    from kmem_harness.serve.state import State

__all__ = ["SHOWN", "Accounts", "Arrival", "OciRuntime", "digest_of"]

#: As much of an id as is shown, and names boxes and memcgs.
SHOWN = 12
_LOOK_SECONDS = 1.0
_END_SECONDS = 5.0
_ON_ITS_WAY_SECONDS = 60.0
_ON_THE_THRESHOLD_SECONDS = 1.0
_SHOWN_TERMS = ("limit", "kinds", "mode", "inject", "kernel")
_EARLY_FAULTS = (
    "fault rules: the calls of the container's runtime, on its way to the command, count too"
)


class Arrival(NamedTuple):
    """What a runtime says when it hands over a listener: the container process state of the OCI.

    *pid* is 0 where the runtime does not know it, as crun's of an exec.
    """

    ident: str
    pid: int
    entered: bool
    bundle: str
    metadata: str

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Arrival:
        """Read it. Raises: ConfigurationError."""
        try:
            inner = state["state"]
            found = cls(
                ident=str(inner["id"]),
                pid=int(state["pid"]),
                entered=inner["status"] == "running",
                bundle=str(inner.get("bundle") or ""),
                metadata=str(state.get("metadata") or ""),
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigurationError(
                f"what a runtime sent is no container process state: {error!r}"
            ) from error
        if not is_id(found.ident) or found.pid < 0:
            raise ConfigurationError(f"container id {found.ident[:80]!r} cannot be one")
        return found


class OciRuntime:
    """The runtime of accounts whose containers others run."""

    name = "oci"
    isolation = "container"
    lasting = True
    fires_own_hooks = True

    def check(self, spec: BoxSpec) -> BoxSpec:
        """Take it as it is."""
        return spec

    def run(self, _: Box) -> None:
        """Run nothing. Raises: ConfigurationError."""
        raise ConfigurationError("containers of a standing controller are started by their engine")

    def close(self) -> None:
        """Hold nothing."""


class _Container:
    """What runs in an account, as far as we hold it."""

    def __init__(self, ident: str) -> None:
        self.ident = ident
        self.init_pid = 0
        self.pidfd = -1
        self.bundle = ""
        self.starts = 0
        self.began = time.time()
        self.ended = 0.0
        #: Since when there is neither a process nor a bundle of it.
        self.gone = 0.0

    def hold(self, pid: int) -> None:
        """Hold the first process of a start. Raises: OSError if it is gone."""
        self.drop()
        self.pidfd = os.pidfd_open(pid)
        self.init_pid = pid
        self.starts += 1
        self.ended = self.gone = 0.0

    def kill(self) -> None:
        """End it."""
        if self.pidfd >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def drop(self) -> None:
        """Hold it no more."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def wait_gone(self, seconds: float) -> None:
        """Wait for the end of the first process."""
        if self.pidfd >= 0:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll(seconds * 1000)

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait for that end, which nobody tells us more of."""
        self.wait_gone(_END_SECONDS if timeout is None else timeout)
        return ExitStatus.killed(signal.SIGKILL)

    def remove(self) -> None:
        """Leave that to its engine."""

    def discard(self) -> None:
        """End it: something has failed."""
        self.kill()

    def describe(self) -> dict[str, Any]:
        """Give the report's ``container``."""
        return {
            "container": {
                "id": self.ident,
                "pid": self.init_pid,
                "bundle": self.bundle,
                "starts": self.starts,
                "running": self.pidfd >= 0,
            }
        }


class _Account:
    """One container's account."""

    def __init__(self, terms: Terms, box: Box, path: str, container: _Container) -> None:
        self.terms = terms
        self.box = box
        #: Where the controller awaits its listeners.
        self.path = path
        self.container = container

    def report(self) -> dict[str, Any]:
        report = self.box.report()
        if self.terms.inject:
            report["partial"] = [*report["partial"], _EARLY_FAULTS]
        ended = self.container.ended or time.time()
        return {**report, "wall_seconds": round(ended - self.container.began, 6)}


class Accounts:
    """All accounts of one standing controller."""

    def __init__(
        self, harness: Harness, loop: Loop, state: State, log: Any, keep: float, events: int | None
    ) -> None:
        """Keep an account for *keep* seconds after its container has ended and its bundle is gone."""
        self._harness = harness
        self._loop = loop
        self._state = state
        self._log = log
        self._keep = keep
        self._events = events
        self._runtime = OciRuntime()
        self._accounts: dict[str, _Account] = {}
        self._looking = False

    def inits(self) -> set[int]:
        """List the first processes of all containers that run."""
        every = (account.container for account in self._accounts.values())
        return {one.init_pid for one in every if one.pidfd >= 0}

    def arrived(self, state: dict[str, Any], fd: int) -> bool:
        """Take a listener over for its container; say whether that could be done.

        If not, whoever is under it is ended: nobody would answer its calls.
        """
        arrival = None
        try:
            arrival = Arrival.of_state(state)
            self._take(arrival, state, fd)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            ident = "?" if arrival is None else arrival.ident
            remedy = getattr(error, "remedy", None)
            facts = {"remedy": remedy} if remedy else {}
            facts |= {} if isinstance(error, (KmemHarnessError, OSError)) else {"exc_info": True}
            self._log.error("container.refused", container=ident, error=str(error), **facts)
            if arrival is not None and arrival.pid:
                self._turn_away(arrival.pid)
            return False
        finally:
            os.close(fd)
        return True

    def open(self, ident: str, terms: Terms, image: str = "") -> dict[str, Any]:
        """Open the account of a container that is about to be created; give its profile's additions.

        Shape: ``listenerPath`` and the calls, as :meth:`Box.listen_natively` gives them of a profile
        that allows everything. Raises: ConfigurationError, OSError.
        """
        if not is_id(ident):
            raise ConfigurationError(f"container id {ident[:80]!r} cannot be one")
        if terms.kernel and terms.kernel != self._harness.kernel:
            raise ConfigurationError(
                f"kernel {terms.kernel} is asked for, and this controller emulates "
                f"{self._harness.kernel}; start kmem-harness serve --kernel {terms.kernel}"
            )
        if terms.machine and terms.machine != platform.machine():
            raise ConfigurationError(
                f"the profile is for {terms.machine}, and this machine is {platform.machine()}: make one "
                "here with kmem-harness profile"
            )
        short = ident[:SHOWN]
        if any(account.box.name == short for account in self._accounts.values()):
            short = ident
        container = _Container(ident)
        box = self._harness.open_account(
            BoxSpec(short, (), image=image or None),
            self._runtime,
            kmem_limit=terms.limit or None,
            below=terms.memcg or None,
            mode=terms.mode,
            kinds=terms.kinds or None,
            faults=terms.inject,
            events=self._events,
        )
        try:
            box.attach(container)  # type: ignore[arg-type]
            _see_bound(box, terms.memcg)
            flags = [WAIT_KILLABLE] if terms.killable else []
            profile, _ = box.listen_natively(ALLOW_ALL, flags)
            _see_same_calls(terms, profile)
            with box.step("create", spec=ContainerSpec("oci", image or None, box.memcg.path, [])):
                account = _Account(terms, box, profile["listenerPath"], container)
        except BaseException:
            box.discard()
            raise
        self._accounts[ident] = account
        self._state.opened(ident, {"terms": terms._asdict(), "since": time.time()})
        self._log.info("container.opened", container=ident, memcg=box.memcg.path, **_said(terms))
        self._keep_looking()
        return profile

    def report(self, ident: str) -> dict[str, Any] | None:
        """Give the report of the container whose id is or begins with *ident*, if it has an account.

        Raises: ConfigurationError if that is more than one.
        """
        found = [one for one in self._accounts if one.startswith(ident)]
        if len(found) > 1 and ident not in found:
            names = ", ".join(one[:SHOWN] for one in found[:5])
            raise ConfigurationError(
                f"container {ident!r} is several: {names}; give more of the id"
            )
        if not found:
            return None
        return self._accounts[ident if ident in found else found[0]].report()

    def list(self) -> list[dict[str, Any]]:
        """List the accounts. Shape: ``id``, ``memcg``, ``running``, ``limit``."""
        return [
            {
                "id": ident,
                "memcg": account.box.memcg.path,
                "running": account.container.pidfd >= 0,
                "limit": account.terms.limit,
            }
            for ident, account in self._accounts.items()
        ]

    def end_all(self, why: str) -> None:
        """End every container: nobody will answer their calls any more. Say so, and keep the reports."""
        running = [one.container for one in self._accounts.values() if one.container.pidfd >= 0]
        for container in running:
            self._log.warning("container.killed", container=container.ident, reason=why)
            container.kill()
        for container in running:
            container.wait_gone(_END_SECONDS)
        for ident in list(self._accounts):
            self._close(ident)

    # -- one arrival -----------------------------------------------------------------------

    def _take(self, arrival: Arrival, state: dict[str, Any], fd: int) -> None:
        account = self._accounts.get(arrival.ident)
        if account is None:
            if arrival.entered:
                raise ConfigurationError(
                    f"somebody enters container {arrival.ident[:SHOWN]}, which has no account here: it "
                    "was started under another controller; start it again"
                )
            self._see_apart(arrival.pid)
            self.open(arrival.ident, Terms.of_metadata(arrival.metadata))
            account = self._accounts[arrival.ident]
        elif not arrival.entered:
            self._see_apart(arrival.pid)
        if arrival.entered:
            with account.box.step("exec"):
                _relay(account.path, state, fd)
            self._log.debug("container.entered", container=arrival.ident, pid=arrival.pid)
            return
        if account.container.pidfd >= 0:  # it was started again before its end was seen
            self._ended(account)
        try:
            self._start(account, arrival, state, fd)
        except BaseException:
            account.container.drop()
            raise
        pidfd = account.container.pidfd
        self._loop.watch(pidfd, lambda _: self._ended(account))
        self._log.info("container.started", container=arrival.ident, pid=arrival.pid)

    def _turn_away(self, pid: int) -> None:
        """End a process that is on its way to its command, and must not come there.

        It is stopped until its runtime has come to wait for it: crun waits for ever for one that is
        gone before that.
        """
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)

            def end() -> None:
                with suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)

            self._loop.call_later(_ON_THE_THRESHOLD_SECONDS, end)

    def _start(self, account: _Account, arrival: Arrival, state: dict[str, Any], fd: int) -> None:
        with account.box.step("start"):
            account.container.hold(arrival.pid)
            account.container.bundle = arrival.bundle
            _relay(account.path, state, fd)
            account.box.announce(arrival.pid)
            if not account.box.filter_flags:
                raise UnsupportedHostError(
                    f"the tasks of container {arrival.ident[:SHOWN]} cannot be counted",
                    missing="the right to look into its processes",
                    remedy="run kmem-harness serve as the user that the engine runs as",
                )

    def _see_apart(self, pid: int) -> None:
        """See that a container has a pid namespace of its own. Raises: UnsupportedHostError, OSError."""
        theirs = _pid_namespace(pid)
        others = {_pid_namespace("self")}
        for init in self.inits():
            with suppress(OSError):  # it has just ended
                others.add(_pid_namespace(init))
        if theirs in others:
            raise UnsupportedHostError(
                "a container whose tasks are to be counted needs a pid namespace of its own",
                missing="a pid namespace of its own",
                remedy="leave out --pid (pid: in compose)",
            )

    def _ended(self, account: _Account) -> None:
        container = account.container
        if container.pidfd < 0:
            return
        self._loop.forget(container.pidfd)
        container.drop()
        container.ended = time.time()
        self._log.info("container.ended", container=container.ident)
        self._keep_looking()

    # -- the end of accounts ---------------------------------------------------------------

    def _keep_looking(self) -> None:
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Close the accounts of containers that will not come again."""
        self._looking = False
        now = time.time()
        for ident, account in list(self._accounts.items()):
            container = account.container
            if container.pidfd >= 0:
                continue
            if container.bundle and Path(container.bundle).exists():
                container.gone = 0.0
                continue
            container.gone = container.gone or now
            # One that has not come yet is on its way through its engine.
            patience = self._keep if container.starts else max(self._keep, _ON_ITS_WAY_SECONDS)
            if now - container.gone >= patience:
                self._close(ident)
        if self._accounts:
            self._keep_looking()

    def _close(self, ident: str) -> None:
        account = self._accounts.pop(ident)
        box = account.box
        if account.container.pidfd >= 0:
            self._loop.forget(account.container.pidfd)
            account.container.drop()
            account.container.ended = time.time()
        with suppress(KmemHarnessError), box.step("remove"):
            box.close_account()
        report = account.report()
        self._state.closed(ident, report)
        kmem = report["memcg"]["kmem"]
        self._log.info(
            "container.closed",
            container=ident,
            refused=report["refusals"]["total"],
            max_usage=kmem["max_usage"],
        )


def digest_of(profile: dict[str, Any]) -> str:
    """Name the calls that a profile traps, with their conditions."""
    rules = json.dumps(profile["syscalls"], sort_keys=True)
    return hashlib.sha256(rules.encode()).hexdigest()[:16]


def _see_same_calls(terms: Terms, profile: dict[str, Any]) -> None:
    if terms.calls and terms.calls != digest_of(profile):
        raise ConfigurationError(
            "the profile traps other calls than this controller charges for: it was made by another "
            "release, or with other plugins; make it anew with kmem-harness profile"
        )


def _see_bound(box: Box, above: str) -> None:
    if not box.filtered:
        raise ConfigurationError(
            f"nothing limits {box.memcg.path}: give a limit, or set one for {above or '/oci'} "
            f"(kmem-harness serve --memcg {above or '/oci'}=SIZE)"
        )


def _pid_namespace(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def _relay(path: str, state: dict[str, Any], fd: int) -> None:
    """Hand a listener on to the controller. Raises: OSError."""
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect(path)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        body = json.dumps({"pid": state["pid"], "state": {"status": state["state"]["status"]}})
        runtime.sendmsg([body.encode()], rights)


def _said(terms: Terms) -> dict[str, Any]:
    facts: Iterable[tuple[str, Any]] = terms._asdict().items()
    return {name: value for name, value in facts if value and name in _SHOWN_TERMS}
