"""What one box holds of each kind of kernel object, and what its calls are charged.

The books hold *at least* what is alive: a charge is entered before its call runs, and taken back
only when a census has shown that the object is not there. Knows memcgs; looks at nothing.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from kmem_harness.core.errors import AccountingError
from kmem_harness.costs.live import PLACED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kmem_harness.core.memcg import Memcg

_NAMES = frozenset(name for placed in PLACED.values() for name in placed.values())

__all__ = ["Books", "Charge", "Kind", "Price"]


class Kind:
    """One kind of kernel object in one box. Units: counts of objects; ``nbytes`` is for each.

    ``included``: so many in each process are part of its task's price.
    """

    __slots__ = (
        "charged",
        "errno",
        "errno_name",
        "included",
        "injected",
        "live",
        "live_peak",
        "name",
        "nbytes",
        "refused",
    )

    def __init__(
        self, name: str, nbytes: int, errno: int, errno_name: str, included: int = 0
    ) -> None:
        """Start with nothing charged."""
        self.name = name
        self.nbytes = nbytes
        self.errno = errno
        self.errno_name = errno_name
        self.included = included
        self.charged = 0
        self.live = 0
        self.live_peak = 0
        self.refused = 0
        #: Calls that a fault rule failed: no counter refused them.
        self.injected = 0

    def report(self) -> dict[str, int]:
        """Give the row of the report's ``kinds``."""
        return {
            "charged": self.charged,
            "uncharged": self.charged - self.live,
            "refused": self.refused,
            "live": self.live,
            "live_peak": self.live_peak,
            "bytes_each": self.nbytes,
            **({"injected": self.injected} if self.injected else {}),
        }


class Charge:
    """What one call is charged for all that it makes.

    ``kind`` is the first of ``parts``, which stands on a refusal's card. ``makes_task``: the
    caller's children tell whether it is over; ``on_names``: it makes or removes one;
    ``may_make_thread``: what it made may be a thread.
    ``copies_memory``: the caller's address space is made once more, and so is charged on top.
    """

    __slots__ = (
        "copies_memory",
        "kind",
        "last_child",
        "makes_task",
        "may_make_thread",
        "nbytes",
        "number",
        "on_names",
        "parts",
        "syscall",
        "uncertain",
    )

    def __init__(
        self,
        syscall: str,
        number: int,
        parts: tuple[tuple[Kind, int], ...],
        *,
        uncertain: bool = False,
        removes: bool = False,
        copies_memory: bool = False,
    ) -> None:
        """Charge *parts*, kinds and how many of each, for call *syscall*."""
        self.syscall = syscall
        self.number = number
        self.parts = parts
        self.nbytes = sum(kind.nbytes * nr for kind, nr in parts)
        self.kind = parts[0][0] if parts else None
        self.uncertain = uncertain
        self.copies_memory = copies_memory
        self.on_names = removes or any(kind.name in _NAMES for kind, _ in parts)
        name = self.kind.name if self.kind else ""
        self.makes_task = name in ("task", "thread")
        self.may_make_thread = name == "thread" or (name == "task" and uncertain)
        #: The caller's youngest child before the call, where that was looked at.
        self.last_child: bytes | None = None

    def made_after(self, last_child: bytes | None) -> Charge:
        """Give the same charge for a call whose thread had *last_child* as its youngest before it."""
        known = copy(self)
        known.last_child = last_child
        return known

    def with_more(self, parts: tuple[tuple[Kind, int], ...]) -> Charge:
        """Give the same charge with *parts* on top."""
        return Charge(self.syscall, self.number, (*self.parts, *parts), uncertain=self.uncertain)


class Price:
    """What one system call number is charged: the first case whose tests all hold.

    ``always`` is the charge of a call that has one case, ``None`` where the arguments decide.
    ``stands_alone``: nothing but number and arguments decides.
    """

    __slots__ = ("always", "cases", "name")
    stands_alone = True

    def __init__(
        self, name: str, cases: tuple[tuple[tuple[tuple[int, int, int | None], ...], Charge], ...]
    ) -> None:
        """Hold *cases*: tests as (argument, mask, value), and the charge."""
        self.name = name
        self.cases = cases
        self.always = cases[0][1] if len(cases) == 1 and not cases[0][0] else None

    def choose(self, notification: tuple[int, ...]) -> Charge:
        """Find the charge for the arguments of *notification*. The last case always holds."""
        for tests, charge in self.cases:
            for argument, mask, value in tests:
                word = notification[6 + argument] & mask
                if word != value if value is not None else not word:
                    break
            else:
                return charge
        message = f"no case of {self.name} holds"
        raise AccountingError(message)


