"""The short form: each program natively, limited, observed and counted, in random order beside a busy one."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from kmem_harness.runtimes.local import best_isolation
from tests.ordinary.table import LONG, SHORT, Program
from tests.ordinary.ways import WAYS, busy_neighbour, missing, run
from tests.support.engine import cannot_run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def neighbour() -> Iterator[None]:
    with busy_neighbour():
        yield


@pytest.mark.parametrize("program", SHORT, ids=lambda program: program.name)
def test_program_when_limited_or_watched_then_does_what_it_does_natively(program: Program) -> None:
    compare(program)


@pytest.mark.slow
@pytest.mark.parametrize("program", LONG, ids=lambda program: program.name)
def test_large_program_when_limited_or_watched_then_does_what_it_does_natively(
    program: Program,
) -> None:
    compare(program)


def compare(program: Program) -> None:
    if missing(program):
        cannot_run(f"{', '.join(missing(program))} missing: install {', '.join(program.packages)}")
    if best_isolation() in program.not_in or (program.needs_root and os.geteuid() != 0):
        pytest.skip(f"the guide says that isolation {best_isolation()} takes that away")
    ways = list(WAYS)
    random.shuffle(ways)
    seen = {way: run(program, way) for way in ways}
    assert seen["native"].status in {0, 4}, seen["native"]
    for way in ways:
        assert seen[way] == seen["native"], f"{way}, in the order {ways}"
