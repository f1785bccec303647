"""Fail the first charge, the second, and so on, until a run meets no fault; judge every run.

Runs nothing itself: it is handed what runs, given fault rules. Run 1 has no fault and counts; run k
then fails the k-th charge alone ("once") or the k-th and all after it ("persist").
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.faults.common import NOTHING, common_of
from kmem_harness.faults.outcome import Finding, Outcome, Site, judge
from kmem_harness.faults.rule import parse_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmem_harness.faults.common import Common
    from kmem_harness.faults.state import SweepState

    Run = Callable[[tuple[str, ...]], Outcome]

__all__ = ["MODES", "Group", "Plan", "Progress", "Result", "Sweep"]

MODES = ("once", "persist")
#: A persistent fault is shrunk to at most this many failed charges in a row.
_LONGEST_RANGE = 64
#: What two runs without a fault are compared in; so long after the first the clock has moved on.
_COMPARED = ("output", "files")
_ANOTHER_SECOND = 1.1


@dataclass(frozen=True)
class Plan:
    """What to sweep. ``calls`` is a rule's SET; ``exits`` of ``None`` are all below 128."""

    calls: str = "charge"
    error: str = "ENOMEM"
    modes: tuple[str, ...] = MODES
    max: int | None = None
    exits: frozenset[int] | None = None
    jobs: int = 1
    compares_output: bool = True
    #: Globs of files, below the run's TMPDIR, that are not compared.
    ignore: tuple[str, ...] = ()
    #: How many charges are let by before the first that is failed, and what they are counted from.
    skip: int = 0
    start: str | None = None

    def __post_init__(self) -> None:
        """See that every part can be used. Raises: ConfigurationError."""
        parse_rule(self.rule("once", 1))
        for mode in self.modes:
            if mode not in MODES:
                raise ConfigurationError(
                    f"mode {mode!r} is not known; known are {', '.join(MODES)}"
                )
        if not self.modes:
            raise ConfigurationError(f"no mode to sweep in; give some of {', '.join(MODES)}")
        if self.skip < 0:
            raise ConfigurationError(f"skip={self.skip}: a sweep leaves out 0 charges or more")
        if self.max is not None and self.max < 1:
            raise ConfigurationError(f"max={self.max}: a sweep has at least 1 charge to fail")

    def rule(self, mode: str, number: int) -> str:
        """Write the rule of one run."""
        return self.failing(f"{number}{'' if mode == 'once' else '+'}")

    def failing(self, when: str) -> str:
        """Write a rule that fails the charges that *when* names."""
        return f"{self.calls}:error={self.error}:when={when}{self._from}"

    @property
    def first(self) -> int:
        """The number of the first charge that is failed, from 1 on."""
        return self.skip + 1

    @property
    def last(self) -> int | None:
        """The number of the last one, ``None`` for as many as there are."""
        return None if self.max is None else self.skip + self.max

    @property
    def _from(self) -> str:
        return "" if self.start is None else f":from={self.start}"

    @property
    def counting(self) -> str:
        """The rule of the run that counts."""
        return f"{self.calls}:count{self._from}"


@dataclass
class Group:
    """Runs with the same finding at the same site; ``runs`` are (mode, number of the charge)."""

    what: str
    site: Site
    detail: str
    said: str
    runs: list[tuple[str, int]] = field(default_factory=list)
    #: The shortest rule that shows it, and whether it did so when it was tried.
    rule: str = ""
    reproduced: bool = False

    @property
    def marker(self) -> str:
        """The line to paste above a test."""
        return f'@pytest.mark.kmem_fault("{self.rule}")'


@dataclass(frozen=True)
class Progress:
    """How far a sweep is. ``total`` is estimated from the run that counted."""

    mode: str
    done: int
    total: int
    findings: int


@dataclass
class Result:
    """What a sweep came to. ``swept`` has, by mode, how many charges were failed in turn."""

    normal: Outcome
    #: What runs without faults had in common, so that a difference tells something.
    common: Common
    swept: dict[str, int] = field(default_factory=dict)
    #: Modes that were broken off at ``max``: further charges were there to fail.
    cut_short: list[str] = field(default_factory=list)
    sites: dict[Site, int] = field(default_factory=dict)
    #: How many runs at a site ended as the one without a fault.
    unaffected: dict[Site, int] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    runs: int = 0
    resumed: int = 0


