"""Which default learning rates? Both stages jointly, and towers alone, on simulated worlds and KuaiRand-Pure.

`learning_rates [DIR]` trains the config of every simulated preset, and with DIR that of the imported log, at a grid of
learning rates of layers and of tables: the towers alone, and both stages jointly. Everything is compared on the
validation split, paired by user and seed, with the rates that are defaults now. Trials are kept in `--folder`: an
interrupted run goes on there. The KuaiRand config's own rate of tables is left out, so that defaults are compared.
"""

import argparse
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import harness
from corank.analysis.experiments.arms import Arm
from corank.analysis.experiments.engine import Trial, TrialData, TrialStore
from corank.analysis.experiments.figures import (
    Interval,
    KeptFigure,
    Objective,
    mean_over_seeds,
    replicates_of,
)
from corank.analysis.experiments.search import ValidationFigures
from corank.core.reports import Report
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import PRESETS
from corank.datasets.kuairand import import_kuairand
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain
from corank.training.config.settings import DenseOptimiser, TableOptimiser
from corank.training.config.yaml_values import read_yaml_file
from corank.training.packed_data import open_or_pack

Plain = dict[str, Any]
Rates = tuple[float, float]
"""Learning rates of layers and of tables."""
DEFAULT: Rates = (DenseOptimiser().lr, TableOptimiser().lr)
MODES = ("towers", "joint")
WITHIN = 0.001
"""AUC that the best rates may have more than the defaults, in the mean over worlds."""


def make_worlds(
    folder: Path, names: Sequence[str], kuairand: Path | None, requests: int, candidates: int
) -> list[Path]:
    """The configs of the worlds that are asked for, and of KuaiRand; those that are there are not made again."""
    configs = []
    for name in names:
        if not (folder / name / "config.yaml").exists():
            simulate_world(folder / name, preset=name, requests=requests, candidates=candidates)
        configs.append(folder / name / "config.yaml")
    if kuairand is not None:
        if not (folder / "kuairand" / "config.yaml").exists():
            import_kuairand(kuairand, folder / "kuairand")
        configs.append(folder / "kuairand" / "config.yaml")
    return configs


def config_of(path: Path, mode: str) -> Config:
    """The config with default rates; of mode towers with the first stage and its own losses alone."""
    value: Plain = read_yaml_file(path)
    names = [stage["name"] for stage in value["stages"]]
    value["train"] = {key: option for key, option in value["train"].items() if key not in ("table", *names)}
    value["name"] = f"{path.parent.name}-{mode}"
    value["packed"] = "packed/all"
    if mode == "towers":
        first = value["stages"][0]["name"]
        value["stages"] = value["stages"][:1]
        value["losses"] = [loss for loss in value["losses"] if loss.get("stage") == first]
    return from_plain(value, str(path), path.parent)


def at_rates(config: Config, rates: Rates) -> Arm:
    """The config at learning rates of its layers and its tables."""
    stages = {stage.name: DenseOptimiser(lr=rates[0]) for stage in config.stages}
    train = config.train.model_copy(update={"table": TableOptimiser(lr=rates[1])})
    value = config.model_dump(mode="json", by_alias=True)
    value["train"] = train.model_dump(mode="json") | {n: s.model_dump(mode="json") for n, s in stages.items()}
    return Arm(f"layers {rates[0]:g}, tables {rates[1]:g}", Config.model_validate(value))


def train_grid(
    path: Path, mode: str, grid: Sequence[Rates], seeds: int, folder: Path, report: Report
) -> dict[Rates, list[Trial]]:
    """The trials of a world and a mode, by rates."""
    config = config_of(path, mode)
    data = TrialData(open_or_pack(config, path.parent, report), path.parent, folder, report)
    trials = TrialStore(folder / "trials", data, ValidationFigures(Objective.of(config, None)))
    by_rates: dict[Rates, list[Trial]] = {}
    for rates in grid:
        arm = at_rates(config, rates)
        for seed in range(seeds):
            by_rates.setdefault(rates, []).append(trials.run(arm.at(1.0, seed))[0])
        said = [f"{mean_auc(t.figures).value:.4f}" if t.figures else "diverged" for t in by_rates[rates]]
        report(f"{config.name}: {arm.name}: mean AUC {', '.join(said)}")
    return by_rates


