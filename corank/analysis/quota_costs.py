"""CPU time of a request by the quota of the first stage, through the exported graphs; timed once for a funnel's shape.

Whatever the weights are, graphs of one shape take the same time for the same requests on the same machine. So times are
kept in the user's cache, and a report of kept predictions needs no model:

    CACHE/timings/<key>    milliseconds, fp64, by quota
"""

import hashlib
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from corank.analysis.kept_predictions import hash_code
from corank.analysis.run_evaluation import Evaluation
from corank.core.kept_files import KeptFiles
from corank.core.lazy import lazy
from corank.training.config.config_file import plain

if TYPE_CHECKING:
    from corank.funnel.funnel import Funnel
    from corank.funnel.request import Request
    from corank.training import export
else:  # which loads torch
    export = lazy("corank.training.export")

TIMED_REQUESTS = 8
QUOTAS = 12
"""Points of a quota curve, about."""
QUOTA_ROUNDS = 5
"""Rounds of `cpu_ms`."""
_SHAPE = ("data", "features", "stages", "export")
"""Keys of a config that say how a request is encoded and ranked."""


def quota_grid(own: int, least: int, largest: int) -> list[int]:
    """Quotas of a stage from what a later one keeps to the longest request, its own among them."""
    even = np.geomspace(least, max(least, largest), QUOTAS).round().astype(int)
    return sorted({*even.tolist(), max(least, min(own, largest))})


def timed_requests(evaluated: Evaluation) -> list[int]:
    """Numbers of `TIMED_REQUESTS` logged requests of at least median size, spread evenly over the split."""
    size = evaluated.predictions.requests.size
    usual = np.flatnonzero(size >= np.median(size))
    chosen: list[int] = np.unique(usual[np.linspace(0, len(usual) - 1, TIMED_REQUESTS).astype(int)]).tolist()
    return chosen


def quota_cpu_ms(evaluated: Evaluation, quotas: Sequence[int]) -> NDArray[np.float64]:
    """Milliseconds of CPU time of a request at each quota of the first stage, as a funnel of this shape was timed.

    Raises BundleError, RequestError if the model cannot be exported or its requests cannot be ranked.
    """
    key, cache = _shape(evaluated, quotas), KeptFiles.of_user("timings")
    if key is not None and (kept := cache.read(key)) is not None:
        return np.frombuffer(kept, np.float64)
    times = _measure(evaluated, quotas)
    if key is not None:
        cache.keep(key, times.tobytes())
    return times


def _shape(evaluated: Evaluation, quotas: Sequence[int]) -> str | None:
    """A hash of all that times depend on; None of code without a file."""
    run, packed = evaluated.run, evaluated.packed
    code = hash_code(type(stage).__module__ for stage in run.config.stages)
    if code is None:
        return None
    fitted = any(stage.fitted for stage in run.config.stages)
    settings = plain(run.config)
    parts = [
        [settings[key] for key in _SHAPE],
        [packed.manifest.digest, evaluated.split, list(quotas), timed_requests(evaluated)],
        [platform.node(), platform.machine(), os.cpu_count(), version("onnxruntime"), code],
        run.described(packed)[0].digest
        if fitted
        else None,  # what is fitted has the shape of what it was fitted to
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _measure(evaluated: Evaluation, quotas: Sequence[int]) -> NDArray[np.float64]:
    """Time a bundle of the run. Raises BundleError, RequestError."""
    # by what is timed alone
    from corank.analysis.logged_request import logged_request
    from corank.funnel.funnel import Funnel
    from corank.funnel.request import Request

    run, packed, split = evaluated.run, evaluated.packed, evaluated.split
    numbers = timed_requests(evaluated)
    requests = [Request.parse(logged_request(run, split, n, packed)) for n in numbers]
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        bundle = export.export_bundle(Path(folder) / "bundle", run.config, packed, *run.model(packed))
        return cpu_ms(Funnel(bundle), requests, run.config.stages[0].name, quotas)


def cpu_ms(
    funnel: "Funnel", requests: Sequence["Request"], stage: str, quotas: Sequence[int]
) -> NDArray[np.float64]:
    """CPU time of `Funnel.rank` by the quota of one stage: milliseconds a request, (len(quotas),).

    All threads of the process count. The result is the mean over requests of the median of `QUOTA_ROUNDS` rounds.

    Raises:
        RequestError: if a request does not fit the bundle.
    """
    times = time_quotas(funnel, requests, stage, quotas, QUOTA_ROUNDS, time.process_time_ns) / 1e6
    milliseconds: NDArray[np.float64] = np.median(times, axis=0).mean(axis=0)
    return milliseconds


def time_quotas(
    funnel: "Funnel",
    requests: Sequence["Request"],
    stage: str,
    quotas: Sequence[int],
    rounds: int,
    clock: Callable[[], int],
) -> NDArray[np.float64]:
    """Time `Funnel.rank` by the quota of a stage: nanoseconds of a clock, (rounds, len(requests), len(quotas)).

    A round runs all requests at all quotas, so that a slow spell of the machine affects all of them. One round before,
    which prepares the memory, does not count. Raises RequestError.
    """
    variants = [
        msgspec.structs.replace(request, keep={stage: keep}, trace=False)
        for request, keep in itertools.product(requests, quotas)
    ]
    times = np.empty((1 + rounds, len(variants)))
    for of_round, (n, request) in itertools.product(times, enumerate(variants)):
        began = clock()
        funnel.rank(request)
        of_round[n] = clock() - began
    return times[1:].reshape(rounds, len(requests), len(quotas))
