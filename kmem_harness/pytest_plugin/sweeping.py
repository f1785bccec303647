"""Run a test marked ``kmem_sweep`` again and again, each time with another charge failed."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest

from kmem_harness.pytest_plugin.fault_markers import sweep_of
from kmem_harness.pytest_plugin.records import own_record
from kmem_harness.pytest_plugin.verdicts import KmemFailed

if TYPE_CHECKING:
    from kmem_harness.faults.outcome import Finding, Outcome
    from kmem_harness.faults.sweep import Plan, Result
    from kmem_harness.harness import Box
    from kmem_harness.pytest_plugin.records import Record

__all__ = ["run_swept"]

#: How a test ends a container that is still running; no crash of the program's.
_ENDED_BY_US = (signal.SIGKILL, signal.SIGTERM)
_LONGEST_FAILURE = 300
#: The containers of so many runs that failed are kept for the test's report, and cards for each.
_KEPT_RUNS = 3
_SHOWN_CARDS = 3


def run_swept(item: pytest.Function) -> bool:
    """Run a test as its ``kmem_sweep`` marker says; false if it has none. Raises: KmemFailed."""
    plan = sweep_of(item)
    if plan is None:
        return False
    _Swept(item, plan).go()
    return True


class _Swept:
    """One test under a sweep: of its first container, then of its second, and so on.

    Containers that fixtures made before the body live through all of it, and are left alone.
    """

    def __init__(self, item: pytest.Function, plan: Plan) -> None:
        self._item = item
        self._plan = plan
        self._record = cast("Record", own_record(item))
        self._before = list(self._record.boxes)
        #: The container whose charges are failed, and how many the body makes; both from 1 on.
        self._number = 1
        self._nr_containers = 1
        self._lines: list[str] = []
        #: The containers of the last run, and of those before it that are kept.
        self._last: list[Box] = []
        self._kept: list[Box] = []
        self._kept_runs = 0

    def go(self) -> None:
        """Sweep. Raises: KmemFailed if anything was found, or nothing was there to be failed."""
        from kmem_harness.core.errors import ConfigurationError
        from kmem_harness.faults.sweep import Sweep

        results: dict[int, Result] = {}
        try:
            while self._number <= self._nr_containers:
                sweep = Sweep(self._plan, self._run, each=self._tell)
                results[self._number] = sweep.go()
                self._number += 1
        except ConfigurationError as error:
            raise KmemFailed("sweep", str(error)) from error
        finally:
            self._record.swept = None
            self._record.boxes[:] = [*self._before, *(self._kept or self._last)]
        charges = sum(result.normal.charges for result in results.values())
        if not charges:
            raise KmemFailed("sweep", self._nothing())
        self._item.user_properties.append(("kmem_sweep_charges", charges))
        if self._record.subtests is None:
            self._item.add_report_section("call", "kmem sweep", "\n".join(self._lines))
        if any(result.groups for result in results.values()):
            text = [self._summary(number, result) for number, result in results.items()]
            raise KmemFailed("sweep", "\n".join(text))

    def _run(self, rules: tuple[str, ...]) -> Outcome:
        """Run the test's body once, with one container under *rules* and the others counted."""
        from kmem_harness.experiments.sweep_runs import outcome_of

        record, item = self._record, self._item
        swept, (rule,) = len(self._before) + self._number, rules
        record.swept = lambda number: rule if number == swept else self._plan.counting
        self._let_go(self._last)
        record.boxes[:] = self._before
        arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}  # noqa: SLF001 - as pytest's own does
        failure, timed_out = None, False
        try:
            item.obj(**arguments)
        except pytest.skip.Exception:
            raise
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - that is a finding
            timed_out = isinstance(error, TimeoutError)
            failure = f"{type(error).__name__}: {error}"[:_LONGEST_FAILURE]
        boxes = self._last = record.boxes[len(self._before) :]
        for box in boxes:
            box.close()
            timed_out |= record.timed_out.pop(box, None) is not None
        if rule == self._plan.counting:
            self._nr_containers = max(self._nr_containers, len(boxes))
        reports = [box.report() for box in boxes]
        each = [outcome_of(report, seconds=report["wall_seconds"]) for report in reports]
        outcome = _outcome(each, None if timed_out else failure, timed_out=timed_out)
        if len(each) < self._number:
            return outcome  # the body did not get as far as making it
        return _seen_from(outcome, each[self._number - 1])

    def _tell(self, mode: str, number: int, outcome: Outcome, found: list[Finding]) -> None:
        """Report one run: as a subtest where there are such."""
        which = f"charge {number}{'' if mode == 'once' else ' and on'}{self._which(self._number)}"
        where = f"{which}: {outcome.site}" if outcome.site else which
        self._lines.append(f"{where}: {found[0].detail if found else 'fine'}")
        if found and self._kept_runs < _KEPT_RUNS:
            self._kept_runs += 1
            self._kept += self._last
            self._last = []
        if self._record.subtests is None:
            return  # the summary fails the test
        with self._record.subtests.test(msg=where):
            if found:
                cards = "".join(f"\n  {_card(card)}" for card in outcome.cards[:_SHOWN_CARDS])
                raise KmemFailed(
                    "sweep", f"{where}: {', '.join(one.detail for one in found)}{cards}"
                )

    def _which(self, number: int) -> str:
        """Name a container, where there is more than one."""
        alone = not self._before and self._nr_containers == 1
        return "" if alone else f" of container {len(self._before) + number}"

    def _let_go(self, boxes: list[Box]) -> None:
        """Forget the containers of a run: there may be thousands."""
        for box in boxes:
            with suppress(OSError):
                box.memcg.remove()

    def _nothing(self) -> str:
        if not self._last:
            more = "; those that fixtures made before it are not swept" if self._before else ""
            return f"kmem_sweep: the test's body makes no container, so nothing was swept{more}"
        return (
            f"kmem_sweep: its containers made no call of {self._plan.calls!r}, so nothing was swept"
        )

    def _summary(self, number: int, result: Result) -> str:
        which = self._which(number)
        swept = ", ".join(f"{count} {mode}" for mode, count in result.swept.items())
        lines = [f"{result.normal.charges} charges{which} without a fault; failed in turn: {swept}"]
        for group in result.groups:
            again = "" if group.reproduced else " (it did not show again)"
            lines.append(
                f"{group.what}: {group.site}, in {len(group.runs)} runs: {group.detail}{again}"
            )
            alone = f", container={len(self._before) + number}" if which else ""
            lines.append(f'  @pytest.mark.kmem_fault("{group.rule}"{alone})')
        return "\n".join(lines)


