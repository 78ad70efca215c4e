"""Untouched imported configs on public logs and a simulated news world, beside tuned gradient boosting and popularity.

`real_logs DIR…` takes folders in the layouts of KuaiRand-Pure, MIND and EB-NeRD, and simulates a news world unless
--no-news is given. Each log is imported, and its config trained as it is, once a seed. The reference gets the same
features from the same pack; its settings are chosen on validation. Intervals are bootstrapped over users, those of
differences are paired. `seconds` go from the import to a report, for one seed.

The logs of own_logs.py are made of these folders and of the news world. Their ranker is to be within SHORT of the
reference, unless `check` warns before the training that the log is small; their `seconds` go from the import to a
bundle. `LOG.warnings` counts all that it warns of.

The logs of drawn_logs.py are drawn --drawings times a shape. Their reference reads what drawn_reference.py computes of
the log alone: rates, also of pairs of attributes, what the user saw and clicked and how long ago, ranks in the list.
Figures are means over drawings and seeds; `LOG.warned` counts drawings of whose smallness `check` warns. `shown_fair`
judges the log with places by clicks drawn as if every candidate had been in the first place.

`LOG.baseline_auc_gain` is of the trees that a training ends with (`baseline: true`), and is to be no more than SHORT
below the reference; `--trees` measures these alone, without a training.
"""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.boosting import FlatSplit, boost, few_valued, flatten_split
from benchmarks.quality.drawn_logs import SHAPES, draw_log
from benchmarks.quality.drawn_reference import CATEGORIES, reference_splits
from benchmarks.quality.own_logs import Load, Write, drawn_logs, is_video_log, news_logs, video_logs
from corank.analysis.comparison_page import describe_trees
from corank.analysis.experiments import tree_baseline
from corank.core.reports import Report
from corank.datasets.kuairand import import_kuairand
from corank.evaluation.predict import predict_split
from corank.metrics.intervals import REPLICATES, replicates
from corank.metrics.measure import Measure
from corank.metrics.point import auc
from corank.metrics.request_order import mrr, ndcg_at, request_auc
from corank.training.config.config import with_moments
from corank.training.config.config_file import read as read_config
from corank.training.run import Run
from corank_lab.datasets.ebnerd import import_ebnerd
from corank_lab.datasets.mind import import_mind
from corank_lab.datasets.news import News

Numbers = NDArray[np.floating]
STAGES = ("rank", "prerank")
BASELINE = "baseline"
"""The ranking of the trees that a training ends with."""
SHARE, GAIN = 0.97, 0.01
"""Of the gain over popularity that the reference reaches, and of AUC above the reference: aims on news."""
SHORT, SECONDS = 0.005, 180
"""Of AUC and NDCG@10 below the reference unless `check` warns; from the import to a bundle: aims of own logs."""
SHORT_OF_DRAWN = {"auc": 0.005, "ndcg@10": 0.01}
"""By metric, how far a drawn log may be below the reference unless `check` warns of each drawing: aims."""
SMALL = re.compile(r"\bonly [\d,]+ (positives|negatives) in|the split 'valid' has|a small log|steps")
"""Warnings of `check` that say that a log is small."""


def _auc(split: FlatSplit, scores: Numbers) -> Measure:
    return auc(split.user, scores, split.label)


def _request_auc(split: FlatSplit, scores: Numbers) -> Measure:
    return request_auc(split.user, split.request, scores, split.label)


def _mrr(split: FlatSplit, scores: Numbers) -> Measure:
    return mrr(split.user, split.request, scores, split.label)


def _ndcg(split: FlatSplit, scores: Numbers) -> Measure:
    return ndcg_at(split.user, split.request, scores, split.label)


METRICS: dict[str, Callable[[FlatSplit, Numbers], Measure]] = {
    "auc": _auc,
    "gauc_request": _request_auc,
    "mrr": _mrr,
    "ndcg@10": _ndcg,
}


@dataclass(frozen=True)
class LogResult:
    """Scores of a log's test: for each ranking the scores of every seed."""

    test: FlatSplit
    scores: dict[str, list[Numbers]]
    """By ranking; of the reference, by the metric that chose its setting, `reference auc` and `reference ndcg@10`."""

    def measures(self, metric: str) -> dict[str, list[Measure]]:
        """A metric of each ranking, seed by seed; none where it has no value, as no request has a 1 and a 0."""
        chosen = "reference auc" if metric == "auc" else "reference ndcg@10"
        found = {}
        for key, seeds in self.scores.items():
            if not key.startswith("reference") or key == chosen:
                measured = [METRICS[metric](self.test, scores) for scores in seeds]
                if all(m.value() is not None for m in measured):
                    found[key.partition(" ")[0]] = measured
        return found


