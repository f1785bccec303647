"""What there is to be shown: one scenario for each demo, as data. Knows nothing of how it is shown."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SCENARIOS", "Scenario"]


class Scenario(NamedTuple):
    """One misbehaving program beside a neighbour that measures its own latency.

    ``program`` is a file of this directory, run as ``python -I -S PROGRAM SECONDS``: it misbehaves
    for SECONDS. ``kmem_limit`` is what it is given unless the user says otherwise.

    Where ``makes`` is not tasks, they cannot be counted from outside: the program is also told the
    most it may make, ``hard_bound``, and a directory to do so in, and prints what it has ``made``
    as JSON. Tasks are bounded by the kernel itself.
    """

    headline: str
    about: str
    program: str
    kmem_limit: str
    #: What the misbehaving one is called.
    culprit: str = "bomb"
    #: What it is refused.
    refused: str = "calls"
    makes: str = "tasks"
    hard_bound: int = 1000

    @property
    def is_counted_outside(self) -> bool:
        """Whether what it makes can be seen from here."""
        return self.makes == "tasks"


_BESIDE = "and a neighbour that measures its own latency"

SCENARIOS = {
    "fork-bomb": Scenario(
        ":(){ :|:& };:", f"a fork bomb, {_BESIDE}", "shell_bomb.py", "8M", refused="forks"
    ),
    "dentry-bomb": Scenario(
        "mkdir x; cd x",
        f"for ever, {_BESIDE}",
        "dentry_bomb.py",
        "2M",
        makes="directories",
        hard_bound=20_000,
    ),
    "socket-bomb": Scenario(
        "socket()",
        f"for ever, {_BESIDE}",
        "socket_bomb.py",
        "512K",
        makes="sockets",
        hard_bound=10_000,
    ),
    "noisy-neighbour": Scenario(
        "thundering herd",
        "a server that adds a worker for each request, and its neighbour",
        "thundering_herd.py",
        "1M",
        culprit="herd",
        refused="workers",
    ),
}
