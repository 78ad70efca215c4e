"""Outcomes by another path: what a label that is known everywhere teaches both stages, and what it says of a model.

Worlds of `corank simulate --organic RATE --awareness SIGMA`: a user acts, outside of the funnel, on a candidate with
the chance RATE · how well its item is known there (lognormal of spread SIGMA, mean 1) · its true click probability.
  plain      the shipped recipe, which does not read the label
  label      the shipped recipe of a log that has it
  oracle     both stages learn the true probability of every candidate
  uncorrected  the label without the rates of items; prerank: the pre-ranker alone learns it. Both by --arms

Figures, PRESET.SIGMA.RATE.ARM.NAME, of the test split; `gain` is the difference to `plain`, with an interval over
drawings of the world, whose seeds are averaged; `.users` has one over the users of all drawings.
  truth          the pre-ranker's recall of the ten truly best
  joint_truth    the same at the end of the cascade
  later          the pre-ranker's recall of later outcomes
  joint_later    the same at the end of the cascade
  auc, logloss   of the ranker's calibrated clicks, exposed
  ece            their calibration error

`SIGMA.rho.*` is the rank correlation, over the arms of a world, three or more, of recalls of later outcomes with
recalls of the truth: whether a log that has outcomes can tell which of two models is better.

Each training is kept in a folder: a benchmark that was stopped goes on there.
"""

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from rich.console import Console
from scipy.stats import spearmanr

import corank
from benchmarks import harness
from benchmarks.quality.arena import Figures, kept, spread
from corank.analysis.run_evaluation import evaluate_run
from corank.datasets.feed.simulate import simulate_world
from corank.training.config.config import Config
from corank.training.config.config_file import plain, read

PRESETS = ("medium", "weak", "strong", "hidden")
SIGMAS, RATES = (0.0, 1.5, 0.75), (0.05, 0.2)
DRAWINGS, SEEDS = (0, 1, 2), (0, 1)
"""Of the table; the recipe was chosen on drawings 11 and 12."""
FIGURES = {
    "truth": "prerank.cut.truth_recall",
    "joint_truth": "cascade.joint_truth_recall",
    "later": "prerank.cut.later_recall",
    "joint_later": "cascade.joint_later_recall",
    "auc": "rank.click.exposed.auc",
    "logloss": "rank.click.exposed.logloss_calibrated",
    "ece": "rank.click.exposed.ece_calibrated",
}
"""Name → the row of an evaluation, without quotas."""
ARMS = ("plain", "label", "oracle")
ORACLE_EPOCHS = 4
Loss = dict[str, Any]
LEVELS = ["retrieved", "preranked", "ranked", "exposed"]


def write_world(
    folder: Path, preset: str, sigma: float, rate: float, seed: int, size: tuple[int, int]
) -> Path:
    """A world whose log has the label `later`, and the truth as a score; returns its config."""
    sizes = {"requests": size[0], "candidates": size[1]}
    simulate_world(folder, overwrite=True, preset=preset, seed=seed, organic=rate, awareness=sigma, **sizes)
    orders = f"later={folder / 'organic' / '*.parquet'}:order"
    corank.join(str(folder / "log" / "*.parquet"), folder / "joined", [orders], window="3d")
    log = pl.read_parquet(folder / "joined" / "*.parquet")
    truth = pl.read_parquet(folder / "truth" / "*.parquet").rename({"click": "score_truth"})
    log = log.join(truth, on=["request_id", "item_id"], how="left", maintain_order="left")
    log.write_parquet(folder / "log.parquet")
    config = plain(read(folder / "config.yaml"))
    scores = {"truth": {"column": "score_truth", "scale": "probability"}}
    config["data"] |= {"log": "log.parquet", "scores": scores}
    path = folder / "world.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def losses_of(config: Config) -> dict[str, list[Loss]]:
    """The losses of each arm."""
    shipped = plain(config)["losses"]
    clicks = [loss for loss in shipped if loss["kind"] != "outcome"]
    outcomes = [loss for loss in shipped if loss["kind"] == "outcome"]
    oracle = [
        {"kind": "distill", "teacher": "truth", "student": stage.name, "on": LEVELS, "per_request": 30}
        for stage in config.stages
    ]
    return {
        "plain": clicks,
        "label": shipped,
        "oracle": oracle,
        "uncorrected": clicks + [loss | {"bias": None} for loss in outcomes],
        "prerank": clicks + [loss for loss in outcomes if loss["stage"] == "prerank"],
    }


