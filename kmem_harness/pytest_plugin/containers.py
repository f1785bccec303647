"""Start containers under one memcg, for a test or for many; end them together."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from kmem_harness.core.errors import UnsupportedHostError
    from kmem_harness.harness import Box, Harness, MemcgHandle
    from kmem_harness.pytest_plugin.markers import Limit
    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["ContainerFactory", "cannot_enforce"]


class ContainerFactory:
    """Start containers under one memcg; all of them end with it."""

    def __init__(
        self, harness: Harness, memcg: MemcgHandle, limit: Limit, settings: Settings
    ) -> None:
        """Start them in *harness*, below *memcg*, which is limited to *limit*."""
        self.boxes: list[Box] = []
        self.memcg = memcg
        self._harness = harness
        self._limit = limit
        self._settings = settings

    def __call__(
        self,
        command: Sequence[str] = (),
        image: str | None = None,
        kmem_limit: str | int | None = None,
        **options: Any,
    ) -> Box:
        """Start *command*; *kmem_limit* is this container's own, below the test's.

        With *image*, or where ``--kmem-runtime`` says so, it is a Docker container, whose image may
        have a command of its own.
        Further options are those of ``Harness.run``. Raises: what that raises; the test is skipped
        (with ``--kmem-require``, failed) where this host cannot enforce the limit.
        """
        from kmem_harness.core.errors import UnsupportedHostError

        options = {"mode": self._limit.mode, "kinds": self._limit.kinds, **options}
        options.setdefault("runtime", "docker" if image else self._settings.runtime)
        if options["runtime"] == "docker":
            image = image or self._settings.image
        child = self.memcg.child(f"c{len(self.boxes) + 1}", kmem_limit)
        try:
            box = self._harness.run(command, image=image, memcg=child, **options)
        except UnsupportedHostError as error:
            cannot_enforce(error, require=self._settings.require)
        self.boxes.append(box)
        return box

    def close(self) -> None:
        """End every container, whatever the end of another brings."""
        with ExitStack() as each:
            for box in self.boxes:
                each.callback(box.close)


def cannot_enforce(error: UnsupportedHostError, *, require: bool) -> NoReturn:
    """Skip the test, or fail it if that is asked for."""
    text = f"kmem limits cannot be enforced here: {error}; {error.remedy}"
    if require:
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
