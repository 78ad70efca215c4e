"""Tuning under a latency budget: which features may be dropped, which quotas fit, and the frontier.

A trial's model is measured at every quota of the first stage, since quotas need no training. Of the quotas at which the
funnel fits the budget, the one with the best recall counts. Latency is measured on this machine, on bundles that are
exported before any training: it depends on shapes, which are features, widths and quotas, and not on weights. So a
funnel is timed once for all its trainings, and one that is too slow is not trained.

Letters: N calls.
"""

import hashlib
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from corank.analysis.experiments.arms import BASE, format_values
from corank.analysis.experiments.engine import Trial, TrialData, read_stored, train_trial
from corank.analysis.experiments.figures import Objective
from corank.analysis.experiments.search import packed_path, quota_range
from corank.analysis.experiments.space import Parameter, Range, Space, structure_space
from corank.analysis.importance import measure_importance
from corank.analysis.logged_request import logged_request
from corank.core.calibration import Platt
from corank.core.errors import ConfigError
from corank.core.files import write_text
from corank.core.version import corank_version
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.config.config import Config
from corank.training.config.config_file import (
    Plain,
    find_removed,
    from_plain,
    plain,
    split_page,
    without_features,
)
from corank.training.export import export_bundle
from corank.training.model_building import build_model
from corank.training.run import Run

REQUESTS, ROUNDS = 8, 30
"""Logged requests that are timed, and how often each: 240 calls a quota."""
STEADY, TRIES = 0.1, 2
"""Width of an interval, as a share of its median, at which a measurement is not repeated; and measurements at most."""
IDLE = ("dropout", "table_gradient", "cuts", "min_score", "deadline_ms", "value", "labels")
"""Settings of a stage that its latency hardly depends on, other than by the number of labels."""


@dataclass(frozen=True)
class FunnelLatency:
    """Microseconds of a request: the median of all calls, with the 95 % interval of that median."""

    median: float
    low: float
    high: float
    calls: int

    def __str__(self) -> str:
        return f"{self.median:,.0f} µs [{self.low:,.0f}, {self.high:,.0f}]"


