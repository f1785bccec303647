"""Watch the calls of one box that make and remove names, by looks that nobody waits for.

Knows whom to ask and what to make of an answer that is late; what is looked at is others' business.
"""

from __future__ import annotations

from errno import EPERM
from typing import TYPE_CHECKING

from kmem_harness.procfs.look_process import FORGET, MADE_ON, SETTLE, Request
from kmem_harness.procfs.names import REMOVALS, Seen, is_placed, now, watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.audit.looks import Asker, Looks
    from kmem_harness.procfs.look_process import Answer

__all__ = ["NameWatch"]


class NameWatch:
    """Watch names of one box, from now on. One look of it that is late is the last."""

    def __init__(self, looks: Looks, asker: Asker) -> None:
        """Have *looks* look, on behalf of *asker*."""
        self._looks = looks
        self._asker = asker
        self._began = now()
        #: What was seen so far by the process that looks, and what may still go there.
        self._known: tuple[int, ...] = (0, 0, 0, 0)
        self._seen = Seen()
        looks.when_forgotten.append(self._forgotten)

    def watch(
        self,
        tid: int,
        syscall: str,
        notification: tuple[int, ...],
        later: Callable[[], object],
    ) -> bool:
        """Look at what *tid* is about to do; if that takes long, say so and have the loop call *later*.

        It may not do it before.
        """
        if self._asker.late or not is_placed(syscall):
            self._seen.unsure += syscall in REMOVALS
            return True
        request = watching(tid, syscall, notification, self._began)

        def take(answer: Answer | None) -> None:
            self._take(answer, syscall)
            later()

        answer = self._looks.look(self._asker, request, take)
        if answer is None:
            return False
        self._take(answer, syscall)
        return True

    def settle(self) -> Seen | None:
        """Give what was seen since the last time; ``None`` if that is not known for the moment.

        A call that has shown no effect yet stays watched: it may be about to run.
        """
        if not self._asker.late:
            answer = self._looks.look(self._asker, Request(SETTLE, 0))
            if answer is None:
                return None
            self._take(answer, "")
            for major, minor, nr in MADE_ON.iter_unpack(answer.text):
                if nr:
                    self._seen.made_on[f"{major}:{minor}"] += nr
        seen, self._seen = self._seen, Seen()
        return seen

    def give_back(self, seen: Seen) -> None:
        """Tell of it next time: nothing could be made of it. Nothing was seen meanwhile."""
        self._seen = seen

    def close(self) -> None:
        """Let go of all."""
        self._looks.when_forgotten.remove(self._forgotten)
        self._looks.ask(self._asker, Request(FORGET, 0), lambda _: None)

    def _take(self, answer: Answer | None, syscall: str) -> None:
        seen = self._seen
        if answer is None:
            seen.unsure += syscall in REMOVALS
            return
        if answer.error == EPERM:
            seen.blind += syscall not in REMOVALS
            seen.unsure += syscall in REMOVALS
        made, gone, unsure, *_ = self._known
        self._known = answer.figures
        seen.made += answer.figures[0] - made
        seen.gone += answer.figures[1] - gone
        seen.unsure += answer.figures[2] - unsure

    def _forgotten(self) -> None:
        """Go on with another process, which knows of nothing."""
        self._seen.unsure += self._known[3]
        self._known = (0, 0, 0, 0)
