"""The one tree of errors this package raises on purpose, and the kernel's own refusals.

Knows no rules: a control file that refuses a write raises ``OSError`` built here, as a real
cgroupfs would set ``errno``; everything else derives from :class:`KmemHarnessError`.
"""

from __future__ import annotations

import os

__all__ = [
    "AccountingError",
    "ConfigurationError",
    "KmemHarnessError",
    "ShimError",
    "UnkillableTaskError",
    "UnsupportedHostError",
    "kernel_error",
]


class KmemHarnessError(Exception):
    """Everything raised on purpose derives from this."""


class ConfigurationError(KmemHarnessError, ValueError):
    """A setting cannot be used; the message names it, the rule and a remedy."""


class UnsupportedHostError(KmemHarnessError):
    """The host lacks something; a test may skip on it, a run may not."""

    def __init__(self, message: str, *, missing: str, remedy: str) -> None:
        super().__init__(message)
        self.missing = missing
        self.remedy = remedy


class ShimError(KmemHarnessError):
    """The shim failed before it became the target."""

    def __init__(self, message: str, *, step: str, errno: int) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno


class UnkillableTaskError(KmemHarnessError):
    """A box was ended, and a task of it is still there: the kernel does not let it die."""


class AccountingError(KmemHarnessError):
    """The books do not balance: our bug, never the target's."""


def kernel_error(
    number: int, why: str, *, rule: str, file: str, value: str | None = None
) -> OSError:
    """Build the refusal a control file answers with; the caller raises it.

    :param rule: the rule of the semantics reference that decided, such as ``"K19"``.
    :param value: the text written, where there was one.
    """
    written = "" if value is None else f", value {value[:80]!r}"
    return OSError(number, f"{os.strerror(number)}: {why} ({rule}, file {file!r}{written})")
