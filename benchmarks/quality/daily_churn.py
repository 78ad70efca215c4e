"""30 days on which a fifth of the items is new: what `corank daily` leaves must not grow, and what new items get.

A simulated world that drifts, whose items live for five days, is given to `corank daily` a day at a time: validated,
packed, trained, gated, exported, verified, published into an LMDB store. The table of items has those that are there,
and the day's new ones are put into the live version, as a service takes them. Growth is the largest size after the
`keep_days` of ids over the size then.

On the last --judged days the pre-ranker is judged on all requests of the day, for the items that were born that day,
the day before, and earlier: how many of the wanted items its cut keeps. Models, all with the items of the day and
with rates as of its beginning:
  carried    what `daily` left after the day before: ids born the day before have a row that learnt for a day
  never_saw  went on from the same run on the same rows, but admitted no new id
  before     what `daily` left two days before
Wanted are the ten best by the truth (truth_recall), and what was clicked (click_recall). Intervals are bootstrapped
over users, those of differences are paired.
"""

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.quality.daily_arms import DailyLog
from benchmarks.quality.daily_cohorts import Churn, Measures, judge, make_arms, summarise
from benchmarks.quality.daily_sizes import Sizes, growth, measure_period
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import FIRST_DAY, Drift
from corank.funnel.funnel import Funnel
from corank.training.config.yaml_values import read_values
from corank_continual.periods.history import PeriodRecord
from corank_serve.store.base import open_store
from corank_serve.store.upsert import upsert

MOST = 1.1
"""Aim: of all growth."""
GROWN = {"rows": "rows", "bundle": "bundle_bytes", "state": "state_bytes", "store": "store_bytes"}
ALSO = {
    "packed": "packed_bytes",
    "run": "run_bytes",
    "item_records": "item_records",
    "prior_keys": "prior_keys",
    "live_version": "live_bytes",
    "store_file": "store_file_bytes",
    "disk": "disk_bytes",
}


