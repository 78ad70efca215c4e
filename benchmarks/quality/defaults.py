"""The recipe that corank writes, beside clicks alone, the earlier recipe and others, in simulated worlds and real logs.

`defaults [DIR]` simulates several drawings of each preset, and imports `--logs`: a folder DIR in KuaiRand-Pure's
layout, what is made of it, and drawn ones. Each trains at its config's own batches, epochs and rates. `WORLD.shipped`
has the config as `corank simulate` writes it; `clicks` the losses of labels alone; `earlier` the recipe of the first
releases; the others are those of `--arms FILE`, of a log those of `--log-arms FILE`. A world's figures are means over
drawings and seeds; differences are paired by drawing, user and seed, and their intervals are over drawings and users.

`WORLD.choice.FIGURE` is the rank correlation, over the arms, of a figure of the test with the joint recall of the
truth: which of the figures that a log shows orders arms as the truth does.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import spearmanr

from benchmarks import harness
from benchmarks.quality.own_logs import Load, Write, drawn_logs, is_video_log, news_logs, video_logs
from benchmarks.split_figures import SplitFigures
from corank.analysis.experiments.arms import Arm
from corank.analysis.experiments.engine import (
    ArmResult,
    Budget,
    TrialData,
    TrialProgress,
    TrialStore,
    train_arm,
)
from corank.analysis.experiments.figures import mean_over_seeds, replicates_of
from corank.core.errors import CorankError
from corank.core.reports import Report
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import PRESETS
from corank.datasets.kuairand import import_kuairand
from corank.training.config.config import with_moments
from corank.training.config.config_file import from_plain, plain
from corank.training.config.yaml_values import read_yaml_file
from corank.training.device import keep_freed_memory
from corank.training.packed_data import open_or_pack

Plain = dict[str, Any]
EARLIER: list[Plain] = [
    {"kind": "unexposed", "stage": "prerank", "from": ["retrieved"], "per_request": 10, "weight": 0.5},
    {
        "kind": "distill", "teacher": "rank", "student": "prerank", "form": "pointwise",
        "on": ["exposed", "ranked", "preranked"], "warm_up": 200,
    },
]  # fmt: skip
"""The losses that `corank simulate` first added to the clicks."""
LOG = "kuairand"
HARM = 0.005
"""Of the truth's recall that the shipped recipe may lose to clicks alone: an aim."""
TRUTH = "joint_truth_recall"
FIGURES = {
    TRUTH: TRUTH,
    "truth_recall": "truth_recall",
    "joint_click_recall": "joint_click_recall",
    "click_recall": "click_recall",
    "prerank_auc": "first_auc",
    "rank_auc": "last_auc",
}
"""Figure of this benchmark → of a trial."""
Results = Mapping[str, Sequence[ArmResult]]
"""Arm → its result in each drawing of a world."""


def arms_of(value: Plain, further: Mapping[str, Plain], source: str, base: Path) -> list[Arm]:
    """Make the arms of a config: as it is, with clicks alone, with the earlier recipe, and with further ones.

    Args:
        value: the config, plain.
        further: name → `losses` added to the clicks; keys of `data`, `train` and, by name, of `stages`; `teachers`.
        source: names the config in errors.
        base: relative paths of the config begin here.
    """
    clicks = [loss for loss in value["losses"] if loss["kind"] == "click"]
    named: dict[str, Plain] = {"clicks": {"losses": []}} | (
        {"earlier": {"losses": EARLIER}} if value["data"].get("level") else {}
    )
    arms = [Arm("shipped", from_plain(value, source, base))]
    for name, arm in (named | dict(further)).items():
        arms.append(Arm(name, from_plain(_change(value, clicks, arm), f"{source}: {name}", base)))
    return arms


def _change(value: Plain, clicks: list[Plain], arm: Plain) -> Plain:
    """A config with an arm's losses and settings in place of the recipe's."""
    stages = [
        {key: stage[key] for key in stage if key != "feature_dropout"}
        | arm.get("stages", {}).get(stage["name"], {})
        for stage in value["stages"]
    ]
    sections = {key: value[key] | arm.get(key, {}) for key in ("data", "train")}
    teachers = {"teachers": arm["teachers"]} if "teachers" in arm else {}
    return value | sections | teachers | {"stages": stages, "losses": clicks + arm["losses"]}


