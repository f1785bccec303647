"""Find out what services need: predictions from recordings, sweeps, who disturbs whom."""

from __future__ import annotations

from kmem_harness.experiments.engine import run
from kmem_harness.experiments.experiment_file import load, parse
from kmem_harness.experiments.isolation import assert_isolated
from kmem_harness.experiments.model import BoxPlan, Experiment, Isolation, Matrix, Oracle, Request
from kmem_harness.experiments.parameters import Bisection, Vary
from kmem_harness.experiments.what_if import predict

__all__ = [
    "Bisection",
    "BoxPlan",
    "Experiment",
    "Isolation",
    "Matrix",
    "Oracle",
    "Request",
    "Vary",
    "assert_isolated",
    "load",
    "parse",
    "predict",
    "run",
]
