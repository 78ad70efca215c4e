"""A simulated news world in the layouts of public logs, to try their importers without the files.

MIND (Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020): folders `train` and `dev`, each with
`behaviors.tsv` and `news.tsv`, tables of text without a head. EB-NeRD (Kruse et al., "EB-NeRD: A Large-Scale Dataset
for News Recommendation", RecSys Challenge 2024): `articles.parquet`, and folders `train` and `validation`, each with
`behaviors.parquet` and `history.parquet`. The last day is the second folder; `truth/` holds the click probabilities.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.settings import validate
from corank.datasets.feed.simulate import clear_folder
from corank.datasets.feed.world import DAY
from corank.datasets.news.simulate import SimulatedNews, list_requests, true_probabilities
from corank.datasets.news.traffic import NewsTraffic
from corank.datasets.news.world import DAYS, SUBCATEGORIES, NewsWorld

MIND_TIME = "%m/%d/%Y %I:%M:%S %p"
"""How MIND writes times, such as 11/15/2019 9:05:58 AM."""

Written = Callable[[Path, NewsTraffic, Sequence[pl.DataFrame]], None]


def simulate_mind(out: Path, overwrite: bool = False, **options: int) -> SimulatedNews:
    """Write a news world as MIND's files; see `simulate_news` for what may be raised."""
    return _simulate(out, overwrite, ("train/*.tsv", "dev/*.tsv"), _write_mind, options)


def simulate_ebnerd(out: Path, overwrite: bool = False, **options: int) -> SimulatedNews:
    """Write a news world as EB-NeRD's files; see `simulate_news` for what may be raised."""
    files = ("articles.parquet", "train/*.parquet", "validation/*.parquet")
    return _simulate(out, overwrite, files, _write_ebnerd, options)


def _simulate(
    out: Path, overwrite: bool, files: Sequence[str], write: Written, options: dict[str, int]
) -> SimulatedNews:
    world = validate(NewsWorld, options, "simulate")
    with clear_folder(out, overwrite, (*files, "truth/truth.parquet")):
        traffic = NewsTraffic(world)
        blocks = list(traffic)
        starts = np.cumsum([0, *map(len, blocks)])[:-1].tolist()
        log = pl.concat(list_requests(b, first) for b, first in zip(blocks, starts, strict=True))
        log = log.join(traffic.readers.history, "user_id", how="left", maintain_order="left")
        truth = pl.concat(true_probabilities(b, first) for b, first in zip(blocks, starts, strict=True))
        last = int(np.searchsorted(traffic.time, (DAYS - 1) * DAY))
        write(out, traffic, [log[:last], log[last:]])
        truth.write_parquet(out / "truth" / "truth.parquet")
    clicks = int(sum(block.click.sum() for block in blocks))
    return SimulatedNews(world=world, candidates=len(truth), exposed=len(truth), clicks=clicks)


def _write_mind(out: Path, traffic: NewsTraffic, parts: Sequence[pl.DataFrame]) -> None:
    def news(name: str) -> pl.Expr:
        return pl.format("N{}", pl.col(name))

    articles = traffic.articles.table
    table = articles.select(
        news("item_id"),
        "category",
        "subcategory",
        "title",
        "abstract",
        pl.format("https://news.example/{}", "item_id").alias("url"),
        pl.lit('[{"Label": "x", "WikidataId": "Q')
        .add(pl.col("subcategory").str.tail(2))
        .add('"}]')
        .alias("t"),
        pl.lit("[]").alias("a"),
    )
    for folder, log in zip(("train", "dev"), parts, strict=True):
        lists = log.select(
            pl.col("request_id") + 1,
            pl.format("U{}", "user_id"),
            pl.col("time").dt.strftime(MIND_TIME),
            pl.col("history").list.eval(pl.format("N{}", pl.element())).list.join(" "),
            _impressions(log),
        )
        _write_text(lists, out / folder / "behaviors.tsv")
        _write_text(table, out / folder / "news.tsv")