def mean_auc(figures: Mapping[str, KeptFigure]) -> KeptFigure:
    """The mean of the stages' AUC on clicks."""
    aucs = [figure for name, figure in figures.items() if name.endswith(".click.auc")]
    replicates = np.mean(replicates_of([{"auc": auc} for auc in aucs], "auc"), axis=0)
    return KeptFigure(
        fmean(auc.value for auc in aucs), aucs[0].n, None, replicates.tolist(), aucs[0].requests
    )


def recall(figures: Mapping[str, KeptFigure]) -> KeptFigure | None:
    """The cascade's joint recall of clicks; None for towers alone."""
    return figures.get("joint_click_recall")


def compare(ours: Sequence[Trial], theirs: Sequence[Trial], measure: Any) -> Interval | None:
    """The gain of ours, paired by seed and user; None if one diverged or has no such figure."""
    pairs = [(measure(a.figures), measure(b.figures)) for a, b in zip(ours, theirs, strict=True) if a.figures]
    if len(pairs) < len(theirs) or any(one is None or other is None for one, other in pairs):
        return None
    values = [one.value - other.value for one, other in pairs]
    ones, others = (replicates_of([{"x": pair[n]} for pair in pairs], "x") for n in (0, 1))
    return mean_over_seeds(values, ones - others)


def figures_of(found: Mapping[str, dict[Rates, list[Trial]]]) -> dict[str, harness.Figure]:
    """Differences to the default rates, by world, mode and rates; their means over worlds; and the best of those."""
    figures: dict[str, harness.Figure] = {}
    gains: dict[str, dict[Rates, list[float]]] = {mode: {} for mode in MODES}
    for name, trials in found.items():
        for rates, mine in trials.items():
            key = f"{name}.{rates[0]:g}_{rates[1]:g}"
            for part, measure in (("auc", mean_auc), ("recall", recall)):
                gain = compare(mine, trials[DEFAULT], measure)
                if gain is None or rates == DEFAULT:
                    continue
                figures[f"{key}.{part}"] = gain.value
                if gain.low is not None and gain.high is not None:
                    figures |= {f"{key}.{part}.low": gain.low, f"{key}.{part}.high": gain.high}
                if part == "auc":
                    gains[name.rpartition("-")[2]].setdefault(rates, []).append(gain.value)
    for mode, by_rates in gains.items():
        worlds = sum(name.endswith(f"-{mode}") for name in found)
        means = {rates: fmean(by_world) for rates, by_world in by_rates.items() if len(by_world) == worlds}
        means[DEFAULT] = 0.0
        best = max(means, key=lambda rates: means[rates])
        figures |= {f"mean-{mode}.{r[0]:g}_{r[1]:g}.auc": mean for r, mean in means.items()}
        figures |= {f"best-{mode}": f"layers {best[0]:g}, tables {best[1]:g}", f"gap-{mode}": means[best]}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "kuairand", type=Path, nargs="?", metavar="DIR", help="KuaiRand-Pure in its official layout"
    )
    parser.add_argument("--worlds", nargs="*", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--layers", type=float, nargs="+", default=[0.0003, 0.001, 0.003, 0.01])
    parser.add_argument("--tables", type=float, nargs="+", default=[0.02, 0.05, 0.15])
    parser.add_argument("--folder", type=Path, help="keeps worlds and trials; a temporary one unless given")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    grid = list(dict.fromkeys([DEFAULT, *itertools.product(arguments.layers, arguments.tables)]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        paths = make_worlds(
            folder, arguments.worlds, arguments.kuairand, arguments.requests, arguments.candidates
        )
        grids = {
            f"{path.parent.name}-{mode}": train_grid(path, mode, grid, arguments.seeds, folder, say)
            for path in paths
            for mode in MODES
        }
    aims = {f"gap-{mode}": ("<=", WITHIN) for mode in MODES}
    harness.report("learning_rates", figures_of(grids), aims, arguments.json)


if __name__ == "__main__":
    main()
