"""Find the smallest X-KmemMax under which a unit starts and serves: ``services limit``.

Knows how one try is made and what it shows; how values are chosen is ``limits/search.py``'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import string
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.sizes import format_size
from kmem_harness.limits.search import Search
from kmem_harness.services.door.journal import Journal
from kmem_harness.services.door.run import Options, load_plan
from kmem_harness.services.engine.manager import Manager
from kmem_harness.services.engine.ports import listening_ports
from kmem_harness.services.engine.states import State
from kmem_harness.services.unitfile.names import completed
from kmem_harness.services.unitfile.specifiers import Directories

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.harness import Harness

__all__ = ["Found", "Question", "Try", "find_limit"]

_PAGE = 4096
_RETRY_SECONDS = 0.05
#: How much more than the peak without a limit is tried first, and how often that is doubled.
_ROOM, _DOUBLINGS = 1.25, 3
#: Under a limit a unit has a few times as long as it took without one, and that much more.
_PATIENCE, _MORE_SECONDS = 4.0, 3.0
_SHOWN = 5
_PLAIN = f"{string.ascii_letters}{string.digits}-_"
_EVERYBODY_MAY_PASS = 0o711


@dataclass(frozen=True)
class Question:
    """What is asked of a unit. Units: seconds, bytes."""

    unit: str
    #: A shell command that exits with 0 where the service serves; ``{port}`` is where it listens.
    health: str
    within: float = 10.0
    port: int | None = None
    #: How often each limit is tried on the way, and the one that is found in the end.
    repeats: int = 3
    confirm: int = 10
    resolution: int = _PAGE
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Try:
    """One try: *limit* in bytes, or none; how it went, and what it used and was refused."""

    limit: int | None
    passed: bool
    how: str
    seconds: float
    peak: int
    #: Kind: (how many there were when most was used, their bytes).
    at_peak: dict[str, tuple[int, int]]
    refused: int
    #: What was refused, in words, the most frequent first.
    refusals: tuple[str, ...]
    port: int | None


@dataclass(frozen=True)
class Found:
    """What came out: the try at the smallest limit, and the one below it, if any failed."""

    question: Question
    at: Try
    below: Try | None
    unlimited: Try
    tries: int

    @property
    def limit(self) -> int:
        """The smallest limit that every try passed under. Units: bytes."""
        return self.at.limit or 0

    def drop_in(self) -> str:
        """Give the drop-in that sets the limit."""
        return f"[Service]\nX-KmemMax={self.limit}\n"

    def experiment(self) -> str:
        """Give the experiment, as TOML, that looks for the same."""
        question, name = self.question, completed(os.path.basename(self.question.unit))
        source = os.path.abspath(question.unit) if "/" in question.unit else name
        health = _filled(question.health, self.unlimited.port)
        properties = [f"{name}:X-KmemMax={{limit}}"]
        properties += [f"{unit}:{key}={value}" for unit, key, value in question.options.properties]
        box = "".join(char if char in _PLAIN else "-" for char in name.removesuffix(".service"))
        return (
            f'name = "{box}-limit"\nrepeats = {question.repeats}\n\n[box.{box}]\n'
            f"unit = {json.dumps([source])}\nproperties = {json.dumps(properties)}\n"
            f'background = true\nhealth = {{command = ["sh", "-c", {json.dumps(health)}], '
            f"within = {question.within:g}}}\n\n[vary]\n"
            f"limit = {{bisect = [{_PAGE}, {_top(self.unlimited.peak)}], "
            f"resolution = {question.resolution}}}\n"
        )

    def as_dict(self) -> dict[str, Any]:
        """Give it JSON-ready. Units: bytes."""
        return {
            "unit": self.question.unit,
            "limit": self.limit,
            "tries": self.tries,
            "peak": self.at.peak,
            "kinds": {kind: {"live": n, "bytes": b} for kind, (n, b) in self.at.at_peak.items()},
            "refused_at_limit": self.at.refused,
            "below": None
            if self.below is None
            else {
                "limit": self.below.limit,
                "how": self.below.how,
                "refused": self.below.refused,
                "refusals": list(self.below.refusals),
            },
            "drop_in": self.drop_in(),
            "experiment": self.experiment(),
        }


def find_limit(
    harness: Harness, question: Question, tell: Callable[[str], None] = lambda _: None
) -> Found:
    """Try limits until the smallest one is known; *tell* is given a line for each try.

    Raises: ConfigurationError if the unit cannot be loaded, or does not serve even without a limit.
    """
    tries = 0

    def tried(limit: int | None, within: float) -> Try:
        nonlocal tries
        tries += 1
        one = asyncio.run(_try(harness, question, limit, within))
        shown = "no limit" if limit is None else format_size(limit)
        tell(f"{shown:>8}: {one.how}")
        return one

    unlimited = tried(None, question.within)
    if not unlimited.passed:
        raise ConfigurationError(
            f"{question.unit} does not serve even without a limit: {unlimited.how}; mend the unit or "
            "the --health command, or give it longer with --within"
        )
    within = min(question.within, unlimited.seconds * _PATIENCE + _MORE_SECONDS)
    results: dict[int, Try] = {}

    def holds(limit: int, repeats: int) -> bool:
        """Say whether the unit serves under *limit* each time: two starts are never quite alike."""
        for _ in range(repeats):
            results[limit] = tried(limit, within)
            if not results[limit].passed:
                return False
        return True

    smallest, below = _smallest(question, unlimited.peak, holds)
    while smallest is not None and not holds(smallest, question.confirm):
        smallest, below = smallest + question.resolution, smallest
        if smallest > _top(unlimited.peak) << _DOUBLINGS:
            smallest = None
    if smallest is None:
        last = results[max(results)]
        raise ConfigurationError(
            f"{question.unit} serves without a limit, and not under {format_size(last.limit or 0)}: "
            f"{last.how}; give it longer with --within"
        )
    failed = None if below is None else results[below]
    return Found(question, results[smallest], failed, unlimited, tries)


def _smallest(
    question: Question, peak: int, holds: Callable[[int, int], bool]
) -> tuple[int | None, int | None]:
    """Search for the smallest limit that holds; give it, and the largest that did not."""
    for doubling in range(_DOUBLINGS):
        search = Search(_PAGE, _top(peak) << doubling, question.resolution)
        while search.value is not None:
            search.learn(passed=holds(search.value, question.repeats))
        if search.smallest is not None:
            return search.smallest, search.largest_failed
    return None, None


def _top(peak: int) -> int:
    return -(-int(peak * _ROOM) // _PAGE) * _PAGE


async def _try(harness: Harness, question: Question, limit: int | None, within: float) -> Try:
    """Start the unit, ask after its health until it is well or that is hopeless, and stop it."""
    unit = completed(os.path.basename(question.unit))
    given = _free_port() if _wants_port(question.options.properties) else question.port
    value = "infinity" if limit is None else str(limit)
    properties = [
        *((name, key, _filled(text, given)) for name, key, text in question.options.properties),
        (unit, "X-KmemMax", value),
    ]
    with tempfile.TemporaryDirectory(prefix="kmem-limit-") as folder:
        os.chmod(folder, _EVERYBODY_MAY_PASS)  # a service may run as another user
        directories = Directories(folder, question.options.host_directories)
        plan = load_plan([question.unit], directories, properties)
        journal = Journal()
        manager = Manager(harness, plan, directories, journal)
        began = time.monotonic()
        async with manager:
            how, port = await _ask(manager, unit, question.health, given, began + within)
            seconds = time.monotonic() - began
            await manager.look()
        member = manager.members[unit]
        report = member.reports[-1] if member.reports else None
        described = member.describe()
        last = journal.lines_of(unit, 1, own=False) if how else []
    refusals = described["refusals"]
    how = how or f"serves after {seconds:.1f} s"
    how += f" ({last[0]})" if last else ""
    how += f", {refusals['total']} refused" if refusals["total"] else ", nothing refused"
    passed = how.startswith("serves")
    return Try(
        limit,
        passed,
        how,
        seconds,
        described["memcg"]["kmem"]["max_usage"],
        _at_peak(report) if report else {},
        refusals["total"],
        _in_words(member.account.cards),
        port,
    )


async def _ask(
    manager: Manager, unit: str, health: str, port: int | None, deadline: float
) -> tuple[str, int | None]:
    """Wait until the unit serves; say what is wrong if it never does, and where it listens."""
    starting = asyncio.ensure_future(manager.start(manager.plan.asked))
    member = manager.members[unit]
    wrong, started = f"{unit} was not started in time", False
    while time.monotonic() < deadline:
        state = member.state
        if (
            member.service is not None
            and (member.service.nr_starts > 1 or started)
            and state in (*(State.AUTO_RESTART, State.FAILED, State.DEAD),)
        ):
            return _how_it_ended(unit, manager), port
        if starting.done() and not starting.result():
            return _how_it_ended(unit, manager), port
        started = started or starting.done()
        if state.active in ("active", "reloading"):
            found = port or await asyncio.to_thread(_port_of, manager, unit)
            if "{port}" not in health or found:
                left = max(deadline - time.monotonic(), _RETRY_SECONDS)
                wrong = await _run_health(_filled(health, found), left)
                if not wrong and member.state.active == "active":
                    return "", found
            else:
                wrong = "it listens on no port"
        await asyncio.sleep(_RETRY_SECONDS)
    return f"does not serve: {wrong}", port


def _how_it_ended(unit: str, manager: Manager) -> str:
    member = manager.members[unit]
    ending = member.service.main_ending if member.service else None
    if ending is None:
        return f"does not start: {member.result.value}"
    code = f"signal {ending.signal}" if ending.signal else f"exit code {ending.code}"
    return f"ended with {code}: {member.result.value}"


def _port_of(manager: Manager, unit: str) -> int | None:
    memcg = manager.members[unit].memcg
    if memcg is None:
        return None
    with suppress(OSError):
        ports = listening_ports(map(int, memcg.read("cgroup.procs").split()))
        return ports[0] if ports else None
    return None


async def _run_health(command: str, seconds: float) -> str:
    """Run the command once; give what went wrong, or nothing."""
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), seconds)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return f"the health command had not ended after {seconds:.1f} s"
    if process.returncode == 0:
        return ""
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    return f"the health command exited with {process.returncode}{': ' + last[0] if last else ''}"


def _wants_port(properties: Sequence[tuple[str, str, str]]) -> bool:
    return any("{port}" in value for _, _, value in properties)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _filled(text: str, port: int | None) -> str:
    return text if port is None else text.replace("{port}", str(port))


def _at_peak(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Give what was alive when the box used most, by kind."""
    timeline = report["timeline"]
    if not timeline["usage"]:
        return {}
    at = max(range(len(timeline["usage"])), key=lambda place: timeline["usage"][place])
    found = {}
    for kind, live in timeline["live"].items():
        if live[at]:
            each = report["kinds"].get(kind, {}).get("bytes_each", 0)
            found[kind] = (live[at], live[at] * each)
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def _in_words(cards: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    counts = Counter(
        f"{card['syscall']} ({card['kind']}, {card['nbytes']} bytes) by {card['comm']}, {card['errno']}"
        for card in cards
    )
    return tuple(
        f"{line}, {count} times" if count > 1 else line
        for line, count in counts.most_common(_SHOWN)
    )
