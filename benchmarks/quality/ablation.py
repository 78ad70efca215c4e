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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import harness
from benchmarks.quality.ablation_arms import ADDED, WITHOUT, config_of
from benchmarks.quality.arena import kept
from benchmarks.quality.references import reference
from corank.analysis.experiments.arms import Arm
from corank.analysis.experiments.engine import Measurement, Trial, TrialData, TrialStore
from corank.analysis.experiments.figures import KeptFigure, mean_over_seeds
from corank.data.packed.dataset import PackedDataset
from corank.datasets.kuairand import import_kuairand
from corank.evaluation.predict import predict_split
from corank.metrics.intervals import replicates
from corank.metrics.measure import Measure
from corank.metrics.point import auc, gauc
from corank.training.config.config import Config, with_moments
from corank.training.config.config_file import Plain, plain, read
from corank.training.packed_data import open_or_pack
from corank.training.run import Run

Figures = Sequence[Mapping[str, KeptFigure]]
"""Of an arm, by seed."""
STAGES = ("prerank", "rank")
METRICS: dict[str, Callable[..., Measure]] = {"auc": auc, "gauc": gauc}


def figures_of(measures: Mapping[str, Measure]) -> dict[str, KeptFigure]:
    """The value of each measure, and its resamples."""
    return {
        name: KeptFigure(
            float(measure.value() or 0), measure.n, None, replicates(measure).tolist(), measure.n
        )
        for name, measure in measures.items()
    }


def of_clicks(
    user: NDArray[Any], scores: dict[str, NDArray[Any]], clicks: NDArray[Any]
) -> dict[str, Measure]:
    return {f"{s}_{name}": m(user, z, clicks) for s, z in scores.items() for name, m in METRICS.items()}


class TestDay(Measurement):
    """The figures of the test day."""

    kind = "ablation"

    def measure(self, run: Run, config: Config, packed: PackedDataset, trial: Trial) -> Trial:
        """Both stages by clicks, and the ranker by its other labels."""
        rows = predict_split(run.model(packed)[0], packed, "test")
        user, ranker = rows.requests.user_of(), rows.logits["rank"]
        logits = {stage: rows.logits[stage]["click"] for stage in STAGES}
        measures = of_clicks(user, logits, rows.labels["click"])
        measures |= {f"rank_auc_{name}": auc(user, ranker[name], rows.labels[name]) for name in [*ranker][1:]}
        return replace(trial, figures=figures_of(measures))


def boosted(data: Path, seed: int) -> dict[str, dict[str, Any]]:
    """The figures of the reference, as plain values."""
    rows = reference(data, priors=True, seed=seed).predictions
    # resamples depend on a user's number, which in packed data is that of its id among the log's, in ascending order
    ids = pl.read_parquet(data / "log.parquet", columns=["user_id"])["user_id"].unique().sort()
    user = ids.search_sorted(rows["user_id"]).to_numpy()
    scores = dict.fromkeys(STAGES, rows["score"].to_numpy())
    measures = of_clicks(user, scores, rows["is_click"].to_numpy().astype(np.int8))
    return {name: asdict(figure) for name, figure in figures_of(measures).items()}


def difference(key: str, ours: Figures, theirs: Figures) -> dict[str, float]:
    """By stage and metric the gain of ours, in the mean over seeds, and the interval over users and seeds."""
    figures: dict[str, float] = {}
    for name in [name for name in ours[0] if name in theirs[0]]:
        pairs = [(one[name], other[name]) for one, other in zip(ours, theirs, strict=True)]
        figures |= gain(f"{key}.{name}", pairs)
    return figures


def gain(key: str, pairs: Sequence[tuple[KeptFigure, KeptFigure]]) -> dict[str, float]:
    """The mean difference of pairs of figures, a pair a seed, and the interval over users and seeds."""
    resampled = np.array([np.subtract(*(np.array(f.replicates, np.float64) for f in pair)) for pair in pairs])
    interval = mean_over_seeds([one.value - other.value for one, other in pairs], resampled)
    return {key: interval.value, f"{key}.low": interval.low or 0.0, f"{key}.high": interval.high or 0.0}


def between(key: str, arm: Figures) -> dict[str, float]:
    """The gain of the ranker over the pre-ranker."""
    figures: dict[str, float] = {}
    for metric in METRICS:
        figures |= gain(f"{key}.{metric}", [(f[f"rank_{metric}"], f[f"prerank_{metric}"]) for f in arm])
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
    by_arm: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data, results = Path(temporary) / "data", arguments.keep or Path(temporary) / "results"
        import_kuairand(arguments.folder, data, say)
        imported = plain(read(data / "config.yaml"))
        seeds = range(arguments.seeds)
        stored = [kept(results / f"boosting-{seed}.json", partial(boosted, data, seed)) for seed in seeds]
        by_arm["boosting"] = [{name: KeptFigure(**figure) for name, figure in one.items()} for one in stored]
        arms = [Arm(name, read_arm(imported, name, data)) for name in arguments.arms]
        packed = open_or_pack(arms[0].config, data, say)
        store = TrialStore(results, TrialData(packed, data, results, say), TestDay())
        for arm in arms:
            name = arm.name
            by_arm[name] = [store.run(arm.at(1.0, seed), seed=seed)[0].figures for seed in seeds]
            means = {key: fmean(one[key].value for one in by_arm[name]) for key in by_arm[name][0]}
            say(f"{name}: " + "  ".join(f"{figure} {value:.4f}" for figure, value in means.items()))
    harness.report("ablation", *_figures(by_arm), arguments.json)


def read_arm(imported: Plain, arm: str, data: Path) -> Config:
    """The config of an arm."""
    path = data / f"{arm}.yaml"
    # JSON is YAML, without the aliases that PyYAML would write
    path.write_text(json.dumps(config_of(imported, arm), ensure_ascii=False), encoding="utf-8")
    return with_moments(read(path), data)


def _figures(by_arm: dict[str, Figures]) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
    figures: dict[str, float] = {}
    for arm, trials in by_arm.items():
        for name in trials[0]:
            if arm != "boosting" or name.startswith("rank"):
                values = [one[name].value for one in trials]
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
