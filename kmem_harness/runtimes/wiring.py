"""Our own plugin that puts containers, and what is run beside them, under the shim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.hookspecs import hookimpl
from kmem_harness.runtimes.wrapping import wrap_command

if TYPE_CHECKING:
    from kmem_harness.box import Box
    from kmem_harness.runtimes.spec import ContainerSpec, ExecSpec

__all__ = ["Wiring"]


class Wiring:
    """Joins containers to their memcgs."""

    @hookimpl(trylast=True)
    def kmem_before_create(self, box: Box, spec: ContainerSpec) -> None:
        """Have it start under its filter, whatever other plugins made of it."""
        if box.runtime == "docker":
            box.running.rewrite(spec)  # type: ignore[attr-defined]

    @hookimpl(tryfirst=True)
    def kmem_after_start(self, box: Box) -> None:
        """See it under its limits before anybody else hears of it."""
        if box.runtime == "docker":
            box.running.bind()  # type: ignore[attr-defined]

    @hookimpl(trylast=True)
    def kmem_before_exec(self, box: Box, spec: ExecSpec) -> None:
        """Have the command run in the same memcg."""
        if box.filtered and not box.native:
            spec.command = wrap_command(spec.command)
