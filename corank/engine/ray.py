"""The engine of many machines: a Ray cluster, or Ray on this machine."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from corank.core.errors import EngineError
from corank.core.lazy import require
from corank.engine.base import ENGINES, Engine, Job, JobOutcome, LostJobs
from corank.engine.cores import count_cores
from corank.engine.pool import bound_threads

ADDRESS = "RAY_ADDRESS"
"""The variable of the environment, which Ray's own tools read, too: HOST:PORT, ray://HOST:PORT or auto."""
PATIENCE = dict.fromkeys(("RAY_gcs_server_port_wait_time_s", "RAY_worker_register_timeout_seconds"), "600")
"""How many seconds Ray gives its server and its workers to start, unless the environment says otherwise."""


@ENGINES.register("ray")
class RayEngine(Engine):
    """Runs tasks on the Ray cluster of RAY_ADDRESS, or else on this machine; again if a worker dies. Experimental."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        ray: Any = require("ray", "engine ray")
        self._ray = ray
        self._local = not os.environ.get(ADDRESS) and not ray.is_initialized()
        self._started = not ray.is_initialized()
        if self._started:
            self._start()

    def _start(self) -> None:
        """Start Ray on this machine, or connect to a cluster. Raises EngineError."""
        # "local": Ray would else join a cluster that happens to run here
        address = "local" if self._local else os.environ.get(ADDRESS)
        machine: dict[str, Any] = (
            {"num_cpus": self.workers, "include_dashboard": False} if self._local else {}
        )
        settings = bound_threads(self.threads) if self._local else {}
        settings |= {name: value for name, value in PATIENCE.items() if name not in os.environ}
        try:
            # Ray's processes keep it: an environment of the tasks alone takes new processes, and seconds
            with patch_environment(settings):
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR", **machine)
        except Exception as error:  # of a start that takes too long Ray raises no kind of its own
            where = "here" if self._local else f"at {ADDRESS}={address}"
            raise EngineError(f"engine ray: no cluster {where}: {error}") from None

    @property
    def threads(self) -> int:
        """On this machine so many that the workers together have a thread a core; on a cluster one."""
        return max(1, count_cores() // self.workers) if self._local else 1

    def outcomes(self, run: Callable[[Job], JobOutcome], jobs: Sequence[Job]) -> Generator[JobOutcome]:
        """Keep `workers` jobs on the cluster, and yield what comes back."""
        ray, waiting, lost = self._ray, deque(jobs), LostJobs("ray")
        bounds = {} if self._local else {"runtime_env": {"env_vars": bound_threads(self.threads)}}
        remote, function = ray.remote(num_cpus=1, max_retries=0, **bounds)(_call), ray.put(run)
        running: dict[Any, Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    job = waiting.popleft()
                    running[remote.remote(function, job)] = job
                done, _ = ray.wait(list(running))
                for handle in done:
                    job = running.pop(handle)
                    try:
                        outcome: JobOutcome = ray.get(handle)
                    except ray.exceptions.RayError as error:
                        lost.add(job, f"ended ({type(error).__name__}: {' '.join(str(error).split())[:300]})")
                        waiting.appendleft(job)
                        continue
                    yield outcome
        finally:
            for handle in running:
                ray.cancel(handle, force=True)

    def close(self) -> None:
        """Stop Ray on this machine, or leave the cluster; what the caller had started stays."""
        if self._started:
            self._ray.shutdown()


@contextmanager
def patch_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _call(run: Callable[[Job], JobOutcome], job: Job) -> JobOutcome:
    return run(job)
