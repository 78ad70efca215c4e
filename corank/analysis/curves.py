"""The numbers that a report plots: recall by quota, sampled requests for timing, logged scalars by step."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.latency import cpu_ms
from corank.analysis.logged_request import logged_request
from corank.analysis.plots import Series
from corank.metrics.bootstrap import interval
from corank.metrics.measure import RatioMeasure
from corank.metrics.quota import quota_curve
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.export import export_bundle

QUOTAS = 12
"""Points of a quota curve, about."""
TIMED_REQUESTS = 8


def quota_grid(evaluated: EvaluatedRun) -> list[int]:
    """Quotas of the first stage, from what the last keeps to the longest request, with the config's own among them."""
    first, last = evaluated.run.config.stages[0], evaluated.run.config.stages[-1]
    largest = int(evaluated.predictions.requests.size.max())
    even = np.geomspace(last.keep, largest, QUOTAS).round().astype(int)
    return sorted({*even.tolist(), min(first.keep, largest)})


def quota_cpu_ms(
    evaluated: EvaluatedRun, requests: Sequence[Request], quotas: Sequence[int]
) -> NDArray[np.float64]:
    """Milliseconds of CPU time of a request, through the exported bundle, at each quota of the first stage.

    Raises BundleError, RequestError if the model cannot be exported or its requests cannot be ranked.
    """
    config = evaluated.run.config
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        bundle = export_bundle(
            Path(folder) / "bundle", config, evaluated.packed, evaluated.model, evaluated.calibrators
        )
        return cpu_ms(Funnel(bundle), requests, config.stages[0].name, quotas)


def quota_recalls(evaluated: EvaluatedRun, quotas: Sequence[int]) -> tuple[dict[str, Series], Series]:
    """Recall of the first stage at each quota, by reference set, and that of a random order.

    A reference set with no eligible request is left out.
    """
    first, last = evaluated.run.config.stages[0], evaluated.run.config.stages[-1]
    requests, k = evaluated.predictions.requests, last.keep
    references = {f"{last.name}'s top {k}": evaluated.ranks(last) < k}
    truth = evaluated.true_value(last)
    if truth is not None:
        references[f"true top {k}"] = requests.ranks(truth) < k
    references[f"{first.main}s"] = evaluated.predictions.labels[first.main] == 1
    curve = quota_curve(requests, references, evaluated.ranks(first), quotas)
    random = Series(curve.m, curve.random(next(iter(references))))
    return {
        name: Series(curve.m, curve.recall(name), *_bounds(ratios))
        for name, ratios in curve.measures.items()
        if any(ratio.n for ratio in ratios)
    }, random


def _bounds(ratios: Sequence[RatioMeasure]) -> NDArray[np.float64]:
    """Low and high ends of the intervals: (2, M), NaN where undefined."""
    return np.array([interval(ratio) or (np.nan, np.nan) for ratio in ratios], np.float64).T


def sample_logged_requests(evaluated: EvaluatedRun) -> list[Request]:
    """`TIMED_REQUESTS` logged requests of at least median size, spread evenly over the split."""
    size = evaluated.predictions.requests.size
    usual = np.flatnonzero(size >= np.median(size))
    chosen = np.unique(usual[np.linspace(0, len(usual) - 1, TIMED_REQUESTS).astype(int)])
    split = evaluated.document["split"]
    run, packed = evaluated.run, evaluated.packed
    return [Request.parse(logged_request(run, split, int(n), packed)) for n in chosen]


def scalars(events: Path) -> dict[str, Series]:
    """Scalars that a run logged to TensorBoard, by name: steps and values, without undefined values."""
    if not events.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    accumulator = EventAccumulator(str(events)).Reload()
    series = {}
    for name in accumulator.Tags()["scalars"]:
        logged = np.array([(event.step, event.value) for event in accumulator.Scalars(name)])
        known = logged[~np.isnan(logged[:, 1])]
        if len(known):
            series[name] = Series(known[:, 0], known[:, 1])
    return series
