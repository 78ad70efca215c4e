"""The page: its worth where users tire, whether its strength is found without the truth, its cost, its parity.

Worth: worlds with `simulate --satiation` and without, where a share of the requests is exposed at random. The default
recipe is trained. Pages of `dpp` and `mmr` by category, at several strengths, are judged on validation by
`near_clicks`, the clicks that the bucket tells of, without the truth; of those that are above the order by value beyond
chance, the best is chosen; without one, that order.
  gain         the true value of the chosen page on the test split / that of the order by value - 1
  best         the same of the page that would be chosen by the truth of validation
  believed     the gain by the bucket
Cost: microseconds, the median over requests of the least of all rounds.
  fill_us      a page of 100 candidates, 10 slots, dpp of 32 dimensions
  request_us   a whole request of which the ranker leaves 100; times: with a page / without
Parity: pages of random rules as they are evaluated and as they are served; and rules against all pages of up to 8.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.arena import Figures, spread
from corank.analysis.logged_request import logged_request
from corank.analysis.run_evaluation import Evaluation, predict_run
from corank.core.page import PageCandidates, PageSettings, fill_page, unit_vectors
from corank.core.settings import validate
from corank.datasets.feed.simulate import simulate_world
from corank.evaluation.predict import predict_split
from corank.evaluation.table import cascade_rows
from corank.funnel.funnel import Funnel
from corank.funnel.page_stage import PageStage
from corank.funnel.request import Request
from corank.metrics.inputs import Inputs
from corank.metrics.intervals import percentiles, replicates
from corank.metrics.measure import Measure
from corank.metrics.metric import METRICS
from corank.training.run import Run
from tests.support.pages import both_pages, cost, draw_page, least_cost, random_rule
from tests.support.random_worlds import PAGED
from tests.support.shared import shared_case

PRESETS = ["weak", "medium", "strong", "hidden"]
SPLIT = "data.split={valid: 2026-03-05, test: 2026-03-09}"
"""Four days to choose on, and two to test on."""
ROUNDS, REQUESTS = 40, 30
KEEP = 10


def page_of(method: str, weight: float | None = None, **keys: Any) -> PageSettings:
    """A page of ten slots, by category unless said otherwise."""
    chosen = {} if weight is None else {"lambda" if method == "mmr" else "strength": weight}
    by = {} if method == "value" else {"by": "category"}
    settings = {"name": "page", "model": "page", "keep": KEEP, "method": method, **by, **chosen, **keys}
    return validate(PageSettings, settings, "page")


BY_VALUE = page_of("dpp", 0.0)
PAGES = [
    *(page_of("dpp", strength) for strength in (0.1, 0.2, 0.3, 0.5, 0.7, 0.8)),
    *(page_of("mmr", weight) for weight in (0.9, 0.8, 0.7)),
]


def measured(metric: str, inputs: Inputs) -> Measure:
    """A metric of pages."""
    found = METRICS[f"page_{metric}"].measure(inputs)
    assert found is not None
    return found


def value_of(metric: str, inputs: Inputs) -> float:
    """Its value."""
    value = measured(metric, inputs).value()
    return np.nan if value is None else value


def worth(run: Run) -> Figures:
    """What the page is worth that validation chooses."""
    valid, test = (predict_run(run, split) for split in ("valid", "test"))
    plain = valid.page_inputs(BY_VALUE)
    base = measured("near_clicks", plain)
    value, drawn = base.value() or np.nan, replicates(base)
    believed: dict[int | None, float] = {None: 0.0}
    true: dict[int | None, float] = {None: 0.0}
    for n, page in enumerate(PAGES):
        inputs = valid.page_inputs(page)
        true[n] = value_of("truth", inputs) / value_of("truth", plain) - 1
        found = measured("near_clicks", inputs)
        bounds = percentiles(replicates(found) - drawn)
        if bounds is not None and bounds[0] > 0:
            believed[n] = (found.value() or np.nan) / value - 1
    chosen = max(believed, key=lambda n: believed[n])
    best = max(true, key=lambda n: true[n])
    gains = _gains(test, {chosen, best})
    return {
        "gain": gains[chosen],
        "best": gains[best],
        "believed": believed[chosen],
        "diversified": float(chosen is not None),
    }


def _gains(test: Evaluation, pages: set[int | None]) -> dict[int | None, float]:
    """By page how much more than by value it is truly worth on the test split."""
    base = value_of("truth", test.page_inputs(BY_VALUE))
    worths = {n: value_of("truth", test.page_inputs(PAGES[n])) / base - 1 for n in pages if n is not None}
    return worths | {None: 0.0}


def drawing(preset: str, satiation: float | None, seed: int, size: Mapping[str, Any]) -> Figures:
    """The figures of one world."""
    with tempfile.TemporaryDirectory() as name:
        world = Path(name) / "world"
        simulate_world(world, preset=preset, seed=seed, satiation=satiation, **size)
        stage = "stages.2={name: page, model: page, keep: 10, method: dpp, by: category}"
        kept = [f"stages.1.keep={size['candidates'] // 3}", stage] if satiation is None else []
        run = corank.train(world / "config.yaml", [f"train.seed={seed}", SPLIT, *kept]).run
        return worth(run)


def fill_cost() -> Figures:
    """Microseconds of a page alone."""
    rng, taken = np.random.default_rng(0), []
    page = page_of("dpp", 0.5, by="prerank.vector")
    for _ in range(300):
        value = np.sort(rng.random(100))[::-1]
        candidates = PageCandidates(value, unit_vectors(rng.normal(size=(100, 32))), [])
        least = np.inf
        for _ in range(10):
            began = time.perf_counter()
            fill_page(page, candidates)
            least = min(least, time.perf_counter() - began)
        taken.append(least)
    return {"fill_us": float(np.median(taken) * 1e6)}


def request_cost(rounds: int) -> Figures:
    """Microseconds of a request without a page, and with several, in turns."""
    rule = [{"at_most": 2, "of": "category", "within": 10}]
    pages = {
        "value": page_of("value"),
        "dpp": page_of("dpp", 0.5, by="prerank.vector"),
        "one_rule": page_of("value", rules=rule),
        "dpp_one_rule": page_of("dpp", 0.5, by="prerank.vector", rules=rule),
    }
    with tempfile.TemporaryDirectory() as name:
        world = Path(name) / "world"
        simulate_world(world, requests=600, candidates=200, satiation=0.3)
        run = corank.train(
            world / "config.yaml", ["stages.0.keep=100", "stages.1.keep=100", "train.epochs=1"]
        ).run
        bundle = world / "bundle"
        corank.export(run.folder, bundle)
        funnels = {"without": Funnel.open(bundle)} | {name: Funnel.open(bundle) for name in pages}
        funnels["without"]._page = None
        funnels["without"]._quotas = funnels["without"]._quotas | {"rank": KEEP}
        for name, page in pages.items():
            funnels[name]._page = PageStage(page, funnels[name].schema)
        asked = [Request.parse(logged_request(run, "test", n) | {"trace": False}) for n in range(REQUESTS)]
        least = {name: np.full(REQUESTS, np.inf) for name in funnels}
        for _, n, (name, funnel) in itertools.product(range(rounds), range(REQUESTS), funnels.items()):
            began = time.perf_counter()
            funnel.rank(asked[n])
            least[name][n] = min(least[name][n], time.perf_counter() - began)
    figures: Figures = {}
    for name, seconds in least.items():
        figures[f"request_us.{name}"] = float(np.median(seconds) * 1e6)
        if name != "without":
            figures[f"times.{name}"] = float(np.median(seconds / least["without"]))
    return figures


def parity(pages: int) -> Figures:
    """Random pages that are not served as they are evaluated, and those that break more rules than they must."""
    case, rng, seen, differ = shared_case(PAGED), np.random.default_rng(1), 0, 0
    predictions = predict_split(case.model, case.packed, "test")
    rows = cascade_rows(predictions, case.config.stages, case.calibrators, {})
    while seen < pages:
        for offline, online in both_pages(case, rows, draw_page(rng)):
            seen, differ = seen + 1, differ + (offline != online)
    tried = worse = 0
    for _ in range(pages // 4):
        count = int(rng.integers(1, 9))
        slots = int(rng.integers(1, min(count, 5) + 1))
        rules = [random_rule(rng, count, slots) for _ in range(rng.integers(1, 4))]
        filled = fill_page(page_of("value"), PageCandidates(rng.random(count), None, rules), slots)
        tried += 1
        worse += cost(rules, filled.slots.tolist()) != least_cost(rules, count, slots)
    return {"parity.pages": seen, "parity.differ": differ, "rules.pages": tried, "rules.worse": worse}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--satiation", type=float, default=0.4, help="of the worlds whose users tire")
    parser.add_argument(
        "--bucket", type=float, default=0.5, help="share of the requests that are exposed at random"
    )
    parser.add_argument("--pages", type=int, default=2000, help="of the parity part")
    parser.add_argument("--short", action="store_true", help="one small world, fewer rounds: a minute")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.seeds, arguments.presets, arguments.requests, arguments.pages = 1, ["medium"], 1500, 200
    say = Console(stderr=True).print
    table: dict[str, harness.Figure] = {}
    table |= fill_cost() | request_cost(4 if arguments.short else ROUNDS) | parity(arguments.pages)
    size = {"requests": arguments.requests, "candidates": arguments.candidates, "random": arguments.bucket}
    worlds = {"satiation": arguments.satiation, "none": None}
    for preset, (world, satiation) in itertools.product(arguments.presets, worlds.items()):
        samples: dict[str, list[float]] = {}
        for seed in range(arguments.seeds):
            for name, value in drawing(preset, satiation, seed, size).items():
                samples.setdefault(f"{world}.{preset}.{name}", []).append(float(value))
        say("  ".join(f"{name} {np.round(values, 4).tolist()}" for name, values in samples.items()))
        for name, values in samples.items():
            table |= spread(name, values)
    table["above_by_value"] = sum(
        float(table[f"satiation.{preset}.gain.low"]) > 0
        for preset in arguments.presets
        if f"satiation.{preset}.gain.low" in table
    )
    aims: dict[str, tuple[str, float]] = {
        f"none.{preset}.gain": (">=", -0.005) for preset in arguments.presets
    }
    aims |= {"fill_us": ("<=", 150), "parity.differ": ("==", 0), "rules.worse": ("==", 0)}
    aims |= {name: ("<=", 1.25) for name in table if name.startswith("times.")}
    if len(arguments.presets) == len(PRESETS):
        aims["above_by_value"] = (">=", 3)
    harness.report("page", table, aims, arguments.json)


if __name__ == "__main__":
    main()
