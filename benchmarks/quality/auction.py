"""Earnings of an order by `click * bid`: raw, calibrated, and calibrated by the truth, on four simulated worlds.

Every item bids for clicks. The config that `corank simulate --auction` writes is trained. Each stage orders all
candidates of a test request, and the cascade cuts by both. The figure is the expected value of the first items,
Σ p · bid with the true p, as a share of the best possible:
  raw          order by the sigmoid of the logit
  calibrated   order by Platt scaling fitted on exposed validation clicks, which is what is shipped
  oracle       order by isotonic regression of the truth on the logits of all test candidates
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

import corank
from benchmarks import harness
from benchmarks.quality.arena import Figures, spread
from corank.core.types import Doubles
from corank.datasets.feed.simulate import simulate_world
from corank.evaluation.predict import predict_split
from corank.evaluation.predictions import Predictions, read_truth
from corank.metrics.point import truth_auc
from corank.training.run import Run

WORLDS = ("weak", "medium", "strong", "hidden")


def oracle(logits: Doubles, truth: Doubles) -> Doubles:
    """The best that a calibrator which keeps the order of logits could know."""
    fitted: Doubles = IsotonicRegression(out_of_bounds="clip").fit(logits, truth).predict(logits)
    # steps of equal values would leave their order to chance: the logit decides within a step
    ordered: Doubles = fitted + 1e-9 * expit(logits)
    return ordered


def earned(rows: Predictions, order: Doubles, worth: Doubles, k: int) -> float:
    """The share of the best k candidates' worth that the order's top k has, summed over requests."""
    requests = rows.requests
    best = requests.sums(worth * (requests.ranks(worth) < k)).sum()
    return float(requests.sums(worth * (requests.ranks(order) < k)).sum() / best)


def cascade(rows: Predictions, first: Doubles, last: Doubles, keep: int) -> Doubles:
    """The last stage's order of what the first keeps, all else behind it."""
    cut = rows.requests.ranks(first) >= keep
    return np.where(cut, last - last.max() - 1, last)


def judged(run: Run) -> Figures:
    packed = run.packed()
    model, calibrators = run.model(packed)
    rows, truth = predict_split(model, packed, "test"), read_truth(packed, "test")["click"].astype(np.float64)
    bid = rows.columns["bid"].astype(np.float64)
    first, last = run.config.stages
    figures: Figures = {}
    orders: dict[str, dict[str, Doubles]] = {}
    for stage in (first, last):
        z = rows.logits[stage.name]["click"].astype(np.float64)
        platt: Callable[[Doubles], Doubles] = calibrators[stage.name]["click"].apply  # type: ignore[assignment]
        rates = {"raw": expit(z), "calibrated": platt(z), "oracle": oracle(z, truth)}
        orders[stage.name] = {name: rate * bid for name, rate in rates.items()}
    for name in ("raw", "calibrated", "oracle"):
        one, other = orders[first.name][name], orders[last.name][name]
        by = {first.name: one, last.name: other, "cascade": cascade(rows, one, other, first.keep)}
        for what, order in by.items():
            figures[f"{what}.{name}"] = earned(rows, order, truth * bid, last.keep)
    for what in (first.name, last.name, "cascade"):
        for name in ("raw", "calibrated"):
            figures[f"{what}.{name}_loses"] = figures[f"{what}.oracle"] - figures[f"{what}.{name}"]
    figures["rank.bid_alone"] = earned(rows, bid, truth * bid, last.keep)
    auc = truth_auc(rows.requests.user_of(), rows.logits[last.name]["click"], truth).value()
    return figures | {"rank.auc": auc or 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    figures: dict[str, harness.Figure] = {}
    for preset in arguments.worlds:
        samples: dict[str, list[float]] = {}
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "world"
                simulate_world(data, preset=preset, seed=seed, requests=arguments.requests, auction=True)
                run = corank.train(data / "config.yaml", [f"train.seed={seed}"]).run
                for name, value in judged(run).items():
                    samples.setdefault(name, []).append(value)
            say(
                f"{preset} {seed}: "
                + "  ".join(f"{n} {v[-1]:.4f}" for n, v in samples.items() if "loses" in n)
            )
        for name, values in samples.items():
            figures |= spread(f"{preset}.{name}", values)
    aims = {
        f"{preset}.{what}.calibrated_loses": ("<", 0.01)
        for preset in arguments.worlds
        for what in ("rank", "cascade")
    }
    harness.report("auction", figures, aims, arguments.json)


if __name__ == "__main__":
    main()
