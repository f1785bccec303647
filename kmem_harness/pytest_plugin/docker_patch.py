"""Keep docker-py patched while tests run: ``--kmem-docker-patch``."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from kmem_harness.docker import patch
from kmem_harness.harness import Harness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["patched"]


@contextmanager
def patched(settings: Settings) -> Iterator[None]:
    """Patch docker-py, with a harness that is made when a container first asks for kernel memory."""
    with ExitStack() as stack:
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
            yield
