"""Unit files of real packages: every assignment in them is accounted for."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from kmem_harness.services.unitfile.load import Library
from kmem_harness.services.unitfile.specifiers import Directories
from kmem_harness.services.unitfile.unit import Handling

UNITS = Path(__file__).parents[1] / "units"
FILES = sorted(path for path in UNITS.glob("*/*") if path.suffix != ".md")


def load(path: Path):
    name = path.name.replace("@.", "@main.")
    return Library([str(path.parent)], Directories("/run/kmem")).load(name)


def assignments_in(text: str) -> Counter[str]:
    """Count keys the simple way: lines are joined first, and nothing is understood."""
    without_comments = re.sub(r"^\s*[#;].*\n?", "", text, flags=re.MULTILINE)
    joined = re.sub(r"\\\n", " ", without_comments)
    return Counter(
        line.split("=")[0].strip() for line in joined.splitlines() if "=" in line.strip()
    )


def test_units_when_counted_then_there_are_enough_of_them():
    assert len(FILES) >= 30
    assert len({path.parent for path in FILES}) >= 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_unit_when_loaded_then_every_key_is_accounted_for(path):
    unit = load(path)
    assert Counter(one.assignment.key for one in unit.noted) == assignments_in(path.read_text())
    assert all(isinstance(one.handling, Handling) for one in unit.noted)
    unknown = [one for one in unit.noted if one.handling is Handling.UNKNOWN]
    assert not unknown


def handled(path: str) -> dict[Handling, set[str]]:
    found: dict[Handling, set[str]] = {}
    for one in load(UNITS / path).noted:
        found.setdefault(one.handling, set()).add(one.assignment.key)
    return found


def test_ssh_when_loaded_then_what_is_enforced_is_told_from_what_is_not():
    found = handled("openssh-server/ssh.service")
    assert {"ExecStartPre", "ExecStart", "ExecReload", "Restart", "Type"} <= found[
        Handling.ENFORCED
    ]
    assert {"ConditionPathExists", "RestartPreventExitStatus"} <= found[Handling.ENFORCED]
    assert "KillMode" in found[Handling.NOT_EMULATED]  # =process: what is left cannot stay
    assert "Description" in found[Handling.TOLD]


def test_redis_when_loaded_then_its_sandbox_is_said_not_to_be_emulated():
    unit = load(UNITS / "redis-server/redis-server.service")
    told = {one.assignment.key for one in unit.not_emulated()}
    assert {"PrivateDevices", "ProtectHome", "CapabilityBoundingSet"} <= told
    assert unit.service.effective_type == "notify"
    assert unit.service.resource_limits == [("RLIMIT_NOFILE", 65535, 65535)]
    assert unit.service.runtime_directory == ["redis"]
    assert unit.service.runtime_directory_mode == 0o2755


def test_mariadb_when_loaded_then_a_percentage_is_no_specifier():
    unit = load(UNITS / "mariadb-server/mariadb.service")
    assert unit.limits.tasks_max > 0
    assert unit.service.restart == "on-abnormal"
