"""The part of an audit that counts dentries of names that do not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.procfs.host_counts import nr_negative_dentries

if TYPE_CHECKING:
    from kmem_harness.controller.account.books import Books
    from kmem_harness.procfs.steps import Steps

__all__ = ["LookupPart"]


class LookupPart:
    """Dentries of names that do not exist, as the whole host counts them.

    Nobody frees one but reclaim, and that is somebody else's: of what calls may have made, as many
    stay as the host has more of.
    """

    kinds = ("dentry",)

    def __init__(self) -> None:
        """Start from what there is."""
        self._before = nr_negative_dentries()
        self._alive = 0

    def count(self, books: Books) -> Steps[None]:
        """See :class:`Part`."""
        yield
        now = nr_negative_dentries()
        kind = books.kinds["dentry"]
        self._alive = min(self._alive + max(now - self._before, 0), kind.live)
        self._before = now
        books.reconcile({"dentry": self._alive})

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return ["dentries of names that do not exist are counted for the whole host"]

    def close(self) -> None:
        """See :class:`Part`."""
