"""Follow every box from its arming to the end of its last task.

Joins handshakes, listeners and the gate; knows no control connections. A container is a box that
may be started again and be entered from outside (exec): one account all the same.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.account.box import Box, EventFile
from kmem_harness.controller.account.recording import RecordingFile
from kmem_harness.controller.admission.filter_plan import plan_filter
from kmem_harness.controller.admission.gate import Gate
from kmem_harness.controller.admission.prices import make_prices, read_kinds
from kmem_harness.controller.admission.restarts import Restarts, numbers_that_start_over
from kmem_harness.controller.audit.begin import begin_audit
from kmem_harness.controller.audit.looks import Looks
from kmem_harness.controller.audit.rounds import Rounds
from kmem_harness.controller.audit.system_v import SystemVPart
from kmem_harness.controller.guard import Guard
from kmem_harness.controller.lifecycle.container import Running
from kmem_harness.controller.lifecycle.last_words import Legacy, carry_out
from kmem_harness.controller.lifecycle.runtime_handshake import RuntimeHandshake
from kmem_harness.controller.lifecycle.shim_handshake import Handshake, Taken
from kmem_harness.controller.loop import HANGUP, READABLE, Loop
from kmem_harness.controller.owner.settings import AT_ONCE, OFF, fast_path_setting
from kmem_harness.controller.spare_descriptors import is_short
from kmem_harness.core.errors import ConfigurationError, ShimError
from kmem_harness.interposer.filter import (
    FALLBACK_FLAGS,
    FILTER_FLAGS,
    offer,
)
from kmem_harness.interposer.profile import WAIT_KILLABLE, listening
from kmem_harness.interposer.syscalls import native_architecture
from kmem_harness.procfs.census import DescendantCensus, NamespaceCensus, is_running
from kmem_harness.procfs.entrants import (
    filters_of,
    newcomer,
    pid_inside,
)
from kmem_harness.procfs.look_process import READ_MEMORY, Request
from kmem_harness.procfs.processes import BoxProcesses
from kmem_harness.procfs.readable import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kmem_harness.controller.admission.leases import Leases
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.interposer.listener import Listener
    from kmem_harness.procfs.steps import Steps

__all__ = ["Boxes"]

#: How long the end of a box waits for its last task to let go of the filter.
_LAST_TASK_SECONDS = 2.0
_NO_REPORT = "the controller failed at the report of this box: these are the last figures before it"
_LATE = (
    "a look at its memory, its names or its mounts took too long, as with a file server that does not "
    "answer, and was given up"
)


class Boxes:
    """All boxes of one controller."""

    def __init__(
        self, loop: Loop, directory: str, on_refusal: Callable[[Box, dict[str, Any]], None]
    ) -> None:
        """Make the sockets of boxes in *directory*; give each card to *on_refusal*."""
        self._loop = loop
        self._directory = directory
        self._running: dict[str, Running] = {}
        self._on_refusal = on_refusal
        self._gate = Gate(self.all, loop, on_refusal, self._go_on)
        self._looks = Looks(loop)
        self._censuses = self._gate.censuses
        self._rounds = Rounds(loop, self._censuses, self.all)
        self._architecture = native_architecture()
        self._leases: Leases | None = None
        setting = fast_path_setting()
        if setting == AT_ONCE:
            self._begin_to_lend()
        elif setting != OFF:
            loop.when_busy(self._begin_to_lend)

    def all(self) -> list[Box]:
        """List the accounts of all boxes."""
        return [running.box for running in self._running.values()]

    def take_census(self, counter: ResourceCounter) -> Steps[None]:
        """Bring the books of every box whose charges walk *counter* up to date."""
        return self._censuses.take(counter)

    def unfiltered_below(self, memcg: Memcg) -> Box | None:
        """Find a box that a limit of *memcg* could not bind, for it runs without a filter."""
        below = self._below(memcg)
        return next((running.box for running in below if not running.bounded), None)

    def withdraw_below(self, memcg: Memcg) -> None:
        """Be ready for a change of what binds *memcg*, and so every box whose charges walk it."""
        for running in self._below(memcg):
            running.box.withdraw()

    def _below(self, memcg: Memcg) -> list[Running]:
        return [one for one in self._running.values() if memcg.kmem in one.box.counters]

    def withdraw_above(self, memcg: Memcg) -> None:
        """Be ready for a charge of *memcg* itself, that no call of a box makes."""
        for running in self._running.values():
            if running.box.memcg.kmem in memcg.chain:
                running.box.withdraw()

    # -- from arming to running ------------------------------------------------------------

    def arm(self, memcg: Memcg, request: dict[str, Any], fds: list[int]) -> str | None:
        """Open an account for a box about to start; say where its shim shall report.

        ``None`` where nothing binds the box: then it gets no filter at all.
        Raises: ConfigurationError, OSError.
        """
        name = str(request["box"])
        self._admit(name)
        kinds = read_kinds(request["kinds"])
        box = Box(name, memcg, kinds, observe=bool(request["observe"]))
        box.guard = guard = Guard(
            self._loop, lambda error: self._give_up(box, error, "in looking after it")
        )
        bound = [counter for counter in box.counters if not counter.unlimited]
        if bound and not memcg.accounts:
            # K61: such a kernel leaves kernel memory out of the memory counter.
            raise ConfigurationError(
                f"{memcg.path} limits memory to {bound[0].limit} bytes, and this kernel counts no "
                "kernel memory there before a kmem limit is set: give a kmem limit, too"
            )
        bounded = memcg.accounts and (box.observe or bool(bound))
        if request.get("faults"):
            # Here, not above: only a box with rules pays for them.
            from kmem_harness.controller.admission.fault_rules import Injection  # noqa: PLC0415

            box.faults = Injection(
                request["faults"],
                self._architecture,
                guard,
                self._resume,
                self._on_refusal,
                lambda *where: self._read_memory(box, *where),
            )
            box.faults.looks_at_end = bool(request.get("look_at_end"))
        filtered = bounded or box.faults is not None
        if request.get("record") and not bounded:
            raise ConfigurationError(
                f"{memcg.path} has no limit, so its charges are not seen and cannot be recorded; "
                "give a limit, or observe"
            )
        lasting = bool(request.get("lasting"))
        isolation = str(request["isolation"])
        running = Running(box, guard, isolation, filtered=filtered, lasting=lasting)
        running.bounded = bounded
        path = None
        if filtered:
            if bounded:
                box.prices = make_prices(
                    kinds, request["kinds"], self._architecture, box.table_grows
                )
            if box.faults is not None:
                box.faults.narrow(box.prices.only_if)
            plan = plan_filter(box, self._architecture, running.isolation)
            box.restarts = Restarts(
                running.guard,
                box,
                self._architecture,
                numbers_that_start_over(plan.trap, self._architecture),
            )
            running.plan = plan if lasting else None  # nobody asks for it once more
            path = os.path.join(self._directory, f"{name}/shim.sock" if lasting else f"{name}.sock")
            running.handshake = Handshake(
                guard,
                path,
                offer(plan),
                lambda taken: self._taken(running, taken),
                running.may_join if lasting else None,
            )
        _write_events(box, fds, record=bool(request.get("record")))
        self._running[name] = running
        return path

    def listen_natively(
        self, name: str, profile: dict[str, Any], flags: list[str]
    ) -> tuple[dict[str, Any], str]:
        """Have a container's runtime install the filter: give *profile* with it put in.

        Also gives the path of a file for it, which is removed with the account. From here on its
        listeners are awaited from the runtime, and none from a shim.
        Raises: ConfigurationError for a profile that cannot hold it.
        """
        running = self._running[name]
        if running.handshake is None or running.plan is None or not running.lasting:
            raise ConfigurationError(f"box {name!r} is no container under a filter")
        path = os.path.join(self._directory, f"{name}.sock")
        merged = listening(profile, running.plan, path, flags)
        running.handshake.close()
        running.handshake = RuntimeHandshake(
            running.guard,
            path,
            FILTER_FLAGS if WAIT_KILLABLE in merged["flags"] else FALLBACK_FLAGS,
            lambda taken: self._taken_from_runtime(running, taken),
        )
        return merged, running.handshake.profile

    def _admit(self, name: str) -> None:
        """See that a box of that name can be looked after. Raises: ConfigurationError."""
        if name in self._running or {"/", "\0"} & set(name):
            message = f"box {name!r} exists already, or its name holds a '/' or a NUL"
            raise ConfigurationError(message)
        if is_short():
            raise ConfigurationError(
                f"box {name!r} cannot be looked after: hardly a descriptor is left to the controller; "
                "end other boxes, or raise the hard limit (ulimit -Hn)"
            )

    def expect(
        self,
        name: str,
        pid: int,
        system_v: Sequence[int],
        answer: Callable[[ShimError | None], None],
    ) -> None:
        """Learn the pid of a box's init: only its child may hand over the listener.

        *answer* is called once it has, or with what kept it from that; without a filter at once.
        A container's init is announced at each start. *system_v* tell how many System V objects
        there are in the box; who called keeps them.
        Raises: ConfigurationError if it is said twice, OSError if that process is gone.
        """
        running = self._running[name]
        if isinstance(running.handshake, RuntimeHandshake):
            # Its runtime has come by now, if it has anything to hand over, but may not have done so.
            running.handshake.when_heard(
                lambda: answer(None if running.box.init_pid == pid else _not_handed_over(name))
            )
            return
        if running.init_pidfd >= 0:
            if not running.lasting:
                message = f"box {name!r} has its init already, process {running.box.init_pid}"
                raise ConfigurationError(message)
            if running.box.init_pid == pid and not is_readable(running.init_pidfd, 0):
                if running.when_started:
                    running.when_started.append(answer)
                else:
                    answer(None)
                return
            self._end_of_run(running)
        running.init_pidfd = os.pidfd_open(pid)
        running.box.init_pid = pid
        running.system_v = tuple(map(os.dup, system_v)) if running.bounded else ()
        if running.handshake is None:
            answer(None)
            return
        running.when_started.append(answer)
        running.guard.watch(running.init_pidfd, lambda _: self._init_died(running))
        running.handshake.expect(pid)

    def _taken_from_runtime(self, running: Running, taken: Taken) -> bool:
        """Put a listener to work that a container's runtime has installed."""
        if not taken.joined:
            self._end_of_run(running)
            running.box.init_pid = taken.peer_pid
            with suppress(OSError):  # it died already, which counting its tasks will say
                running.init_pidfd = os.pidfd_open(taken.peer_pid)
        return self._taken(running, taken)

    def _taken(self, running: Running, taken: Taken | ShimError) -> bool:
        """Put a listener to work; say whether its shim may go on."""
        if isinstance(taken, ShimError):
            self._started(running, taken)
            return False
        box, listener = running.box, taken.listener
        try:
            if taken.joined:
                pid = taken.peer_pid or newcomer(box.init_pid, running.outsiders)
                if pid:  # else it is gone again
                    running.let_join(pid)
            else:
                self._begin_audit(running, taken.peer_pid)
        except OSError as error:  # it died already, or we may not look at it
            listener.close()
            message = f"the tasks of box {box.name} cannot be counted: {error}"
            self._started(running, ShimError(message, step="count tasks", errno=error.errno or 0))
            return False
        box.listeners.append(listener)
        self._rounds.keep_looking()
        self._loop.watch_listener(
            listener, lambda events: self._notified(running, listener, events)
        )
        if self._leases is not None:
            self._leases.enter(box, listener)
        if not taken.joined:
            running.filter_flags = taken.flags
            if box.faults is not None:
                box.faults.target = taken.peer_pid
            with suppress(OSError):  # it died already; the listener will say so
                running.target_pidfd = os.pidfd_open(taken.peer_pid)
                running.guard.watch(running.target_pidfd, lambda _: self._target_died(running))
            self._started(running, None)
        return True

    def _begin_audit(self, running: Running, target: int) -> None:
        """See what there is to look at, before the target makes anything. Raises: OSError."""
        box = running.box
        if running.isolation != "none":
            if running.lasting:
                running.filters = filters_of(target)
            running.outsiders = {"1", pid_inside(target)}
        box.asker = self._looks.enter(lambda: box.doubt(_LATE))
        if not running.bounded:
            return  # nothing is charged, so there are no books to compare with
        begin_audit(
            box,
            DescendantCensus(box.init_pid, frozenset({str(target)}))
            if running.isolation == "none"
            else NamespaceCensus(box.init_pid, running.outsiders),
            # An engine's own init may be the target itself; ours never is.
            BoxProcesses(box.init_pid, with_init=running.lasting),
            lambda: len(running.joined) + (len(running.outsiders) if running.lasting else 1),
            self._on_refusal,
            self._looks,
            box.asker,
            SystemVPart(running.system_v),
        )
        running.system_v = ()
        self._rounds.follow_faults(box)

    def _init_died(self, running: Running) -> None:
        if isinstance(running.handshake, Handshake):
            running.handshake.hear_out()
        message = f"box {running.box.name} ended before its command was started"
        self._started(running, ShimError(message, step="start", errno=errno.ESRCH))

    def _started(self, running: Running, failure: ShimError | None) -> None:
        answers, running.when_started = running.when_started, []
        if answers:
            running.guard.forget(running.init_pidfd)
        for answer in answers:
            answer(failure)

    # -- running ---------------------------------------------------------------------------

    def _notified(self, running: Running, listener: Listener, events: int) -> None:
        try:
            if events & READABLE:
                notification = listener.receive()
                if notification is None:
                    running.box.vanished += 1
                else:
                    self._serve(running.box, listener, notification)
            elif events & HANGUP:
                self._last_task_gone(running, listener)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the guard, without its cost for each call
            self._give_up(running.box, error, "at one of its calls")

    def _resume(self, box: Box, listener: Listener, held: tuple[int, ...]) -> None:
        """Serve a call that a fault rule has held until now."""
        self._serve(box, listener, held, judged=True)

    def _read_memory(self, box: Box, tid: int, address: int, length: int) -> bytes | None:
        """Read what a box keeps at an address, unless that takes long."""
        if box.asker is None:
            return None
        seen = self._looks.look(box.asker, Request(READ_MEMORY, tid, address, length))
        return seen.text if seen is not None and not seen.error else None

    def _go_on(self, box: Box, listener: Listener, watched: tuple[int, ...]) -> None:
        """Serve a call that has waited for a look at its name."""
        if listener not in box.listeners:  # the box is over, and the descriptor closed
            return
        with box.guard:
            box.notifications -= 1  # counted when it was taken
            self._serve(box, listener, watched, judged=True, watched=True)

    def _serve(
        self,
        box: Box,
        listener: Listener,
        notification: tuple[int, ...],
        *,
        judged: bool = False,
        watched: bool = False,
    ) -> None:
        self._gate.serve(box, listener, notification, judged=judged, watched=watched)
        if self._leases is not None and notification[3] not in box.asked:
            self._leases.lend(box, notification)

    def _give_up(self, box: Box, error: Exception, where: str) -> None:
        """End a box for which something has failed: that is our mistake, but the others go on."""
        import traceback  # noqa: PLC0415 - it takes long to import, and is for mistakes alone

        traceback.print_exception(error)
        box.given_up = True
        box.doubt(f"ended by its controller, which failed {where}: {error!r}")
        # Whatever was looked at, it is not looked at again: that could fail as often.
        box.end_audit()
        self._rounds.forget(box)
        running = self._running.get(box.name)
        if running is None or running.box is not box:
            return  # it failed at its very end
        if not box.over:  # else its last task is gone, and how the first ended is about to be told
            with suppress(OSError):
                signal.pidfd_send_signal(running.init_pidfd, signal.SIGKILL)
        self._target_died(running)
        message = f"the controller failed while box {box.name} was started: {error!r}"
        self._started(running, ShimError(message, step="start", errno=errno.EIO))

    def _begin_to_lend(self) -> None:
        """Have the fast path answer what it can, from now on; without it all is as it was."""
        # Here, not above: a controller that has little to do never needs it.
        from kmem_harness.controller.admission.leases import Leases  # noqa: PLC0415

        with suppress(OSError):
            self._leases = self._loop.wait_by(Leases)
            for running in self._running.values():
                for listener in running.box.listeners:
                    self._leases.enter(running.box, listener)

    def _target_died(self, running: Running) -> None:
        """Let nothing new be made: a box ends with its first process.

        Where its end is looked at, others have a moment to end by themselves, and need their calls.
        """
        box = running.box
        box.ending = box.given_up or box.faults is None or not box.faults.looks_at_end
        running.box.withdraw()
        self._stop_watching_target(running)

    def _last_task_gone(self, running: Running, listener: Listener) -> None:
        box = running.box
        self._let_go(box, listener)
        if not box.listeners:
            with running.guard:
                box.close_books()
            self._is_over(running)

    def _let_go(self, box: Box, listener: Listener) -> None:
        self._gate.forget(listener)
        if box.restarts is not None:
            box.restarts.forget(listener)
        self._loop.forget(listener.fd)
        box.listeners.remove(listener)
        listener.close()

    def _end_of_run(self, running: Running) -> None:
        """Put away what belongs to one start of a container, before the next or for good."""
        box = running.box
        for listener in list(box.listeners):
            self._let_go(box, listener)
        if not box.over:
            with running.guard:
                box.close_books()
        self._init_died(running)
        self._stop_watching_target(running)
        for pidfd in list(running.joined):
            running.forget_joined(pidfd)
        if running.init_pidfd >= 0:
            os.close(running.init_pidfd)
            running.init_pidfd = -1
        box.end_audit()
        self._rounds.forget(box)
        if box.asker is not None:
            self._looks.leave(box.asker)
            box.asker = None
        box.over = box.ending = False

    # -- the end ---------------------------------------------------------------------------

    def describe(self, name: str) -> dict[str, Any]:
        """Say how a box is doing, as of the last census."""
        return self._running[name].describe()

    def counter_of(self, name: str) -> ResourceCounter:
        """Give what the charges of a box walk first."""
        return self._running[name].box.memcg.kmem

    def finish(
        self,
        name: str,
        answer: Callable[[dict[str, Any]], None],
        *,
        keep: bool = False,
        pids: dict[str, Any] | None = None,
    ) -> None:
        """Close a box's account once its last task is gone, and *answer* with the final figures.

        With *keep* it stays open: a container may be started again. *pids* says how many forks the
        kernel's own bound refused, where it did.
        """
        running = self._running[name]
        if pids is not None:
            card = running.box.pids_refused(int(pids["max"]), int(pids["refused"]))
            self._on_refusal(running.box, card)
        close = Running.describe if keep else self._close
        if not running.box.listeners:
            answer(close(running))
            return

        def conclude() -> Iterator[Any]:
            if running.box.listeners and not keep:
                # The last task did not let go in time: say what is there before it is written off.
                yield from self._censuses.take_last(running.box)
            answer(close(running))

        running.when_over = lambda: self._loop.spawn(conclude())
        running.patience = running.guard.call_later(
            _LAST_TASK_SECONDS, lambda: self._is_over(running)
        )

    def _is_over(self, running: Running) -> None:
        """Answer who waits for the end of a box; let go of what knows it, in both directions."""
        when_over, running.when_over = running.when_over, None
        if running.patience is not None:
            running.patience.cancel()
            running.patience = None
        if when_over is not None:
            when_over()

    def bequeath(self, name: str, legacy: Legacy) -> None:
        """Remember what is to be said to a box's engine should the owner be gone."""
        self._running[name].legacy = legacy

    def entrants(self, name: str) -> list[dict[str, Any]]:
        """List the processes in a container that are under no filter of ours."""
        return self._running[name].entrants()

    def under_way(self, name: str) -> int:
        """Count the calls of a box that may not be over, and whose callers do not sleep."""
        return sum(map(is_running, self._running[name].box.tickets))

    def prove_tickets(self, name: str) -> Steps[None]:
        """Find out which calls of a box are over."""
        return self._censuses.prove(self._running[name].box)

    def end_all(self) -> None:
        """Kill every box: the owner is gone."""
        legacies = []
        for running in list(self._running.values()):
            if running.init_pidfd >= 0:
                with suppress(OSError):
                    signal.pidfd_send_signal(running.init_pidfd, signal.SIGKILL)
            if running.legacy is not None:
                legacies.append(running.legacy)
            with running.guard:
                self._close(running)
        carry_out(legacies)

    def _close(self, running: Running) -> dict[str, Any]:
        box = running.box
        described: dict[str, Any] = {"doubt": _NO_REPORT}
        with running.guard:
            described = running.describe()
        with running.guard:
            self._end_of_run(running)
        with running.guard:
            if running.handshake is not None:
                running.handshake.close()
                running.handshake = None  # it tells us, and we know it
        with running.guard:
            box.release()
        for fd in running.system_v:
            os.close(fd)
        running.system_v = ()
        self._running.pop(box.name, None)
        return described

    def _stop_watching_target(self, running: Running) -> None:
        if running.target_pidfd >= 0:
            running.guard.forget(running.target_pidfd)
            os.close(running.target_pidfd)
            running.target_pidfd = -1


def _write_events(box: Box, fds: list[int], *, record: bool) -> None:
    """Have refusals, or with *record* all charges, written to the descriptor that came along."""
    if fds and record:
        box.events = box.recording = RecordingFile(os.dup(fds[0]), box)
    elif fds:
        box.events = EventFile(os.dup(fds[0]))


def _not_handed_over(name: str) -> ShimError:
    message = (
        f"box {name}: its engine's runtime handed over no listener (privileged containers get no "
        "filter from it); use the shim (--docker-listener shim)"
    )
    return ShimError(message, step="hand over listener", errno=errno.ENOTCONN)
