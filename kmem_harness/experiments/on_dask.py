"""Have jobs done by a Dask cluster: of this machine, or any machines that have this package.

Dask is an extra and imported when it is asked for. Each worker makes a run with a harness of its
own, on its own machine's engine. A worker that is lost has its runs made elsewhere by Dask; should
it have finished one all the same, the results file takes that run once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import queue
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError, KmemHarnessError, UnsupportedHostError
from kmem_harness.experiments.executor import ATTEMPTS, RunImpossibleError, RunLostError
from kmem_harness.experiments.once import run_once

if TYPE_CHECKING:
    from kmem_harness.experiments.plan import Job

__all__ = ["DaskExecutor", "run_on_worker"]

_CONNECT_SECONDS = 10.0


def run_on_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Make one run on a Dask worker; see :func:`~kmem_harness.experiments.once.run_once`."""
    try:
        return run_once(job)
    except (KmemHarnessError, OSError) as error:
        return {"error": str(error)}


class DaskExecutor:
    """A cluster's workers."""

    def __init__(self, address: str | None, slots: int) -> None:
        """Connect to the scheduler at *address*, or start *slots* workers on this machine.

        Raises: ConfigurationError if no scheduler answers there, or one without workers;
        UnsupportedHostError without Dask.
        """
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise UnsupportedHostError(
                "this needs distributed, which is not installed here",
                missing="distributed",
                remedy="pip install 'kmem-harness[dask]'",
            ) from error
        self._distributed = distributed
        self._cluster: Any = None
        logging.getLogger("distributed").setLevel(logging.ERROR)
        if address is None:
            self._cluster = distributed.LocalCluster(
                n_workers=slots,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        try:
            self._client = distributed.Client(self._cluster or address, timeout=_CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigurationError(
                f"no Dask scheduler answers at {address!r} within {_CONNECT_SECONDS:g} s: {error}; "
                "start one with dask scheduler, and workers with dask worker ADDRESS"
            ) from error
        try:
            self._check(address)
        except BaseException:
            self.close()
            raise
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._futures: dict[str, Any] = {}

    def _check(self, address: str | None) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            message = (
                f"the Dask scheduler at {address!r} has no workers; start dask worker {address}"
            )
            raise ConfigurationError(message)
        self.slots = sum(worker["nthreads"] for worker in workers.values())
        found = self._client.run(_version)
        versions = {name: version for name, version in found.items() if version != _version()}
        if versions:
            name, version = next(iter(versions.items()))
            raise ConfigurationError(
                f"Dask worker {name} has {version}, and here is {_version()}; install the same"
            )

    def submit(self, job: Job) -> None:
        """Have *job* done by some worker."""
        future = self._client.submit(run_on_worker, job.as_dict(), pure=False, retries=ATTEMPTS - 1)
        self._futures[job.key] = future
        future.add_done_callback(lambda done: self._results.put((job, done)))

    def next_result(self, timeout: float) -> dict[str, Any] | None:
        """Wait for a result. Raises: RunImpossibleError, RunLostError."""
        try:
            job, future = self._results.get(timeout=timeout)
        except queue.Empty:
            return None
        self._futures.pop(job.key, None)
        try:
            answer: dict[str, Any] = future.result()
        except self._distributed.KilledWorker as error:
            raise RunLostError(f"run {dict(job.params)} was lost: {error}") from error
        except Exception as error:
            message = f"run {dict(job.params)} failed on its worker: {error!r}"
            raise RunLostError(message) from error
        if "error" in answer:
            message = f"run {dict(job.params)} cannot be made: {answer['error']}"
            raise RunImpossibleError(message)
        return answer

    def close(self) -> None:
        """Take back what is not done, and end the workers that are ours."""
        with suppress(Exception):  # the scheduler may be gone
            self._client.cancel(list(self._futures.values()), force=True)
        with suppress(Exception):
            self._client.close()
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close()


def _version() -> str:
    return json.dumps(
        {
            "kmem-harness": importlib.metadata.version("kmem-harness"),
            "python": ".".join(map(str, sys.version_info[:2])),
        }
    )
