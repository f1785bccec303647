"""Check an experiment as a whole: what no run could do is said before any is started."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import check_profile_name
from kmem_harness.experiments.model import PLACEHOLDER
from kmem_harness.experiments.units import check_units
from kmem_harness.faults.rule import parse_rules
from kmem_harness.handles import limit_text
from kmem_harness.services.unitfile.names import completed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.experiments.model import BoxPlan, Experiment

__all__ = ["NAME", "check", "check_programs"]

#: A box's name goes into memcg paths and file names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Filled in by the worker, besides the parameters.
_GIVEN = {"seed", "repeat", "port", "directory"}


def check(experiment: Experiment) -> None:
    """Find out what no run could do, before any is started. Raises: ConfigurationError."""
    check_profile_name(experiment.kernel)
    if not experiment.boxes:
        raise ConfigurationError("no box: write [box.NAME] with a command or an image")
    names = [box.name for box in experiment.boxes]
    for box in experiment.boxes:
        _check_box(box, experiment, names)
    if all(box.background for box in experiment.boxes) and not (
        experiment.matrix or any(box.health or box.probe for box in experiment.boxes)
    ):
        raise ConfigurationError(
            "every box is in the background and nothing is asked of any, so no run has an end: "
            "give one a health request, or leave background out"
        )
    for where, row in experiment.memcgs.items():
        if not where.startswith("/"):
            raise ConfigurationError(f"memcg {where!r} does not start with '/'; write '/{where}'")
        for limit in row.values():
            _check_limit(f"memcg.{where}", limit, experiment)
    _check_oracle(experiment, names)


def check_programs(experiment: Experiment) -> None:
    """See that what runs on this machine is here. Raises: ConfigurationError, naming what is not."""
    for box in experiment.boxes:
        commands = {} if box.image or box.runtime else {"command": box.command}
        commands["aggressor"] = () if box.image or box.runtime else box.aggressor
        for key in ("ready", "health", "probe"):
            request = getattr(box, key)
            commands[f"{key}.command"] = request.command if request else ()
        for key, command in commands.items():
            # A parameter may be part of it, or the box may change its PATH.
            if command and not PLACEHOLDER.search(command[0]) and "PATH" not in box.env:
                where = os.path.join(box.cwd, command[0]) if box.cwd and "/" in command[0] else ""
                if shutil.which(where or command[0]) is None:
                    raise ConfigurationError(
                        f"box.{box.name}.{key}: {command[0]!r} is not there or cannot be executed; "
                        "install it, or give its path"
                    )


def _check_box(box: BoxPlan, experiment: Experiment, names: list[str]) -> None:
    where = f"box.{box.name}"
    if not NAME.fullmatch(box.name):
        raise ConfigurationError(f"{where}: a name is letters, digits, '.', '_' and '-'")
    if not box.command and not box.image and not box.unit:
        raise ConfigurationError(
            f'{where}: nothing to run: give command = [...], image = "..." or unit = [...]'
        )
    known = {*experiment.vary.names, *_GIVEN, *(f"port.{name}" for name in names)}
    if box.unit:
        _check_units(where, box, known)
    for limit in (box.kmem_limit, box.memory_limit):
        if limit is not None:
            _check_limit(where, limit, experiment)
    texts: list[str] = [*box.command, *box.aggressor, *box.inject, *box.env.values()]
    for request in (box.ready, box.health, box.probe):
        if request is not None:
            texts += [*request.command, request.tcp]
    _check_faults(where, box)
    for name in (name for text in texts for name in PLACEHOLDER.findall(text)):
        if name.startswith("port.") and name not in known:
            raise ConfigurationError(f"{where}: {{{name}}}: there is no box {name[5:]!r}")


def _check_faults(where: str, box: BoxPlan) -> None:
    for rule in box.inject:
        # Without a colon it is a rule that a plugin has a name for; a parameter is filled in later.
        if ":" in rule and not PLACEHOLDER.search(rule):
            _check_fault(where, rule)


def _check_units(where: str, box: BoxPlan, known: set[str]) -> None:
    for name in ("command", "image", "memcg", "env", "cwd", "pids_max", "inject", "aggressor"):
        if getattr(box, name):
            message = f"{where}.{name}: units say that themselves; set it in their files"
            raise ConfigurationError(message)
    if (box.kmem_limit or box.memory_limit) and not any(
        completed(os.path.basename(source)).endswith(".service") and not os.path.isdir(source)
        for source in box.unit
    ):
        raise ConfigurationError(
            f"{where}: a limit is for the services named in unit; set those of a folder's with "
            'properties = ["web.service:X-KmemMax=8M"]'
        )
    for unit, row in box.properties.items():
        for key, value in row.items():
            for name in PLACEHOLDER.findall(value):
                if name not in known:
                    raise ConfigurationError(
                        f"{where}.properties: {unit}:{key}={value}: {name!r} is not varied; known "
                        f"are {', '.join(sorted(known))}"
                    )
    try:
        check_units(box)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}.unit: {error}") from error


def _check_fault(where: str, rule: str) -> None:
    try:
        parse_rules([rule])
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}.inject: {error}") from None


def _check_limit(where: str, limit: str, experiment: Experiment) -> None:
    used = PLACEHOLDER.findall(limit)
    for name in used:
        if name not in experiment.vary.names:
            known = ", ".join(experiment.vary.names) or "none"
            message = f"{where}: limit {limit!r}: {name!r} is not varied; varied are {known}"
            raise ConfigurationError(message)
    if not used:
        _check_size(where, limit)
    for name in used:
        if limit == f"{{{name}}}":
            _check_values(where, name, experiment)


def _check_values(where: str, name: str, experiment: Experiment) -> None:
    """Find out now what no run could be started with."""
    bisection = experiment.vary.bisection
    values: Iterable[Any] = experiment.vary.values.get(name, ())
    if bisection is not None and bisection.name == name:
        values = (bisection.high,)
    for value in values:
        _check_size(f"{where}: vary.{name}", value if isinstance(value, int) else str(value))


def _check_size(where: str, limit: str | int) -> None:
    try:
        limit_text(limit)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _check_oracle(experiment: Experiment, names: list[str]) -> None:
    oracle, matrix = experiment.oracle, experiment.matrix
    asked = {
        "oracle.exit": list(oracle.exit),
        "oracle.refused": list(oracle.refused),
        "oracle.p99_ms": list(oracle.p99),
        "oracle.isolated": [
            name for pair in oracle.isolated for name in (pair.victim, pair.aggressor)
        ],
        "matrix.boxes": list(matrix.boxes) if matrix else [],
        "vary.box": [str(name) for name in experiment.vary.values.get("box", ())],
    }
    for where, found in asked.items():
        for name in found:
            if name not in names:
                message = f"{where}: there is no box {name!r}; there are {', '.join(names)}"
                raise ConfigurationError(message)
    if matrix is not None and not matrix.boxes:
        raise ConfigurationError("matrix.boxes: name the boxes that take part")
    for pair in oracle.isolated:
        if pair.victim == pair.aggressor:
            message = f"oracle.isolated: {pair.victim} is victim and aggressor; no run can pass"
            raise ConfigurationError(message)
    measured = {
        "oracle.p99_ms": asked["oracle.p99_ms"],
        "oracle.isolated": [pair.victim for pair in oracle.isolated],
        "matrix.boxes": asked["matrix.boxes"],
    }
    for where, found in measured.items():
        for name in found:
            if experiment.box(name).probe is None:
                message = f"{where}: box {name} has no latency to compare; give box.{name}.probe"
                raise ConfigurationError(message)
