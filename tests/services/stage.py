"""Run units in the test's own process, and look at them while they run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kmem_harness.services.door.journal import Journal
from kmem_harness.services.door.run import load_plan
from kmem_harness.services.engine.manager import Manager
from kmem_harness.services.unitfile.specifiers import Directories

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kmem_harness import Harness

__all__ = ["Stage"]

_PATIENCE_SECONDS = 30.0


class Stage:
    """Unit files in a folder, and a run of them."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        """Write units to *folder*, and run them on *harness*."""
        self.harness = harness
        self.folder = folder / "units"
        self.folder.mkdir()
        self.directories = Directories(str(folder / "host"))
        self.manager: Manager
        self.journal: Journal

    def write(self, units: dict[str, str]) -> None:
        """Write unit files; a text without a section is one of [Service]."""
        for name, text in units.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text if text.lstrip().startswith("[") else f"[Service]\n{text}\n")

    def play(
        self, units: dict[str, str], script: Callable[[Stage], Awaitable[Any]], *names: str
    ) -> dict[str, dict[str, Any]]:
        """Start *units* (or *names* of them), follow *script*, stop all; give every description."""
        self.write(units)
        return asyncio.run(self._play(script, names or (str(self.folder),)))

    async def _play(
        self, script: Callable[[Stage], Awaitable[Any]], names: tuple[str, ...]
    ) -> dict[str, dict[str, Any]]:
        paths = [name if "/" in name else str(self.folder / name) for name in names]
        plan = load_plan(paths, self.directories)
        self.journal = Journal()
        self.manager = Manager(self.harness, plan, self.directories, self.journal)
        async with self.manager:
            starting = [name for name in self.manager.members if name not in plan.on_demand]
            self.started = asyncio.ensure_future(self.manager.start(starting))
            await asyncio.wait_for(script(self), _PATIENCE_SECONDS)
        return {one["unit"]: one for one in self.manager.report()["units"]}

    async def until(self, happened: Callable[[], Any]) -> None:
        """Wait until *happened*; the whole script has a deadline."""
        while not happened():  # noqa: ASYNC110 - states are polled as a person would
            await asyncio.sleep(0.005)

    async def until_state(self, unit: str, *states: str) -> None:
        """Wait for a unit to be in one of some states."""
        await self.until(lambda: self.manager.members[unit].state.value in states)

    def lines(self, unit: str) -> list[str]:
        """Give what a unit printed."""
        return [one.text for one in self.journal.entries if one.unit == unit and not one.own]

    def told(self, unit: str) -> list[str]:
        """Give what was said about a unit."""
        return [one.text for one in self.journal.entries if one.unit == unit and one.own]
