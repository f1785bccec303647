"""The schemas that are shipped, and what is written: reports, cards, events, experiment files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import kmem_harness
from kmem_harness import Harness
from kmem_harness.report.schemas import NAMES, schema
from tests.support.schemas import check

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
ROOT = Path(kmem_harness.__file__).parent.parent
BOMB = ["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 0.01 & done; wait"]


@pytest.fixture(scope="module")
def harness():
    with Harness(kernel="v4") as one:
        yield one


@pytest.mark.parametrize("name", NAMES)
def test_schema_when_read_then_is_one_itself(name):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$id"] == f"{name}.json"


def test_schema_when_it_is_not_known_then_says_which_are():
    with pytest.raises(KeyError, match="known are card"):
        schema("cards")


def test_report_when_calls_were_refused_then_it_and_its_cards_are_as_the_schemas_have_them(harness):
    with harness.run(BOMB, kmem_limit="16k", faults=["socket:count"], look_at_end=True) as box:
        check("report", json.loads(json.dumps(box.report())))
        box.wait(timeout=30)
        report = json.loads(json.dumps(box.report()))
    assert report["refusals"]["cards"]
    check("report", report)
    check("card", report["ended"]["card"])


def test_report_when_a_key_is_wrong_then_the_schema_says_so(harness):
    with harness.run(["true"]) as box:
        box.wait(timeout=30)
        report = box.report()
    report["ended"]["reason"] = "bored"
    with pytest.raises(AssertionError, match="ended"):
        check("report", report)


@pytest.mark.parametrize("everything", [False, True])
def test_events_when_written_then_each_line_is_as_its_schema_has_it(harness, tmp_path, everything):
    path = tmp_path / "events.jsonl"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with harness.run(BOMB, kmem_limit="16k", events=fd, events_all=everything) as box:
            box.wait(timeout=30)
    finally:
        os.close(fd)
    lines = path.read_text().splitlines()
    assert len(lines) >= 1 + 2 * everything
    for line in lines:
        check("event", json.loads(line))


def test_experiment_file_when_it_is_the_guides_then_is_as_its_schema_has_it():
    text = (ROOT / ".github" / "docs" / "experiments.md").read_text(encoding="utf-8")
    example = text.partition('name = "limits"')[2].partition("```")[0]
    check("experiment", tomllib.loads(f'name = "limits"{example}'))
    with pytest.raises(AssertionError, match="kmem_limits"):
        check("experiment", {"name": "x", "box": {"a": {"kmem_limits": "1M"}}})