def figures_of(config: Path, losses: list[Loss], seed: int, epochs: int) -> dict[str, list[float]]:
    """Train one arm: each figure of the test split, then its values in resamples of the users."""
    changes = [
        f"losses={json.dumps(losses)}",
        f"train.seed={seed}",
        f"train.epochs={epochs}",
        "packed=packed",
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = corank.train(config, changes, folder=Path(folder) / "run").run
        measured = evaluate_run(run, "test").figures
    rows = {".".join(filter(None, (*f.place[:3], f.place[4].partition("@")[0]))): f for f in measured}
    return {name: [rows[row].value or 0.0, *rows[row].replicates.tolist()] for name, row in FIGURES.items()}


def cells(
    presets: Sequence[str], sigmas: Sequence[float], rates: Sequence[float]
) -> Iterator[tuple[str, float, float]]:
    """Preset, sigma and rate of each world, in the order in which they matter."""
    yield from ((preset, sigma, rate) for rate, sigma, preset in itertools.product(rates, sigmas, presets))


Arms = dict[str, dict[str, list[float]]]
"""By arm and seed, `ARM.SEED`: each figure with its resamples."""


def measure_world(
    folder: Path,
    cell: tuple[str, float, float],
    drawing: int,
    seeds: Sequence[int],
    size: tuple[int, int],
    arms: Sequence[str],
) -> Arms:
    """Train all arms in a drawing of a world; trainings that `folder` has are not repeated."""
    preset, sigma, rate = cell
    found: Arms = {}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "world.yaml"
        for seed, arm in itertools.product(seeds, arms):
            name = f"{preset}-{sigma:g}-{rate:g}-{drawing}-{size[0]}x{size[1]}-{arm}-{seed}.json"

            def train(arm: str = arm, seed: int = seed) -> dict[str, list[float]]:
                if not path.exists():
                    write_world(Path(temporary), preset, sigma, rate, drawing, size)
                config = read(path)
                epochs = ORACLE_EPOCHS if arm == "oracle" else plain(config)["train"]["epochs"]
                return figures_of(path, losses_of(config)[arm], seed, epochs)

            found[f"{arm}.{seed}"] = kept(folder / name, train)
    return found


def summarise(key: str, drawings: Sequence[Arms], seeds: Sequence[int]) -> Figures:
    """The figures of a world's drawings: of each arm, and its gain over `plain`."""
    figures: Figures = {}
    arms = list(dict.fromkeys(name.rpartition(".")[0] for name in drawings[0]))
    for arm, figure in itertools.product(arms, FIGURES):
        mean = [np.mean([one[f"{arm}.{seed}"][figure] for seed in seeds], axis=0) for one in drawings]
        base = [np.mean([one[f"plain.{seed}"][figure] for seed in seeds], axis=0) for one in drawings]
        figures |= spread(f"{key}.{arm}.{figure}", [float(values[0]) for values in mean])
        if arm == "plain":
            continue
        gains = np.array(mean) - np.array(base)  # (drawings, 1 + resamples)
        figures |= spread(f"{key}.{arm}.{figure}.gain", gains[:, 0].tolist())
        low, high = np.nanquantile(gains[:, 1:].mean(0), (0.025, 0.975)).tolist()
        users = f"{key}.{arm}.{figure}.gain.users"
        figures |= {users: float(gains[:, 0].mean()), f"{users}.low": low, f"{users}.high": high}
    return figures


def correlate(by_sigma: dict[float, list[Arms]]) -> Figures:
    """By sigma, the rank correlation of recalls of later outcomes with recalls of the truth, over a world's arms."""
    figures: Figures = {}
    for sigma, drawn in by_sigma.items():
        worlds = [arms for arms in drawn if len(arms) > 2]  # two say ±1, or nothing if they are equal
        if not worlds:
            continue
        for later, truth in (("later", "truth"), ("joint_later", "joint_truth")):
            pairs = [[(one[later][0], one[truth][0]) for one in arms.values()] for arms in worlds]
            rho = [float(spearmanr(np.array(pair)).statistic) for pair in pairs]
            figures |= spread(f"{sigma:g}.rho.{truth}", rho)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where trainings are kept; a temporary one"
    )
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--sigmas", nargs="*", type=float, default=SIGMAS)
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--drawings", nargs="*", type=int, default=DRAWINGS)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    size = arguments.requests, arguments.candidates
    table: dict[str, harness.Figure] = {}
    by_sigma: dict[float, list[Arms]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for cell in cells(arguments.presets, arguments.sigmas, arguments.rates):
            drawn = [
                measure_world(folder, cell, n, arguments.seeds, size, arguments.arms)
                for n in arguments.drawings
            ]
            by_sigma[cell[1]] += drawn
            key = ".".join([cell[0], f"{cell[1]:g}", f"{cell[2]:g}"])
            figures = summarise(key, drawn, arguments.seeds)
            say("  ".join(f"{name} {value:.4f}" for name, value in figures.items() if name.endswith("gain")))
            table |= figures
    table |= correlate(by_sigma)
    aims: dict[str, tuple[str, float]] = {}
    for name in table:
        if name.endswith((".label.truth.gain", ".label.joint_truth.gain")):
            aims[name] = (">=", -0.005)
    harness.report("later", table, aims, arguments.json)


if __name__ == "__main__":
    main()
