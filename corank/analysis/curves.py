"""The numbers behind a report's plots: recall by quota, calibration by bin, losses by step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from corank import metrics
from corank.analysis.evaluated_run import Judged
from corank.analysis.logged_request import logged_request
from corank.analysis.plots import Series
from corank.serving.funnel.request import Request

QUOTAS = 12
TIMED_REQUESTS = 8


def recalls(judged: Judged, quotas: Sequence[int]) -> tuple[dict[str, Series], Series]:
    """The first stage's recall at each quota of what is to be recalled, where defined, and a random order's."""
    first, last = judged.run.config.stages[0], judged.run.config.stages[-1]
    requests, k = judged.predictions.requests, last.keep
    references = {f"{last.name}'s top {k}": judged.places(last) < k}
    truth = judged.true_value(last)
    if truth is not None:
        references[f"true top {k}"] = requests.places(truth) < k
    references[f"{first.main}s"] = judged.predictions.labels[first.main] == 1
    curve = metrics.quota_curve(requests, references, judged.places(first), quotas)
    random = Series(curve.m, curve.random(next(iter(references))))
    return {
        name: Series(curve.m, curve.recall(name), *_bounds(ratios))
        for name, ratios in curve.measures.items()
        if any(ratio.n for ratio in ratios)
    }, random


def _bounds(ratios: Sequence[metrics.Ratio]) -> NDArray[np.float64]:
    """Low and high of each: (2, M), NaN where there are none."""
    return np.array([metrics.interval(ratio) or (np.nan, np.nan) for ratio in ratios], np.float64).T


def replayed(judged: Judged) -> list[Request]:
    """A few logged requests of at least the usual size, from the whole of the split."""
    size = judged.predictions.requests.size
    usual = np.flatnonzero(size >= np.median(size))
    chosen = np.unique(usual[np.linspace(0, len(usual) - 1, TIMED_REQUESTS).astype(int)])
    split = judged.document["split"]
    return [Request.parse(logged_request(judged.run, split, int(n))) for n in chosen]


def scalars(events: Path) -> dict[str, Series]:
    """What a run logged, by name: step and value, undefined values left out."""
    if not events.is_dir():
        return {}
    held = EventAccumulator(str(events)).Reload()
    found = {}
    for name in held.Tags()["scalars"]:
        logged = np.array([(event.step, event.value) for event in held.Scalars(name)])
        known = logged[~np.isnan(logged[:, 1])]
        if len(known):
            found[name] = Series(known[:, 0], known[:, 1])
    return found
