"""Experiments on a Dask cluster: the same table, whoever makes the runs, and whoever is lost."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.experiments import on_dask, parse, run
from kmem_harness.experiments.engine import executor_for
from tests.experiments.tables import forkers
from tests.experiments.test_engine import table_of


@pytest.mark.slow
def test_dask_when_a_worker_is_killed_then_the_table_is_the_one_of_this_machine(tmp_path):
    experiment = parse(forkers(repeats=3))
    here = run(experiment, str(tmp_path / "local"), jobs=2)
    executor = executor_for("dask", 2)
    killed = []

    class Killer:
        def progress(self, done, expected, failed):
            if done >= 8 and not killed:
                workers = executor._cluster.workers
                killed.append(next(iter(workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

    there = run(experiment, str(tmp_path / "dask"), executor=executor, watcher=Killer())
    assert killed
    assert table_of(there) == table_of(here)
    assert there["findings"]["curves"][0]["knee"] == here["findings"]["curves"][0]["knee"]
    assert len({one["worker"] for one in there["runs"]}) >= 2


@pytest.mark.slow
def test_dask_when_no_scheduler_answers_then_says_so_and_how_to_start_one(monkeypatch):
    monkeypatch.setattr(on_dask, "_CONNECT_SECONDS", 1.0)
    with socket.socket() as bound:  # bound and not listening: nobody answers there
        bound.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(
            ConfigurationError, match=r"no Dask scheduler answers at .* dask worker"
        ):
            executor_for(f"dask={address}", 1)


def test_dask_when_not_installed_then_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnsupportedHostError, match="distributed") as caught:
        executor_for("dask", 1)
    assert caught.value.remedy == "pip install 'kmem-harness[dask]'"
