"""Charge kernel keys, and offer fault rules for keys and queues. Uses the hooks alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

#: struct key, and what describes it, in one slab object each. Assumed: nobody has measured it.
_KEY_NBYTES = 256


@hookimpl
def kmem_cost_kinds(kernel: str) -> Mapping[str, Mapping[str, Any]]:
    """Charge each key: only kernels that count slab objects do so."""
    if kernel != "5.10":
        return {}
    return {"key": {"syscalls": ["add_key"], "nbytes": _KEY_NBYTES, "errno": "EDQUOT"}}


@hookimpl
def kmem_fault_rules() -> Mapping[str, str]:
    """Name what goes wrong with keys and queues."""
    return {"no-keys": "add_key:error=EDQUOT", "slow-ipc": "%ipc:delay_enter=5ms"}
