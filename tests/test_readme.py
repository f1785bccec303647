"""What the README and the guide show is what the code says, and whoever follows a link arrives."""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from kmem_harness.cli import cli
from kmem_harness.costs import kinds
from tests.adversary import roster
from tests.support import guide, host_errors

if TYPE_CHECKING:
    from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What newcomers ask, and which heading of the guide answers it.
QUESTIONS = {
    "Which limit does my service need?": "services.md#find-the-limit-of-a-unit",
    "How do I fail the third `socket`?": "faults-and-sweeps.md#fail-the-third-socket",
    "Why was my call refused?": "reading-a-report.md#why-was-my-call-refused",
    "How do I use it in GitHub Actions?": "ci.md#github-actions",
    "How do I use it with docker compose?": "docker.md#docker-compose",
    "How do I use it with podman?": "docker.md#podman-docker-23-containerd",
    "Does it run on a Mac?": "ci.md#on-a-mac-or-on-windows",
    "What does it cost?": "performance.md#what-it-costs",
    "How do I start two containers in a test?": "pytest.md#two-containers-or-a-shared-one",
    "How do I share a container among tests?": "pytest.md#two-containers-or-a-shared-one",
    "Which process uses the memory?": "reading-a-report.md#which-process-uses-it",
    "What is the letter K in pytest's output?": "pytest.md#what-is-k",
}


def rows(page: Path) -> dict[str, str]:
    """The table of questions of a page: question, and the link that answers it."""
    text = guide.read(page)
    targets = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    found = re.findall(r"^\| ([^|]+\?) \| \[[^\]]+\][\[(]([^\])]+)[\])] \|$", text, re.MULTILINE)
    return {question: targets.get(target, target) for question, target in found}


def test_guide_when_it_shows_system_calls_then_they_are_the_ones_in_the_code():
    shown = guide.between(guide.GUIDE / "what-is-modelled.md", "syscalls")
    assert shown == kinds.markdown(), "run python -m kmem_harness.costs.kinds"


def test_guide_when_it_shows_adversaries_then_they_are_the_ones_in_the_tests():
    shown = guide.between(guide.GUIDE / "security.md", "adversaries")
    assert shown == roster.markdown(), "run python -m tests.adversary.roster"


def test_guide_when_it_shows_what_a_host_lacks_then_that_is_what_the_code_says():
    shown = guide.between(guide.GUIDE / "troubleshooting.md", "host-errors")
    assert shown == host_errors.markdown(), "run python -m tests.support.host_errors"


def test_readme_when_its_commands_are_taken_out_then_they_are_one_line_each():
    shown = guide.blocks(guide.README, "sh")
    assert [block.count("\n") for block in shown] == [1, 1]
    for name, block in zip(("first-command", "test-command"), shown, strict=True):
        assert guide.between(guide.README, name) == f"```sh\n{block}```\n"
    assert "pip install . && .venv/bin/kmem-harness demo fork-bomb" in shown[0]
    assert "pytest" in shown[1]


def test_readme_when_it_shows_a_picture_then_that_is_the_demo():
    assert "demo-fork-bomb.svg" in guide.read(guide.README)
    picture = guide.read(guide.ROOT / ".github" / "demo-fork-bomb.svg")
    assert "contained" in picture


def test_readme_when_printed_then_is_one_page():
    lines = guide.read(guide.README).splitlines()
    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", [guide.README, guide.GUIDE / "README.md"], ids=["readme", "guide"])
def test_question_when_a_newcomer_asks_it_then_one_link_answers_it(page):
    prefix = f"{guide.BLOB}.github/docs/" if page == guide.README else ""
    assert rows(page) == {question: prefix + answer for question, answer in QUESTIONS.items()}


@pytest.mark.parametrize("page", guide.PAGES, ids=lambda page: page.stem)
def test_link_when_it_is_followed_then_page_and_heading_are_there(page):
    lost = []
    for link in guide.links(page):
        target, _, anchor = link.partition("#")
        path = re.sub(rf"^({guide.BLOB}|{guide.RAW})", "", target)
        assert "//" not in path, f"{link} is not of this project: nobody looks whether it is there"
        there = page if not path else guide.ROOT / path if path != target else page.parent / path
        if not there.exists() or (anchor and anchor not in guide.anchors(there)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", guide.PAGES, ids=lambda page: page.stem)
def test_reference_when_a_page_uses_it_then_it_is_defined_and_none_is_idle(page):
    text = re.sub(r"`[^`\n]*`", "", guide.prose(page))
    used = set(re.findall(r"\]\[([^\]]+)\]", text))
    assert used == set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))


def test_page_when_it_is_in_the_guide_then_its_index_names_it():
    named = {link.partition("#")[0] for link in guide.links(guide.GUIDE / "README.md")}
    assert {page.name for page in guide.GUIDE.glob("*.md")} - {"README.md"} <= named


@pytest.mark.parametrize("line", sorted(guide.commands()), ids=lambda line: line[13:40])
def test_command_when_a_page_shows_it_then_it_and_its_options_exist(line):
    words = shlex.split(line.partition(" -- ")[0], comments=True)[1:]
    command: click.Command = cli
    path: list[str] = []
    while isinstance(command, click.Group):
        path.append(words.pop(0))
        found = command.get_command(click.Context(command), path[-1])
        assert found, f"there is no command {' '.join(path)}"
        command = found
    outcome = CliRunner().invoke(cli, [*path, "--help"])
    assert outcome.exit_code == 0, outcome.output
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert options <= known


@pytest.mark.parametrize("page", guide.PAGES, ids=lambda page: page.stem)
def test_example_when_a_page_shows_python_or_toml_then_it_can_be_read(page):
    for block in guide.blocks(page, "python"):
        compile(block, page.name, "exec")
    for block in guide.blocks(page, "toml"):
        tomllib.loads(block)
