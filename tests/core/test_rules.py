"""Every rule of the semantics reference is cited by a test, or listed with its reason."""

from __future__ import annotations

import re
from pathlib import Path

from tests.core.rules_not_modelled import NOT_MODELLED

TESTS = Path(__file__).parents[1]
LAST_RULE = 118
LAST_VECTOR = 49
# Cited where a test's text says so; a span such as K17-K24 cites all between.
_CITED = re.compile(r"K([0-9]+)(?:-K?([0-9]+))?")


def cited_rules():
    rules = set()
    for folder in ("core", "costs", "replay"):
        for file in (TESTS / folder).glob("test_*.py"):
            if file != Path(__file__):
                for first, last in _CITED.findall(file.read_text()):
                    rules |= set(range(int(first), int(last or first) + 1))
    return rules


def test_rules_when_counted_then_each_is_cited_or_has_a_reason():
    missing = set(range(1, LAST_RULE + 1)) - cited_rules() - NOT_MODELLED.keys()
    assert not missing, f"neither cited nor explained: {sorted(missing)}"


def test_rules_when_explained_away_then_no_test_cites_them():
    assert not cited_rules() & NOT_MODELLED.keys()


def test_reasons_when_given_then_say_something():
    assert all(len(reason) > 20 for reason in NOT_MODELLED.values())


def test_vectors_when_counted_then_each_is_a_test():
    text = (TESTS / "core" / "test_vectors.py").read_text()
    found = {int(number) for number in re.findall(r'@vector\("T([0-9]+)"', text)}
    assert found == set(range(1, LAST_VECTOR + 1))
