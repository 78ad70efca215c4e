"""How a pre-ranker treats new items: models that have learnt their ids for a day or not, judged by cohorts of items."""

import shutil
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

import corank
from benchmarks import harness
from benchmarks.quality.daily_arms import DailyLog
from corank.metrics.cascade import recall_of
from corank.metrics.intervals import replicates
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests
from corank_continual.periods.history import PeriodRecord

ARMS = ("carried", "never_saw", "before")
COHORTS = ("born_today", "born_yesterday", "older")
TOP = 10
"""How many of a request's best by the truth are wanted."""
NEW_IDS = ("item_id", "gender_item")
"""Features whose values are new with an item."""
Measures = dict[tuple[str, str, str], list[RatioMeasure]]
"""By cohort, model and metric, a day each."""


@dataclass(frozen=True)
class Churn:
    """A world whose items come and go, and the daily funnel that learns from it."""

    log: DailyLog
    settings: Path
    lifetime: int
    keep: int
    """How many candidates of a request the pre-ranker keeps."""

    @property
    def store(self) -> str:
        """The address of the store."""
        return f"lmdb:{self.log.live / 'store'}"

    def period(self, day: date) -> Path:
        """The folder of a period."""
        return self.settings.parent / "daily" / "periods" / str(day)

    def publish_items(self, day: date) -> None:
        """Make the table of items that of a day: those that are there, and those that were in the last days' log."""
        self.log.add_items(day)
        for path in (self.log.live / "items").glob("*.parquet"):
            if path.stem < str(day - timedelta(days=self.lifetime + 2)):
                path.unlink()


def train_never_saw(churn: Churn, live: PeriodRecord, before: PeriodRecord, work: Path) -> Path:
    """Continue as `daily` did on the day of `live`, but admit no new id. Returns a bundle."""
    since, until, end = (pl.Series([t]).cast(pl.Datetime("ms", "UTC"))[0] for t in _bounds_of(live, before))
    middle = until + (end - until) / 2
    parts = {"train": (since, until), "valid": (until, middle), "test": (middle, end)}
    split = ", ".join(f'{name}: "{a.isoformat()}..{b.isoformat()}"' for name, (a, b) in parts.items())
    shutil.rmtree(work, ignore_errors=True)
    options = [f"features.{name}.min_count=1000000000" for name in NEW_IDS]
    options += [f"data.split={{{split}}}", f"packed={work / 'packed'}"]
    earlier = churn.period(date.fromisoformat(before.period)) / "run"
    config = churn.log.live / "config.yaml"
    corank.pack(config, options, continue_from=earlier)
    corank.train(config, options, folder=work / "run", continue_from=earlier)
    bundle = work / "bundle"
    corank.export(work / "run", bundle, until=str(date.fromisoformat(live.period) + timedelta(days=1)))
    return bundle


def _bounds_of(live: PeriodRecord, before: PeriodRecord) -> tuple[int, int, int]:
    assert before.until is not None and live.until is not None
    return before.until, live.until, live.end


def make_arms(
    churn: Churn, live: PeriodRecord, before: PeriodRecord, today: date, work: Path
) -> dict[str, Path]:
    """Make the bundles that serve a day, with its items and rates at its beginning."""
    never_saw = train_never_saw(churn, live, before, work / "never_saw")
    made = {"never_saw": never_saw}
    for name, record in (("carried", live), ("before", before)):
        made[name] = work / name
        shutil.rmtree(made[name], ignore_errors=True)
        shutil.copytree(churn.period(date.fromisoformat(record.period)) / "bundle", made[name])
    for bundle in made.values():
        churn.log.refresh(bundle, today)
    return made


def judge(churn: Churn, today: date, scores: dict[str, pl.DataFrame]) -> Measures:
    """Recall of each arm at the pre-ranker's cut, of the wanted items of each cohort."""
    log, measures = churn.log, defaultdict[tuple[str, str, str], list[RatioMeasure]](list)
    keys = [*log.keys, log.item]
    truth = pl.read_parquet(log.source / "truth" / f"{today}.parquet").rename({"click": "truth"})
    born = pl.read_parquet(log.source / "items" / "*.parquet").select(log.item, pl.col("published").dt.date())
    rows = log.read(today).join(truth, on=keys, how="left", maintain_order="left")
    rows = rows.join(born, on=log.item, how="left", maintain_order="left").with_row_index("row")
    rows = rows.sort(log.keys, maintain_order=True)
    start = np.flatnonzero(np.diff(rows["request_id"].to_numpy(), prepend=-1))
    requests = Requests(np.append(start, len(rows)), rows["user_id"].to_numpy()[start])
    age = (pl.Series([today]) - rows["published"]).dt.total_days().to_numpy()
    of = {"born_today": age == 0, "born_yesterday": age == 1, "older": age > 1}
    best = requests.ranks(rows["truth"].to_numpy()) < TOP
    wanted = {"truth_recall": best, "click_recall": (rows["is_click"] == 1).fill_null(False).to_numpy()}
    for arm, scored in scores.items():
        rank = requests.ranks(scored["prerank"].to_numpy()[rows["row"].to_numpy()])
        for cohort, mask in of.items():
            for metric, positives in wanted.items():
                measures[cohort, arm, metric].append(recall_of(requests, positives & mask, rank, churn.keep))
    for cohort, mask in of.items():
        share = RatioMeasure.of(rows["user_id"].to_numpy(), mask, np.ones(len(mask)), len(mask))
        measures[cohort, "all", "share"].append(share)
        measures[cohort, "all", "wanted_share"].append(
            RatioMeasure.of(rows["user_id"].to_numpy(), mask & best, best, len(mask))
        )
    return dict(measures)


def summarise(measures: Measures, seed: int) -> dict[str, harness.Figure]:
    """Recall by cohort and model, with intervals, and the differences of `carried` from the others, paired."""
    figures: dict[str, harness.Figure] = {}
    merged = {key: RatioMeasure.merge(parts) for key, parts in measures.items()}
    draws = {key: replicates(measure, seed) for key, measure in merged.items()}
    for (cohort, arm, metric), measure in merged.items():
        name = f"{cohort}.{metric}" if arm == "all" else f"{cohort}.{arm}.{metric}"
        _add(figures, name, float(measure.value() or 0), draws[cohort, arm, metric])
    for cohort in COHORTS:
        for metric in ("truth_recall", "click_recall"):
            for arm in ARMS[1:]:
                own, other = (cohort, "carried", metric), (cohort, arm, metric)
                gap = float(merged[own].value() or 0) - float(merged[other].value() or 0)
                _add(figures, f"{cohort}.carried-{arm}.{metric}", gap, draws[own] - draws[other])
    return figures


def _add(figures: dict[str, harness.Figure], name: str, value: float, draws: NDArray[np.float64]) -> None:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    figures |= {name: value, f"{name}.low": float(low), f"{name}.high": float(high)}