def train_arms(
    name: str, bases: Sequence[Path], further: Mapping[str, Plain], trials: Path, seeds: int, report: Report
) -> Results:
    """Train the arms of each folder's config: arm → its result in each folder."""
    results: dict[str, list[ArmResult]] = {}
    for base in bases:
        written = from_plain(read_yaml_file(base / "config.yaml"), name, base)
        arms = arms_of(plain(with_moments(written, base)), further, name, base)
        data = TrialData(open_or_pack(arms[0].config, base, report), base, base, report)
        progress = TrialProgress(len(arms) * seeds, lambda line: report(f"{name}: {line}"))
        store = TrialStore(trials, data, SplitFigures())
        for arm in arms:
            trained = train_arm(arm, store, Budget(seeds, (1.0,)), progress)
            results.setdefault(arm.name, []).append(trained)
    return results


def measure_arms(name: str, results: Results) -> dict[str, harness.Figure]:
    """Return the figures of a world or log: of each arm, of `shipped` less each other, and of the choice."""
    figures: dict[str, harness.Figure] = {}
    whole = {arm: drawings for arm, drawings in results.items() if all(one.figures for one in drawings)}
    for arm, drawings in results.items():
        if arm not in whole:
            figures[f"{name}.{arm}.status"] = "diverged"
            continue
        figures |= {
            f"{name}.{arm}.{figure}": fmean(_means(drawings, of)) for figure, of in _known(drawings).items()
        }
        figures[f"{name}.{arm}.seconds"] = fmean(t.seconds for one in drawings for t in one.seeds)
    for arm in [arm for arm in whole if arm != "shipped" and "shipped" in whole]:
        figures |= _differences(f"{name}.shipped-{arm}", whole["shipped"], whole[arm])
    return figures | _correlations(name, whole)


def _known(drawings: Sequence[ArmResult]) -> dict[str, str]:
    return {figure: of for figure, of in FIGURES.items() if all(of in one.figures[0] for one in drawings)}


def _means(drawings: Sequence[ArmResult], figure: str) -> list[float]:
    """The mean over seeds in each drawing."""
    return [fmean(seed[figure].value for seed in one.figures) for one in drawings]


def _differences(
    key: str, ones: Sequence[ArmResult], others: Sequence[ArmResult]
) -> dict[str, harness.Figure]:
    """Differences with intervals over users and drawings, or over users and seeds of a single one."""
    differences: dict[str, harness.Figure] = {}
    for figure, of in _known(ones).items():
        pairs = [[replicates_of(one.figures, of) for one in drawings] for drawings in (ones, others)]
        resampled = [one - other for one, other in zip(*pairs, strict=True)]
        values = np.subtract(_means(ones, of), _means(others, of)).tolist()
        if len(ones) == 1:
            seeds = zip(ones[0].figures, others[0].figures, strict=True)
            values = [one[of].value - other[of].value for one, other in seeds]
        else:
            resampled = [one.mean(axis=0, keepdims=True) for one in resampled]
        value, low, high = mean_over_seeds(values, np.concatenate(resampled))
        differences[f"{key}.{figure}"] = value
        differences |= {
            f"{key}.{figure}.{end}": at for end, at in (("low", low), ("high", high)) if at is not None
        }
    return differences


