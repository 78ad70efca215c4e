"""Exploration: what a log of drawn pages tells of a cascade that was never live, what it teaches, and what it costs.

Judging: a live cascade serves users of the test split of a simulated world, and draws the pages of a share of the
requests as `corank serve --explore` does. The log judges another cascade, which was trained on less. Clicks depend on
the request and the item alone, so that the truth is known: the mean click probability of the other's lists.
  uniform      pages are drawn from all candidates
  softened     by the live ranker's value, at its standard deviation as temperature
  ips snips dr the estimators: bias, and the share of the 95 % intervals that hold the truth
  judged       share of the repetitions in which there was a number at all
  difference   coverage and bias of the difference to the live cascade, which a gate looks at, by ips

Learning: the default recipe is trained on logs of which a share of the requests was drawn uniformly.
  plain        exposures of the bucket count as all others
  weighted     they weigh 1 / propensity, at most 20
  recall       the pre-ranker's recall of the truly best; gain is the difference to a bucket of .1 %
  cost         share of the clicks that the bucket loses: its share times 1 - its click rate / that of the rest
"""

import argparse
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.arena import Figures, spread
from benchmarks.quality.off_policy import Lists, read_cascade, read_lists
from corank.core.inclusion import inclusion_probabilities
from corank.core.types import Doubles, Longs, Mask
from corank.datasets.feed.simulate import simulate_world
from corank.evaluation.inputs import CascadeRows
from corank.metrics.intervals import interval, replicates
from corank.metrics.metric import METRICS
from corank.metrics.off_policy import dr_click_rate, ips_click_rate, snips_click_rate

DRAWS = ("uniform", "softened")
SHARES = (0.02, 0.1, 0.3)
NONE, MOST_WEIGHT = 0.001, 20
"""The share of the bucket that gains are measured from; what an exposure weighs at most."""
KINDS = {"plain": [], "weighted": [f"data.propensity_weight={MOST_WEIGHT}"]}


@dataclass(frozen=True)
class Served(Lists):
    """The test split as the live cascade serves it, and what another one would show; `listed` is the other's."""

    live: Mask
    """What the live cascade shows: (C,)."""
    logit: Doubles
    """The live ranker's value / temperature, −∞ for what its pre-ranker cuts: (C,)."""
    softened: Doubles
    """The probability to be drawn by it, NaN for what it cannot draw: (C,)."""

    @classmethod
    def of(cls, live: CascadeRows, other: CascadeRows, levels: list[str]) -> "Served":
        """Cut the split by both."""
        theirs, lists = read_lists(other, levels), read_lists(live, levels)
        requests, value = lists.requests, np.asarray(live.scores[-1], dtype=np.float64)
        kept = requests.ranks(np.asarray(live.scores[0])) < live.stages[0].keep
        logit = np.where(kept, value / value.std(), -np.inf)
        softened = np.full(len(logit), np.nan)
        for begin, end in zip(requests.start[:-1], requests.start[1:], strict=True):
            rows = begin + np.flatnonzero(kept[begin:end])
            softened[rows] = inclusion_probabilities(logit[rows], lists.slots)
        columns = {name: getattr(theirs, name) for name in theirs.__dataclass_fields__}
        return cls(**columns, live=lists.listed, logit=logit, softened=softened)

    def explore(
        self, rng: np.random.Generator, requests: float, draw: str
    ) -> tuple["Served", Mask, Doubles, Mask]:
        """Draw the pages of some requests, of users that are drawn anew, about as many as asked for.

        Returns the requests, what is exposed, at what probability, and what is clicked.
        """
        part = self.take(rng, requests / len(self.requests.size))
        noise = rng.gumbel(size=len(part.truth))
        rank: Longs = part.requests.ranks(noise + (0.0 if draw == "uniform" else part.logit))
        even = np.minimum(1.0, part.slots / part.requests.size)[part.requests.request_of]
        exposed = rank < part.slots
        chance = even if draw == "uniform" else part.softened
        return part, exposed, chance, exposed & (rng.random(len(chance)) < part.truth)


