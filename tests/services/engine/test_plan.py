from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.engine.plan import make_plan
from kmem_harness.services.engine.rules import Atom
from kmem_harness.services.unitfile.load import Library, UnitNotFoundError
from kmem_harness.services.unitfile.specifiers import Directories

if TYPE_CHECKING:
    from pathlib import Path

    from kmem_harness.services.engine.plan import Plan


def plan(folder: Path, units: dict[str, str], *names: str) -> Plan:
    for name, text in units.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        is_service = name.endswith(".service")
        path.write_text(f"[Unit]\n{text}\n" + ("[Service]\nExecStart=/bin/true\n" * is_service))
    library = Library([str(folder)], Directories("/run/kmem"))
    found = make_plan(library, names or [name for name in units if "/" not in name])
    assert "system.slice" in found.units
    for relation in (found.units, found.relations.after):
        relation.pop("system.slice")
    for after in found.relations.after.values():
        after.discard("system.slice")
    return found


def test_units_when_after_and_before_then_order_is_as_said(tmp_path):
    found = plan(
        tmp_path,
        {"a.service": "After=b.service", "b.service": "", "c.service": "Before=b.service"},
    )
    assert found.in_order() == ["c.service", "b.service", "a.service"]


def test_units_when_wanted_then_they_are_pulled_in_and_others_are_assumed(tmp_path):
    found = plan(
        tmp_path,
        {
            "a.service": "Wants=b.service network.target\nRequires=c.service x.socket",
            "b.service": "",
            "c.service": "",
            "other.service": "",
        },
        "a.service",
    )
    assert set(found.units) == {"a.service", "b.service", "c.service"}
    assert set(found.assumed) == {"network.target", "x.socket"}
    assert found.relations.towards("a.service", Atom.PULL_IN_START) == ["c.service", "system.slice"]
    assert found.relations.towards("c.service", Atom.PROPAGATE_STOP) == ["a.service"]


def test_target_when_it_pulls_units_in_then_it_waits_for_them(tmp_path):
    units = {"all.target": "Wants=a.service", "a.service": "", "b.service": ""}
    (tmp_path / "all.target.wants").mkdir()
    (tmp_path / "all.target.wants/b.service").symlink_to("../b.service")
    assert plan(tmp_path, units, "all.target").in_order()[-1] == "all.target"


def test_units_when_installed_into_a_target_then_they_count_as_enabled(tmp_path):
    units = {"all.target": "", "a.service": "[Install]\nWantedBy=all.target"}
    assert set(plan(tmp_path, units, "all.target").units) == {"a.service", "all.target"}


def test_units_when_they_wait_in_a_circle_then_the_error_names_them(tmp_path):
    units = {f"{one}.service": f"After={two}.service" for one, two in ("ab", "bc", "ca")}
    with pytest.raises(ConfigurationError, match="in a circle") as caught:
        plan(tmp_path, units)
    assert all(name in str(caught.value) for name in units)


def test_unit_when_a_required_service_is_not_there_then_that_is_an_error(tmp_path):
    with pytest.raises(UnitNotFoundError, match=r"a\.service requires b\.service"):
        plan(tmp_path, {"a.service": "BindsTo=b.service"})


def test_units_when_they_conflict_then_the_error_names_both(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a\.service conflicts with b\.service"):
        plan(tmp_path, {"a.service": "Conflicts=b.service", "b.service": ""})


def test_unit_when_for_failures_only_then_it_is_loaded_and_not_started(tmp_path):
    found = plan(
        tmp_path, {"a.service": "OnFailure=mail@%n.service", "mail@.service": ""}, "a.service"
    )
    assert found.on_demand == {"mail@a.service.service"}
    (tmp_path / "mail@.service").unlink()
    lonely = plan(tmp_path, {"a.service": "OnFailure=mail@%n.service"}, "a.service")
    assert set(lonely.assumed) == {"mail@a.service.service"}
