"""Files: read whole, or refused with the place, the value and what would do."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.experiments import load, parse
from tests.experiments.tables import forkers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROBE = {"tcp": "127.0.0.1:{port}", "send": "x", "expect": "y"}


def test_load_when_file_is_whole_then_gives_the_experiment(tmp_path):
    (tmp_path / "e.toml").write_text(
        """
        name = "cache"
        kernel = "v4"
        repeats = 3
        timeout = 5
        [memcg."/web.slice"]
        kmem_limit = "32M"
        [box.cache]
        command = ["cache", "--port", "{port}"]
        kmem_limit = "{limit}"
        memcg = "/web.slice/cache"
        background = true
        ready = {tcp = "127.0.0.1:{port}", send = "PING", expect = "PONG", within = 3}
        health = {command = ["cache-cli", "{port.cache}"]}
        probe = {tcp = "127.0.0.1:{port}", period_ms = 10}
        [vary]
        limit = {from = "64k", to = "512k", factor = 2}
        [oracle]
        exit = {cache = [0, 143]}
        refused = {cache = 0}
        p99_ms = {cache = 20}
        """
    )
    experiment = load(str(tmp_path / "e.toml"))
    (box,) = experiment.boxes
    assert (experiment.repeats, experiment.timeout, box.name) == (3, 5, "cache")
    assert experiment.memcgs == {"/web.slice": {"kmem_limit": "32M"}}
    assert experiment.vary.values == {"limit": (65536, 131072, 262144, 524288)}
    assert experiment.oracle.exit == {"cache": (0, 143)}
    assert experiment.oracle.p99 == {"cache": 0.02}
    assert (box.ready.within, box.probe.period, box.health.command) == (
        3,
        0.01,
        ("cache-cli", "{port.cache}"),
    )


def changed(path, value):
    """Change one value of the example; ``...`` removes it."""
    table = copy.deepcopy(forkers())
    *above, last = path.split("/")
    row = table
    for key in above:
        row = row.setdefault(key, {})
    if value is ...:
        del row[last]
    else:
        row[last] = value
    return table


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "a/b", r"name: 'a/b': a name of letters"),
        ("kernel", "6.1", r"6\.1"),
        ("repeats", 0, r"repeats: 0: a whole number from 1 on"),
        ("repeat", 3, r"repeat: unknown key; did you mean 'repeats'\?"),
        ("timeout", "long", r"timeout: 'long': a number is needed"),
        ("pass_rate", 2, r"pass_rate: 2: a number from 0 to 1"),
        ("box", {}, r"no box: write \[box.NAME\]"),
        ("box/forker/command", "sh -c x", r"box.forker.command: 'sh -c x': a list of texts"),
        ("box/forker/command", ..., r"box.forker: nothing to run: give command"),
        ("box/forker/comand", ["a"], r"box.forker.comand: unknown key; did you mean 'command'"),
        ("box/forker/kmem_limit", "8Q", r"box.forker: not a size: '8Q'"),
        ("box/forker/kmem_limit", "1k", r"box.forker: limit '1k' is below one page"),
        ("box/forker/kmem_limit", "{limits}", r"'limits' is not varied; varied are n, limit"),
        ("box/forker/command", ["a", "{port.b}"], r"box.forker: \{port.b\}: there is no box 'b'"),
        ("box/forker/background", True, r"every box is in the background and nothing is asked"),
        ("box/forker/health", {}, r"box.forker.health: give either command"),
        ("box/forker/health", {"tcp": "here"}, r"health.tcp: 'here': HOST:PORT is needed"),
        ("box/forker/inject", ["socket:error=ENOSUCH"], r"box.forker.inject: .*ENOSUCH"),
        ("vary/limit", {"bisect": ["8k", "4k"]}, r"the first end must be below the second"),
        ("vary/limit", {"bisect": ["8k"]}, r"two ends are needed"),
        ("vary/limit", {"bisect": ["8k", "many"]}, r"vary.limit.bisect: .*not a size: 'many'"),
        ("vary/limit", {"from": "8k", "to": "4k", "step": 1}, r"no value lies from 8192 to 4096"),
        ("vary/limit", {"from": 1, "to": 10**9, "step": 1}, r"over 10000 values"),
        ("vary/limit", ["4k", "lots"], r"box.forker: vary.limit: not a size: 'lots'"),
        ("vary/limit", [], r"not an empty one"),
        ("vary/limit", ["4k", "4k"], r"a value stands there twice"),
        ("vary/m", {"bisect": [1, 9]}, r"limit and m are bisected; one can be"),
        ("vary/box", ["other"], r"vary.box: there is no box 'other'; there are forker"),
        ("oracle/exit", {"forker": 300}, r"oracle.exit.forker: 300: no run can pass"),
        ("oracle/exit", {"forker": []}, r"no run can pass"),
        ("oracle/exit", {"forkr": 0}, r"oracle.exit: there is no box 'forkr'; there are forker"),
        ("oracle/refused", {"forker": -1}, r"oracle.refused.forker: -1"),
        ("oracle/p99_ms", {"forker": 3}, r"box forker has no latency to compare"),
        ("oracle/isolated", {"victim": "forker", "aggressor": "forker"}, r"no run can pass"),
        (
            "oracle/isolated",
            {"victim": "forker", "aggressor": "x", "p99": "0.5x"},
            r"no factor from 1",
        ),
        ("matrix/boxes", ["forker"], r"matrix.boxes: box forker has no latency"),
        ("memcg/web", {"kmem_limit": "1M"}, r"memcg 'web' does not start with '/'"),
    ],
)
def test_parse_when_a_value_cannot_be_then_says_where_what_and_the_remedy(path, value, message):
    with pytest.raises(ConfigurationError, match=message):
        parse(changed(path, value))


def test_parse_when_nothing_is_changed_then_takes_the_example():
    assert parse(forkers()).vary.bisection.high == 128 << 10


@pytest.mark.parametrize("text", ["name = ", "\x00", "name = 1"])
def test_load_when_file_is_no_toml_then_names_the_file(tmp_path, text):
    (tmp_path / "e.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"e\.toml: "):
        load(str(tmp_path / "e.toml"))
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file"):
        load(str(tmp_path / "none.toml"))


def test_digest_when_anything_differs_then_differs():
    assert parse(forkers()).digest == parse(forkers()).digest
    assert parse(forkers(seed=1)).digest != parse(forkers()).digest


def test_guide_when_its_experiment_is_read_then_is_one():
    root = Path(__file__).parent.parent.parent
    guide = (root / ".github" / "docs" / "experiments.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(name = .*?)```", guide, re.DOTALL)
    experiment = parse(tomllib.loads(text))
    assert [box.name for box in experiment.boxes] == ["redis"]
    assert experiment.vary.bisection.high == 8 << 20