def make_world(work: Path, options: argparse.Namespace) -> Churn:
    """Simulate the log, and write the config and the settings of `corank daily`."""
    source = work / "world"
    sizes = {"candidates": options.candidates, "users": options.users, "items": options.items}
    requests = options.requests * options.days
    drift = Drift()
    simulate_world(
        source, seed=options.seed, requests=requests, days=options.days, drift=drift.model_dump(), **sizes
    )
    days = [FIRST_DAY.date() + timedelta(days=n) for n in range(options.days)]
    log = DailyLog(source, work / "live", days, ["request_id"], "item_id", ["is_click"])
    log.open()
    config: dict[str, Any] = read_values(source / "config.yaml", []).value
    del config["data"]["truth"]
    kept = {"keep_days": options.keep_days}
    config["features"]["user_id"] |= kept
    config["features"]["item_id"] |= kept
    config["features"] |= {
        "gender_item": {"kind": "pair", "of": ["gender", "item_id"], **kept},
        "item_ctr": {"kind": "prior", "by": ["item_id"], "label": "click"},
        "user_brand": {"kind": "prior", "by": ["user_id", "brand"], "label": "click"},
    }
    config["retrieval"] = {"stage": "prerank"}
    config["train"]["requests"] = options.batch
    (log.live / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    settings = {
        "config": "config.yaml",
        "first": str(days[1]),
        "gate": ["rank.exposed.click.auc >= live - 1"],
        "store": "lmdb:store",
        "users": "users.parquet",
        "keep": options.keep,
    }
    path = log.live / "daily.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return Churn(log, path, drift.lifetime, config["stages"][0]["keep"])


def train_day(churn: Churn) -> tuple[PeriodRecord, bool]:
    """Call `corank daily` for the day that was added last. Returns its record, and whether its tables were refused."""
    has_store = (churn.log.live / "store").exists()
    as_of = str(corank.store_log(churn.store, last=1)[-1]["change"]) if has_store else None
    result = corank.daily(churn.settings, items_as_of=as_of)
    refused = result.refused
    if refused is not None and refused.decision == "refused by validation":
        result = corank.daily(churn.settings, accept=[refused.period], items_as_of=as_of)
    if result.refused is not None or result.live is None:
        raise RuntimeError(f"{result.records[-1].decision}: {result.records[-1].reasons}")
    return result.live, refused is not None


def put_new_items(churn: Churn, live: PeriodRecord, day: date) -> None:
    """Put the items that are born on a day into the live version, as a service does when they are reported."""
    funnel = Funnel.open(churn.period(date.fromisoformat(live.period)) / "bundle")
    columns = [pl.col(churn.log.item).alias("id"), *funnel.request_encoder.item_columns]
    rows = pl.read_parquet(churn.log.source / "items" / f"{day}.parquet").select(columns)
    items = [row | {"published": int(row["published"].timestamp() * 1000)} for row in rows.to_dicts()]
    with closing(open_store(churn.store)) as store:
        upsert(store, funnel, items)


def run_days(
    churn: Churn, work: Path, judged: int, say: Callable[..., object]
) -> tuple[list[Sizes], list[float], Measures, int]:
    """Go through the days. Returns sizes and seconds of each period, the measures, and how many were refused first."""
    log, sizes, seconds, refusals = churn.log, list[Sizes](), list[float](), 0
    measures: Measures = defaultdict(list)
    records: list[PeriodRecord] = []
    log.add(log.days[0])
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for day, tomorrow in zip(log.days[1:], [*log.days[2:], None], strict=True):
            churn.publish_items(day)
            log.add(day)
            record, refused = train_day(churn)
            records, refusals = [*records[-1:], record], refusals + refused
            sizes.append(measure_period(churn.settings, record))
            seconds.append(sum(record.seconds.values()))
            say(f"{day}: {seconds[-1]:.1f} s{', refused first' if refused else ''}, {sizes[-1]}")
            if tomorrow is None:
                break
            churn.publish_items(tomorrow)
            put_new_items(churn, record, tomorrow)
            if log.days.index(tomorrow) >= len(log.days) - judged and len(records) == 2:
                arms = make_arms(churn, record, records[0], tomorrow, work / "arms")
                waited = {
                    name: pool.submit(log.score, bundle, tomorrow, work / f"scores-{name}")
                    for name, bundle in arms.items()
                }
                for key, ratios in judge(churn, tomorrow, {n: w.result() for n, w in waited.items()}).items():
                    measures[key] += ratios
    return sizes, seconds, measures, refusals


def describe_sizes(sizes: list[Sizes], seconds: list[float], keep_days: int) -> dict[str, harness.Figure]:
    """Each size at `keep_days` and in the end, and how much the named ones grow after it."""
    figures: dict[str, harness.Figure] = {}
    at = keep_days - 1  # the first period has two days of the log
    for name in sizes[0]:
        figures[f"{name}.at_keep_days"], figures[f"{name}.last"] = sizes[at][name], sizes[-1][name]
    for name, size in (GROWN | ALSO).items():
        figures[f"{name}_growth"] = growth([period[size] for period in sizes], at)
    figures |= {"seconds.at_keep_days": seconds[at], "seconds.last": seconds[-1]}
    figures["seconds.mean"] = float(np.mean(seconds[at:]))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--requests", type=int, default=400, help="of a day")
    parser.add_argument("--candidates", type=int, default=100, help="of a request")
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument(
        "--items", type=int, default=500, help="that are there at a time; a fifth is new each day"
    )
    parser.add_argument("--keep-days", type=int, default=7, help="for which ids keep their rows")
    parser.add_argument("--keep", type=int, default=3, help="periods, and versions of the store, that stay")
    parser.add_argument("--batch", type=int, default=32, help="requests of a batch")
    parser.add_argument("--judged", type=int, default=10, help="last days, on which recall is judged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.days < options.keep_days + 3:
        parser.error(f"--days: at least {options.keep_days + 3}, three more than --keep-days")
    say = Console(stderr=True, highlight=False).print
    with tempfile.TemporaryDirectory() as temporary:
        churn = make_world(Path(temporary), options)
        sizes, seconds, measures, refusals = run_days(churn, Path(temporary), options.judged, say)
    figures = describe_sizes(sizes, seconds, options.keep_days) | {"refused_first": refusals}
    figures |= summarise(measures, options.seed)
    aims = {f"{name}_growth": ("<=", MOST) for name in GROWN}
    harness.report("daily_churn", figures, aims, options.json)


if __name__ == "__main__":
    main()