def _impressions(log: pl.DataFrame) -> pl.Series:
    """Candidates and clicks as MIND writes them: `N12-0 N7-1`."""
    rows = log.select("request_id", "candidates", "clicked").explode("candidates", "clicked")
    pairs = rows.select("request_id", pair=pl.format("N{}-{}", "candidates", "clicked"))
    joined = pairs.group_by("request_id", maintain_order=True).agg(pl.col("pair").str.join(" "))
    return joined["pair"].alias("impressions")


def _write_text(table: pl.DataFrame, path: Path) -> None:
    table.write_csv(path, separator="\t", include_header=False, quote_style="never")


def _write_ebnerd(out: Path, traffic: NewsTraffic, parts: Sequence[pl.DataFrame]) -> None:
    rng = np.random.default_rng([traffic.world.seed, 3])
    articles = traffic.articles.table
    code = pl.col("subcategory").str.tail(2).cast(pl.Int16)
    zero = pl.lit(0, pl.Int32)
    articles.select(
        pl.col("item_id").cast(pl.Int32).alias("article_id"),
        "title",
        pl.col("abstract").alias("subtitle"),
        pl.col("published").dt.replace_time_zone(None).alias("published_time"),
        (code % 7 == 0).alias("premium"),
        pl.lit("article_default").alias("article_type"),
        pl.concat_list(pl.col("subcategory")).alias("topics"),
        (100 + pl.col("category").str.tail(2).cast(pl.Int16)).alias("category"),
        pl.concat_list(code + SUBCATEGORIES).alias("subcategory"),
        pl.col("category").alias("category_str"),
        zero.alias("total_inviews"),
        zero.alias("total_pageviews"),
        zero.cast(pl.Float32).alias("total_read_time"),
        pl.lit(0.5, pl.Float32).alias("sentiment_score"),
        pl.lit("Neutral").alias("sentiment_label"),
    ).write_parquet(out / "articles.parquet")
    readers = traffic.readers.table
    for folder, log in zip(("train", "validation"), parts, strict=True):
        person = log.select("user_id").join(readers, "user_id", how="left", maintain_order="left")
        n = len(log)
        log.select(
            pl.col("request_id").cast(pl.UInt32).alias("impression_id"),
            pl.lit(None, pl.Int32).alias("article_id"),
            pl.col("time").dt.replace_time_zone(None).alias("impression_time"),
            pl.Series("read_time", rng.lognormal(3, 1, n).astype(np.float32)),
            pl.Series("scroll_percentage", (100 * rng.random(n)).astype(np.float32)),
            pl.col("device").rank("dense").cast(pl.Int8).alias("device_type"),
            pl.col("candidates").cast(pl.List(pl.Int32)).alias("article_ids_inview"),
            _clicked(log),
            pl.col("user_id").cast(pl.UInt32),
            (person["age"].is_not_null()).alias("is_sso_user"),
            pl.lit(None, pl.Int8).alias("gender"),
            pl.lit(None, pl.Int8).alias("postcode"),
            (person["age"] // 10 * 10).cast(pl.Int8).alias("age"),
            (person["subscriber"] == 1).alias("is_subscriber"),
            (pl.col("request_id") // 2).cast(pl.UInt32).alias("session_id"),
        ).write_parquet(out / folder / "behaviors.parquet")
        histories = log.unique("user_id", maintain_order=True).sort("user_id")
        histories.select(
            pl.col("user_id").cast(pl.UInt32),
            pl.col("history_time")
            .list.eval(pl.element().dt.replace_time_zone(None))
            .alias("impression_time_fixed"),
            pl.col("history_seconds")
            .list.eval(pl.lit(50.0, pl.Float32).repeat_by(pl.len()).explode())
            .alias("scroll_percentage_fixed"),
            pl.col("history").cast(pl.List(pl.Int32)).alias("article_id_fixed"),
            pl.col("history_seconds").cast(pl.List(pl.Float32)).alias("read_time_fixed"),
        ).write_parquet(out / folder / "history.parquet")


def _clicked(log: pl.DataFrame) -> pl.Series:
    """The clicked candidates of each request."""
    rows = log.select("request_id", "candidates", "clicked").explode("candidates", "clicked")
    chosen = rows.group_by("request_id", maintain_order=True).agg(
        pl.col("candidates").filter(pl.col("clicked") == 1).cast(pl.Int32)
    )
    return chosen["candidates"].alias("article_ids_clicked")