def _correlations(name: str, results: Results) -> dict[str, harness.Figure]:
    """Spearman's correlation over arms of each figure's mean over seeds with that of the truth, mean over drawings."""
    first = next(iter(results.values()))[0].figures[0]
    others = [figure for figure in first if TRUTH in first and figure != TRUTH]
    figures: dict[str, harness.Figure] = {}
    for figure in others:
        if all(figure in seed for drawings in results.values() for one in drawings for seed in one.figures):
            by_arm = (np.array([_means(one, of) for one in results.values()]) for of in (figure, TRUTH))
            pairs = zip(*(values.T for values in by_arm), strict=True)
            known = [float(spearmanr(x, y).statistic) for x, y in pairs if np.ptp(x) > 0 and np.ptp(y) > 0]
            figures |= {f"{name}.choice.{figure}": fmean(known)} if known else {}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="KuaiRand-Pure")
    parser.add_argument("--worlds", nargs="*", default=list(PRESETS), metavar="PRESET")
    parser.add_argument(
        "--drawings",
        type=int,
        nargs="+",
        default=[3, 4, 5],
        metavar="SEED",
        help="of each world; the shipped recipe was chosen on 0 to 2",
    )
    parser.add_argument("--requests", type=int, default=10_000, help="of a simulated world")
    parser.add_argument("--candidates", type=int, default=200, help="of a request of a simulated world")
    parser.add_argument(
        "--logs", nargs="*", default=[LOG], metavar="LOG", help="such as kuairand lists hotels"
    )
    parser.add_argument("--random", type=float, metavar="SHARE", help="of requests exposed at random")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", type=Path, metavar="FILE", help="further recipes of worlds, YAML")
    parser.add_argument("--log-arms", type=Path, metavar="FILE", help="further recipes of logs, YAML")
    parser.add_argument(
        "--keep", type=Path, help="folder of worlds and finished trainings; a rerun continues there"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    say = Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        try:
            for name, bases in open_bases(arguments, folder, say).items():
                file = arguments.arms if name in PRESETS else arguments.log_arms
                further = {} if file is None else read_yaml_file(file)
                results = train_arms(name, bases, further, folder / "trials", arguments.seeds, say)
                figures |= measure_arms(name, results)
        except CorankError as error:
            sys.exit(f"scripts/bench defaults: {error}")
    harness.report("defaults", figures, aims_of(figures), arguments.json)


def aims_of(figures: Mapping[str, harness.Figure]) -> dict[str, tuple[str, float]]:
    """In worlds no harm to clicks alone and better than the earlier recipe; in logs no AUC lost to clicks alone."""
    in_worlds = {f"shipped-clicks.{TRUTH}.low": (">=", -HARM), f"shipped-earlier.{TRUTH}": (">", 0.0)}
    in_logs = {f"shipped-clicks.{stage}_auc": (">=", -0.001) for stage in ("rank", "prerank")}
    names = dict.fromkeys(key.partition(".")[0] for key in figures)
    bounds = {name: in_worlds if name in PRESETS else in_logs for name in names}
    aims = {f"{name}.{key}": bound for name, own in bounds.items() for key, bound in own.items()}
    return {key: bound for key, bound in aims.items() if key in figures}


def open_bases(arguments: argparse.Namespace, folder: Path, report: Report) -> dict[str, list[Path]]:
    """Simulate the worlds and import the logs that a folder does not have yet: name → the folder of each drawing."""
    bases: dict[str, list[Path]] = {}
    size = {"requests": arguments.requests, "candidates": arguments.candidates}
    bucket = "" if arguments.random is None else f"-{arguments.random}"
    for preset in arguments.worlds:
        for drawing in arguments.drawings:
            base = folder / f"{preset}-{size['requests']}x{size['candidates']}-{drawing}{bucket}"
            bases.setdefault(preset, []).append(base)
            if not (base / "config.yaml").exists():
                simulate_world(base, preset=preset, seed=drawing, random=arguments.random, **size)
    logs = _logs(arguments.folder, arguments.requests)
    for name in [name for name in arguments.logs if name in logs]:
        bases[name] = [folder / name]
        if not (bases[name][0] / "config.yaml").exists():
            write, load = logs[name]
            (folder / f"{name}-files").mkdir(parents=True, exist_ok=True)
            write(folder / f"{name}-files")
            load(folder / f"{name}-files", bases[name][0], report)
    return bases


def _logs(source: Path | None, requests: int) -> dict[str, tuple[Write, Load]]:
    """The logs that can be imported: name → what writes its files into a folder, and the import of that folder."""
    logs = drawn_logs(requests) | news_logs(requests)
    if source is not None and is_video_log(source):
        files = source
        official: Load = lambda _, out, report: import_kuairand(files, out, report)  # noqa: E731
        logs |= {LOG: (lambda folder: None, official)} | video_logs(files)
    return logs


if __name__ == "__main__":
    main()
