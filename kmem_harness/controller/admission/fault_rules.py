"""Carry out the fault rules of one box: fail or hold its calls, with a card for each failed one.

Joins the rules to listeners, gate and timers; what is to fail is decided in ``faults/``. A held call
waits on a timer: no other call waits for it.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any

from kmem_harness.faults.calls import PATH_ARGUMENT
from kmem_harness.faults.rule import parse_rules
from kmem_harness.faults.schedule import Schedule
from kmem_harness.procfs.census import comm_of, tgid_of
from kmem_harness.procfs.holdings import holdings_of, is_alive, others_alive
from kmem_harness.procfs.look_process import LONGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.guard import Guard
    from kmem_harness.faults.schedule import Verdict
    from kmem_harness.interposer.filter import Condition
    from kmem_harness.interposer.listener import Listener
    from kmem_harness.interposer.syscalls import Architecture

__all__ = ["Injection"]

#: The end of a process, trapped for a last look at what it holds.
_EXIT = "exit_group"
_WORD = struct.Struct("=Q")
#: ... and who else was alive is looked at again a while after it: some were only about to end.
_LOOK_AGAIN_SECONDS = 0.4


class Injection:
    """The fault rules of one box at work."""

    def __init__(
        self,
        rules: Iterable[str],
        architecture: Architecture,
        guard: Guard,
        resume: Callable[[Box, Listener, tuple[int, ...]], None],
        on_refusal: Callable[[Box, dict[str, Any]], None],
        read_memory: Callable[[int, int, int], bytes | None],
    ) -> None:
        """Compile *rules* for *architecture*.

        *resume* prices a call whose delay is over, *on_refusal* is given each card, *read_memory* gives
        what ends with a NUL at an address of a thread, or ``None``.
        Raises: FaultRuleError.
        """
        self._schedule = Schedule(parse_rules(rules), architecture.numbers)
        self._numbers = architecture.numbers
        self._exit = architecture.numbers[_EXIT]
        self._guard = guard
        self._resume = resume
        self._on_refusal = on_refusal
        self._read_memory = read_memory
        #: The box's first process; the others' ends are not looked at.
        self.target = 0
        self.looks_at_end = False
        #: Where the trap of a priced call is narrowed if no rule wants all of them.
        self._narrowed: dict[int, Condition] = {}
        self._at_end: dict[str, Any] | None = None

    def names(self) -> frozenset[str]:
        """Name the calls that have to be trapped, charged or not."""
        more = {_EXIT} if self.looks_at_end else set()
        return self._schedule.names() | more

    @property
    def needs_clone_flags(self) -> bool:
        """Whether a rule asks for what clone3 keeps in memory, so that clone has to be used."""
        return self._schedule.tells_tasks_apart

    def narrow(self, only_if: Mapping[str, Condition]) -> None:
        """Learn where calls are priced only under a condition; rules count them all."""
        self._narrowed = {self._numbers[name]: one for name, one in only_if.items()}

    def answers(
        self,
        box: Box,
        listener: Listener,
        notification: tuple[int, ...],
        *,
        judged: bool,
    ) -> bool:
        """Judge one call and say whether it was answered, or is held; if not, it is to be priced.

        One that was held has been *judged*, and is only let run if it is not priced.
        """
        notification_id, tid, _, number = notification[:4]
        if not judged and number in self._schedule.calls:
            verdict = self._schedule.judge(
                number,
                notification[6:],
                lambda: comm_of(tid),
                lambda: self._path(number, notification),
                lambda: self._argument(number, notification),
            )
            if verdict is not None:
                carry_out = self._hold if verdict.delay_seconds else self._fail
                carry_out(box, listener, notification, verdict)
                return True
        elif number == self._exit and tgid_of(tid) == self.target:
            others = others_alive(box.init_pid, self.target)
            self._at_end = {"holds": holdings_of(self.target), "others": others}
            if others:
                self._guard.call_later(_LOOK_AGAIN_SECONDS, lambda: self._look_again(box))
        narrowed = self._narrowed.get(number)
        if number in box.asked:
            return False
        if box.prices.covers(number) and (
            narrowed is None or narrowed.holds(notification[6 + narrowed.arg])
        ):
            return False
        listener.allow(notification_id)
        return True

    def report(self) -> dict[str, Any]:
        """Give the report's ``faults``."""
        at_end = {"at_end": self._at_end} if self.looks_at_end else {}
        return self._schedule.report() | at_end

    def _look_again(self, box: Box) -> None:
        """Name those alone who have not ended meanwhile, if init still gives them time."""
        others = others_alive(box.init_pid, self.target)
        if self._at_end is not None and not box.over and is_alive(box.init_pid):
            self._at_end["others"] = others

    def _hold(
        self, box: Box, listener: Listener, notification: tuple[int, ...], verdict: Verdict
    ) -> None:
        def go_on() -> None:
            if listener not in box.listeners:  # the box is over, and the descriptor closed
                return
            if verdict.failing is not None and not box.ending:
                self._fail(box, listener, notification, verdict)
                return
            box.notifications -= 1  # counted when it was taken
            self._resume(box, listener, notification)

        self._guard.call_later(verdict.delay_seconds, go_on)

    def _fail(
        self, box: Box, listener: Listener, notification: tuple[int, ...], verdict: Verdict
    ) -> None:
        armed = verdict.failing
        if armed is None or armed.rule.error is None:
            return
        notification_id, tid, _, number = notification[:4]
        call = self._schedule.calls[number]
        caller = box.caller(tid)
        if not listener.deny(notification_id, armed.rule.error):
            return
        name = call.kind(notification[6:]) or call.name
        box.count_refusal(box.memcg.path, "injected")
        kind = box.kinds.get(name)
        if kind is not None:
            kind.injected += 1
        box.note_usage()
        if caller is None:
            return
        pid, tid, comm = caller
        kmem = box.memcg.kmem
        card = {
            "time": time.time(),
            "box": box.name,
            "pid": pid,
            "tid": tid,
            "comm": comm,
            "syscall": call.name,
            "kind": name,
            "nbytes": 0 if kind is None else kind.nbytes,
            "errno": armed.rule.error_name,
            "memcg": box.memcg.path,
            "refused_by": box.memcg.path,
            "counter": "injected",
            "usage": kmem.usage,
            "limit": -1 if kmem.unlimited else kmem.limit,
            "live": {one.name: one.live for one in box.kinds.values() if one.live},
            "rule": armed.text,
            "number": verdict.number,
            "nth_of_call": self._schedule.tried[number],
        }
        box.keep(card)
        self._on_refusal(box, card)

    def _argument(self, number: int, notification: tuple[int, ...]) -> str | None:
        """Give the second word of a command about to be executed; its target may rewrite it."""
        argument = PATH_ARGUMENT[self._schedule.calls[number].name] + 1
        words = self._read_memory(notification[1], notification[6 + argument], 2 * _WORD.size)
        if words is None or len(words) < 2 * _WORD.size:
            return None
        (address,) = _WORD.unpack_from(words, _WORD.size)
        return self._text(notification[1], address) if address else ""

    def _path(self, number: int, notification: tuple[int, ...]) -> str | None:
        argument = PATH_ARGUMENT.get(self._schedule.calls[number].name)
        if argument is None:
            return None
        return self._text(notification[1], notification[6 + argument])

    def _text(self, tid: int, address: int) -> str | None:
        memory = self._read_memory(tid, address, LONGEST_TEXT)
        if memory is None:
            return None
        return memory.partition(b"\0")[0].decode("utf-8", "surrogateescape")
