"""Say which processes of a box hold most, by kind: as its last look at descriptors found them.

Looks at nothing itself but at the names of those few. What belongs to no process, such as names on file
systems, or to many, such as mappings, is nobody's here.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from kmem_harness.procfs.census import comm_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.controller.account.books import Kind
    from kmem_harness.procfs.descriptors import Held

__all__ = ["MOST", "top_holders"]

#: So many are named.
MOST = 5
_PROCESSES = ("exec", "task")


def top_holders(held: Mapping[int, Held], kinds: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """Name the processes that hold most. Units: bytes, at the prices of *kinds*.

    An object that several have open is counted at the first that was seen with it.
    """
    prices = {name: kind.nbytes for name, kind in kinds.items()}
    # Which of the two a process is charged as is known of all of them together, and not of each.
    own = next((name for name in _PROCESSES if prices.get(name)), None)
    nbytes_of = {
        pid: sum(nr * prices.get(name, 0) for name, nr in one.kinds.items())
        for pid, one in held.items()
    }
    rows = []
    for pid in heapq.nlargest(MOST, nbytes_of, key=lambda pid: nbytes_of[pid]):
        found = {name: nr for name, nr in held[pid].kinds.items() if prices.get(name)}
        nbytes = nbytes_of[pid]
        if own is not None:
            found[own], nbytes = 1, nbytes + prices[own]
        if found:
            fds = {name: numbers for name, numbers in held[pid].fds.items() if name in found}
            rows.append(
                {"pid": pid, "comm": comm_of(pid), "kinds": found, "nbytes": nbytes, "fds": fds}
            )
    return rows
