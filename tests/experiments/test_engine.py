"""Experiments end to end: found to the byte, interrupted and gone on with, on workers that die."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.experiments import parse, run
from kmem_harness.experiments.command import experiment
from kmem_harness.experiments.engine import OracleNeverPassesError, executor_for
from kmem_harness.experiments.executor import LocalExecutor, RunImpossibleError
from kmem_harness.experiments.pages import write_all
from kmem_harness.experiments.store import Store
from tests.experiments.tables import TASK, forkers, need
from tests.report.pages import Reader


def table_of(results):
    """Give what is the same wherever and whenever runs are made."""
    return [(one["params"], one["repeat"], one["seed"], one["passed"]) for one in results["runs"]]


def test_run_when_bisecting_then_finds_the_limit_to_the_byte_and_makes_nothing_twice(tmp_path):
    experiment = parse(forkers(vary={"n": [2, 5], "limit": {"bisect": ["8k", "56k"]}}))
    results = run(experiment, str(tmp_path), jobs=2)
    curves = results["findings"]["curves"]
    assert [(curve["params"]["n"], curve["knee"]) for curve in curves] == [
        (n, need(n)) for n in (2, 5)
    ]
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    for one in results["runs"]:
        assert one["passed"] == (one["params"]["limit"] >= need(one["params"]["n"]))
        assert one["passed"] == (not one["reasons"])
        assert one["boxes"]["forker"]["refused"] == (0 if one["passed"] else 1)

    class NoWorkers:
        slots = 1

        def submit(self, job):
            pytest.fail(f"{job} is stored already")

        def next_result(self, timeout):
            pytest.fail("nothing was submitted")

        def close(self):
            pass

    assert run(experiment, str(tmp_path), executor=NoWorkers()) == results


def test_run_when_a_worker_is_killed_then_its_run_is_made_by_another_and_counted_once(tmp_path):
    experiment = parse(forkers(repeats=2, vary={"n": [1, 2, 3], "limit": ["16k"]}))
    executor = LocalExecutor(2)
    killed = []

    class Killer:
        def progress(self, done, expected, failed):
            if not killed and executor.pids:
                killed.extend((executor.pids[0], done))
                os.kill(killed[0], signal.SIGKILL)

    results = run(experiment, str(tmp_path), executor=executor, watcher=Killer())
    assert killed
    assert [(one["params"]["n"], one["repeat"]) for one in results["runs"]] == [
        (n, r) for n in (1, 2, 3) for r in (0, 1)
    ]
    assert [one["passed"] for one in results["runs"]] == [True] * 4 + [False] * 2
    # Nothing is from it but what was done when it was killed, and one that was being handed over.
    pid, done = killed
    assert sum(one["worker"].endswith(f":{pid}") for one in results["runs"]) <= done + 1


@pytest.mark.slow
def test_run_when_killed_half_way_then_goes_on_without_repeating_and_leaves_nothing(tmp_path):
    table = forkers(repeats=3, vary={"n": [1, 2, 3, 4], "limit": ["8k", "16k"]})
    file = tmp_path / "e.json"
    file.write_text(json.dumps(table))
    folder = tmp_path / "out"
    code = (
        "import json, sys; from kmem_harness.experiments import parse, run; "
        "run(parse(json.load(open(sys.argv[1]))), sys.argv[2], jobs=2)"
    )
    command = [sys.executable, "-c", code, str(file), str(folder)]
    mark = {"KMEM_TEST_MARK": tmp_path.name}
    with subprocess.Popen(command, env={**os.environ, **mark}) as process:
        await_that(lambda: stored(folder) >= 4)
        process.kill()
    half = stored(folder)
    assert 4 <= half < 24
    # The workers see their input end, and their harnesses see them die.
    await_that(lambda: not processes_with(mark))
    before = worker_of(folder)
    subprocess.run(command, check=True)
    after = worker_of(folder)
    assert len(after) == 24
    assert {key: after[key] for key in before} == before
    results = json.loads((folder / "results.json").read_text())
    assert all(
        one["passed"] == (one["params"]["n"] <= int(one["params"]["limit"][:-1]) // 8)
        for one in results["runs"]
    )


def stored(folder):
    return len(worker_of(folder))


def worker_of(folder):
    """Give who made each run and when, from the database as it is."""
    import sqlite3

    try:
        database = sqlite3.connect(f"file:{folder}/results.sqlite?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return {}
    try:
        return dict(database.execute("SELECT key, worker || seconds FROM runs").fetchall())
    except sqlite3.OperationalError:
        return {}
    finally:
        database.close()


def processes_with(variable):
    """List the processes that have *variable* in their environment."""
    ((name, value),) = variable.items()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{name}={value}".encode() in path.read_bytes().split(b"\0"):
                found.append(path)
    return found


def await_that(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_run_when_nothing_can_pass_then_says_why_and_keeps_the_results(tmp_path):
    table = forkers(oracle={"exit": {"forker": 7}})
    with pytest.raises(
        OracleNeverPassesError,
        match=r"no value of limit passes, not even the largest.*exit code 0, not 7",
    ):
        run(parse(table), str(tmp_path), jobs=1)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [one["params"] for one in results["runs"]] == [
        {"n": n, "limit": 128 << 10} for n in (2, 5)
    ]


def test_run_when_a_command_is_not_there_then_says_so_before_anything_starts(tmp_path):
    table = forkers()
    table["box"]["forker"]["command"] = ["no-such-program"]
    with pytest.raises(ConfigurationError, match=r"box.forker.command: 'no-such-program' is not"):
        run(parse(table), str(tmp_path), jobs=1)
    assert list(tmp_path.iterdir()) == []


def test_run_when_no_worker_can_make_it_then_says_why_and_keeps_the_rest(tmp_path):
    table = forkers(vary={"n": [1, 2], "where": [str(tmp_path), "/nowhere"], "limit": ["1M"]})
    table["box"]["forker"]["cwd"] = "{where}"
    with pytest.raises(
        RunImpossibleError, match=r"'where': '/nowhere'.* cannot be made: .*nowhere"
    ):
        run(parse(table), str(tmp_path / "out"), jobs=1)
    with Store(str(tmp_path / "out" / "results.sqlite")) as store:
        assert [one["passed"] for one in store.outcomes().values()] == [True]


def test_run_when_a_run_hangs_then_the_timeout_ends_it(tmp_path):
    table = forkers(timeout=0.5, vary={"limit": ["1M"]})
    table["box"]["forker"]["command"] = ["sleep", "60"]
    (one,) = run(parse(table), str(tmp_path), jobs=1)["runs"]
    assert one["reasons"][0] == "forker had not ended after 0.5 s"


SERVER = """
import os, socket, sys, time
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listening.accept()
    with connection:
        pid = os.fork()
        if not pid:
            connection.sendall(b"PONG")
            os._exit(0)
        os.waitpid(pid, 0)