def _outcome(each: list[Outcome], failure: str | None, *, timed_out: bool) -> Outcome:
    """Make one outcome of those of all containers: what is wrong with any is wrong with it."""
    from kmem_harness.faults.outcome import Outcome

    signals = [one.signal for one in each if one.signal not in (None, *_ENDED_BY_US)]
    exits = [one.status for one in each if one.signal is None]
    holds: dict[str, int] = {}
    for one in each:
        for kind, count in (one.holds or {}).items():
            holds[kind] = holds.get(kind, 0) + count
    return Outcome(
        status=max(exits, default=0),
        signal=signals[0] if signals else None,
        timed_out=timed_out,
        seconds=sum(one.seconds for one in each),
        holds=holds if all(one.holds is not None for one in each) else None,
        others=tuple(name for one in each for name in one.others or ()),
        failure=failure,
    )


def _seen_from(outcome: Outcome, own: Outcome) -> Outcome:
    """Add what was counted and failed in the one container that is swept, whose own outcome is *own*."""
    from dataclasses import replace

    return replace(
        outcome,
        charges=own.charges,
        failed=own.failed,
        site=own.site,
        nth=own.nth,
        cards=own.cards,
    )


def _card(card: Any) -> str:
    return (
        f"{card['syscall']} by {card['comm']}[{card['pid']}]: {card['errno']} "
        f"({card['kind']}), call {card['nth_of_call']} of its name; rule {card['rule']}"
    )
