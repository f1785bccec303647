"""What there is to be shown: one scenario for each demo, as data. Knows nothing of how it is shown."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCENARIOS", "Scenario"]


@dataclass(frozen=True)
class Scenario:
    """One misbehaving program beside a neighbour that measures its own latency.

    ``program`` is a file of this directory, run as ``python -I -S PROGRAM SECONDS``: it misbehaves
    for SECONDS. ``kmem_limit`` is what it is given unless the user says otherwise.
    """

    headline: str
    about: str
    program: str
    kmem_limit: str
    #: What the misbehaving one is called.
    culprit: str
    #: What it is refused.
    refused: str


SCENARIOS = {
    "fork-bomb": Scenario(
        headline=":(){ :|:& };:",
        about="a fork bomb, and a neighbour that measures its own latency",
        program="shell_bomb.py",
        kmem_limit="8M",
        culprit="bomb",
        refused="forks",
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
