"""The pytest door: fixtures, markers, options, reports. Imports nothing heavy by itself.

What pytest shall find is gathered here. Each of its modules has one part of it; those that only a
run with containers needs are imported by that run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.pytest_plugin.fault_markers import pytest_pyfunc_call
from kmem_harness.pytest_plugin.fixtures import (
    kmem_container,
    kmem_container_class,
    kmem_container_module,
    kmem_container_session,
    kmem_harness,
    kmem_memcg,
    kmem_memcg_class,
    kmem_memcg_module,
    kmem_memcg_session,
)
from kmem_harness.pytest_plugin.markers import pytest_runtest_setup
from kmem_harness.pytest_plugin.running import (
    pytest_enter_pdb,
    pytest_leave_pdb,
    pytest_report_teststatus,
    pytest_runtest_call,
    pytest_runtest_makereport,
)
from kmem_harness.pytest_plugin.session import (
    pytest_addoption,
    pytest_configure,
    pytest_report_header,
    pytest_runtestloop,
    pytest_sessionfinish,
)
from kmem_harness.pytest_plugin.settings import Settings
from kmem_harness.pytest_plugin.spelling import pytest_make_collect_report

if TYPE_CHECKING:
    from kmem_harness.pytest_plugin.containers import ContainerFactory
    from kmem_harness.pytest_plugin.verdicts import KmemWarning

__all__ = [
    "ContainerFactory",
    "KmemWarning",
    "Settings",
    "kmem_container",
    "kmem_container_class",
    "kmem_container_module",
    "kmem_container_session",
    "kmem_harness",
    "kmem_memcg",
    "kmem_memcg_class",
    "kmem_memcg_module",
    "kmem_memcg_session",
    "pytest_addoption",
    "pytest_configure",
    "pytest_enter_pdb",
    "pytest_leave_pdb",
    "pytest_make_collect_report",
    "pytest_pyfunc_call",
    "pytest_report_header",
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_runtestloop",
    "pytest_sessionfinish",
]


def __getattr__(name: str) -> Any:
    if name == "ContainerFactory":  # for annotations; most runs have none
        from kmem_harness.pytest_plugin.containers import ContainerFactory

        return ContainerFactory
    if name == "KmemWarning":
        from kmem_harness.pytest_plugin.verdicts import KmemWarning

        return KmemWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