def judge(served: Served, requests: int, repetitions: int, seed: int) -> Figures:
    """Bias and coverage of the estimates, by draw, share of so many requests, and estimator."""
    truth, live = float(served.truth[served.listed].mean()), float(served.truth[served.live].mean())
    figures: Figures = {"judge.truth": truth, "judge.live": live}
    rng = np.random.default_rng(seed)
    for draw in DRAWS:
        for share in SHARES:
            found: dict[str, list[tuple[float, float, float]]] = {}
            for n in range(repetitions):
                part, exposed, chance, clicked = served.explore(rng, share * requests, draw)
                seen = (clicked, exposed, chance)
                measures = {
                    "ips": ips_click_rate(part.requests, part.listed, *seen),
                    "snips": snips_click_rate(part.requests, part.listed, *seen),
                    "dr": dr_click_rate(part.requests, part.listed, *seen, part.expected),
                }
                for name, measure in measures.items():
                    value, bounds = measure.value(), interval(measure, n)
                    if value is not None and bounds is not None:
                        found.setdefault(name, []).append(
                            (value - truth, bounds[0] - truth, bounds[1] - truth)
                        )
                ours, theirs = measures["ips"], ips_click_rate(part.requests, part.live, *seen)
                value, other = ours.value(), theirs.value()
                if value is not None and other is not None:
                    low, high = np.nanquantile(
                        replicates(ours, n) - replicates(theirs, n), (0.025, 0.975)
                    ).tolist()
                    true = truth - live
                    found.setdefault("difference", []).append((value - other - true, low - true, high - true))
            key = f"{draw}.{share:g}"
            figures[f"{key}.judged"] = len(found.get("ips", ())) / repetitions
            for name, rows in found.items():
                error, low_ends, high_ends = np.array(rows).T
                figures[f"{key}.{name}.bias"] = float(error.mean())
                figures[f"{key}.{name}.coverage"] = float(((low_ends <= 0) & (high_ends >= 0)).mean())
    return figures


def learn(folder: Path, preset: str, share: float, seed: int, size: tuple[int, int]) -> Figures:
    """Recall of the truly best by the pre-ranker of each kind of training, and the cost of the bucket."""
    requests, candidates = size
    simulate = partial(simulate_world, requests=requests, candidates=candidates, preset=preset)
    simulate(folder, seed=seed, random=share)
    figures: Figures = {}
    for kind, changes in KINDS.items():
        if kind == "weighted" and share == NONE:
            continue
        run = corank.train(folder / "config.yaml", [f"train.seed={seed}", f"name={kind}", *changes]).run
        measure = METRICS["truth_recall"].measure(read_cascade(run).cut_inputs(0))
        figures[f"{preset}.{share:g}.{kind}.recall"] = (measure and measure.value()) or 0.0
    shown = pl.read_parquet(folder / "log" / "*.parquet").filter(pl.col("is_click").is_not_null())
    rate = dict(shown.group_by("policy").agg(pl.col("is_click").mean()).iter_rows())
    figures[f"{preset}.{share:g}.cost"] = share * (1 - rate.get("random", 0.0) / rate["production"])
    return figures


def drawing(seed: int, presets: list[str], size: tuple[int, int], served: int, repetitions: int) -> Figures:
    """All figures of one drawing of the worlds."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        world = Path(name) / "judged"
        simulate_world(world, requests=size[0], candidates=size[1], seed=seed, random=0.1)
        live = corank.train(world / "config.yaml", [f"train.seed={seed}"]).run
        less = ["name=less", f"train.seed={seed + 1}", "train.epochs=1"]
        other = corank.train(world / "config.yaml", less).run
        split = Served.of(read_cascade(live), read_cascade(other), live.config.data.levels)
        figures |= judge(split, served, repetitions, seed)
        for preset in presets:
            for share in (NONE, *SHARES):
                figures |= learn(Path(name) / f"{preset}-{share}", preset, share, seed, size)
            base = figures[f"{preset}.{NONE:g}.plain.recall"]
            for share in SHARES:
                for kind in KINDS:
                    key = f"{preset}.{share:g}.{kind}"
                    figures[f"{key}.gain"] = figures[f"{key}.recall"] - base
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--requests", type=int, default=8_000)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--served", type=int, default=40_000, help="requests that the live cascade serves")
    parser.add_argument(
        "--presets", nargs="*", default=["weak", "medium"], help="worlds of the learning part"
    )
    parser.add_argument("--short", action="store_true", help="one small drawing, judging alone: some minutes")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.seeds, arguments.repetitions, arguments.presets = 1, 40, []
        arguments.requests, arguments.candidates, arguments.served = 3000, 40, 8000
    say = Console(stderr=True).print
    samples: dict[str, list[float]] = {}
    size = arguments.requests, arguments.candidates
    for seed in range(arguments.seeds):
        figures = drawing(seed, arguments.presets, size, arguments.served, arguments.repetitions)
        say(f"{seed}: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        for name, value in figures.items():
            samples.setdefault(name, []).append(float(value))
    table: dict[str, harness.Figure] = {}
    for name, values in samples.items():
        table |= spread(name, values)
    aims: dict[str, tuple[str, float]] = {}
    for name, figure in [*table.items()]:
        # of softened pages alone: a list that they cannot show is judged by none, and biased by its share
        if name.startswith("uniform.") and name.endswith(".coverage"):
            aims[name] = (">=", 0.92)
        if name.startswith("uniform.") and name.endswith(".bias"):
            table[f"{name}.size"] = abs(float(figure))  # of the mean over the drawings
            aims[f"{name}.size"] = ("<=", 0.002)
    harness.report("explore", table, aims, arguments.json)


if __name__ == "__main__":
    main()