def compute_figures(prefix: str, drawings: Sequence[LogResult]) -> dict[str, harness.Figure]:
    """All metrics of all rankings, and the paired differences from the reference: means over drawings of a log."""
    figures: dict[str, harness.Figure] = {}
    for metric in METRICS:
        values: dict[str, float] = {}
        draws: dict[str, NDArray[np.float64]] = {}
        measured = [drawing.measures(metric) for drawing in drawings]
        for name in (name for name in measured[0] if all(name in one for one in measured)):
            every = [(number, m) for number, one in enumerate(measured) for m in one[name]]
            values[name] = fmean(value for _, m in every if (value := m.value()) is not None)
            # drawings are resampled independently of each other
            draws[name] = np.mean([replicates(m, number, REPLICATES) for number, m in every], axis=0)
        figures |= {f"{prefix}.{name}_{metric}": value for name, value in values.items()}
        for name in (name for name in (*STAGES, BASELINE) if name in values and "reference" in values):
            key = f"{prefix}.{name}_{metric}_gain"
            low, high = np.nanquantile(draws[name] - draws["reference"], [0.025, 0.975])
            gain = values[name] - values["reference"]
            figures |= {key: gain, f"{key}.low": float(low), f"{key}.high": float(high)}
    return figures


@dataclass(frozen=True)
class OwnResult:
    """Figures of a log of one's own, and its aims."""

    figures: dict[str, harness.Figure]
    aims: dict[str, tuple[str, float]]


def measure_log(folder: Path, work: Path, seeds: int, say: Report, trees: bool = False) -> LogResult:
    """Train the config of a folder once a seed, unless it is for `trees` alone, and fit the reference to the pack."""
    scores = train_seeds(folder, work, seeds, say, trees)
    run = _open(folder, 0)
    packed = run.packed()
    splits = {split: flatten_split(packed, split) for split in ("train", "valid", "test")}
    test = splits["test"]
    scores |= fit_reference(splits, few_valued(packed, test.names), seeds, work.name, say)
    popular = _popularity(run)
    if popular is not None:
        scores["popularity"] = [test.column(popular)]
    if test.truth is not None:
        scores["oracle"] = [test.truth]
    return LogResult(test, scores)


def _open(folder: Path, seed: int) -> Run:
    """A run of a packed folder's config that nothing has trained."""
    config = with_moments(read_config(folder / "config.yaml", [f"train.seed={seed}"]), folder)
    return Run(folder / "untrained", config, folder)


def train_seeds(
    folder: Path, work: Path, seeds: int, say: Report, trees: bool = False
) -> dict[str, list[Numbers]]:
    """Train the config of a folder once a seed, as `run0` and so on of `work`, and fit the trees that a training ends
    with; these alone if `trees`. Returns the scores of the test.
    """
    scores: dict[str, list[Numbers]] = {name: [] for name in (BASELINE, *([] if trees else STAGES))}
    corank.pack(folder / "config.yaml")
    for seed in range(seeds):
        run = _open(folder, seed)
        packed, (last, label) = run.packed(), (run.config.stages[-1].name, run.config.stages[-1].main)
        fitted, choice = tree_baseline.fit_last_stage(run, packed, lambda done, total: None)
        scores[BASELINE].append(predict_split(fitted, packed, "test", names=[last]).logits[last][label])
        say(f"{work.name}: seed {seed}: {describe_trees(choice.facts)}")
        if trees:
            continue
        changes = [f"train.seed={seed}", "baseline=false"]
        trained = corank.train(folder / "config.yaml", changes, folder=work / f"run{seed}").run
        predictions = predict_split(trained.model(packed)[0], packed, "test")
        for stage in STAGES:
            scores[stage].append(predictions.logits[stage][label])
        say(f"{work.name}: seed {seed} trained")
    return scores


def fit_reference(
    splits: dict[str, FlatSplit], few: list[bool], seeds: int, name: str, say: Report
) -> dict[str, list[Numbers]]:
    """Tune the reference and fit it once a seed; return its scores of the test as `LogResult` has them."""
    boosted = boost(splits, few, seeds)
    say(f"{name}: reference {boosted.chosen}")
    return {f"reference {metric}": seed_scores for metric, seed_scores in boosted.scores.items()}


def _popularity(run: Run) -> str | None:
    """The prior that is the rate of the first label by item; None if there is none."""
    data, schema = run.config.data, run.config.declared
    label = next(iter(data.labels))
    for name in schema.priors():
        feature = schema.features[name]
        by, of = getattr(feature, "by", []), getattr(feature, "label", None)
        if of == label and [schema.column(key) for key in by] == [data.item]:
            return name
    return None


