"""The ways in which we ourselves fail a test, or leave it out."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from kmem_harness.core.errors import UnsupportedHostError

__all__ = ["KmemFailed", "KmemWarning", "cannot_enforce"]


class KmemFailed(pytest.fail.Exception):  # type: ignore[misc,name-defined]
    """A test failed for what its containers did with kernel memory: its ``why`` says which rule."""

    # As pytest's own does: summaries show the bare name.
    __module__ = "builtins"

    def __init__(self, why: str, text: str) -> None:
        """Fail with *text* alone, without a traceback."""
        super().__init__(text, pytrace=False)
        self.why = why


class KmemWarning(pytest.PytestWarning):
    """Something was asked for that made no difference."""

    __module__ = "kmem_harness.pytest_plugin"  # where it can be imported from, for filters


def cannot_enforce(error: UnsupportedHostError, *, require: bool) -> NoReturn:
    """Skip the test, or fail it if that is asked for.

    Where $CI is set nobody may be looking at what is skipped: there a warning says so, too.
    """
    text = f"kmem limits cannot be enforced here: {error}; {error.remedy}"
    if require:
        raise KmemFailed("not enforced", text)
    if os.environ.get("CI"):
        loud = (
            f"{text}. A CI that skips this tests nothing by it: --kmem-require makes it a failure"
        )
        warnings.warn(KmemWarning(loud), stacklevel=2)
    pytest.skip(text)
