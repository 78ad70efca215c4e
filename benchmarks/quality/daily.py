"""Five ways to keep a funnel up to date, a day at a time: quality on the day after, and what each update costs.

Each arm serves a day with what it made of the days before, and is judged on all of that day's requests. Then the day is
added to its log (progressive validation). The arms:
  carried     `pack --from` and `train --from`: what came since, from yesterday's run
  scratch     packed and trained from scratch on all days so far
  window      from scratch on the last --window days
  frozen      trained once; new items are served, rates and ages stay those of the first day
  refreshed   trained once; `corank refresh` every day
The log is a simulated world that drifts and, with DIR, that of KuaiRand-Pure, cut by days. Configs are as they are
written, but for the requests of a batch on the simulated world. Seconds are those of packing and training, or of
refreshing, by the wall clock; `cpu` are those of this process. Figures are means of days and seeds, those of time
without the first day, on which nothing can go on. Intervals are bootstrapped over users, those of `carried` less the
best of `scratch` and `window` are paired.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import harness
from benchmarks.quality.daily_arms import Arm, DailyLog, Frozen, Spent, Trained
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import FIRST_DAY
from corank.datasets.kuairand import TIMEZONE, import_kuairand
from corank.metrics.cascade import click_recall, recall
from corank.metrics.intervals import replicates
from corank.metrics.measure import Measure
from corank.metrics.point import auc, gauc
from corank.metrics.requests import Requests

ARMS = ("carried", "scratch", "window", "frozen", "refreshed")
MARGIN, RATIO = 0.002, 0.25
"""Aims: AUC that going on may lose to the best of the trainings from scratch, and its share of their time."""
Say = Callable[[str], object]


@dataclass(frozen=True)
class Case:
    """A log, and how it is judged."""

    name: str
    log: DailyLog
    user: str
    label: str
    keep: int
    """How many candidates of a request the pre-ranker keeps."""
    top: int
    """How many of a request's best by the truth are wanted."""
    set: tuple[str, ...]
    """Overrides of the config."""


@dataclass(frozen=True)
class Judged:
    """An arm on one day."""

    measures: dict[str, Measure]
    spent: Spent
    came: int
    """Candidates of the day before, which a continued arm trains on."""


