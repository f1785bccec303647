"""Terms of a container, as labels, annotations and metadata say them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.terms import PREFIX, Terms

FULL = Terms(
    limit="8m",
    kinds=("task", "file"),
    mode="observe",
    inject=("socket:error=ENOMEM:when=3",),
    memcg="/shop.slice/web",
    kernel="v4",
    killable=True,
    machine="x86_64",
    calls="0123",
)


@pytest.mark.parametrize("terms", [FULL, Terms(limit="4096"), Terms(memcg="/a")])
def test_metadata_when_read_again_then_says_the_same(terms: Terms) -> None:
    assert Terms.of_metadata(terms.metadata()) == terms


def test_metadata_when_it_is_a_size_alone_then_is_the_limit() -> None:
    assert Terms.of_metadata("8MiB") == Terms(limit="8MiB")


def test_labels_then_say_all_but_what_the_runtime_decides() -> None:
    labels = {
        f"{PREFIX}limit": "8m",
        f"{PREFIX}kinds": "task,file",
        f"{PREFIX}mode": "observe",
        f"{PREFIX}inject": "socket:error=ENOMEM:when=3",
        f"{PREFIX}memcg": "/shop.slice/web",
        f"{PREFIX}kernel": "v4",
        f"{PREFIX}owner": "somebody's",
        "other": "label",
    }
    assert Terms.of_labels(labels) == FULL._replace(killable=False, machine="", calls="")


def test_labels_when_in_two_places_then_the_first_wins() -> None:
    first, second = {f"{PREFIX}limit": "1m"}, {f"{PREFIX}limit": "2m", f"{PREFIX}mode": "observe"}
    assert Terms.of_labels(first, second) == Terms(limit="1m", mode="observe")
    assert Terms.of_labels(None, {"other": "1"}) is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"limit": "8 apples"}, "8 apples"),
        ({"limit": "1k"}, "below one page"),
        ({"limit": "max"}, "'max' is none"),
        ({"limit": True}, "limit is True"),
        ({"limit": ["8m"]}, "and no text"),
        ({"limit": "8m", "kinds": ["tusk"]}, "'tusk' is not known"),
        ({"limit": "8m", "kinds": 7}, "kinds is 7"),
        ({"limit": "8m", "kinds": ["task", ""]}, "no list of words"),
        ({"limit": "8m", "mode": "hard"}, "'hard' is not known"),
        ({"limit": "8m", "inject": ["nonsense"]}, "nonsense"),
        ({"limit": "8m", "memcg": "web"}, "'web' is no path"),
        ({"memcg": "/web/../.."}, "no path"),
        ({"limit": "8m", "kernel": "6.1"}, "6.1"),
        ({"limit": "8m", "killable": "yes"}, "true or false"),
        ({"limits": "8m"}, "'limits' is not known; known are limit"),
        ({}, "nothing is limited"),
    ],
)
def test_fields_when_one_means_nothing_then_names_it_and_where(
    fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        Terms.of_metadata(json.dumps(fields))
    assert str(caught.value).startswith("listenerMetadata '{")


@pytest.mark.parametrize("text", ["", "{", "{" * 3000, "9" * 5000, "nul\0", '{"limit": NaN}', "[]"])
def test_metadata_when_it_is_odd_then_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Terms.of_metadata(text)
