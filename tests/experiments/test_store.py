"""The results file: each run once, and nobody else's."""

from __future__ import annotations

import sqlite3

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.experiments import parse
from kmem_harness.experiments.store import Store
from tests.experiments.tables import forkers


def outcome(key, **more):
    return {
        "key": key,
        "params": {},
        "repeat": 0,
        "passed": True,
        "seconds": 1.0,
        "worker": "w",
    } | more


def test_store_when_a_run_comes_twice_then_the_first_one_stays(tmp_path):
    path = str(tmp_path / "r")
    with Store(path, parse(forkers())) as store:
        assert store.add(outcome("a"), {"box": {"x": 1}})
        assert not store.add(outcome("a", passed=False), {})
        assert store.add(outcome("b"), {})
    with Store(path) as store:
        assert [(key, one["passed"]) for key, one in store.outcomes().items()] == [
            ("a", True),
            ("b", True),
        ]
        assert store.reports("a") == {"box": {"x": 1}}
        assert store.experiment == parse(forkers()).as_dict()


def test_store_when_it_holds_another_experiment_then_names_what_differs(tmp_path):
    Store(str(tmp_path / "r"), parse(forkers())).close()
    with pytest.raises(
        ConfigurationError, match=r"another experiment \(repeats differs\); name another"
    ):
        Store(str(tmp_path / "r"), parse(forkers(repeats=2)))


def test_store_when_of_another_version_then_says_so(tmp_path):
    Store(str(tmp_path / "r"), parse(forkers())).close()
    with sqlite3.connect(tmp_path / "r") as database:
        database.execute("UPDATE about SET version=7")
    database.close()
    with pytest.raises(ConfigurationError, match=r"results of version 7, .* reads version 1"):
        Store(str(tmp_path / "r"))


def test_store_when_file_is_no_database_then_says_so_and_leaves_it(tmp_path):
    (tmp_path / "r").write_text("my notes, which are long enough to be no empty database\n" * 20)
    before = (tmp_path / "r").read_bytes()
    with pytest.raises(ConfigurationError, match="not results of ours"):
        Store(str(tmp_path / "r"), parse(forkers()))
    assert (tmp_path / "r").read_bytes() == before
    with pytest.raises(ConfigurationError, match="no results there; run the experiment first"):
        Store(str(tmp_path / "none"))
