"""Hold what is written for programs to read against the schemas that are shipped with the package."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest

from kmem_harness.box import Box
from kmem_harness.report.schemas import NAMES, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check", "checking_reports"]


@functools.cache
def _validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    from referencing import Registry, Resource

    known = [(f"{one}.json", Resource.from_contents(schema(one))) for one in NAMES]
    return jsonschema.Draft202012Validator(schema(name), registry=Registry().with_resources(known))


def check(name: str, value: Any) -> None:
    """Fail with the first place where *value* is not as schema *name* has it."""
    error = next(_validator(name).iter_errors(value), None)
    assert error is None, f"{name}: {error.json_path}: {error.message[:300]}"


def checking_reports() -> Iterator[None]:
    """Check reports that boxes of this process give: the first of each, and the first at its end."""
    try:
        import jsonschema  # noqa: F401
    except ImportError:
        yield
        return
    checked: WeakKeyDictionary[Box, set[bool]] = WeakKeyDictionary()
    original = Box.report

    def report(self: Box) -> dict[str, Any]:
        given = original(self)
        ended = given["ended"] is not None
        if ended not in checked.setdefault(self, set()):
            checked[self].add(ended)
            check("report", given)
        return given

    Box.report = report  # type: ignore[method-assign]
    yield
    Box.report = original  # type: ignore[method-assign]
