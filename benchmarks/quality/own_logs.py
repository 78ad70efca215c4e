"""Logs as a newcomer brings them, made of what is at hand: lists, few days, few requests, files with gaps, exposures.

Each is files in a layout, and the import that a newcomer calls for them. Lists are sessions of KuaiRand's exposures, or
searches of a drawn site of hotels, whose guests choose by price among what they see.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.reports import Report
from corank.datasets.kuairand import LOGS, USERS, VIDEOS
from corank.datasets.lists import Lists, write_lists
from corank_lab.datasets.ebnerd import EbnerdFiles, import_ebnerd
from corank_lab.datasets.mind import MindFiles, import_mind
from corank_lab.datasets.obd import import_obd

Write = Callable[[Path], None]
"""Writes a log's files into a folder."""
Load = Callable[[Path, Path, Report], object]
"""Imports the files of a folder into another."""
GAP_MS = 30 * 60 * 1000
"""A user's exposures that are further apart belong to two sessions."""
FEW, CAMPAIGN = 300, 80
"""Requests of the small log; items of Open Bandit's campaign."""
_PRODUCTION = "log_standard*.csv"


def video_logs(source: Path) -> dict[str, tuple[Write, Load]]:
    """Make logs of a folder in KuaiRand-Pure's layout: `lists`, `two_days`, `few` and `obd`."""

    def of(sessions: Callable[[pl.DataFrame], pl.DataFrame]) -> Write:
        return lambda folder: _write_lists(source, folder, sessions)

    load = _load_lists("user_id", "video_id")
    return {
        "lists": (of(lambda log: log), load),
        "two_days": (of(_last_two_days), load),
        "few": (of(_few), load),
        "obd": (lambda folder: _write_bandit(source, folder), _load_bandit),
    }


def drawn_logs(requests: int) -> dict[str, tuple[Write, Load]]:
    """Make the log of a drawn site: `hotels`."""
    return {"hotels": (lambda folder: _write_hotels(folder, requests), _load_lists("user", "hotel"))}


def news_logs(requests: int) -> dict[str, tuple[Write, Load]]:
    """Make logs of the simulated news world: `mind`, whose files have gaps, and `ebnerd`, without articles."""
    return {
        "mind_gaps": (lambda folder: _write_mind(folder, requests), _load_mind),
        "ebnerd_bare": (lambda folder: _write_ebnerd(folder, requests), _load_ebnerd),
    }


def _scan(source: Path, pattern: str) -> pl.LazyFrame:
    folder = source / "data" if (source / "data").is_dir() else source
    return pl.scan_csv(folder / pattern)


def _exposures(source: Path) -> pl.DataFrame:
    """Read the exposures of production, each once, in the order of time, with the number of the user's session."""
    log = _scan(source, _PRODUCTION).unique(["user_id", "video_id", "time_ms"], maintain_order=True)
    log = log.sort("time_ms", maintain_order=True)
    starts = (pl.col("time_ms").diff() > GAP_MS).fill_null(True)
    return log.with_columns(starts.cum_sum().over("user_id").alias("session")).collect()


