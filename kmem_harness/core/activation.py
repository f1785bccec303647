"""When a memcg begins to account kernel memory, and what a kmem limit write does.

Two families: opt-in by the first limit (K62-K74), and 5.10, where every memcg but the root
accounts from birth (K110). Knows memcgs; knows no text.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kmem_harness.core.errors import kernel_error

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg

__all__ = ["Activation", "AlwaysAccounts", "OptIn"]


class Activation:
    """Decides which memcgs account, and guards the kmem limit."""

    def born(self, memcg: Memcg, parent: Memcg) -> None:
        """Give a new *memcg* its state."""
        raise NotImplementedError

    def set_kmem_limit(self, memcg: Memcg, limit: int, file: str) -> None:
        """Apply a kmem limit already parsed and rounded.

        Raises: OSError EBUSY (K11, K65).
        """
        raise NotImplementedError

    @property
    def summary(self) -> str:
        """The line of the guide's table."""
        raise NotImplementedError


class OptIn(Activation):
    """The first limit other than "none" starts accounting, once and for all (K62, K67).

    :param leftover_is_busy: activating below usage left by dead children is EBUSY, as in v4;
        later the write reports success and leaves the limit off (K73).
    """

    def __init__(self, *, leftover_is_busy: bool) -> None:
        """Refuse or report success, as the release does."""
        self.leftover_is_busy = leftover_is_busy

    def born(self, memcg: Memcg, parent: Memcg) -> None:
        """Inherit activity from a hierarchical parent (K70)."""
        if parent.use_hierarchy and parent.accounts:
            memcg.activate()

    def set_kmem_limit(self, memcg: Memcg, limit: int, file: str) -> None:
        """Set the limit, starting to account if this is the first one (K62)."""
        if memcg.accounts or limit == memcg.kmem.ceiling:
            memcg.kmem.set_limit(limit, file=file)
            return
        if memcg.has_tasks:
            why = "a memcg with tasks cannot start to account"
            raise kernel_error(errno.EBUSY, why, rule="K65", file=file, value=str(limit))
        if memcg.use_hierarchy and memcg.children:
            why = "a memcg with hierarchical children cannot start to account"
            raise kernel_error(errno.EBUSY, why, rule="K65", file=file, value=str(limit))
        if limit >= memcg.kmem.usage or self.leftover_is_busy:
            memcg.kmem.set_limit(limit, file=file)
        memcg.activate()

    @property
    def summary(self) -> str:
        """The line of the guide's table."""
        return "by the first limit; EBUSY with tasks or hierarchical children"


class AlwaysAccounts(Activation):
    """Every memcg but the root accounts from birth (K110)."""

    def born(self, memcg: Memcg, parent: Memcg) -> None:  # noqa: ARG002 - same for any parent
        """Account from the start."""
        memcg.activate()

    def set_kmem_limit(self, memcg: Memcg, limit: int, file: str) -> None:
        """Set the limit, whatever tasks and children there are (K110)."""
        memcg.kmem.set_limit(limit, file=file)

    @property
    def summary(self) -> str:
        """The line of the guide's table."""
        return "always, except in the root"
