"""What there is to be shown: one scenario for each demo, as data. Knows nothing of how it is shown."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCENARIOS", "Scenario"]


@dataclass(frozen=True)
class Scenario:
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
    culprit: str
    #: What it is refused.
    refused: str
    makes: str = "tasks"
    hard_bound: int = 1000

    @property
    def is_counted_outside(self) -> bool:
        """Whether what it makes can be seen from here."""
        return self.makes == "tasks"


SCENARIOS = {
    "fork-bomb": Scenario(
        headline=":(){ :|:& };:",
        about="a fork bomb, and a neighbour that measures its own latency",
        program="shell_bomb.py",
        kmem_limit="8M",
        culprit="bomb",
        refused="forks",
    ),
    "dentry-bomb": Scenario(
        headline="mkdir x; cd x",
        about="for ever, and a neighbour that measures its own latency",
        program="dentry_bomb.py",
        kmem_limit="2M",
        culprit="bomb",
        refused="calls",
        makes="directories",
        hard_bound=20_000,
    ),
    "socket-bomb": Scenario(
        headline="socket()",
        about="for ever, and a neighbour that measures its own latency",
        program="socket_bomb.py",
        kmem_limit="512K",
        culprit="bomb",
        refused="calls",
        makes="sockets",
        hard_bound=10_000,
    ),
    "noisy-neighbour": Scenario(
        headline="thundering herd",
        about="a server that adds a worker for each request, and its neighbour",
        program="thundering_herd.py",
        kmem_limit="1M",
        culprit="herd",
        refused="workers",
    ),
}