def _write_lists(source: Path, folder: Path, choose: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Write sessions as impressions: candidates, clicks, and values of each candidate, one of them known too late."""
    shown = _exposures(source)
    sessions = shown.group_by("user_id", "session", maintain_order=True).agg(
        pl.from_epoch(pl.col("time_ms").first(), time_unit="ms").alias("time"),
        pl.col("video_id").alias("shown"),
        pl.col("is_click").alias("clicked"),
        pl.col("tab"),
        (pl.col("duration_ms") / 1000).alias("seconds"),
        pl.int_range(pl.len()).alias("place"),
        pl.col("play_time_ms").alias("play_time"),
    )
    choose(sessions.drop("session").sort("time", maintain_order=True)).write_parquet(folder / "log.parquet")
    _scan(source, VIDEOS).drop("upload_dt").collect().write_parquet(folder / "items.parquet")


def _last_two_days(log: pl.DataFrame) -> pl.DataFrame:
    day = pl.col("time").dt.date()
    return log.filter(day >= day.max() - pl.duration(days=1))


def _few(log: pl.DataFrame) -> pl.DataFrame:
    """Of the sessions with a list, evenly over the days."""
    lists = log.filter(pl.col("shown").list.len() >= 3)
    return lists.gather_every(max(1, len(lists) // FEW)).head(FEW)


def _load_lists(user: str, item: str) -> Load:
    def load(folder: Path, out: Path, report: Report) -> object:
        return write_lists(folder / "log.parquet", out, list_columns(folder, user, item), report)

    return load


def list_columns(folder: Path, user: str, item: str) -> Lists:
    """Say what the columns of lists in a folder are."""
    items = folder / "items.parquet"
    return Lists(candidates="shown", user=user, time="time", labels="clicked", items=items, item=item)


def _write_hotels(folder: Path, requests: int) -> None:
    """Write searches: hotels of a city at the prices of that day, filters that the guest set, and the chosen hotel."""
    rng = np.random.default_rng(0)
    cities, amenities, size = 40, 12, 25
    hotels = 60 * cities
    stars, quality = rng.integers(1, 6, hotels), rng.normal(0, 0.7, hotels)
    has = rng.random((hotels, amenities)) < 0.4
    city = rng.integers(cities, size=requests)
    item = np.stack([rng.permutation(60)[:size] for _ in range(requests)]) * cities + city[:, None]
    price = np.exp(
        3.5 + 0.25 * stars[item] + rng.normal(0, 0.35, item.shape) + rng.normal(0, 0.3, (requests, 1))
    )
    wanted = rng.random((requests, amenities)) < 0.12
    matched = np.einsum("rca,ra->rc", has[item], wanted)
    cheaper = -np.log(price / np.median(price, axis=1, keepdims=True))
    taste = rng.normal(0.4, 0.2, (requests, 1))
    value = 2.0 * cheaper + taste * stars[item] + quality[item] + 1.2 * matched - 0.05 * np.arange(size)
    chosen = np.argmax(value + rng.gumbel(size=value.shape), axis=1)
    minutes = np.sort(rng.integers(6 * 24 * 60, size=requests))
    pl.DataFrame(
        {
            "user": rng.integers(requests // 2, size=requests),
            "time": [datetime(2026, 3, 1) + timedelta(minutes=int(m)) for m in minutes],
            "city": [f"city {c}" for c in city],
            "filters": [[f"amenity {a}" for a in np.flatnonzero(row)] for row in wanted],
            "shown": item.tolist(),
            "price": price.round().tolist(),
            "clicked": (np.arange(size) == chosen[:, None]).astype(np.int8).tolist(),
        }
    ).write_parquet(folder / "log.parquet")
    pl.DataFrame(
        {
            "hotel": np.arange(hotels),
            "stars": stars,
            "amenities": [[f"amenity {a}" for a in np.flatnonzero(row)] for row in has],
        }
    ).write_parquet(folder / "items.parquet")


def _write_bandit(source: Path, folder: Path) -> None:
    """Write the exposures of the most shown videos as a campaign; nothing is known of production's affinities."""
    where = folder / "random" / "all"
    where.mkdir(parents=True)
    log = _exposures(source)
    most = log["video_id"].value_counts(sort=True).head(CAMPAIGN).select("video_id").with_row_index("item_id")
    codes = ["user_active_degree", "follow_user_num_range", "fans_user_num_range", "register_days_range"]
    users = _scan(source, USERS).select(
        "user_id", *(pl.col(c).alias(f"user_feature_{n}") for n, c in enumerate(codes))
    )
    time = pl.from_epoch("time_ms", time_unit="ms").dt.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00")
    place = pl.int_range(pl.len()).over("user_id", "session").clip(upper_bound=2) + 1
    rows = (
        log.with_columns(position=place)
        .join(most, "video_id", maintain_order="left")
        .join(users.collect(), "user_id", maintain_order="left")
    )
    rows.select(
        time.alias("timestamp"),
        "item_id",
        "position",
        pl.col("is_click").alias("click"),
        pl.lit(1 / CAMPAIGN).alias("propensity_score"),
        *(pl.col(f"user_feature_{n}").fill_null("unknown") for n in range(len(codes))),
        *(pl.lit(0.0).alias(f"user-item_affinity_{n}") for n in range(CAMPAIGN)),
    ).write_csv(where / "all.csv")
    videos = most.join(_scan(source, VIDEOS).collect(), "video_id", how="left", maintain_order="left")
    videos.select(
        "item_id",
        pl.col("video_duration").fill_null(0.0).alias("item_feature_0"),
        *(pl.col(c).cast(pl.String).fill_null("unknown").alias(f"item_feature_{n}")
          for n, c in enumerate(("tag", "upload_type", "music_type"), 1)),
    ).write_csv(where / "item_context.csv")  # fmt: skip


def _load_bandit(folder: Path, out: Path, report: Report) -> object:
    return import_obd(folder, out, report=report)


def _write_mind(folder: Path, requests: int) -> None:
    """Write MIND's files; every tenth news has no row, every twentieth a blank category."""
    MindFiles(requests=requests).simulate(folder, overwrite=True)
    for path in folder.glob("*/news.tsv"):
        lines = [line.split("\t") for n, line in enumerate(path.read_text().splitlines()) if n % 10]
        for fields in lines[::20]:
            fields[1] = ""
        path.write_text("".join("\t".join(fields) + "\n" for fields in lines))


def _load_mind(folder: Path, out: Path, report: Report) -> object:
    return import_mind(folder, out, report=report)


def _write_ebnerd(folder: Path, requests: int) -> None:
    EbnerdFiles(requests=requests).simulate(folder, overwrite=True)
    (folder / "articles.parquet").unlink()


def _load_ebnerd(folder: Path, out: Path, report: Report) -> object:
    return import_ebnerd(folder, out, report=report)


def is_video_log(source: Path) -> bool:
    """Whether a folder has the layout of KuaiRand-Pure."""
    return any((folder / name).is_file() for folder in (source, source / "data") for name in LOGS)
