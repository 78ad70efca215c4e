"""Gain of features and of structure for both stages on KuaiRand-Pure; reference: gradient boosting with priors.

`ablation DIR` imports the log in DIR and trains every arm once a seed. An arm adds to `base` what its name says. `base`
has the columns of users and videos, tab and hour, and learns clicks. `all` has everything, with histories and priors as
of midnight; `live` has the same with histories and priors as of the request. The gain of an arm is its mean over seeds
minus that of `base`, of `histories` for `din`, of `din` for encoders of its events, of `all` for bins and waves of
numbers, gates, members, teaching trees and `three_labels`, and of `three_labels` for experts, with a 95 % interval over
users and seeds, all on the same rows. The ranker's AUC of long views and likes is compared where both have the label.
The test day is 30 April.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.ablation_arms import ADDED, WITHOUT, config_of
from benchmarks.quality.arena import kept
from benchmarks.quality.references import reference
from corank.analysis.experiments.figures import mean_over_seeds
from corank.datasets.kuairand import import_kuairand
from corank.evaluation.predict import predict_split
from corank.metrics.intervals import replicates
from corank.metrics.measure import Measure
from corank.metrics.point import auc, gauc
from corank.training.config.config_file import plain, read

STAGES = ("prerank", "rank")
METRICS: dict[str, Callable[..., Measure]] = {"auc": auc, "gauc": gauc}


class Trial:
    """The figures of one training, or of the reference, and the same in resamples of the test day's users."""

    def __init__(self, figures: dict[str, dict[str, Any]]) -> None:
        self.value: dict[str, float] = figures["value"]
        self.replicates = {name: np.array(draws) for name, draws in figures["replicates"].items()}


def figures_of(measures: dict[str, Measure]) -> dict[str, dict[str, Any]]:
    """The value of each measure, and its resamples."""
    return {
        "value": {name: float(measure.value() or 0) for name, measure in measures.items()},
        "replicates": {name: replicates(measure).tolist() for name, measure in measures.items()},
    }


def of_clicks(
    user: NDArray[Any], scores: dict[str, NDArray[Any]], clicks: NDArray[Any]
) -> dict[str, Measure]:
    return {f"{s}_{name}": m(user, z, clicks) for s, z in scores.items() for name, m in METRICS.items()}


def trained(path: Path, seed: int) -> dict[str, dict[str, Any]]:
    """One training of a config, judged on the test day."""
    with tempfile.TemporaryDirectory() as folder:
        run = corank.train(path, [f"train.seed={seed}"], folder=Path(folder)).run
        packed = run.packed()
        model, _ = run.model(packed)
        rows = predict_split(model, packed, "test")
    user, ranker = rows.requests.user_of(), rows.logits["rank"]
    measures = of_clicks(user, {stage: rows.logits[stage]["click"] for stage in STAGES}, rows.labels["click"])
    others = {f"rank_auc_{label}": auc(user, ranker[label], rows.labels[label]) for label in [*ranker][1:]}
    return figures_of(measures | others)


def boosted(data: Path, seed: int) -> dict[str, dict[str, Any]]:
    rows = reference(data, priors=True, seed=seed).predictions
    # resamples depend on a user's number, which in packed data is that of its id among the log's, in ascending order
    ids = pl.read_parquet(data / "log.parquet", columns=["user_id"])["user_id"].unique().sort()
    user = ids.search_sorted(rows["user_id"]).to_numpy()
    scores = dict.fromkeys(STAGES, rows["score"].to_numpy())
    return figures_of(of_clicks(user, scores, rows["is_click"].to_numpy().astype(np.int8)))


def difference(key: str, ours: list[Trial], theirs: list[Trial]) -> dict[str, float]:
    """By stage and metric the gain of ours, in the mean over seeds, and the interval over users and seeds."""
    figures: dict[str, float] = {}
    for name in [name for name in ours[0].value if name in theirs[0].value]:
        values = [one.value[name] - other.value[name] for one, other in zip(ours, theirs, strict=True)]
        replicates = [
            one.replicates[name] - other.replicates[name] for one, other in zip(ours, theirs, strict=True)
        ]
        interval = mean_over_seeds(values, np.array(replicates))
        figures[f"{key}.{name}"] = interval.value
        figures |= {f"{key}.{name}.low": interval.low or 0.0, f"{key}.{name}.high": interval.high or 0.0}
    return figures


def between(key: str, arm: list[Trial]) -> dict[str, float]:
    """The gain of the ranker over the pre-ranker."""
    figures: dict[str, float] = {}
    for metric in METRICS:
        values = [trial.value[f"rank_{metric}"] - trial.value[f"prerank_{metric}"] for trial in arm]
        replicates = [t.replicates[f"rank_{metric}"] - t.replicates[f"prerank_{metric}"] for t in arm]
        interval = mean_over_seeds(values, np.array(replicates))
        figures[f"{key}.{metric}"] = interval.value
        figures |= {f"{key}.{metric}.low": interval.low or 0.0, f"{key}.{metric}.high": interval.high or 0.0}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="KuaiRand-Pure in its official layout")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ADDED, default=list(ADDED))
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--keep", type=Path, help="folder where finished trainings are kept; a rerun goes on there"
    )
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    by_arm: dict[str, list[Trial]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data, results = Path(temporary) / "data", arguments.keep or Path(temporary) / "results"
        import_kuairand(arguments.folder, data, say)
        imported = plain(read(data / "config.yaml"))

        def trials(name: str, find: Callable[[int], dict[str, dict[str, Any]]]) -> list[Trial]:
            return [
                Trial(kept(results / f"{name}-{seed}.json", partial(find, seed)))
                for seed in range(arguments.seeds)
            ]

        by_arm["boosting"] = trials("boosting", partial(boosted, data))
        for arm in arguments.arms:
            path = data / f"{arm}.yaml"
            # JSON is YAML, without the aliases that PyYAML would write
            path.write_text(json.dumps(config_of(imported, arm), ensure_ascii=False), encoding="utf-8")
            by_arm[arm] = trials(arm, partial(trained, path))
            means = {name: fmean(t.value[name] for t in by_arm[arm]) for name in by_arm[arm][0].value}
            say(f"{arm}: " + "  ".join(f"{name} {value:.4f}" for name, value in means.items()))
    harness.report("ablation", *_figures(by_arm), arguments.json)


def _figures(by_arm: dict[str, list[Trial]]) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
    figures: dict[str, float] = {}
    for arm, trials in by_arm.items():
        for name in trials[0].value:
            if arm != "boosting" or name.startswith("rank"):
                values = [trial.value[name] for trial in trials]
                figures |= {f"{arm}.{name}": fmean(values), f"{arm}.{name}_std": pstdev(values)}
    for arm, trials in by_arm.items():
        if arm not in ("boosting", "base") and WITHOUT.get(arm, "base") in by_arm:
            figures |= difference(f"{arm}_adds", trials, by_arm[WITHOUT.get(arm, "base")])
    aims: dict[str, tuple[str, float]] = {}
    for arm in ("all", "live"):
        if arm in by_arm:
            figures |= difference(f"{arm}_over_boosting", by_arm[arm], by_arm["boosting"])
            figures |= between(f"{arm}_ranker_over_prerank", by_arm[arm])
    if "all" in by_arm:
        aims = {
            "all_over_boosting.rank_auc.high": (">=", 0.0),
            "all_over_boosting.rank_gauc.high": (">=", 0.0),
            "all_ranker_over_prerank.auc": ("<=", 0.003),
            "all_ranker_over_prerank.gauc": ("<=", 0.003),
        }
    return figures, aims


if __name__ == "__main__":
    main()