"""
PONG = {"tcp": "127.0.0.1:{port}", "expect": "PONG", "seconds": 0.3}


def server(**more):
    return {
        "command": [sys.executable, "-I", "-S", "-c", SERVER, "{port}"],
        "background": True,
        "ready": PONG,
        "probe": PONG,
    } | more


def test_run_when_a_service_is_asked_for_its_health_then_that_decides(tmp_path):
    table = {
        "name": "service",
        "kernel": "v4",
        "box": {"server": server(kmem_limit="{limit}", ready={**PONG, "within": 20}, health=PONG)},
        "vary": {"limit": ["4k", "8k"]},
    }
    refused, healthy = run(parse(table), str(tmp_path), jobs=2)["runs"]
    assert healthy["passed"], healthy["reasons"]
    assert "server was not ready within 20 s" in refused["reasons"][0]
    assert "Cannot allocate memory" in refused["said"]["server"]
    assert refused["seconds"] < 20  # it died, so there is nothing to wait for


def test_run_when_a_service_ends_by_itself_then_that_is_a_reason(tmp_path):
    table = {
        "name": "short",
        "box": {
            "short": {"command": ["true"], "background": True},
            "other": {"command": ["sleep", "0.3"]},
        },
    }
    (one,) = run(parse(table), str(tmp_path), jobs=1)["runs"]
    assert one["reasons"] == ["short ended too early, with exit code 0"]


UNIT = """
[Service]
ExecStart={python} -I -S {folder}/server.py $PORT
"""


def units(tmp_path, **more):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "web.service").write_text(UNIT.format(python=sys.executable, folder=tmp_path))
    table = {
        "name": "units",
        "kernel": "v4",
        "box": {
            "web": {
                "unit": ["web.service"],
                "properties": {"web.service": {"Environment": "PORT={port}"}},
                "kmem_limit": "{limit}",
                "background": True,
                "health": {**PONG, "within": 20},
            }
        },
        "vary": {"limit": {"bisect": ["8k", "20k"]}},
        "oracle": {"refused": {"web": 0}},
    }
    table["box"]["web"] |= more
    return table


def test_run_when_a_box_is_a_unit_then_its_service_is_limited_and_asked(tmp_path):
    results = run(parse(units(tmp_path), str(tmp_path)), str(tmp_path / "out"), jobs=2)
    (curve,) = results["findings"]["curves"]
    # The service itself, which a manager forks, and the child that answers.
    assert curve["knee"] == need(2), [one["reasons"] for one in results["runs"]]
    for one in results["runs"]:
        assert one["boxes"]["web/web.service"]["kmem"]["limit"] == one["params"]["limit"]
        assert one["passed"] or "web was refused 1 calls" in one["reasons"][-1]


@pytest.mark.parametrize(
    "properties",
    [
        ["web.service:X-KmemMax={limit}", "web.service:Environment=PORT={port}"],
        ["web:X-KmemMax={limit}", "web:Environment=PORT={port}"],
        {"web.service": {"X-KmemMax": "{limit}", "Environment": "PORT={port}"}},
        {"web": {"X-KmemMax": "{limit}", "Environment": "PORT={port}"}},
    ],
)
def test_parse_when_properties_are_given_in_each_way_then_they_mean_the_same(tmp_path, properties):
    table = units(tmp_path, properties=properties)
    del table["box"]["web"]["kmem_limit"]
    box = parse(table, str(tmp_path)).box("web")
    assert box.properties == {"web.service": {"X-KmemMax": "{limit}", "Environment": "PORT={port}"}}


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        (["web.service=1M"], r"box\.web\.properties: .*UNIT:KEY=VALUE is needed, such as"),
        (["web.service:X-KmemMax={limits}"], "'limits' is not varied; known are"),
        (["web.service:X-KmemMax=many"], "'many' is not a size"),
        ("web.service:X-KmemMax=1M", "a list of texts is needed"),
    ],
)
def test_parse_when_a_property_cannot_be_then_the_remedy_is_right(tmp_path, properties, words):
    with pytest.raises(ConfigurationError, match=words):
        parse(units(tmp_path, properties=properties), str(tmp_path))


def test_run_when_a_probe_waits_in_vain_then_the_message_names_it_and_the_next_run_tries_again(
    tmp_path,
):
    flag = tmp_path / "answers"
    table = forkers(vary={"limit": {"bisect": ["512k", "1M"], "resolution": "512k"}})
    table["box"]["forker"] |= {
        "command": ["sleep", "60"],
        "background": True,
        "health": {"command": ["test", "-e", str(flag)], "within": 0.2},
    }
    folder = str(tmp_path / "out")
    with pytest.raises(OracleNeverPassesError) as caught:
        run(parse(table), folder, jobs=1)
    said = str(caught.value)
    for words in ("within 0.2 s (box.forker.health.within)", folder, "makes this one again"):
        assert words in said
    flag.write_text("")
    (curve,) = run(parse(table), folder, jobs=1)["findings"]["curves"]
    assert curve["knee"] == 512 << 10
    assert curve["lowest_passes"]


def test_probe_when_its_command_takes_long_then_it_has_the_time_it_was_given(tmp_path):
    table = forkers(vary={"limit": ["1M"]})
    table["box"]["forker"] |= {
        "command": ["sleep", "60"],
        "background": True,
        "health": {"command": ["sleep", "2.3"], "within": 20},
    }
    (one,) = run(parse(table), str(tmp_path), jobs=1)["runs"]
    assert one["passed"], one["reasons"]


def test_parse_when_a_unit_cannot_be_then_names_its_file_before_anything_starts(tmp_path):
    table = units(tmp_path)
    (tmp_path / "web.service").write_text("[Service]\nExecStart=/bin/true\nX-KmemMax=maybe\n")
    with pytest.raises(ConfigurationError, match=r"box.web.unit: .*web\.service:3.*maybe"):
        parse(table, str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"box.web.cwd: units say that themselves"):
        parse(units(tmp_path, cwd="/"), str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"box.web: a limit is for the services named"):
        parse(units(tmp_path, unit=["."]), str(tmp_path))


@pytest.mark.parametrize("boxes", [["a"], pytest.param(["a", "b"], marks=pytest.mark.slow)])
def test_matrix_when_run_then_compares_each_pair_with_the_victim_alone(boxes, tmp_path):
    table = {
        "name": "m",
        "kernel": "v4",
        "box": {
            "a": server(kmem_limit="1M"),
            "b": server(aggressor=["sleep", "5"], kmem_limit="1M"),
        },
        "matrix": {"boxes": boxes, "p99": "1000x"},
    }
    results = run(parse(table), str(tmp_path))
    matrix = results["findings"]["matrix"]
    assert matrix["boxes"] == boxes
    assert matrix["passed"] == [[True] * len(boxes)] * len(boxes), results["runs"]
    for number, one in enumerate(results["runs"]):
        victim = one["pair"]["victim"]
        rows = one["latency"][victim]
        beside = next(row for when, row in rows.items() if when != "alone")
        assert rows["alone"]["samples"] >= 60
        assert matrix["ratios"][number // len(boxes)][number % len(boxes)] == round(
            beside["p99"] / rows["alone"]["p99"], 4
        )


@pytest.mark.parametrize("text", ["cloud", "local=2", ""])
def test_executor_when_unknown_then_says_which_are_known(text):
    with pytest.raises(ConfigurationError, match="known are local, dask and dask=tcp://HOST:PORT"):
        executor_for(text, 1)


def test_command_when_run_then_shows_what_was_found_and_exits_by_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text(
        'name = "t"\nkernel = "v4"\n[box.a]\ncommand = ["sh", "-c", "true & wait"]\n'
        'kmem_limit = "{limit}"\n[vary]\nlimit = {bisect = ["4k", "12k"]}\n'
    )
    assert CliRunner().invoke(experiment, ["check", "e.toml"]).output.startswith("t: about 3 runs")
    command = [sys.executable, "-m", "kmem_harness", "experiment", "run", "e.toml"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"limit +8.0K +8192 +3 +3\n", found)
    assert {path.name for path in (tmp_path / "t.results").iterdir()} == {
        *("results.sqlite", "results.json", "report.html", "report.png", "summary.md")
    }
    reader = Reader((tmp_path / "t.results" / "report.html").read_text())
    results = json.loads((tmp_path / "t.results" / "results.json").read_text())
    assert reader.embedded["data"] == results
    (curve,) = results["findings"]["curves"]
    drawn = reader.traces["curve-pass_rate: limit"]
    assert (drawn["x"], drawn["y"]) == (
        [point["value"] for point in curve["points"]],
        [point["pass_rate"] for point in curve["points"]],
    )
    knee = next(one for one in results["runs"] if one["params"] == {"limit": curve["knee"]})
    assert max(reader.traces["knee-1: task"]["y"]) == knee["boxes"]["a"]["kmem"]["max_usage"]


def test_page_when_limits_are_listed_as_text_then_shows_the_runs_at_the_knee(tmp_path):
    folder = str(tmp_path / "results")
    run(parse(forkers(vary={"n": [1], "limit": ["4k", "8k", "12k"]})), folder, jobs=1)
    write_all(folder)
    reader = Reader((tmp_path / "results" / "report.html").read_text())
    assert max(reader.traces["knee-1: task"]["y"]) == TASK
    assert "limit=8k" in (tmp_path / "results" / "report.html").read_text()


def test_command_when_file_or_folder_is_not_there_then_says_so():
    for words in (["run", "none.toml"], ["report", "none"]):
        outcome = CliRunner().invoke(experiment, words)
        assert isinstance(outcome.exception, ConfigurationError)
        assert "none" in str(outcome.exception)
