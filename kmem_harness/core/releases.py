"""The names of the kernels this package can be. Knows nothing of what they do.

Apart from the profiles, for a command line needs these and not those.
"""

from __future__ import annotations

from kmem_harness.core.errors import ConfigurationError

__all__ = ["DEFAULT_PROFILE", "PROFILE_NAMES", "check_profile_name"]

PROFILE_NAMES = ("v4", "3.8", "3.12", "5.10")
DEFAULT_PROFILE = "5.10"


def check_profile_name(name: str) -> str:
    """Give *name* itself. Raises: ConfigurationError for one that is not in PROFILE_NAMES."""
    if name not in PROFILE_NAMES:
        message = f"unknown kernel profile {name!r}. Known profiles: {', '.join(PROFILE_NAMES)}."
        raise ConfigurationError(message)
    return name
