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
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.arena import kept
from benchmarks.quality.references import reference
from corank.analysis.trials.significance import mean_over_seeds
from corank.datasets.kuairand import import_kuairand
from corank.evaluation.predict import predict_split
from corank.metrics.bootstrap import replicates
from corank.metrics.measure import Measure
from corank.metrics.point import auc, gauc
from corank.training.config_file import plain, read

Plain = dict[str, Any]
STAGES = ("prerank", "rank")
METRICS: dict[str, Callable[..., Measure]] = {"auc": auc, "gauc": gauc}
KEYS = ("user_id", "video_id", "author_id")
HISTORIES = ("click_history", "long_view_history")
EVERY = {"frozen": "1d", "live": "1m"}


def prior(by: list[str], label: str | None, every: str) -> Plain:
    return {"kind": "prior", "by": by, "label": label, "every": every}


def rates(keys: list[list[str]], every: str) -> Plain:
    """Rates of clicks and long views by each key, and how often it was shown."""
    return {
        f"{'_'.join(by)}_{label or 'shown'}": prior(by, label, every)
        for by in keys
        for label in ("click", "long_view", None)
    }


def histories(config: Plain, every: str) -> None:
    """What the user clicked, and viewed long."""
    for name, event in zip(HISTORIES, ("click", "long_view"), strict=True):
        history = {"side": "user", "kind": "ids", "of": "video_id", "event": event, "every": every}
        config["features"][name] = history


def priors(config: Plain, every: str) -> None:
    """With rates of the user an embedding of the few rows that each has only remembers them (LOG.md)."""
    config["features"] |= rates([[key] for key in KEYS], every)
    config["features"]["user_id"]["min_count"] = 30


def user_context(config: Plain, every: str) -> None:
    """Where in the app a user clicks: the towers' crosses."""
    config["features"] |= rates([["user_id", "tab"], ["tab", "hour"]], every) | {
        "tab_hour": {"kind": "pair", "of": ["tab", "hour"], "min_count": 5},
        "tab_activity": {"kind": "pair", "of": ["tab", "user_active_degree"], "min_count": 5},
    }


def query_item(config: Plain, every: str) -> None:
    """What a video is where it is shown, and to whom: the ranker's alone."""
    config["features"] |= rates([["video_id", "tab"], ["author_id", "tab"]], every) | {
        "tab_type": {"kind": "pair", "of": ["tab", "video_type"], "min_count": 5},
        "author_clicked": {"kind": "count", "of": ["click_history.author_id", "author_id"]},
        "tags_clicked": {"kind": "count", "of": ["click_history.tag", "tag"]},
        "seen": {"kind": "contains", "of": ["click_history", "video_id"]},
    }


def din(config: Plain, every: str, **settings: Any) -> None:
    attended = {"history": "click_history", "attributes": ["author_id", "tag"]}
    config["stages"][1]["din"] = attended | settings


def dcn(config: Plain, every: str) -> None:
    config["stages"][1]["dcn"] = {"layers": 3, "rank": 16}


def labels(config: Plain, every: str) -> None:
    """A second head, of long views."""
    config["stages"][1]["labels"] = ["click", "long_view"]
    config["losses"].append({"kind": "click", "stage": "rank", "label": "long_view", "weight": 0.3})


def likes(config: Plain, every: str) -> None:
    """A third head, of likes: one of 60 rows has one."""
    config["data"]["labels"]["like"] = {"column": "is_like"}
    config["stages"][1]["labels"].append("like")
    config["losses"].append({"kind": "click", "stage": "rank", "label": "like", "weight": 0.3})


def option(**settings: Any) -> Callable[[Plain, str], None]:
    """A setting of the ranker."""

    def add(config: Plain, every: str) -> None:
        config["stages"][1] |= settings

    return add


def trees(config: Plain, every: str) -> None:
    """Boosted trees that teach the ranker."""
    lesson = {"kind": "distill", "teacher": "trees", "student": "rank", "on": ["exposed"]}
    config["tree_teachers"] = [{"name": "trees"}]
    config["losses"].append(lesson)


EVERYTHING = (histories, priors, user_context, query_item, din, dcn, labels)
ADDED: dict[str, tuple[Callable[[Plain, str], None], ...]] = {
    "base": (),
    "histories": (histories,),
    "priors": (priors,),
    "user_context": (user_context,),
    "query_item": (histories, query_item),
    "din": (histories, din),
    "encoder": (histories, partial(din, encoder={})),
    "encoder_ages": (histories, partial(din, encoder={"ages": True})),
    "dcn": (dcn,),
    "labels": (labels,),
    "all": EVERYTHING,
    "live": EVERYTHING,
    "bins": (*EVERYTHING, option(numbers={"kind": "piecewise"})),
    "embedded_bins": (*EVERYTHING, option(numbers={"kind": "piecewise", "dim": 8})),
    "waves": (*EVERYTHING, option(numbers={"kind": "periodic"})),
    "gates": (*EVERYTHING, option(gates={})),
    "members": (*EVERYTHING, option(members=8)),
    "trees": (*EVERYTHING, trees),
    "three_labels": (*EVERYTHING, likes),
    "mmoe": (*EVERYTHING, likes, option(experts={"shared": 4})),
    "cgc": (*EVERYTHING, likes, option(experts={"shared": 2, "own": 1})),
    "ple": (*EVERYTHING, likes, option(experts={"shared": 2, "own": 1, "levels": 2})),
}
OF_ALL = ("bins", "embedded_bins", "waves", "gates", "members", "trees", "three_labels")
WITHOUT = {"din": "histories", "query_item": "histories"} | dict.fromkeys(OF_ALL, "all")
WITHOUT |= dict.fromkeys(("encoder", "encoder_ages"), "din")
WITHOUT |= dict.fromkeys(("mmoe", "cgc", "ple"), "three_labels")
"""What an arm is compared with; `base` unless named."""


