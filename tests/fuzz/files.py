"""Readers of whole files: tables, traces, units, experiments, recordings, states, results."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmem_harness.costs.table import load_costs
from kmem_harness.experiments.experiment_file import load
from kmem_harness.experiments.recorded import Recorded, common_memcg, merged
from kmem_harness.experiments.store import Store
from kmem_harness.faults.outcome import Outcome, Site
from kmem_harness.faults.state import SweepState
from kmem_harness.pytest_plugin.baseline import _parse as read_baseline
from kmem_harness.replay.trace import load_trace
from kmem_harness.services.unitfile.names import parse_name
from kmem_harness.services.unitfile.specifiers import Directories
from kmem_harness.services.unitfile.syntax import read_unit_file
from kmem_harness.services.unitfile.unit import build_unit
from tests.fuzz.reader import Reader, of_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz.reader import Read

__all__ = ["READERS"]

_ROOT = Path(__file__).parent.parent.parent
_TRACES = (
    {
        "scenario": "s",
        "kernel": "5.10.0-8",
        "steps": [
            {"op": "mkdir", "file": "/a", "result": "ok"},
            {"op": "write", "file": "/a/memory.kmem.limit_in_bytes", "value": "1M", "result": "ok"},
            {"op": "spawn", "worker": "w", "group": "/a", "result": "ok"},
            {
                "op": "do",
                "worker": "w",
                "workload": "pipe",
                "count": 9,
                "made": 9,
                "result": "ok",
                "second_recording": {"made": 9},
            },
            {"op": "read", "file": "/a/memory.kmem.failcnt", "value": "0", "result": "ok"},
        ],
    },
    {
        "workload": "pipe",
        "kernel": "5.10",
        "runs": [
            {
                "limit_file": "memory.kmem.limit_in_bytes",
                "limit_text": "1M",
                "objects": 9,
                "errno": "ENFILE",
                "cap": 100,
                "failcnt": 1,
                "next_100": {"ENFILE": 100},
            }
        ],
        "cost": {"n1": 1, "n2": 2, "usage1": 0, "usage2": 4096},
    },
)
_EXPERIMENT = b"""name = "cache"
kernel = "v4"
repeats = 3
[memcg."/web.slice"]
kmem_limit = "32M"
[box.cache]
command = ["cache", "--port", "{port}"]
kmem_limit = "{limit}"
memcg = "/web.slice/cache"
background = true
ready = {tcp = "127.0.0.1:{port}", send = "PING", expect = "PONG", within = 3}
probe = {tcp = "127.0.0.1:{port}", period_ms = 10}
inject = ["socket:error=ENOMEM:when=3"]
[vary]
limit = {from = "64k", to = "512k", factor = 2}
n = {bisect = [1, 9]}
[oracle]
exit = {cache = [0, 143]}
refused = {cache = 0}
p99_ms = {cache = 20}
"""
_UNIT = b"""[Unit]
Description=A unit
After=b.service c.target
ConditionPathExists=|!/etc/x
[Service]
Type=notify
ExecStartPre=-/bin/sh -c "echo \\"a\\" ; true"
ExecStart=/bin/true --a=%i \\
  $B ${C}
Environment="A=b c" D=e
EnvironmentFile=-/etc/default/x
Restart=on-failure
RestartSec=5min 20s
LimitNOFILE=1024:4096
SuccessExitStatus=1 TEMPFAIL SIGKILL
X-KmemMax=8M
X-KmemInject=socket:error=ENOMEM:when=3
X-KmemKinds=task pipe
[Install]
WantedBy=multi-user.target
"""
_RECORDING = b"""\
{"event":"recording.began","version":1,"kernel":"5.10","box":"b","mode":"observe","began":1.5,\
"columns":[],"memcgs":["/a/b","/a","/"]}
[0.000001,7,"fork","task",17216,17216,17216,17216]
{"event":"charge.refused","time":2.5,"pid":3}
[0.000002,7,"pipe","pipe",900,18116,18116,18116]
{"event":"recording.ended","charges":2,"lost":0}
"""
_SWEPT = {"command": ["true"], "calls": "charge"}
_BASELINE = b'{"version": 1, "kernel": "5.10", "tests": {"test_a": {"max_usage": 8192}}}'


def _read_unit(path: str) -> None:
    build_unit(parse_name("a@b.service"), [path], read_unit_file(path), Directories("/base"))


def _read_recording(path: str) -> None:
    recorded = Recorded(path)
    for _ in merged([recorded], common_memcg([recorded])):
        pass


def _read_state(path: str) -> None:
    SweepState(path, _SWEPT).close()


def _state() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "state")
        state = SweepState(str(path), _SWEPT)
        outcome = Outcome(0, seconds=0.5, site=Site("sh", "fork", "task"))
        state.put("recover", 1, outcome)
        state.close()
        return path.read_bytes()


@contextmanager
def _results() -> Iterator[Read]:
    """Read a folder's results: SQLite writes files of its own beside."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "results.sqlite")

        def read(data: bytes) -> None:
            for file in Path(directory).iterdir():
                file.unlink()
            path.write_bytes(data)
            with Store(str(path)) as store:
                _ = store.experiment
                for key in store.outcomes():
                    store.reports(key)

        yield read


def _results_file() -> bytes:
    from kmem_harness.experiments.experiment_file import parse
    from tests.experiments.tables import forkers

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "results.sqlite")
        with Store(str(path), parse(forkers())) as store:
            outcome = {"key": "k", "params": {}, "repeat": 0, "passed": True, "seconds": 1.0}
            store.add({**outcome, "worker": "w"}, {"b": {"version": 1}})
        return path.read_bytes()


READERS = {
    "cost table": Reader(
        of_file(load_costs),
        ((_ROOT / "kmem_harness" / "costs" / "v4.toml").read_bytes(),),
        (b"[kinds.", b"nbytes", b"errno = ", b"source = { assumed = ", b"parts = [", b"held_by"),
        share=0.02,
    ),
    "trace": Reader(
        of_file(load_trace),
        tuple(json.dumps(trace).encode() for trace in _TRACES),
        is_json=True,
        share=0.2,
    ),
    "experiment": Reader(
        of_file(load), (_EXPERIMENT,), (b"{", b"[box.", b"{port}", b"bisect = ["), share=0.05
    ),
    "unit file": Reader(
        of_file(_read_unit), (_UNIT,), (b"[Service]\n", b"ExecStart=", b"%", b"\\\n"), share=0.1
    ),
    "recording": Reader(
        of_file(_read_recording), (_RECORDING,), (b"[", b"{", b'"event":', b'"x"', b"[]"), share=0.3
    ),
    "sweep state": Reader(
        of_file(_read_state), (_state(),), (b"{", b'"mode"', b'"site"'), share=0.5
    ),
    "baseline": Reader(
        of_file(read_baseline), (_BASELINE,), is_json=True, errors=(pytest.UsageError,)
    ),
    "results": Reader(_results, (_results_file(),), share=0.005),
}
