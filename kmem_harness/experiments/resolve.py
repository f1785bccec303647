"""Fill the parameters of a job into its experiment: what is left are texts to run. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from kmem_harness.experiments.model import (
    PLACEHOLDER,
    BoxPlan,
    Isolation,
    Oracle,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Resolved", "resolve"]

#: In the matrix a box that is its own neighbour runs twice; the second goes by this name.
SECOND = "{}-again"


@dataclass(frozen=True)
class Resolved:
    """A run without parameters."""

    kernel: str
    timeout: float
    boxes: tuple[BoxPlan, ...]
    memcgs: Mapping[str, Mapping[str, str]]
    oracle: Oracle
    is_pair: bool


def resolve(job: Mapping[str, Any], ports: Mapping[str, int], directory: str) -> Resolved:
    """Fill in the parameters, the seed, a port of its own for each box, and a folder.

    ``{port}`` in a box's table is its own, ``{port.NAME}`` that of box NAME.
    """
    shape = job["experiment"]
    names: dict[str, Any] = {
        **job["params"],
        "seed": job["seed"],
        "repeat": job["repeat"],
        "directory": directory,
        **{f"port.{name}": port for name, port in ports.items()},
    }
    plans = {row["name"]: row for row in shape["boxes"] if row["name"] in job["boxes"]}
    boxes = [_box(row, {**names, "port": ports[name]}) for name, row in plans.items()]
    pair = job["pair"]
    oracle = _oracle(shape["oracle"], job["boxes"])
    if pair:
        boxes, oracle = _as_pair(boxes, pair, shape["matrix"])
    return Resolved(
        kernel=shape["kernel"],
        timeout=shape["timeout"],
        boxes=tuple(boxes),
        memcgs={
            _filled(path, names): {name: _filled(limit, names) for name, limit in row.items()}
            for path, row in shape["memcgs"].items()
        },
        oracle=oracle,
        is_pair=bool(pair),
    )


def _box(row: Mapping[str, Any], names: Mapping[str, Any]) -> BoxPlan:
    known = {field.name for field in fields(BoxPlan)}
    given = {name: _filled(value, names) for name, value in row.items() if name in known}
    for name in ("command", "inject", "aggressor", "unit"):
        given[name] = tuple(given[name])
    for name in ("ready", "health", "probe"):
        if given[name] is not None:
            given[name] = Request(**{**given[name], "command": tuple(given[name]["command"])})
    return BoxPlan(**given)


def _oracle(row: Mapping[str, Any], boxes: list[str]) -> Oracle:
    """Leave out what is asked of boxes that take no part in this run."""
    return Oracle(
        exit={name: tuple(codes) for name, codes in row["exit"].items() if name in boxes},
        refused={name: most for name, most in row["refused"].items() if name in boxes},
        p99={name: most for name, most in row["p99"].items() if name in boxes},
        isolated=tuple(
            Isolation(**pair)
            for pair in row["isolated"]
            if pair["victim"] in boxes and pair["aggressor"] in boxes
        ),
    )


def _as_pair(
    boxes: list[BoxPlan], pair: Mapping[str, str], matrix: Mapping[str, Any]
) -> tuple[list[BoxPlan], Oracle]:
    victim = next(box for box in boxes if box.name == pair["victim"])
    aggressor = next(box for box in boxes if box.name == pair["aggressor"])
    if aggressor.name == victim.name:
        aggressor = replace(aggressor, name=SECOND.format(aggressor.name))
        if aggressor.memcg is not None:
            aggressor = replace(aggressor, memcg=SECOND.format(aggressor.memcg))
    if aggressor.aggressor:
        aggressor = replace(aggressor, command=aggressor.aggressor, ready=None)
    isolation = Isolation(victim.name, aggressor.name, matrix["p99"], matrix["slack"])
    return [victim, aggressor], Oracle(isolated=(isolation,))


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    """Fill ``{names}`` into all texts of *value*; other braces stay."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(
            lambda match: str(names[match[1]]) if match[1] in names else match[0], value
        )
    if isinstance(value, list):
        return [_filled(one, names) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, names) for key, one in value.items()}
    return value
