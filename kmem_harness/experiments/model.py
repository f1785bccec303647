"""What an experiment is: boxes, what varies, faults, repeats, and the oracle that judges a run.

Data alone: ``experiment_file.py`` reads it from TOML, ``checks.py`` finds out what cannot be.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.experiments.parameters import Vary

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PLACEHOLDER", "BoxPlan", "Experiment", "Isolation", "Matrix", "Oracle", "Request"]

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


@dataclass(frozen=True)
class Request:
    """One thing to ask of a service: a command that must exit 0, or bytes over TCP.

    Units: seconds. *within* is how long it may take to come true; *period* and *seconds* are for
    measuring: one request is due each period.
    """

    command: tuple[str, ...] = ()
    tcp: str = ""
    send: str = ""
    expect: str = ""
    within: float = 5.0
    period: float = 0.005
    seconds: float = 2.0


@dataclass(frozen=True)
class BoxPlan:
    """One box of a run. Texts may hold ``{parameters}``."""

    name: str
    command: tuple[str, ...] = ()
    image: str | None = None
    #: In place of a command: unit files or folders of them, as ``services run`` takes them.
    unit: tuple[str, ...] = ()
    #: What is set on top of the unit files: by unit, by key.
    properties: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    runtime: str | None = None
    kmem_limit: str | None = None
    memory_limit: str | None = None
    memcg: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    pids_max: int | None = None
    inject: tuple[str, ...] = ()
    #: Started first, expected to stay, and stopped when the others are done.
    background: bool = False
    ready: Request | None = None
    health: Request | None = None
    probe: Request | None = None
    #: What it runs in place of its command where it is the aggressor.
    aggressor: tuple[str, ...] = ()


@dataclass(frozen=True)
class Isolation:
    """The victim's 99th percentile beside the aggressor stays below *p99* times that without it.

    Units: *slack* in seconds: below that much more nothing is complained about, for a quick
    service's own jitter is a multiple.
    """

    victim: str
    aggressor: str
    p99: float
    slack: float = 0.001


@dataclass(frozen=True)
class Oracle:
    """What a run must show to pass. Units: seconds."""

    exit: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    p99: Mapping[str, float] = field(default_factory=dict)
    isolated: tuple[Isolation, ...] = ()


@dataclass(frozen=True)
class Matrix:
    """Each box as aggressor against each as victim."""

    boxes: tuple[str, ...]
    p99: float
    slack: float


@dataclass(frozen=True)
class Experiment:
    """All of it. Units: *timeout* of one run in seconds; *pass_rate* a part of the repeats."""

    name: str
    boxes: tuple[BoxPlan, ...]
    vary: Vary = field(default_factory=lambda: Vary({}))
    oracle: Oracle = field(default_factory=Oracle)
    matrix: Matrix | None = None
    memcgs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kernel: str = DEFAULT_PROFILE
    repeats: int = 1
    seed: int = 0
    timeout: float = 30.0
    pass_rate: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        shape: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return shape

    @property
    def digest(self) -> str:
        """Tell experiments apart: results of one are not those of another."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def box(self, name: str) -> BoxPlan:
        """Find a box by name."""
        return next(box for box in self.boxes if box.name == name)
