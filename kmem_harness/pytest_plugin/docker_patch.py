"""Keep docker-py patched while tests run, if that was asked for: ``--kmem-docker-patch``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Generator

    from kmem_harness.harness import Harness

__all__ = ["pytest_runtestloop"]


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Patch for as long as tests run."""
    settings = session.config.stash[SETTINGS]
    if not settings.docker_patch:
        return (yield)
    from kmem_harness.docker import patch
    from kmem_harness.harness import Harness

    with ExitStack() as stack:
        # Made when a container first asks for kernel memory: a run may have none.
        started: list[Harness] = []

        def harness() -> Harness:
            if not started:
                made = Harness(
                    settings.kernel,
                    docker_listener=settings.docker_listener,
                    controller=settings.controller,
                )
                started.append(stack.enter_context(made))
            return started[0]

        with patch(harness, settings.limit):
            return (yield)
