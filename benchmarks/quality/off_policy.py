"""Off-policy estimates of a trained cascade against the truth, over many draws of a random bucket in simulated worlds.

A world is simulated and the config trained that `corank simulate --random` writes. The cascade's lists on the test
split have a known value: the mean true click probability of their items at the mean examination of the page's
positions. Then the bucket is drawn again and again: users with replacement, what is exposed, and who clicks. Each draw
gives the estimates and their 95 % intervals, by corank's metrics.
  uniform      what is exposed is drawn evenly
  skewed       each candidate is drawn by itself, what production exposed five times as often as the rest
  ips snips dr the estimators; their bias, root mean squared error, mean width of the interval, and coverage: the
               share of the intervals that hold the truth
  model        the ranker's own calibrated probabilities of its lists, which need no bucket
  production   the click rate of what production exposed of the lists, by requests outside of the bucket
  cut          how likely the pre-ranker cuts the best candidate, as the ranker believes and in truth: means of all
               requests, and of the fifths that are believed to lose least and most; and clicks kept, by three figures
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.arena import Figures, spread
from corank.core.ragged import concat_ranges
from corank.core.types import Doubles, Longs, Mask
from corank.datasets.feed.production import examination
from corank.datasets.feed.simulate import simulate_world
from corank.evaluation.inputs import CascadeRows
from corank.evaluation.predict import predict_split
from corank.evaluation.predictions import read_truth
from corank.evaluation.table import cascade_rows
from corank.metrics.intervals import interval
from corank.metrics.measure import RatioMeasure
from corank.metrics.metric import METRICS
from corank.metrics.off_policy import cut_probability, dr_click_rate, ips_click_rate, snips_click_rate
from corank.metrics.requests import Requests
from corank.training.run import Run

SHARES = (0.25, 1.0)
"""Of the test split's users: the sizes of the bucket."""


@dataclass(frozen=True)
class Lists:
    """The candidates of the test split, and what the cascade would show of them."""

    requests: Requests
    listed: Mask
    truth: Doubles
    """The probability of a click if the candidate is looked at: (C,)."""
    expected: Doubles
    popular: Mask
    """Whether production exposed the candidate: (C,)."""
    clicked: Mask
    drawn: Mask
    """Whether the log's own request was of the bucket: (C,)."""
    slots: int
    in_order: float
    """Click rate of the lists in the cascade's order, the best item first."""

    def take(self, rng: np.random.Generator, share: float) -> Self:
        """Draw users with replacement, each with all requests; every draw is another user."""
        users, code = np.unique(self.requests.user, return_inverse=True)
        order, count = np.argsort(code, kind="stable"), np.bincount(code)
        chosen = rng.integers(len(users), size=max(1, round(share * len(users))))
        begin = np.cumsum(count) - count
        rows = order[concat_ranges(begin[chosen], count[chosen])]
        of = concat_ranges(self.requests.start[rows], self.requests.size[rows])
        requests = Requests(
            np.append(0, np.cumsum(self.requests.size[rows])),
            np.repeat(np.arange(len(chosen)), count[chosen]),
        )
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {
            n: value[of] for n, value in columns.items() if isinstance(value, np.ndarray)
        }
        return replace(self, requests=requests, **taken)

    @property
    def examined(self) -> float:
        """How likely a position of the page is looked at, on average."""
        return float(examination(np.arange(1, self.slots + 1)).mean())

    @property
    def value(self) -> float:
        """Click rate of the lists, their items in any order."""
        return float(self.truth[self.listed].mean()) * self.examined


def read_cascade(run: Run) -> CascadeRows:
    """Predict the test split, and rank it by the stages; `truth` is that of clicks."""
    packed = run.packed()
    model, calibrators = run.model(packed)
    rows, truths = predict_split(model, packed, "test"), read_truth(packed, "test")
    return cascade_rows(rows, run.config.stages, calibrators, truths)


def judge_cut(order: CascadeRows) -> Figures:
    """How likely the best candidate is cut, as believed and in truth."""
    inputs, requests = order.cut_inputs(0), order.predictions.requests
    assert order.truth is not None
    believed = cut_probability(requests, inputs["expected"], inputs["rank"], inputs["m"])
    true = cut_probability(requests, order.truth, inputs["rank"], inputs["m"])
    least, most = np.quantile(believed, (0.2, 0.8))
    figures = {"cut.believed": float(believed.mean()), "cut.true": float(true.mean())}
    for name, fifth in (("least", believed <= least), ("most", believed >= most)):
        figures[f"cut.{name}.believed"] = float(believed[fifth].mean())
        figures[f"cut.{name}.true"] = float(true[fifth].mean())
    kept = inputs["rank"] < inputs["m"]
    figures["cut.clicks_kept"] = float(order.truth[kept].sum() / order.truth.sum())
    for name in ("click_recall", "bucket_click_recall"):
        measure = METRICS[name].measure(inputs)
        figures[f"cut.{name}"] = (measure and measure.value()) or 0.0
    return figures


