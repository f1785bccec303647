"""Carry out ``kmem-harness run``: one box, our terminal, a report."""

from __future__ import annotations

import errno
import os
import select
import shlex
import signal
import socket
import stat
import sys
import textwrap
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from kmem_harness import early
from kmem_harness.controller.owner.client import Controller, ControllerDiedError
from kmem_harness.core.errors import (
    ConfigurationError,
    KmemHarnessError,
    UnkillableTaskError,
)
from kmem_harness.core.releases import check_profile_name
from kmem_harness.core.sizes import UNLIMITED, format_size
from kmem_harness.runtimes.inherited import (
    forget_coerced_locale,
    has_terminal,
    inherited_fds,
    let_go,
    take_terminal_back,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmem_harness.harness import Box, Harness

__all__ = ["RunOptions", "follow", "run_command", "summary", "write_report"]

_OWN_FAILURE = 125
#: A named pipe that nobody reads is looked at again after so long.
_FIFO_SECONDS = 0.02
#: The command ended well, and a rule that was to fail something in it never did.
_NEVER_FIRED = 123
#: After the first Ctrl-C, how long the target may take; docker stop waits as long after SIGTERM.
_GRACE_SECONDS = {signal.SIGINT: 2.0, signal.SIGTERM: 10.0, signal.SIGHUP: 2.0, signal.SIGQUIT: 2.0}


class RunOptions(NamedTuple):
    """The options of ``kmem-harness run``, as given."""

    kmem_limit: str | None
    memory_limit: str | None
    kernel: str
    costs: str | None
    runtime: str | None
    image: str | None
    docker_listener: str
    controller: str | None
    memcg: str | None
    kinds: str | None
    observe: bool
    inject: tuple[str, ...]
    timeout: float | None
    pids_max: int | None
    isolation: str | None
    report: str | None
    events: str | None
    events_all: bool
    quiet: bool


def run_command(command: Sequence[str], options: RunOptions) -> int:
    """Run *command* and give its exit status. Raises: KmemHarnessError before it starts."""
    runtime = options.runtime or ("docker" if options.image else "local")
    # A container's streams are its engine's, unless they are asked for.
    streams: dict[str, Any] = {"stdin": 0, "stdout": 1, "stderr": 2}
    passed: tuple[int, ...] = ()
    terminal = False
    if runtime == "local":
        forget_coerced_locale()
        passed, terminal = inherited_fds(), has_terminal()
        streams = {"pass_fds": passed, "own_session": not terminal}
    began = time.monotonic()
    deadline = None if options.timeout is None else began + options.timeout
    if options.report is not None:
        from kmem_harness.report.files import check_report_path  # noqa: PLC0415 - only if asked for

        check_report_path(options.report)
    if options.events_all and options.events is None:
        raise ConfigurationError("--events-all without --events: name the file with --events FILE")
    events = _open_events(options.events, deadline)
    if options.timeout is not None:
        options = options._replace(timeout=max(options.timeout - (time.monotonic() - began), 0))
    try:
        with ExitStack() as stack:
            harness = stack.enter_context(_harness(options, stack))
            box = harness.run(
                command,
                kmem_limit=options.kmem_limit,
                memory_limit=options.memory_limit,
                memcg=options.memcg,
                kinds=None if options.kinds is None else options.kinds.split(","),
                mode="observe" if options.observe else "enforce",
                pids_max=options.pids_max,
                events=events,
                events_all=options.events_all,
                faults=options.inject,
                runtime=runtime,
                image=options.image,
                **streams,
            )
            stack.enter_context(box)
            if runtime == "local":
                let_go(passed)
            if terminal:
                stack.callback(take_terminal_back)
            return _see_it_through(box, options, terminal=terminal)
    finally:
        if events is not None:
            os.close(events)


def _harness(options: RunOptions, stack: ExitStack) -> Harness:
    controller: str | Controller | None = options.controller
    if controller is None:
        kernel = check_profile_name(options.kernel)
        controller = Controller(kernel, early.take(kernel))
        stack.callback(controller.close)
    # It starts while we import what we need: half of the time of a short run.
    from kmem_harness.harness import Harness  # noqa: PLC0415 - see above

    return Harness(
        options.kernel,
        options.costs,
        options.isolation,
        docker_listener=options.docker_listener,
        controller=controller,
    )


def _see_it_through(box: Box, options: RunOptions, *, terminal: bool) -> int:
    timed_out = follow(box, options.timeout, terminal=terminal)
    failure: KmemHarnessError | None = None
    try:
        status = int(box.wait())
    except (KmemHarnessError, ControllerDiedError) as error:
        failure, status = error, _OWN_FAILURE
    report = {**box.report(), "timed_out": timed_out}
    if options.report is not None:
        write_report(options.report, report)
    if failure is not None:
        raise failure
    if not options.quiet:
        sys.stderr.write(f"kmem-harness: {summary(report)}\n")
    idle = _never_fired(report) if options.inject else []
    for line in idle:
        sys.stderr.write(f"kmem-harness: warning: {line}\n")
    return _NEVER_FIRED if idle and status == 0 else status


def _never_fired(report: dict[str, Any]) -> list[str]:
    from kmem_harness.faults.fired import never_fired  # noqa: PLC0415 - only if there are rules

    return never_fired(report)


def follow(box: Box, timeout: float | None, *, terminal: bool = False) -> bool:
    """Wait for *box*, passing on the signals we get; true if it had to be ended at *timeout*.

    The first Ctrl-C goes to the target, which then has a moment; the second ends the box. With a
    *terminal* the target is beside us on it and gets its signals itself: what Ctrl-C means is its
    business alone, and not ours, as for system(3).
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    asked = False
    with _SignalsAsBytes(frozenset({signal.SIGINT, signal.SIGQUIT} if terminal else ())) as signals:
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        if box.running.fileno() < 0:  # a container without a limit, and quick
            return False
        poll.register(box.running.fileno(), select.POLLIN)
        while True:
            patience = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
            ready = {fd for fd, _ in poll.poll(patience)}
            if not ready:
                with suppress(UnkillableTaskError):  # whoever waits for it next is told
                    box.kill("interrupted" if asked else "timeout")
                return not asked
            if signals.fileno() not in ready:
                return False
            for number in signals.recv(64):
                if number in _GRACE_SECONDS and asked:
                    with suppress(UnkillableTaskError):
                        box.kill()
                    return False
                with suppress(ProcessLookupError):
                    box.signal(number)
                if number in _GRACE_SECONDS:
                    asked = True
                    box.ends_for("interrupted")
                    deadline = time.monotonic() + _GRACE_SECONDS[signal.Signals(number)]


class _SignalsAsBytes:
    """Turn signals into readable bytes: no handler of ours runs in the middle of anything.

    What our caller ignores, such as SIGHUP under nohup, stays ignored; those *unheeded* do nothing.
    """

    _NUMBERS = (*_GRACE_SECONDS, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, unheeded: frozenset[int]) -> None:
        self._unheeded = unheeded

    def __enter__(self) -> socket.socket:
        self._reading, self._writing = socket.socketpair()
        for end in (self._reading, self._writing):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writing.fileno())
        self._handlers = {
            number: signal.signal(
                number, signal.SIG_IGN if number in self._unheeded else lambda *_: None
            )
            for number in self._NUMBERS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self._reading

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._reading.close()
        self._writing.close()


def _counted(refusals: dict[str, Any]) -> str:
    """Say how many calls were refused, and how many fault rules failed."""
    injected = sum(counts.get("injected", 0) for counts in refusals["by"].values())
    refused = refusals["total"] - injected
    words = [f"{refused} refused"] if refused else []
    words += [f"{injected} injected"] if injected else []
    return ", ".join(words)


def summary(report: dict[str, Any]) -> str:
    """Say in one line how it went."""
    kmem = report["memcg"]["kmem"]
    parts = [f"{_ended(report)} after {report['wall_seconds']:.1f} s"]
    if report["mode"] == "off":
        parts.append("no limit, no filter")
    elif report["mode"] == "inject":
        parts.append("no limit")
    elif kmem["limit"] == UNLIMITED or report["mode"] == "observe":
        parts.append(f"kmem at most {format_size(kmem['max_usage'])}")
    else:
        parts.append(
            f"kmem at most {format_size(kmem['max_usage'])} of {format_size(kmem['limit'])}"
        )
    refusals = report["refusals"]
    by_pids = (report.get("pids") or {}).get("refused") or 0
    first = refusals["first"]
    if first and first["counter"] != "pids":
        by = "" if first["counter"] == "injected" else f" of {first['refused_by']}"
        parts.append(
            f"{_counted(refusals)}, first {first['syscall']} by "
            f"{first['comm']}[{first['pid']}] ({first['errno']}, {first['counter']}{by})"
        )
    elif report["mode"] in ("enforce", "inject") and not by_pids:
        parts.append("nothing refused")
    if report.get("interrupted"):
        parts.append(
            f"{report['interrupted']} calls ended before they were seen, by a signal or with their caller"
        )
    if by_pids:
        parts.append(f"{by_pids} forks refused by --pids-max {report['pids']['max']} (EAGAIN)")
    parts += [_rule_summary(rule) for rule in report.get("faults", {}).get("rules", ())]
    return "; ".join(parts)


def _ended(report: dict[str, Any]) -> str:
    """Say how it ended, and the reason where that says more."""
    ended = f"signal {report['signal']}" if report["signal"] else f"exit {report['exit_code']}"
    reason = (report.get("ended") or {}).get("reason", "timeout" if report.get("timed_out") else "")
    if reason == "timeout":
        return "ended at the timeout"
    return ended if reason in ("", "exit", "signal") else f"{ended} ({reason})"


def _rule_summary(rule: dict[str, Any]) -> str:
    """Say what one fault rule came to; a path in it is counted beside, and decides nothing."""
    done = [f"{rule[how]} {how}" for how in ("failed", "delayed") if rule[how]]
    if "path_matched" in rule:
        done.append(f"path= (which decides nothing) fits {rule['path_matched']}")
    counted = [f"{rule['matched']} matched", *done]
    return f"rule {rule['rule']}: {', '.join(counted)}"


def write_report(path: str, report: dict[str, Any]) -> None:
    """Write *report* as JSON or, by the name's end, as a page; whole or not at all."""
    if path.endswith(".html"):
        from kmem_harness.report.runs import write_html  # noqa: PLC0415 - heavy: only if asked for

        title = textwrap.shorten(shlex.join(report["command"]), 80, placeholder=" ...")
        write_html(path, [report], title=title or report["memcg"]["path"])
        return
    from kmem_harness.report.files import write_json  # noqa: PLC0415

    write_json(path, report)


def _open_events(path: str | None, deadline: float | None) -> int | None:
    """Open the file of events; a named pipe once somebody reads it, as a shell's ``>`` does."""
    if path is None:
        return None
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return _open_fifo(path, deadline)
    except FileNotFoundError:
        pass
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    except OSError as error:
        message = f"events {path!r}: {error.strerror}; name a file that can be written"
        raise ConfigurationError(message) from error


def _open_fifo(path: str, deadline: float | None) -> int:
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                message = f"events {path!r}: {error.strerror}; name a pipe that can be written"
                raise ConfigurationError(message) from error
        if deadline is not None and time.monotonic() >= deadline:
            raise ConfigurationError(
                f"events {path!r}: a named pipe that nobody reads, and --timeout is over; start its "
                "reader first"
            )
        time.sleep(_FIFO_SECONDS)