@dataclass(frozen=True)
class LatencyMeter:
    """Times funnels by their shape, and stores the measurements in a folder."""

    folder: Path
    data: TrialData

    def measure(self, config: Config, quotas: Sequence[int]) -> dict[int, FunnelLatency]:
        """Latency by quota of the first stage. Raises DataError, BundleError, RequestError."""
        file = self.folder / f"{self._shape(config, quotas)}.json"
        return self._load(file, quotas) or self._measure(config, quotas, file)

    def fastest(self, quotas: Sequence[int]) -> FunnelLatency | None:
        """The lowest of all latencies that were measured at these quotas, by their upper ends."""
        measured = [self._load(file, quotas) for file in sorted(self.folder.glob("*.json"))]
        latencies = [one for by_quota in measured if by_quota for one in by_quota.values()]
        return min(latencies, key=lambda one: one.high, default=None)

    def _shape(self, config: Config, quotas: Sequence[int]) -> str:
        stages = []
        for n, stage in enumerate(split_page(plain(config))[0]["stages"]):
            settings = {key: value for key, value in stage.items() if key not in IDLE}
            stages.append(settings | {"labels": len(config.stages[n].labels)} | ({} if n else {"keep": None}))
        packed = self.data.of(config)
        funnel = [stages, plain(config)["features"], list(quotas), packed.manifest.fingerprint]
        machine = [platform.node(), platform.machine(), os.cpu_count()]
        parts = [*funnel, [*machine, onnxruntime.__version__, corank_version()]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    @staticmethod
    def _load(file: Path, quotas: Sequence[int]) -> dict[int, FunnelLatency] | None:
        """The stored measurement of these quotas; None if there is none, or it is damaged."""
        stored = read_stored(file, dict[int, FunnelLatency]) or {}
        return {m: stored[m] for m in quotas} if stored.keys() >= set(quotas) else None

    def _measure(self, config: Config, quotas: Sequence[int], file: Path) -> dict[int, FunnelLatency]:
        """Time a bundle with weights as they are drawn by validation requests of sizes nearest to the median."""
        packed, base = self.data.of(config), self.data.base
        sizes = np.concatenate([np.diff(shard.request_start) for shard in packed.splits["valid"]])
        nearest = np.argsort(np.abs(sizes - np.median(sizes)), kind="stable")[:REQUESTS]
        calibrators = {stage.name: dict.fromkeys(stage.labels, Platt(1.0, 0.0)) for stage in config.stages}
        with tempfile.TemporaryDirectory(prefix="corank") as folder:
            torch.manual_seed(config.train.seed)
            model = build_model(config, packed)
            funnel = Funnel(export_bundle(Path(folder) / "bundle", config, packed, model, calibrators))
            located = config.model_copy(update={"packed": packed_path(packed, base)})
            run = Run.create(Path(folder) / "run", located, base)
            requests = [Request.parse(logged_request(run, "valid", int(n))) for n in nearest]
            latencies = time_until_steady(funnel, requests, config.stages[0].name, quotas)
        write_text(file, json.dumps({m: asdict(one) for m, one in latencies.items()}))
        return latencies


def time_until_steady(
    funnel: Funnel, requests: Sequence[Request], stage: str, quotas: Sequence[int]
) -> dict[int, FunnelLatency]:
    """Latency by quota: the first measurement whose intervals are narrow, or the narrowest of `TRIES`."""
    measured: list[tuple[float, dict[int, FunnelLatency]]] = []
    while len(measured) < TRIES and not (measured and measured[-1][0] <= STEADY):
        times = time_quotas(funnel, requests, stage, quotas, ROUNDS) / 1000
        latencies = {m: median_interval(times[..., n].ravel()) for n, m in enumerate(quotas)}
        measured.append((max((one.high - one.low) / one.median for one in latencies.values()), latencies))
    return min(measured, key=lambda one: one[0])[1]


def time_quotas(
    funnel: Funnel, requests: Sequence[Request], stage: str, quotas: Sequence[int], rounds: int
) -> NDArray[np.float64]:
    """Time `Funnel.rank` by the quota of a stage: nanoseconds, (rounds, len(requests), len(quotas)).

    A round runs all requests at all quotas, so that a slow spell of the machine affects all of them. One round before,
    which prepares the memory, does not count. Raises RequestError.
    """
    variants = [
        msgspec.structs.replace(request, keep={stage: keep}, trace=False)
        for request, keep in itertools.product(requests, quotas)
    ]
    times = np.empty((1 + rounds, len(variants)))
    for of_round, (n, request) in itertools.product(times, enumerate(variants)):
        began = time.perf_counter_ns()
        funnel.rank(request)
        of_round[n] = time.perf_counter_ns() - began
    return times[1:].reshape(rounds, len(requests), len(quotas))


def median_interval(times: NDArray[np.float64]) -> FunnelLatency:
    """The median with its distribution-free 95 % interval: order statistics n/2 ± 1.96 √n/2 (N,)."""
    ordered = np.sort(times)
    n, half = len(ordered), 0.98 * np.sqrt(len(ordered))
    low, high = max(0, int(np.floor(n / 2 - half))), min(n - 1, int(np.ceil(n / 2 + half)))
    return FunnelLatency(float(np.median(ordered)), float(ordered[low]), float(ordered[high]), n)


FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Factors on the widths of a stage under a budget."""
SHARES = (0.25, 0.5, 0.75)
"""Shares of the features that may be dropped, those first that are worth the least."""
IMPORTANCE_REQUESTS = 2000
DROPPED = "features.dropped"


@dataclass(frozen=True)
class Priced:
    """A trained funnel at one quota of the first stage."""

    trial: int
    quota: int
    value: float
    us: FunnelLatency


@dataclass(frozen=True)
class LatencyBudget:
    """A bound of a request's latency, and the latencies of funnels."""

    us: float
    meter: LatencyMeter
    objective: Objective

    @cached_property
    def largest(self) -> int:
        """Candidates of the largest validation request."""
        return int(max(np.diff(s.request_start).max() for s in self.meter.data.packed.splits["valid"]))

    def latencies(self, config: Config) -> dict[int, FunnelLatency]:
        """Latency by the quotas of the first stage that are measured."""
        return self.meter.measure(config, quota_range(config, self.largest))

    def fits(self, config: Config) -> bool:
        """Whether a funnel fits the budget at some quota: by the upper end of its interval."""
        return any(latency.high <= self.us for latency in self.latencies(config).values())

    def points(self, number: int, config: Config, trial: Trial) -> list[Priced]:
        """A trained funnel at each quota."""
        taken = self.latencies(config) if trial.by_quota else {}
        return [
            Priced(number, m, value, taken[m])
            for m, value in trial.by_quota.items()
            if value is not None and m in taken
        ]

    def best(self, points: Sequence[Priced]) -> Priced | None:
        """The point with the best value that fits the budget, the fastest among equals; None if none fits."""
        fitting = [point for point in points if point.us.high <= self.us]
        return max(fitting, key=lambda p: (self.objective.merit(p.value), -p.us.median), default=None)

    def frontier(self, points: Sequence[Priced]) -> list[Priced]:
        """The points that no faster one equals in value, the fastest first."""
        frontier: list[Priced] = []
        for point in sorted(points, key=lambda p: (p.us.median, -self.objective.merit(p.value))):
            if not frontier or self.objective.merit(point.value) > self.objective.merit(frontier[-1].value):
                frontier.append(point)
        return frontier

    def describe(self, points: Sequence[Priced]) -> dict[str, Any]:
        """The bound, the machine and the frontier of all trained funnels as JSON values."""
        machine = (
            f"{platform.machine()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}, one thread"
        )
        return {"us": self.us, "machine": machine, "frontier": [asdict(p) for p in self.frontier(points)]}

    def require_some_fit(self, space: Space, points: Sequence[Mapping[str, Any]]) -> None:
        """Raise ConfigError if neither what was measured nor a funnel of these values fits: nothing is trained then."""
        known = self.meter.fastest(quota_range(space.config, self.largest))
        if known is not None and known.high <= self.us:
            return
        measured = [
            (taken, quota, values)
            for values in points
            for quota, taken in self.latencies(space.config_of(values)).items()
        ]
        taken, quota, values = min(measured, key=lambda one: one[0].high)
        if taken.high > self.us:
            said = ", ".join(format_values(values)) or BASE
            raise ConfigError(
                f"--budget-us {self.us:g}: no funnel fits; the cheapest that was measured takes {taken}: {said}, the "
                f"first stage keeps {quota}; raise the budget, lower the last stage's keep, or log fewer candidates"
            )


def cheapest_values(space: Space) -> dict[str, Any]:
    """The values of the cheapest funnel: the narrowest stages, and the fewest features."""
    return {
        name: max(p.range.choices) if name == DROPPED else min(p.range.choices)
        for name, p in space.parameters.items()
        if name == DROPPED or name.endswith(".widths")
    }


def check_budget(config: Config, us: float, objective: Objective) -> None:
    """Raise ConfigError if a config has no quota to search, or the metric does not depend on it."""
    if not 0 < us < float("inf"):
        raise ConfigError(f"--budget-us: must be above 0; received {us:g}")
    if len(config.stages) < 2:
        raise ConfigError("--budget-us: the config has one stage; a budget is shared by two or more")
    if objective.metric.population not in ("cut", "cascade"):
        raise ConfigError(
            f"--metric {objective.name}: does not depend on what the first stage keeps; under --budget-us name a "
            "recall, such as joint_click_recall"
        )


def budget_space(config: Config, drops: Sequence[str]) -> list[Parameter]:
    """Widths of the stages, and how many features are dropped, of those that may be."""
    parameters = structure_space(config, FACTORS)
    counts = sorted({0, *(round(share * len(drops)) for share in SHARES)})
    if len(counts) > 1:

        def change(value: Plain, count: Any) -> Plain:
            return without_features(value, drops[:count]) if count else value

        parameters.append(Parameter(DROPPED, Range(choices=tuple(counts)), change=change, written=0))
    return parameters


def order_drops(config: Config, data: TrialData) -> list[str]:
    """Features that may be dropped, by their worth, the least first; the config is trained once for it."""
    file = data.folder / "drops.json"
    stored = read_stored(file, list[str])
    if stored is not None and config.features.keys() >= set(stored):
        return stored
    data.report("measuring what each feature is worth")
    worth, diverged, _ = train_trial(config, data.of(config), data.base, _worth)
    if worth is None:
        raise ConfigError(f"--budget-us: the config as written diverged: {diverged}")
    drops = nested_drops(config, data.base, worth)
    write_text(file, json.dumps(drops))
    return drops


def _worth(run: Run) -> dict[str, float]:
    """AUC that the stages lose without each feature."""
    explained = measure_importance(run, "valid", IMPORTANCE_REQUESTS)
    lost = dict.fromkeys(explained["features"], 0.0)
    for row in explained["rows"]:
        if row["group"] and row["metric"] == "auc":
            lost[row["group"]] += max(row["difference"] or 0.0, 0.0)
    return lost


def nested_drops(config: Config, base: Path, worth: Mapping[str, float]) -> list[str]:
    """The features in the order of their worth, each as soon as the config does without it and those before."""
    drops, waiting = list[str](), sorted(worth, key=lambda name: (worth[name], name))
    while (name := next((n for n in waiting if _does_without(config, base, [*drops, n])), None)) is not None:
        drops.append(name)
        waiting.remove(name)
    return drops


def _does_without(config: Config, base: Path, names: Collection[str]) -> bool:
    """Whether features can be removed without others that are derived from them."""
    schema, gone = config.declared, set(names)
    attended = config.attended(schema)
    unread = schema.unread(gone, attended - gone)
    if not set(find_removed(schema, gone, attended)) <= gone.union(unread):
        return False
    try:
        from_plain(without_features(plain(config), names), "without", base)
    except (ConfigError, ValueError, KeyError):
        return False
    return True
