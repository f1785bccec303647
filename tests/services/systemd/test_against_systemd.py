"""The same random units and events, run by systemd and by us: after each event the states are alike.

``KMEM_HARNESS_SYSTEMD_SETS=FIRST-LAST`` chooses the sets.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.door.journal import Journal
from kmem_harness.services.engine.manager import Manager
from kmem_harness.services.engine.plan import make_plan
from kmem_harness.services.engine.states import State
from kmem_harness.services.unitfile.load import Library
from kmem_harness.services.unitfile.specifiers import Directories
from tests.services.systemd.machine import Machine, why_no_machine
from tests.services.systemd.sets import UnitSet, unit_set

if TYPE_CHECKING:
    from pathlib import Path

#: After an event: whether the job was done, the states, and how often each was started.
Row = tuple[bool | None, dict[str, str], dict[str, int]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_no_machine()), reason=f"no systemd of its own: {why_no_machine()}"),
]
_LOG = "/var/tmp"
_STABLE = (State.RUNNING, State.EXITED, State.DEAD, State.FAILED)


def played_by_systemd(machine: Machine, one: UnitSet) -> list[Row]:
    rows: list[Row] = []
    for event, name in one.events:
        done = None
        if event == "kill":
            machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", name)
        else:
            done = machine.run("systemctl", event, name).returncode == 0
        states = machine.settled(one.names)
        starts = {unit: machine.read(f"{_LOG}/{unit}").count("up") for unit in one.counted}
        rows.append((done, states, starts))
    machine.run("systemctl", "stop", *one.names)
    return rows


async def played_by_us(harness, folder: Path, one: UnitSet) -> list[Row]:
    directories = Directories(str(folder / "host"))
    plan = make_plan(Library([str(folder / "units")], directories), [], at_hand=one.names)
    manager = Manager(harness, plan, directories, Journal())
    rows: list[Row] = []
    async with manager:
        for event, name in one.events:
            done = await happened(manager, event, name)
            states = await settled(manager, one.names)
            starts = {
                unit: path.read_text().count("up")
                if (path := folder / "log" / unit).exists()
                else 0
                for unit in one.counted
            }
            rows.append((done, states, starts))
    return rows


async def happened(manager: Manager, event: str, name: str) -> bool | None:
    service = manager.members[name].service
    if event == "kill":
        if service.cell is not None and service.main_pid:
            await service.cell.ask("signal", number=9, pids=[service.main_pid])
        return None
    try:
        return await asyncio.wait_for(getattr(manager, event.replace("-", "_"))([name]), 20)
    except ConfigurationError:
        return False


async def settled(manager: Manager, names: list[str]) -> dict[str, str]:
    last: dict[str, State] = {}
    since = time.monotonic()
    deadline = since + 8
    while time.monotonic() < deadline:
        found = {name: manager.members[name].state for name in names}
        if found != last:
            last, since = found, time.monotonic()
        quiet = manager._jobs.idle and all(state in _STABLE for state in found.values())
        if quiet and time.monotonic() - since > 0.35:
            break
        await asyncio.sleep(0.02)
    return {name: state.value for name, state in last.items()}


def test_units_when_run_by_systemd_and_by_us_then_their_states_are_alike(harness, tmp_path):
    first, _, last = os.environ.get("KMEM_HARNESS_SYSTEMD_SETS", "0-199").partition("-")
    sets = [unit_set(number) for number in range(int(first), int(last or first) + 1)]
    machine = Machine()
    differing = {}
    try:
        machine.write(
            {name: text.format(log=_LOG) for one in sets for name, text in one.units.items()}
        )
        for one in sets:
            theirs = played_by_systemd(machine, one)
            folder = tmp_path / str(one.number)
            (folder / "units").mkdir(parents=True)
            (folder / "log").mkdir()
            for name, text in one.units.items():
                (folder / "units" / name).write_text(text.format(log=folder / "log"))
            ours = asyncio.run(played_by_us(harness, folder, one))
            if ours != theirs:
                at = next(
                    i for i, rows in enumerate(zip(theirs, ours, strict=True)) if rows[0] != rows[1]
                )
                differing[one.number] = (one.events[: at + 1], theirs[at], ours[at])
                print(one.number, *differing[one.number], sep="\n  ", flush=True)
    finally:
        machine.close()
    print(f"{len(sets) - len(differing)} of {len(sets)} sets agreed")
    # Where nothing orders two units, who comes first is a race in systemd, too.
    assert len(differing) <= len(sets) // 20, differing