def find_layout(source: Path) -> str:
    """Tell the layout of a folder, the prefix of its figures: `ebnerd`, `kuairand` or `mind`."""
    if (source / "articles.parquet").is_file():
        return "ebnerd"
    return "kuairand" if is_video_log(source) else "mind"


def _import(source: Path, out: Path, say: Callable[[str], object]) -> None:
    """Import a folder by its layout."""
    layout = find_layout(source)
    if layout == "ebnerd":
        import_ebnerd(source, out, report=say)
    elif layout == "kuairand":
        import_kuairand(source, out, say)
    else:
        import_mind(source, out, report=say)


def time_to_report(source: Path, work: Path) -> float:
    """Seconds from the import of a folder to a report page, by one seed."""
    begin = time.monotonic()
    _import(source, work / "timed", lambda line: None)
    run = corank.train(work / "timed" / "config.yaml", folder=work / "timed run").run
    corank.report(run.folder, work / "report.html")
    return time.monotonic() - begin


def measure_own(
    name: str, write: Write, load: Load, work: Path, seeds: int, say: Report, trees: bool = False
) -> OwnResult:
    """Write a log's files, import and train them untouched, and compare with the reference; or its `trees` alone."""
    (work / "files").mkdir(parents=True)
    write(work / "files")
    begin = time.monotonic()
    load(work / "files", work / "data", say)
    if trees:
        return judge_trees(name, [measure_log(work / "data", work, seeds, say, trees)])
    checked = corank.check(work / "data" / "config.yaml").document()
    warnings = find_warnings(checked)
    for warning in warnings:
        say(f"{name}: check warns: {warning}")
    run = corank.train(work / "data" / "config.yaml", folder=work / "timed").run
    corank.export(run.folder, work / "bundle")
    seconds = time.monotonic() - begin
    figures = compute_figures(name, [measure_log(work / "data", work, seeds, say)])
    figures |= {f"{name}.candidates": checked["rows"]["log"], f"{name}.seconds": seconds}
    figures[f"{name}.warnings"] = len(warnings)
    keys = [f"{name}.rank_{metric}_gain" for metric in ("auc", "ndcg@10")]
    warned = any(map(SMALL.search, warnings))
    aims = {key: (">=", -SHORT) for key in keys if key in figures and not warned}
    return OwnResult(figures, aims | _aims_of_trees(name) | {f"{name}.seconds": ("<=", SECONDS)})


def judge_trees(name: str, drawings: Sequence[LogResult]) -> OwnResult:
    """Figures of a log of which the trees alone are measured, and their aim."""
    return OwnResult(compute_figures(name, drawings), _aims_of_trees(name))


def _aims_of_trees(name: str) -> dict[str, tuple[str, float]]:
    return {f"{name}.{BASELINE}_auc_gain": (">=", -SHORT)}


def find_warnings(checked: Mapping[str, Any]) -> list[str]:
    """The warnings of a document of `check`."""
    return [one["finding"] for one in checked["findings"] if one["severity"] == "warning"]


@dataclass(frozen=True)
class Drawing:
    """Scores of one drawing of a shape."""

    logged: LogResult
    fair: LogResult
    """The same scores, judged by clicks drawn as if every candidate were in the first place."""
    warned: bool
    """Whether `check` warns that the log is small."""


def measure_drawing(name: str, drawing: int, work: Path, seeds: int, trees: bool = False) -> Drawing:
    """Draw a log of a shape, import and train it untouched, and fit a reference that knows as much."""
    say = Console(stderr=True).print
    log, folder = draw_log(name, drawing), work / f"{name} {drawing}"
    (folder / "files").mkdir(parents=True)
    log.write(folder / "files")
    log.load(folder / "files", folder / "data", lambda line: say(f"{folder.name}: {line}"))
    warnings = find_warnings(corank.check(folder / "data" / "config.yaml").document())
    for warning in warnings:
        say(f"{folder.name}: check warns: {warning}")
    scores = train_seeds(folder / "data", folder, seeds, say, trees)
    splits = reference_splits(log, _open(folder / "data", 0).packed())
    test, few = splits["test"], [column in CATEGORIES for column in splits["test"].names]
    scores |= fit_reference(splits, few, seeds, folder.name, say)
    fair = LogResult(replace(test, label=log.fair_labels(test.request)), scores)
    logged = LogResult(test, scores | ({} if test.truth is None else {"oracle": [test.truth]}))
    return Drawing(logged, fair, any(map(SMALL.search, warnings)))


