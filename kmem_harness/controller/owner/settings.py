"""The one setting that a controller takes from its environment: who answers its calls.

For tests and comparisons alone. Its owner sees that it is sound before it starts one.
"""

from __future__ import annotations

import os

from kmem_harness.core.errors import ConfigurationError

__all__ = ["AT_ONCE", "OFF", "fast_path_setting"]

_NAME = "KMEM_HARNESS_FAST_PATH"
#: Python answers every call.
OFF = "off"
#: Python answers none that it need not, from the first call on; else, once there is much to do.
AT_ONCE = "at once"


def fast_path_setting() -> str:
    """Give :data:`OFF`, :data:`AT_ONCE`, or ``""`` for neither. Raises: ConfigurationError."""
    value = os.environ.get(_NAME, "")
    if value not in (OFF, AT_ONCE, ""):
        message = (
            f"{_NAME}={value!r}: {OFF!r} has Python answer every call, {AT_ONCE!r} as few as it "
            "can; unset it for what is best"
        )
        raise ConfigurationError(message)
    return value