def read_lists(order: CascadeRows, levels: Sequence[str]) -> Lists:
    """Cut the test split by the cascade."""
    rows, inputs = order.predictions, order.cascade_inputs(levels)
    assert rows.propensity is not None and order.truth is not None
    truth, slots = order.truth.astype(np.float64), order.stages[-1].keep
    listed = inputs["listed"]
    # behind what the last stage cut nothing is listed, so its ranks are the positions
    position = 1 + rows.requests.ranks(np.where(listed, order.scores[-1], -np.inf))
    in_order = float((truth * examination(position))[listed].mean())
    clicked, drawn = rows.labels["click"] == 1, ~np.isnan(rows.propensity)
    expected = order.expected.astype(np.float64)
    return Lists(rows.requests, listed, truth, expected, rows.exposed, clicked, drawn, slots, in_order)


def draw_evenly(rng: np.random.Generator, lists: Lists) -> tuple[Mask, Doubles, Longs]:
    """Draw as many as the page has. Returns what is exposed, the propensities and the positions from 1: (C,) each."""
    rank = lists.requests.ranks(rng.random(len(lists.truth)))
    chance = np.minimum(1.0, lists.slots / lists.requests.size)[lists.requests.request_of]
    return rank < lists.slots, chance, np.minimum(rank + 1, lists.slots)


def draw_skewed(rng: np.random.Generator, lists: Lists) -> tuple[Mask, Doubles, Longs]:
    """Draw each by itself, at 1/2 what production exposed, at 1/10 the rest, at a position drawn evenly."""
    chance = np.where(lists.popular, 0.5, 0.1)
    exposed = rng.random(len(chance)) < chance
    return exposed, chance, rng.integers(1, lists.slots + 1, len(chance))


DRAWS: dict[str, Callable[[np.random.Generator, Lists], tuple[Mask, Doubles, Longs]]] = {
    "uniform": draw_evenly,
    "skewed": draw_skewed,
}


def estimate(rng: np.random.Generator, lists: Lists, draw: str) -> dict[str, RatioMeasure]:
    """Draw a bucket and its clicks, and estimate."""
    exposed, chance, position = DRAWS[draw](rng, lists)
    looked = rng.random(len(chance)) < examination(position)
    clicked = exposed & looked & (rng.random(len(chance)) < lists.truth)
    observations = (lists.requests, lists.listed, clicked, exposed, chance)
    estimates = {"ips": ips_click_rate, "snips": snips_click_rate}
    measures = {name: formula(*observations) for name, formula in estimates.items()}
    return measures | {"dr": dr_click_rate(*observations, lists.expected)}


def judge(lists: Lists, draws: int, seed: int) -> Figures:
    """Estimates against the truth, as figures."""
    rng, truth = np.random.default_rng(seed), lists.value
    outside = lists.listed & lists.popular & ~lists.drawn
    figures: Figures = {
        "truth": truth,
        "truth.in_order": lists.in_order,
        "model": float(lists.expected[lists.listed].mean()) - truth,
        "production": float(lists.clicked[outside].mean()) - truth,
    }
    for draw in DRAWS:
        for share in SHARES:
            values: dict[str, list[tuple[float, float, float]]] = {}
            sizes = []
            for n in range(draws):
                part = lists.take(rng, share)
                sizes.append(len(part.requests.size))
                for name, measure in estimate(rng, part, draw).items():
                    bounds = interval(measure, n)
                    if bounds is not None:
                        values.setdefault(name, []).append((measure.value() or 0.0, *bounds))
            figures[f"{draw}.{share:g}.requests"] = float(np.mean(sizes))
            for name, rows in values.items():
                value, low, high = np.array(rows).T
                figures |= {
                    f"{draw}.{share:g}.{name}.bias": float(value.mean() - truth),
                    f"{draw}.{share:g}.{name}.rmse": float(np.sqrt(((value - truth) ** 2).mean())),
                    f"{draw}.{share:g}.{name}.width": float((high - low).mean()),
                    f"{draw}.{share:g}.{name}.coverage": float(((low <= truth) & (truth <= high)).mean()),
                }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    samples: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "world"
            simulate = partial(simulate_world, requests=arguments.requests, candidates=arguments.candidates)
            simulate(data, seed=seed, random=0.1)
            run = corank.train(data / "config.yaml", [f"train.seed={seed}"]).run
            order = read_cascade(run)
            figures = judge(read_lists(order, run.config.data.levels), arguments.draws, seed) | judge_cut(
                order
            )
        say(f"{seed}: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        for name, value in figures.items():
            samples.setdefault(name, []).append(value)
    table: dict[str, harness.Figure] = {}
    for name, values in samples.items():
        table |= spread(name, values)
    aims = {
        f"{draw}.{share:g}.{name}.coverage": (">=", 0.92)
        for draw in DRAWS
        for share in SHARES
        for name in ("ips", "snips", "dr")
    }
    harness.report("off_policy", table, aims, arguments.json)


if __name__ == "__main__":
    main()
