"""What users copy into their CI, and what ours runs: the files against each other and the project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmem_harness.pytest_plugin import settings

yaml = pytest.importorskip("yaml", reason="PyYAML reads the workflows: it comes with distributed")

ROOT = Path(__file__).parents[2]
ACTION = ".github/actions/setup"
GUIDE = ROOT / ".github" / "docs" / "ci.md"


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def snippet(name):
    text = GUIDE.read_text(encoding="utf-8")
    found = re.search(
        rf"<!-- {name}:begin -->\n```yaml\n(.*?)```\n<!-- {name}:end -->", text, re.DOTALL
    )
    assert found, name
    return yaml.safe_load(found[1])


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def ours(steps):
    """Those that use our action."""
    return [step for step in steps if step.get("uses", "").split("@")[0].endswith(ACTION)]


@pytest.mark.parametrize("workflow", [None, ".github/workflows/ci.yml"], ids=["guide", "own"])
def test_action_when_it_is_used_then_has_the_inputs_it_is_given(workflow):
    used = ours(steps_of(snippet("ci-github") if workflow is None else read(workflow)))
    assert used
    inputs = read(f"{ACTION}/action.yml")["inputs"]
    for step in used:
        assert set(step.get("with", {})) <= set(inputs)
        assert all(isinstance(value, str) for value in step.get("with", {}).values())


def test_action_when_it_reads_an_input_then_that_is_one_and_the_guide_names_it():
    text = (ROOT / ACTION / "action.yml").read_text(encoding="utf-8")
    inputs = read(f"{ACTION}/action.yml")["inputs"]
    assert set(re.findall(r"inputs\.(\w+)", text)) == set(inputs)
    guide = GUIDE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in guide for name in inputs)
    # What a user gives must reach a shell as a value, never as its text.
    for step in read(f"{ACTION}/action.yml")["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("name", ["ci-github", "ci-gitlab"])
def test_snippet_when_it_is_copied_then_its_options_of_pytest_exist(name):
    told = yaml.safe_dump(snippet(name))
    options = set(re.findall(r"--kmem-[a-z-]+", told))
    assert options
    known = Path(settings.__file__).read_text(encoding="utf-8")
    known += (ROOT / "kmem_harness/pytest_plugin/__init__.py").read_text(encoding="utf-8")
    assert [option for option in options if option[7:] not in known] == []


def test_release_when_it_publishes_then_needs_every_job_and_holds_no_secret():
    workflow = read(".github/workflows/release.yml")
    publish = workflow["jobs"]["publish"]
    assert set(publish["needs"]) == set(workflow["jobs"]) - {"publish"}
    assert publish["permissions"] == {"attestations": "write", "id-token": "write"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")


def test_pythons_when_one_is_supported_then_is_classified_and_tested():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    tested = read(".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert classified == tested
    assert f"SUPPORTED = {classified}".replace("'", '"') in (ROOT / "noxfile.py").read_text()