class Books:
    """The kinds of one box, and the tickets of its threads."""

    def __init__(self, memcg: Memcg, kinds: Mapping[str, Kind]) -> None:
        """Open books for *kinds* that are charged to *memcg*."""
        self.memcg = memcg
        self.kinds = dict(kinds)
        #: By thread, the charge of a call that was allowed and may not have happened yet.
        self.tickets: dict[int, Charge] = {}
        #: What censuses took back: bytes, ever.
        self.lowered_nbytes = 0

    def enter(self, charge: Charge, nr_calls: int = 1) -> None:
        """Enter what the memcg has just been charged for so many calls."""
        for kind, nr in charge.parts:
            kind.charged += nr * nr_calls
            kind.live += nr * nr_calls
            if kind.live > kind.live_peak:  # noqa: PLR1730 - a call would cost as much again
                kind.live_peak = kind.live

    def cancel(self, charge: Charge) -> None:
        """Take back a charge whose call never ran."""
        for kind, nr in charge.parts:
            kind.live -= nr
        self.memcg.uncharge(charge.nbytes)

    def unproven_nbytes(self) -> int:
        """Sum the charges of calls that may or may not have happened yet."""
        return sum(charge.nbytes for charge in self.tickets.values())

    def open(self, kind: Kind) -> int:
        """Count the objects of *kind* that calls under way may be making."""
        return sum(
            nr for charge in self.tickets.values() for made, nr in charge.parts if made is kind
        )

    def nbytes_of(self, names: Iterable[str]) -> int:
        """Sum what the kinds of these *names* hold."""
        return sum(
            kind.live * kind.nbytes for name in names if (kind := self.kinds.get(name)) is not None
        )

    # -- after a census --------------------------------------------------------------------

    def reconcile(self, found: Mapping[str, int]) -> None:
        """Lower the kinds in *found* to what it and the open tickets account for.

        What was charged as one of these kinds and found as a cheaper one is moved there: for some
        calls only a census tells. Nothing is ever raised.
        """
        for kind, surplus in self.tell_apart(found).items():
            if surplus > 0:
                self.lower(kind, surplus)

    def tell_apart(self, found: Mapping[str, int]) -> dict[Kind, int]:
        """Move what was found as a cheaper kind; say how many more there are of each than was found."""
        kinds = [self.kinds[name] for name in found if name in self.kinds]
        surplus = {kind: kind.live - found[kind.name] - self.open(kind) for kind in kinds}
        for lacking in kinds:
            for dearer in sorted(kinds, key=lambda kind: kind.nbytes, reverse=True):
                nr = min(-surplus[lacking], surplus[dearer])
                if nr > 0 and dearer.nbytes >= lacking.nbytes:
                    self.move(dearer, lacking, nr)
                    surplus[dearer] -= nr
                    surplus[lacking] += nr
        return surplus

    def lower(self, kind: Kind, nr: int) -> None:
        """Take back *nr* objects that are gone."""
        kind.live -= nr
        self.lowered_nbytes += nr * kind.nbytes
        self.memcg.uncharge(nr * kind.nbytes)

    def move(self, source: Kind, to: Kind, nr: int) -> None:
        """See that *nr* objects charged as one kind are, and were, of a kind that is not dearer."""
        self.turn(source, to, nr)
        source.charged -= nr
        # Those there were at the peak were partly these.
        source.live_peak = min(source.live_peak, source.charged)

    def turn(self, source: Kind, to: Kind, nr: int) -> None:
        """See that *nr* objects of one kind have become a kind that is not dearer."""
        source.live -= nr
        to.live += nr
        to.charged += nr
        to.live_peak = max(to.live_peak, to.live)
        difference = nr * (source.nbytes - to.nbytes)
        self.lowered_nbytes += difference
        self.memcg.uncharge(difference)

    def observe(self, kind: Kind, found: int, *, bounded: bool) -> int:
        """Follow a kind that grows without calls up to *found*; give how many do not fit.

        Unless *bounded* all of them are entered, past every limit.
        """
        target = found + self.open(kind)
        if target <= kind.live:
            self.lower(kind, kind.live - target)
            return 0
        more = target - kind.live
        if bounded:
            # Not by trying: a look must not raise failcnt.
            margin = min(counter.limit - counter.usage for counter in self.memcg.chain)
            more = min(more, max(margin, 0) // kind.nbytes)
        self.memcg.charge(more * kind.nbytes)
        kind.charged += more
        kind.live += more
        kind.live_peak = max(kind.live_peak, kind.live)
        return target - kind.live

    def close(self, name: str) -> None:
        """Take back everything: the last task of box *name* is gone.

        Raises: AccountingError if that is not what the memcg was charged; then as much is taken back
        as it holds, and nothing is left here.
        """
        self.tickets.clear()
        wrong = ""
        for kind in self.kinds.values():
            nbytes = kind.live * kind.nbytes
            if not 0 <= nbytes <= self.memcg.kmem.usage:
                wrong = wrong or f"box {name} holds {kind.live} objects of kind {kind.name}"
                nbytes = min(max(nbytes, 0), self.memcg.kmem.usage)
            self.memcg.uncharge(nbytes)
            kind.live = 0
        if wrong:
            raise AccountingError(wrong)
