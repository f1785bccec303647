"""The harness inside a container that was started without any option, as root: the usual CI job."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.support.inside import run_inside

if TYPE_CHECKING:
    from tests.support.engine import Engine

_SLEEPERS = "for i in $(seq 200); do sleep 9 & done; wait"


def test_run_when_inside_a_default_container_then_limit_binds_and_leaves_nothing(
    engine: Engine, image: str
) -> None:
    """Its root has no CAP_SYS_PTRACE: nobody may drop what a target has and look at it still."""
    status, said = run_inside(
        engine,
        image,
        '"$PYTHON" -m kmem_harness run --report /tmp/r.json --kmem-limit 8M --kinds task -- '
        f"sh -c '{_SLEEPERS}'; echo status $?; cat /tmp/r.json",
    )
    assert status == 0, said
    assert "status 2" in said, said
    report = json.loads(said[said.index("{") :])
    task = report["kinds"]["task"]
    assert task["refused"] > 0
    assert task["live_peak"] == 96, "as many as 8 MiB admit anywhere else"
    assert report["refusals"]["first"]["errno"] == "ENOMEM"
    assert {kind["live"] for kind in report["kinds"].values()} == {0}


def test_pytest_when_inside_a_default_container_then_limits_leaks_and_faults_hold(
    engine: Engine, image: str
) -> None:
    """The sample's tests whose names end in ``_fails`` are to fail, and those alone."""
    status, said = run_inside(
        engine,
        image,
        "cp -r tests/pytest_plugin/sample /tmp/sample && cd /tmp/sample && "
        '"$PYTHON" -m pytest -p kmem_harness.pytest_plugin -p no:cacheprovider -rfp '
        "test_limits.py test_leaks.py test_faults.py",
    )
    assert status == 1, said
    passed = set(re.findall(r"^PASSED (\S+)", said, re.MULTILINE))
    failed = set(re.findall(r"^FAILED (?:\(kmem\) )?(\S+)", said, re.MULTILINE))
    assert {name for name in failed if not name.endswith("_fails")} == set(), said
    assert {name for name in passed if name.endswith("_fails")} == set(), said
    assert len(passed) >= 20, said
    assert len(failed) >= 4, said


def test_doctor_when_inside_a_default_container_then_says_what_is_less_there(
    engine: Engine, image: str
) -> None:
    """It said yes where nothing could be counted, for it tried no census."""
    status, said = run_inside(engine, image, '"$PYTHON" -m kmem_harness doctor')
    assert status == 1, said
    verdict = " ".join(said[said.index("verdict:") :].split())
    assert verdict.startswith(
        "verdict: limits hold here, with something less exact: boxes in names"
    )
