"""Tuning under a latency budget: which features may be dropped, which quotas fit, and the frontier.

A trial's model is measured at every quota of the first stage, since quotas need no training. Of the quotas at which the
funnel fits the budget, the one with the best recall counts.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corank.analysis.importance import measure_importance
from corank.analysis.search.funnel_latency import FunnelLatency, LatencyMeter
from corank.analysis.search.objective import Objective
from corank.analysis.search.search_trials import SearchTrial, quota_range
from corank.analysis.search.space import Parameter, Range, Space, structure_space
from corank.analysis.trials.trial_data import TrialData
from corank.analysis.trials.trial_training import train_trial
from corank.core.errors import ConfigError
from corank.core.files import write_text
from corank.training.config import Config
from corank.training.config_file import from_plain, plain
from corank.training.feature_changes import Plain, find_removed, without_features

FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Factors on the widths of a stage under a budget."""
SHARES = (0.25, 0.5, 0.75)
"""Shares of the features that may be dropped, those first that are worth the least a microsecond."""
IMPORTANCE_REQUESTS = 2000
DROPPED = "features.dropped"


@dataclass(frozen=True)
class Priced:
    """A trained funnel at one quota of the first stage."""

    trial: int
    quota: int
    value: float
    latency: FunnelLatency

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"trial": self.trial, "quota": self.quota, "value": self.value, "us": asdict(self.latency)}


@dataclass(frozen=True)
class LatencyBudget:
    """A bound of a request's latency, and the latencies of funnels."""

    us: float
    meter: LatencyMeter
    objective: Objective
    largest: int
    """Candidates of the largest validation request."""

    def quotas(self, config: Config) -> list[int]:
        """The quotas of the first stage that are measured."""
        return quota_range(config, self.largest)

    def latencies(self, config: Config) -> dict[int, FunnelLatency]:
        """Latency by quota."""
        return self.meter.measure(config, self.quotas(config))

    def fits(self, config: Config) -> bool:
        """Whether a funnel fits the budget at some quota: by the upper end of its interval."""
        return any(latency.high <= self.us for latency in self.latencies(config).values())

    def points(self, number: int, config: Config, trial: SearchTrial) -> list[Priced]:
        """A trained funnel at each quota."""
        taken, known = self.latencies(config), trial.quotas
        return [
            Priced(number, m, value, taken[m])
            for m, value in zip(known.get("m", []), known.get("values", []), strict=True)
            if value is not None and m in taken
        ]

    def best(self, points: Sequence[Priced]) -> Priced | None:
        """The point with the best value that fits the budget, the fastest among equals; None if none fits."""
        fitting = [point for point in points if point.latency.high <= self.us]
        return max(fitting, key=lambda p: (self.objective.merit(p.value), -p.latency.median), default=None)

    def frontier(self, points: Sequence[Priced]) -> list[Priced]:
        """The points that no faster one equals in value, the fastest first."""
        frontier: list[Priced] = []
        for point in sorted(points, key=lambda p: (p.latency.median, -self.objective.merit(p.value))):
            if not frontier or self.objective.merit(point.value) > self.objective.merit(frontier[-1].value):
                frontier.append(point)
        return frontier

    def require_some_fit(self, space: Space) -> None:
        """Raise ConfigError if neither what was measured nor the cheapest funnel fits: nothing is trained then."""
        config = space.config_of({})
        known = self.meter.fastest(self.quotas(config))
        if known is not None and known.high <= self.us:
            return
        cheapest = {
            name: max(p.range.choices) if name == DROPPED else min(p.range.choices)
            for name, p in space.parameters.items()
            if name == DROPPED or name.endswith(".widths")
        }
        latencies = self.latencies(space.config_of(cheapest))
        quota, taken = min(latencies.items(), key=lambda one: one[1].high)
        if taken.high > self.us:
            said = ", ".join(f"{name}={value:g}" for name, value in cheapest.items())
            raise ConfigError(
                f"--budget-us {self.us:g}: no funnel fits; the cheapest that was measured takes {taken}: {said}, the "
                f"first stage keeps {quota}; raise the budget, lower the last stage's keep, or log fewer candidates"
            )


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
        change = _drop_change(drops)
        parameters.append(Parameter(DROPPED, Range(choices=tuple(counts)), change=change, written=0))
    return parameters


def _drop_change(drops: Sequence[str]) -> Any:
    def change(value: Plain, count: Any) -> Plain:
        return without_features(value, drops[:count]) if count else value

    return change


def order_drops(config: Config, data: TrialData) -> list[str]:
    """Features that may be dropped, by their worth a microsecond, the least first.

    The config is trained once for it. The order is kept, since it depends on timings: a resumed search uses the same.
    """
    file = data.folder / "drops.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(stored, list) and all(name in config.features for name in stored):
            return stored
    except (OSError, ValueError):
        pass
    data.report("measuring what each feature is worth and takes")
    packed = data.of(config)
    done = train_trial(
        config,
        packed,
        data.base,
        lambda run: measure_importance(run, "valid", IMPORTANCE_REQUESTS)["features"],
    )
    if done.measured is None:
        raise ConfigError(f"--budget-us: the config as written diverged: {done.diverged}")
    drops = nested_drops(config, data.base, _worth(done.measured))
    write_text(file, json.dumps(drops))
    return drops


def _worth(features: Mapping[str, Any]) -> dict[str, float]:
    """AUC that the stages lose without a feature, a microsecond; of those that take time online."""
    worth = {}
    for name, feature in features.items():
        taken = feature["microseconds"]["total"]
        lost = sum(max(stage["auc"]["value"] or 0.0, 0.0) for stage in feature["stages"].values())
        if taken > 0:
            worth[name] = float(lost / taken)
    return worth


def nested_drops(config: Config, base: Path, worth: Mapping[str, float]) -> list[str]:
    """The features in the order of their worth, each as soon as the config does without it and those before."""
    drops: list[str] = []
    while True:
        waiting = sorted(worth.keys() - set(drops), key=lambda name: (worth[name], name))
        name = next((name for name in waiting if _does_without(config, base, [*drops, name])), None)
        if name is None:
            return drops
        drops.append(name)


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


def largest_request(data: TrialData) -> int:
    """Candidates of the largest validation request."""
    return int(max(np.diff(shard.request_start).max() for shard in data.packed.splits["valid"]))