class Sweep:
    """One sweep over one command."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        *,
        state: SweepState | None = None,
        progress: Callable[[Progress], None] | None = None,
        each: Callable[[str, int, Outcome, list[Finding]], None] | None = None,
    ) -> None:
        """Sweep as *plan* says with *run*, which may be called from ``plan.jobs`` threads.

        *state* keeps finished runs over a break; *progress* and *each* are told of every one.
        """
        self._plan = plan
        self._run = run
        self._state = state
        self._progress = progress
        self._each = each
        self._resumed = 0
        self._ran = 0
        self._normals: list[Outcome] = []
        #: Runs that something was found in.
        self._suspects: list[tuple[str, int, Outcome]] = []

    def go(self) -> Result:
        """Sweep to the end. Raises: ConfigurationError if the command fails without a fault."""
        began = time.monotonic()
        result = self._count()
        groups: dict[tuple[str, Site], Group] = {}
        total = max(result.normal.charges - self._plan.skip, 0)
        if self._plan.max is not None:
            total = min(total, self._plan.max)
        done = 0
        for mode in self._plan.modes:
            result.swept[mode] = 0
            for number, outcome in self._runs(mode, result.normal.charges):
                done += 1
                if outcome.failed:
                    result.swept[mode] += 1
                    self._enter(result, groups, mode, number, outcome)
                    if number == self._plan.last:
                        result.cut_short.append(mode)
                if self._progress is not None:
                    self._progress(Progress(mode, done, total * len(self._plan.modes), len(groups)))
        if any(group.what in _COMPARED for group in groups.values()):
            groups = self._compared_again(result, began)
        result.groups = list(groups.values())
        for group in result.groups:
            self._shrink(group, result)
        result.runs, result.resumed = self._ran, self._resumed
        return result

    # -- runs ------------------------------------------------------------------------------

    def _count(self) -> Result:
        normal = self._outcome("count", 1, self._plan.counting)
        if self._plan.start is not None and not normal.charges:
            raise ConfigurationError(
                f"no charge came after {self._plan.start!r}, so there is nothing to sweep; name a moment "
                "that comes, and is followed by some"
            )
        wrong = judge(normal, normal, self._plan.exits)
        exits = self._plan.exits or frozenset({normal.status})
        if wrong or normal.status not in exits:
            why = wrong[0].detail if wrong else f"exit {normal.status}"
            said = f" ({normal.said})" if normal.said else ""
            raise ConfigurationError(
                f"without any fault the command fails already: {why}{said}; "
                "a sweep needs one that passes"
            )
        self._normals = [normal]
        if self._plan.compares_output:
            self._normals.append(self._outcome("count", 2, self._plan.counting))
        return Result(normal, self._common())

    def _common(self) -> Common:
        if not self._plan.compares_output:
            return NOTHING
        return common_of(self._normals, self._plan.ignore)

    def _compared_again(self, result: Result, began: float) -> dict[tuple[str, Site], Group]:
        """Judge runs with other output or files once more, after one more run without a fault.

        The first two ran in one second, and so with the same time of day to write down.
        """
        time.sleep(max(began + _ANOTHER_SECOND - time.monotonic(), 0))
        self._normals.append(self._outcome("count", 3, self._plan.counting))
        result.common = self._common()
        again: dict[tuple[str, Site], Group] = {}
        for mode, number, outcome in self._suspects:
            self._group(again, mode, number, outcome, self._judge(result, outcome))
        return again

    def _runs(self, mode: str, expected: int) -> Iterator[tuple[int, Outcome]]:
        """Give the runs of one mode as they end, up to the first that meets no fault."""
        if self._plan.jobs == 1:
            yield from self._runs_in_turn(mode, expected)
            return
        last = self._plan.last
        number = self._plan.first
        under_way: dict[Future[Outcome], int] = {}
        with ThreadPoolExecutor(self._plan.jobs) as pool:
            try:
                while under_way or last is None or number <= last:
                    while len(under_way) < self._plan.jobs and (last is None or number <= last):
                        under_way[pool.submit(self._one, mode, number, expected)] = number
                        number += 1
                    ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in ended:
                        one, outcome = under_way.pop(future), future.result()
                        if not outcome.failed:
                            last = one - 1 if last is None else min(last, one - 1)
                        if last is None or one <= last:
                            yield one, outcome
            finally:
                for future in under_way:
                    future.cancel()

    def _runs_in_turn(self, mode: str, expected: int) -> Iterator[tuple[int, Outcome]]:
        """Do the same in this thread: what runs may be a test's body."""
        number = self._plan.first
        while self._plan.last is None or number <= self._plan.last:
            outcome = self._one(mode, number, expected)
            if not outcome.failed:
                return
            yield number, outcome
            number += 1

    def _one(self, mode: str, number: int, expected: int) -> Outcome:
        rule = self._plan.rule(mode, number)
        outcome = self._outcome(mode, number, rule)
        if not outcome.failed and number <= expected:
            # Fewer charges than were counted: once more, before that is taken for the end.
            outcome = self._tried(rule)
        return outcome

    def _outcome(self, mode: str, number: int, rule: str) -> Outcome:
        kept = None if self._state is None else self._state.get(mode, number)
        if kept is not None:
            self._resumed += 1
            return kept
        outcome = self._tried(rule)
        if self._state is not None:
            self._state.put(mode, number, outcome)
        return outcome

    def _tried(self, rule: str) -> Outcome:
        self._ran += 1
        return self._run((rule,))

    # -- findings --------------------------------------------------------------------------

    def _enter(
        self,
        result: Result,
        groups: dict[tuple[str, Site], Group],
        mode: str,
        number: int,
        outcome: Outcome,
    ) -> None:
        site = outcome.site or Site("?", self._plan.calls, "?")
        result.sites[site] = result.sites.get(site, 0) + 1
        found = self._judge(result, outcome)
        if not found and outcome.same_end(result.normal):
            result.unaffected[site] = result.unaffected.get(site, 0) + 1
        if self._each is not None:
            self._each(mode, number, outcome, found)
        if found:
            self._suspects.append((mode, number, outcome))
        self._group(groups, mode, number, outcome, found)

    def _group(
        self,
        groups: dict[tuple[str, Site], Group],
        mode: str,
        number: int,
        outcome: Outcome,
        found: list[Finding],
    ) -> None:
        site = outcome.site or Site("?", self._plan.calls, "?")
        for finding in found:
            key = (finding.what, site)
            if key not in groups:
                groups[key] = Group(finding.what, site, finding.detail, outcome.said)
            groups[key].runs.append((mode, number))

    def _judge(self, result: Result, outcome: Outcome) -> list[Finding]:
        return judge(outcome, result.normal, self._plan.exits, result.common)

    def _shrink(self, group: Group, result: Result) -> None:
        """Find the shortest rule that shows a group's finding, by trying."""

        def shows(rule: str) -> Outcome | None:
            outcome = self._tried(rule)
            found = {finding.what for finding in self._judge(result, outcome)}
            return outcome if group.what in found else None

        group.runs.sort(key=lambda run: (MODES.index(run[0]), run[1]))
        mode, number = group.runs[0]
        alone = self._plan.rule("once", number)
        group.rule = self._plan.rule(mode, number)
        outcome = shows(alone)
        if outcome is not None:
            group.rule, group.reproduced = alone, True
            group.rule = self._by_name(outcome, "", shows) or alone
            return
        outcome = shows(group.rule)
        if outcome is not None:
            group.reproduced = True
            group.rule = self._by_name(outcome, "+", shows) or self._shortest_range(
                group.rule, number, shows
            )

    def _by_name(
        self, outcome: Outcome, plus: str, shows: Callable[[str], Outcome | None]
    ) -> str | None:
        """Name the call itself: that stays true when the program gets other charges before it."""
        site = outcome.site
        if site is None or not outcome.nth or site.syscall == self._plan.calls:
            return None
        when = "" if plus and outcome.nth == 1 else f":when={outcome.nth}{plus}"
        rule = f"{site.syscall}:error={self._plan.error}{when}"
        return None if shows(rule) is None else rule

    def _shortest_range(
        self, rule: str, number: int, shows: Callable[[str], Outcome | None]
    ) -> str:
        """Halve how many charges in a row have to fail for it."""

        def rows(length: int) -> str:
            return self._plan.failing(f"{number}..{number + length - 1}")

        low, high = 1, 2  # one alone does not show it
        while high <= _LONGEST_RANGE and shows(rows(high)) is None:
            low, high = high, high * 2
        if high > _LONGEST_RANGE:
            return rule
        while high - low > 1:
            middle = (low + high) // 2
            if shows(rows(middle)) is None:
                low = middle
            else:
                high = middle
        return rows(high)
