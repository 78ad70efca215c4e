"""Every model's trials on KuaiRand-Pure: chosen on validation, repeated with other seeds, judged on test.

All have four trials, of learning rates and regularisation; of corank, whether trees teach its ranker. Other
settings were chosen on validation before, for all libraries. The best trial of seed 0 is repeated with the others.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.peers import ours
from benchmarks.peers.environment import PeerProcess
from benchmarks.peers.export import export
from benchmarks.peers.foreign.rows import LABEL, USER, Rows
from corank.analysis.experiments.figures import mean_over_seeds
from corank.metrics.intervals import replicates
from corank.metrics.measure import Measure
from corank.metrics.point import auc, gauc

Settings = dict[str, Any]
Scores = dict[str, NDArray[Any]]
METRICS: dict[str, Callable[..., Measure]] = {"auc": auc, "gauc": gauc}


def _grid(fixed: Settings, **values: list[Any]) -> list[Settings]:
    return [fixed | dict(zip(values, some, strict=True)) for some in product(*values.values())]


DENSE = {"std": 0.01, "l2": 0.0, "batch": 1024, "hidden": [256, 128, 64]}
"""Of peers' rankers. Among what was tried: embeddings that begin at .0001 (their default) to .05, 64 to 256 hidden
units, batches of 256 to 1,024, weight decay, normalisation by batch, and FuxiCTR's falling learning rate."""
RATES: dict[str, list[Any]] = {"lr": [0.0005, 0.001], "dropout": [0.2, 0.4]}
MODELS: dict[str, list[Settings]] = {
    "lightgbm": _grid({}, learning_rate=[0.025, 0.05], num_leaves=[15, 31]),
    "fuxictr_dnn": _grid(DENSE | {"dim": 16}, **RATES),
    "rechub_widedeep": _grid(DENSE | {"dim": 16}, **RATES),
    "rechub_dssm": _grid(
        {"std": 0.05, "l2": 1e-6, "batch": 256, "dim": 16, "hidden": [128, 64]},
        lr=[0.001, 0.003],
        dropout=[0.0, 0.2],
    ),
    "corank": _grid({"lr": 0.001, "dropout": 0.2}, taught=[True, False], table=[0.1, 0.2]),
    "fuxictr_dcnv2": _grid(DENSE | {"dim": 8, "crosses": 2}, **RATES),
    "corank_untaught": _grid({"lr": 0.001, "taught": False}, table=[0.1, 0.2], dropout=[0.0, 0.2]),
}
"""By name, LIBRARY or LIBRARY_MODEL, the trials."""
RANKINGS = {
    "corank_rank": ("corank", "rank."),
    "corank_prerank": ("corank", "prerank."),
    "corank_untaught_rank": ("corank_untaught", "rank."),
    "corank_untaught_prerank": ("corank_untaught", "prerank."),
} | {name: (name, "") for name in MODELS if not name.startswith("corank")}
"""By name in the figures the model, and the prefix of its scores: `STAGE.` of a model with stages."""
NETWORKS = [name for name in MODELS if name.startswith(("fuxictr", "rechub"))]


