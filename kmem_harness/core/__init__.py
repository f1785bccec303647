"""The emulated controller: counters, memcgs, their files and the kernels' differences."""

from kmem_harness.core.counter import Refusal, ResourceCounter
from kmem_harness.core.errors import (
    AccountingError,
    ConfigurationError,
    KmemHarnessError,
    ShimError,
    UnsupportedHostError,
)
from kmem_harness.core.gfp import GFP_KERNEL, Gfp
from kmem_harness.core.memcg import Memcg
from kmem_harness.core.profiles import PROFILE_NAMES, KernelProfile, profile_named
from kmem_harness.core.sizes import UNLIMITED, format_size, parse_size
from kmem_harness.core.tree import MemcgTree

__all__ = [
    "GFP_KERNEL",
    "PROFILE_NAMES",
    "UNLIMITED",
    "AccountingError",
    "ConfigurationError",
    "Gfp",
    "KernelProfile",
    "KmemHarnessError",
    "Memcg",
    "MemcgTree",
    "Refusal",
    "ResourceCounter",
    "ShimError",
    "UnsupportedHostError",
    "format_size",
    "parse_size",
    "profile_named",
]