def config_of(imported: Plain, arm: str) -> Plain:
    """The columns of the imported config, one label, and what the arm adds."""
    config: Plain = yaml.safe_load(yaml.safe_dump(imported))
    config["features"] = {
        name: feature
        for name, feature in config["features"].items()
        if "side" in feature and feature.get("of") is None
    }
    config["features"]["user_id"]["min_count"] = 2
    for stage in config["stages"]:
        stage |= {"labels": ["click"], "dcn": None, "din": None} if stage["model"] == "mlp" else {}
    config["losses"] = [loss for loss in config["losses"] if loss["label"] == "click"]
    for add in ADDED[arm]:
        add(config, EVERY["live" if arm == "live" else "frozen"])
    return config | {"name": arm}


class Trial:
    """The figures of one training, or of the reference, and the same in resamples of the test day's users."""

    def __init__(self, figures: dict[str, dict[str, Any]]) -> None:
        self.value: dict[str, float] = figures["value"]
        self.replicates = {name: np.array(found) for name, found in figures["replicates"].items()}


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
    """By stage and metric what ours have more, in the mean over seeds, and the interval over users and seeds."""
    found: dict[str, float] = {}
    for name in [name for name in ours[0].value if name in theirs[0].value]:
        values = [one.value[name] - other.value[name] for one, other in zip(ours, theirs, strict=True)]
        replicates = [
            one.replicates[name] - other.replicates[name] for one, other in zip(ours, theirs, strict=True)
        ]
        interval = mean_over_seeds(values, np.array(replicates))
        found[f"{key}.{name}"] = interval.value
        found |= {f"{key}.{name}.low": interval.low or 0.0, f"{key}.{name}.high": interval.high or 0.0}
    return found


def between(key: str, arm: list[Trial]) -> dict[str, float]:
    """What the ranker has more than the pre-ranker."""
    found: dict[str, float] = {}
    for metric in METRICS:
        values = [trial.value[f"rank_{metric}"] - trial.value[f"prerank_{metric}"] for trial in arm]
        replicates = [t.replicates[f"rank_{metric}"] - t.replicates[f"prerank_{metric}"] for t in arm]
        interval = mean_over_seeds(values, np.array(replicates))
        found[f"{key}.{metric}"] = interval.value
        found |= {f"{key}.{metric}.low": interval.low or 0.0, f"{key}.{metric}.high": interval.high or 0.0}
    return found


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
    found: dict[str, list[Trial]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data, results = Path(temporary) / "data", arguments.keep or Path(temporary) / "results"
        import_kuairand(arguments.folder, data, say)
        imported = plain(read(data / "config.yaml"))

        def trials(name: str, find: Callable[[int], dict[str, dict[str, Any]]]) -> list[Trial]:
            return [
                Trial(kept(results / f"{name}-{seed}.json", partial(find, seed)))
                for seed in range(arguments.seeds)
            ]

        found["boosting"] = trials("boosting", partial(boosted, data))
        for arm in arguments.arms:
            path = data / f"{arm}.yaml"
            path.write_text(yaml.safe_dump(config_of(imported, arm), sort_keys=False), encoding="utf-8")
            found[arm] = trials(arm, partial(trained, path))
            means = {name: fmean(t.value[name] for t in found[arm]) for name in found[arm][0].value}
            say(f"{arm}: " + "  ".join(f"{name} {value:.4f}" for name, value in means.items()))
    harness.report("ablation", *_figures(found), arguments.json)


def _figures(found: dict[str, list[Trial]]) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
    figures: dict[str, float] = {}
    for arm, trials in found.items():
        for name in trials[0].value:
            if arm != "boosting" or name.startswith("rank"):
                values = [trial.value[name] for trial in trials]
                figures |= {f"{arm}.{name}": fmean(values), f"{arm}.{name}_std": pstdev(values)}
    for arm, trials in found.items():
        if arm not in ("boosting", "base") and WITHOUT.get(arm, "base") in found:
            figures |= difference(f"{arm}_adds", trials, found[WITHOUT.get(arm, "base")])
    aims: dict[str, tuple[str, float]] = {}
    for arm in ("all", "live"):
        if arm in found:
            figures |= difference(f"{arm}_over_boosting", found[arm], found["boosting"])
            figures |= between(f"{arm}_ranker_over_prerank", found[arm])
    if "all" in found:
        aims = {
            "all_over_boosting.rank_auc.high": (">=", 0.0),
            "all_over_boosting.rank_gauc.high": (">=", 0.0),
            "all_ranker_over_prerank.auc": ("<=", 0.003),
            "all_ranker_over_prerank.gauc": ("<=", 0.003),
        }
    return figures, aims


if __name__ == "__main__":
    main()