@dataclass(frozen=True)
class Arena:
    """One selection of features: a config for corank, the same rows as arrays for the others."""

    name: str
    config: Path
    folder: Path
    """Of finished trainings and of the arrays; a rerun continues from it."""

    @cached_property
    def rows(self) -> Rows:
        """The exported rows."""
        folder = self.folder / "rows"
        if not (folder / "columns.json").is_file():
            export(ours.pack(self.config), folder)
        return Rows.load(folder)

    def scores(self, peers: PeerProcess, model: str, settings: Settings, seed: int) -> Scores:
        """The scores of one training, computed now or by an earlier run."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        is_ours = model.startswith("corank")
        out = self.folder / "scores" / f"{'corank' if is_ours else model}-{digest}-{seed}.npz"
        if not out.is_file():
            out.parent.mkdir(parents=True, exist_ok=True)
            if is_ours:
                ours.fit(self.config, settings, seed, out)
            else:
                scratch = self.folder / "scratch"
                scratch.mkdir(exist_ok=True)
                where = {"rows": str(self.rows.folder), "scratch": str(scratch), "out": str(out)}
                peers.ask("fit", name=model, settings=settings, seed=seed, **where)
        with np.load(out) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def chosen(self, peers: PeerProcess, model: str, say: Callable[[str], object]) -> Settings:
        """The trial whose ranker, or only model, has the best AUC on validation."""
        stage = "rank." if model.startswith("corank") else ""
        split = self.rows.split("valid")
        areas = []
        for settings in MODELS[model]:
            scores = self.scores(peers, model, settings, 0)[f"{stage}valid"]
            areas.append(auc(split[USER], scores, split[LABEL].astype(np.int8)).value() or 0.0)
            say(f"{self.name}: {model} {settings}: validation {areas[-1]:.4f}")
        return MODELS[model][int(np.argmax(areas))]


@dataclass(frozen=True)
class Judged:
    """A ranking of the test, by seed: values, and the same in resamples of the users."""

    value: dict[str, list[float]]
    replicates: dict[str, NDArray[np.float64]]
    """(seeds, resamples) by metric"""

    @classmethod
    def of(cls, split: Scores, scores: list[NDArray[Any]]) -> "Judged":
        """Judge the scores of every seed."""
        label = split[LABEL].astype(np.int8)
        by_metric = {m: [measure(split[USER], s, label) for s in scores] for m, measure in METRICS.items()}
        return cls(
            {name: [float(m.value() or 0) for m in measures] for name, measures in by_metric.items()},
            {name: np.array([replicates(m) for m in measures]) for name, measures in by_metric.items()},
        )

    def figures(self, key: str, other: "Judged | None" = None) -> dict[str, harness.Figure]:
        """Means with intervals over users and seeds; of the paired differences from another, if one is given."""
        figures: dict[str, harness.Figure] = {}
        for metric, values in self.value.items():
            resampled = self.replicates[metric]
            if other is not None:
                values = [a - b for a, b in zip(values, other.value[metric], strict=True)]
                resampled = resampled - other.replicates[metric]
            mean = mean_over_seeds(values, resampled)
            figures[f"{key}.{metric}"] = mean.value
            figures |= {f"{key}.{metric}.low": mean.low or 0.0, f"{key}.{metric}.high": mean.high or 0.0}
        return figures


def compare(
    arena: Arena, peers: PeerProcess, seeds: int, say: Callable[[str], object]
) -> dict[str, harness.Figure]:
    """All models' figures on the test, and corank's ranker less each other; keys begin with the arena's name."""
    figures: dict[str, harness.Figure] = {}
    scores: dict[str, list[Scores]] = {}
    for model in MODELS:
        settings = arena.chosen(peers, model, say)
        scores[model] = [arena.scores(peers, model, settings, seed) for seed in range(seeds)]
        figures[f"{arena.name}.{model}.settings"] = json.dumps(settings)
    judged: dict[str, dict[str, Judged]] = {}
    for split in ("valid", "test"):
        part = arena.rows.split(split)
        judged[split] = {
            name: Judged.of(part, [seed_scores[f"{stage}{split}"] for seed_scores in scores[model]])
            for name, (model, stage) in RANKINGS.items()
        }
    for name, test in judged["test"].items():
        figures |= test.figures(f"{arena.name}.{name}")
        valid = judged["valid"][name].figures("valid")
        figures |= {f"{arena.name}.{name}.valid_{metric}": valid[f"valid.{metric}"] for metric in METRICS}
    ranker, prerank = judged["test"]["corank_rank"], judged["test"]["corank_prerank"]
    for name in ("corank_prerank", "corank_untaught_rank", "lightgbm", *NETWORKS):
        figures |= ranker.figures(f"{arena.name}.corank_rank-{name}", judged["test"][name])
    dssm = judged["test"]["rechub_dssm"]
    return figures | prerank.figures(f"{arena.name}.corank_prerank-rechub_dssm", dssm)