def simulate(work: Path, options: argparse.Namespace, seed: int) -> Case:
    """A world that drifts, of `--days`."""
    source = work / "world"
    sizes = {"candidates": options.candidates, "users": options.users, "items": options.items}
    requests = options.requests * options.days
    simulate_world(source, seed=seed, requests=requests, days=options.days, drift={}, **sizes)
    days = [FIRST_DAY.date() + timedelta(days=n) for n in range(options.days)]
    log = DailyLog(source, work / "live", days, ["request_id"], "item_id", ["is_click"])
    world_keeps = max(3 * min(10, options.candidates // 5), options.candidates // 4)
    return Case(
        "world",
        log,
        "user_id",
        "is_click",
        world_keeps,
        10,
        (f"train.requests={options.batch}", "data.truth=null"),
    )


def read_kuairand(folder: Path, work: Path) -> Case:
    """KuaiRand-Pure, imported, and its log cut by days in China."""
    source = work / "kuairand"
    import_kuairand(folder, source)
    log = pl.read_parquet(source / "log.parquet")
    (source / "log.parquet").unlink()
    (source / "log").mkdir()
    days = []
    by_day = log.group_by(
        pl.col("time").dt.convert_time_zone(TIMEZONE).dt.date().alias("day"), maintain_order=True
    )
    for (day,), rows in by_day:
        assert isinstance(day, date)
        rows.write_parquet(source / "log" / f"{day}.parquet")
        days.append(day)
    keys = ["user_id", "time", "tab"]
    daily_log = DailyLog(source, work / "live", sorted(days), keys, "video_id", ["is_click", "long_view"])
    return Case("kuairand", daily_log, "user_id", "is_click", 50, 10, ("data.log=log/*.parquet",))


def measure(case: Case, day: date, scores: pl.DataFrame) -> dict[str, Measure]:
    """Metrics of a day: of the ranker, and of what the pre-ranker keeps; those with eligible rows alone."""
    rows = case.log.read(day).with_columns(scores)
    keys = case.log.keys
    rows = rows.with_columns(request=pl.struct(keys).rank("dense")).sort("request", maintain_order=True)
    user, label = rows[case.user].to_numpy(), rows[case.label].fill_null(-1).to_numpy()
    start = np.flatnonzero(np.diff(rows["request"].to_numpy(), prepend=0))
    requests = Requests(np.append(start, len(rows)), user[start])
    rank, cut = rows["rank"].to_numpy(), requests.ranks(rows["prerank"].to_numpy())
    measures: dict[str, Measure] = {"auc": auc(user, rank, label), "gauc": gauc(user, rank, label)}
    measures[f"click_recall@{case.keep}"] = click_recall(requests, label, cut, case.keep)
    if (case.log.source / "truth").is_dir():
        truth = pl.read_parquet(case.log.source / "truth" / f"{day}.parquet").rename({"click": "truth"})
        best = rows.join(truth, on=[*keys, case.log.item], how="left", maintain_order="left")[
            "truth"
        ].to_numpy()
        wanted = requests.ranks(best)
        measures[f"truth_recall@{case.top}@{case.keep}"] = recall(requests, wanted, cut, case.top, case.keep)
    return {name: measured for name, measured in measures.items() if measured.value() is not None}


def run_arms(
    case: Case, work: Path, warm: int, window: int, seed: int, say: Say
) -> dict[str, dict[date, Judged]]:
    """Go through the days of a log. The first `warm` days are trained on alone."""
    log = case.log
    log.open()
    for day in log.days[:warm]:
        log.add(day)
    arms: dict[str, Arm] = {
        "carried": Trained(work / "carried", seed, case.set, continued=True),
        "scratch": Trained(work / "scratch", seed, case.set),
        "window": Trained(work / "window", seed, case.set, window),
    }
    first, by_arm = log.days[warm], {name: dict[date, Judged]() for name in ARMS}
    for refreshed in (False, True):
        bundle = work / f"bundle-{refreshed}"
        arms[ARMS[3 + refreshed]] = Frozen(work / "scratch" / f"run-{first}", bundle, first, refreshed)
    # arms are updated one after another, since that is timed, and judged side by side, which is not
    with ProcessPoolExecutor(min(len(arms), os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        for yesterday, today in pairwise(log.days[warm - 1 :]):
            log.add_items(today)
            came = len(log.read(yesterday))
            judged = {}
            for name, arm in arms.items():
                spent = Spent()
                judged[name] = spent, arm.update(log, today, spent)
            waited = {
                name: pool.submit(log.score, bundle, today, work / f"scores-{name}")
                for name, (_, bundle) in judged.items()
            }
            for name, scores in waited.items():
                measures, spent = measure(case, today, scores.result()), judged[name][0]
                by_arm[name][today] = Judged(measures, spent, came)
                say(f"{case.name} {today} {name}: AUC {measures['auc'].value():.4f}, {spent.wall:.1f} s")
            log.add(today)
    return by_arm


Draws = NDArray[np.float64]


def summarise(name: str, seeds: list[dict[str, dict[date, Judged]]]) -> dict[str, harness.Figure]:
    """Figures by arm, by arm and day, and of `carried` compared with the best training from scratch."""
    figures: dict[str, harness.Figure] = {}
    draws: dict[tuple[str, str], Draws] = {}
    days = sorted(seeds[0]["carried"])
    metrics = list(seeds[0]["carried"][days[0]].measures)
    for arm in ARMS:
        for metric in metrics:
            by_seed = [[by_arm[arm][day].measures[metric] for day in days] for by_arm in seeds]
            figures[f"{name}.{arm}.{metric}"] = fmean(float(m.value() or 0) for one in by_seed for m in one)
            resampled = [replicates(m, seed) for seed, one in enumerate(by_seed) for m in one]
            draws[arm, metric] = np.mean(resampled, axis=0)
            figures |= _bounds(f"{name}.{arm}.{metric}", draws[arm, metric])
        # on the first day all that train do so from scratch
        spent = [by_arm[arm][day].spent for by_arm in seeds for day in days[1:] or days]
        figures[f"{name}.{arm}.seconds"] = fmean(s.wall for s in spent)
        figures[f"{name}.{arm}.cpu"] = fmean(s.cpu for s in spent)
    for arm in ARMS:
        for day in days:
            judged = [by_arm[arm][day] for by_arm in seeds]
            for metric in metrics:
                value = fmean(float(j.measures[metric].value() or 0) for j in judged)
                figures[f"{name}.{arm}.{day}.{metric}"] = value
            figures[f"{name}.{arm}.{day}.seconds"] = fmean(j.spent.wall for j in judged)
            figures[f"{name}.{arm}.{day}.cpu"] = fmean(j.spent.cpu for j in judged)
    for day in days:
        figures[f"{name}.{day}.came"] = fmean(by_arm["carried"][day].came for by_arm in seeds)
    return figures | _compare(name, figures, draws, metrics, days)


def _bounds(key: str, draws: Draws) -> dict[str, harness.Figure]:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return {f"{key}.low": float(low), f"{key}.high": float(high)}


def _compare(
    name: str,
    figures: dict[str, harness.Figure],
    draws: dict[tuple[str, str], Draws],
    metrics: Iterable[str],
    days: list[date],
) -> dict[str, harness.Figure]:
    """`carried` less the best of `scratch` and `window` by each metric; its share of the time of `scratch`."""
    comparison: dict[str, harness.Figure] = {}
    for metric in metrics:
        best = max(ARMS[1:3], key=lambda arm: float(figures[f"{name}.{arm}.{metric}"]))
        key = f"{name}.carried-best.{metric}"
        comparison[key] = float(figures[f"{name}.carried.{metric}"]) - float(
            figures[f"{name}.{best}.{metric}"]
        )
        comparison |= _bounds(key, draws["carried", metric] - draws[best, metric])
        comparison[f"{name}.best.{metric}"] = best
    for what, ratio in (("seconds", "cost_ratio"), ("cpu", "cpu_ratio")):
        last = {arm: float(figures[f"{name}.{arm}.{days[-1]}.{what}"]) for arm in ("carried", "scratch")}
        comparison[f"{name}.{ratio}"] = last["carried"] / last["scratch"]
    # the first update is a training from scratch; those after it should all cost the same for what came
    later = [float(figures[f"{name}.carried.{d}.cpu"]) / float(figures[f"{name}.{d}.came"]) for d in days[1:]]
    half = len(later) // 2
    if half:
        comparison[f"{name}.carried.cpu_growth"] = fmean(later[-half:]) / fmean(later[:half])
    return comparison


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="KuaiRand-Pure")
    parser.add_argument("--no-world", action="store_true", help="without the simulated world")
    parser.add_argument("--days", type=int, default=14, help="of the simulated world")
    parser.add_argument("--requests", type=int, default=1_000, help="of a day of the simulated world")
    parser.add_argument("--candidates", type=int, default=100, help="of a request of the simulated world")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=2_000, help="that are there at a time")
    parser.add_argument("--batch", type=int, default=32, help="requests of a batch on the simulated world")
    parser.add_argument(
        "--warm",
        type=int,
        default=4,
        help="days before the first that is judged; 25 and 26 April of KuaiRand",
    )
    parser.add_argument("--window", type=int, default=4, help="days of the arm `window`; 2 on KuaiRand")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    say = Console(stderr=True).print
    makers: dict[str, tuple[Callable[[Path, int], Case], int, int]] = {}
    if not options.no_world:
        makers["world"] = (lambda work, seed: simulate(work, options, seed), options.warm, options.window)
    if options.folder is not None:
        # its first day in China is of a few minutes, so three days are warm
        makers["kuairand"] = (lambda work, _: read_kuairand(options.folder, work), 3, 2)
    figures: dict[str, harness.Figure] = {}
    aims: dict[str, tuple[str, float]] = {}
    for name, (make, warm, window) in makers.items():
        seeds = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as temporary:
                work = Path(temporary)
                seeds.append(run_arms(make(work, seed), work, warm, window, seed, say))
        figures |= summarise(name, seeds)
        aims |= {f"{name}.carried-best.auc": (">=", -MARGIN), f"{name}.cost_ratio": ("<=", RATIO)}
    harness.report("daily", figures, aims, options.json)


if __name__ == "__main__":
    main()