def judge_drawings(name: str, drawings: Sequence[Drawing]) -> OwnResult:
    """Figures of a shape over its drawings, and its aims."""
    logged = [drawing.logged for drawing in drawings]
    if STAGES[0] not in logged[0].scores:
        return judge_trees(name, logged)
    figures = compute_figures(name, logged)
    figures[f"{name}.warned"] = warned = sum(drawing.warned for drawing in drawings)
    judged = [name]
    if SHAPES[name].place:
        figures |= compute_figures(f"{name}_fair", [drawing.fair for drawing in drawings])
        judged.append(f"{name}_fair")
    keys = {f"{of}.rank_{metric}_gain": -most for of in judged for metric, most in SHORT_OF_DRAWN.items()}
    aims = {key: (">=", least) for key, least in keys.items() if key in figures and warned < len(drawings)}
    if SHAPES[name].purchases:
        # more than the truth knows is a leak
        aims[f"{name}.rank_auc"] = ("<=", float(figures[f"{name}.oracle_auc"]))
    return OwnResult(figures, aims | _aims_of_trees(name))


def measure_shapes(
    names: Sequence[str], work: Path, drawings: int, seeds: int, trees: bool
) -> dict[str, OwnResult]:
    """Measure drawings of shapes, each in a process of one thread, one process a core."""
    # processes read these when they import
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        begun = {
            name: [pool.submit(measure_drawing, name, n, work, seeds, trees) for n in range(drawings)]
            for name in names
        }
        return {name: judge_drawings(name, [one.result() for one in each]) for name, each in begun.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="KuaiRand-Pure, MIND or EB-NeRD")
    parser.add_argument("--no-news", action="store_true", help="without the simulated world")
    parser.add_argument("--requests", type=int, default=20_000, help="of the simulated world")
    parser.add_argument("--only", help="these logs alone, by the prefix of their figures; with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--drawings", type=int, default=3, help="of each shape of drawn_logs.py")
    parser.add_argument("--trees", action="store_true", help="the trees that a training ends with alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    trees = arguments.trees
    say = Console(stderr=True).print
    figures: dict[str, harness.Figure] = {}
    aims: dict[str, tuple[str, float]] = {}
    own = drawn_logs(arguments.requests) | ({} if arguments.no_news else news_logs(arguments.requests))
    only = None if arguments.only is None else set(arguments.only.split(","))

    def asked(name: str) -> bool:
        return only is None or name in only

    with tempfile.TemporaryDirectory() as temporary:
        if not arguments.no_news and asked("news"):
            folder = Path(temporary) / "news"
            News(requests=arguments.requests).simulate(folder)
            result = measure_log(folder, Path(temporary) / "news runs", arguments.seeds, say, trees)
            figures |= compute_figures("news", [result])
            aims |= _aims_of_trees("news")
        if f"news.{STAGES[0]}_auc" in figures:
            figures |= _shares(figures)
            aims |= {"news.rank_share_margin": (">=", 0.0), "news.rank_auc_gain": (">=", GAIN)}
        for number, source in enumerate(arguments.folders):
            own |= video_logs(source) if is_video_log(source) else {}
            if not asked(prefix := find_layout(source)):
                continue
            work = Path(temporary) / f"{prefix} {number}"
            work.mkdir()
            _import(source, work / "data", say)
            result = measure_log(work / "data", work, arguments.seeds, say, trees)
            figures |= compute_figures(prefix, [result])
            aims |= _aims_of_trees(prefix)
            if not trees:
                figures[f"{prefix}.seconds"] = time_to_report(source, work)
        for name, (write, load) in own.items():
            if asked(name):
                own_work = Path(temporary) / name
                measured = measure_own(name, write, load, own_work, arguments.seeds, say, trees)
                figures |= measured.figures
                aims |= measured.aims
        shapes = [name for name in SHAPES if asked(name)]
        every = measure_shapes(shapes, Path(temporary), arguments.drawings, arguments.seeds, trees)
        for measured in every.values():
            figures |= measured.figures
            aims |= measured.aims
    harness.report("real_logs", figures, aims, arguments.json)


def _shares(figures: dict[str, harness.Figure]) -> dict[str, harness.Figure]:
    """Gains of NDCG@10 over popularity, as shares of the oracle's; and by how much the ranker's is above SHARE of the
    reference's.
    """
    value = {
        name: float(figures[f"news.{name}_ndcg@10"])
        for name in (*STAGES, "reference", "popularity", "oracle")
    }
    whole = value["oracle"] - value["popularity"]
    shares = {name: (value[name] - value["popularity"]) / whole for name in (*STAGES, "reference")}
    of_oracle: dict[str, harness.Figure] = {
        f"news.{name}_share_of_oracle": share for name, share in shares.items()
    }
    return of_oracle | {"news.rank_share_margin": shares["rank"] - SHARE * shares["reference"]}


if __name__ == "__main__":
    main()
