"""EB-NeRD in its official layout, as corank's tables and a ready config.

Kruse et al., "EB-NeRD: A Large-Scale Dataset for News Recommendation", RecSys Challenge 2024. A row of
`behaviors.parquet` is an impression: candidates, and those that were clicked; `history.parquet` holds what each user
clicked before the days of the impressions, with the time of reading. Counts of `articles.parquet` (`total_inviews`, …)
are left out on purpose: they sum over days that are to be predicted. The simulated news site can be written in the
layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.datasets.importer import IMPORTERS, ImportedSplit, Importer, read_schema, refuse_rows
from corank.datasets.simulated import WORLDS, Simulated
from corank_lab.datasets.news import simulate_parts
from corank_lab.datasets.news_world import SUBCATEGORIES, NewsTraffic, NewsWorld
from corank_lab.datasets.reader_table import describe_reads
from corank_lab.datasets.release import choose_splits, find_parts, find_times, write_news_config
from corank_lab.datasets.text_vectors import embed_texts

PARTS = {"train": "EB-NeRD's impressions for training", "validation": "those for the test"}
BEHAVIORS = {
    "impression_id": "id",
    "user_id": "id",
    "impression_time": "time",
    "device_type": "number",
    "is_subscriber": "flag",
    "is_sso_user": "flag",
    "gender": "number",
    "age": "number",
    "article_ids_inview": "list",
    "article_ids_clicked": "list",
}
HISTORY = {
    "user_id": "id",
    "article_id_fixed": "list",
    "impression_time_fixed": "list",
    "read_time_fixed": "list",
    "scroll_percentage_fixed": "list",
}
ARTICLES = {
    "article_id": "id",
    "title": "text",
    "subtitle": "text",
    "published_time": "time",
    "premium": "flag",
    "article_type": "text",
    "category_str": "text",
    "subcategory": "list",
    "topics": "list",
    "sentiment_score": "number",
    "sentiment_label": "text",
}
_LAST = 50
_VECTORS = 64


@dataclass(frozen=True)
class EbnerdSummary:
    """The result of an import of EB-NeRD."""

    impressions: int
    candidates: int
    clicks: int
    elsewhere: int
    """Clicks on articles that are no candidates of the impression, which are left out."""
    items: int
    split: ImportedSplit


@IMPORTERS.register("ebnerd")
class Ebnerd(Importer):
    """Import EB-NeRD, demo, small or large: impressions with lists of articles, and readers' histories."""

    source_help = "The folder that holds articles.parquet and the folders train and validation."
    vectors: int = Field(
        _VECTORS,
        ge=0,
        description="Numbers of the vector that is made of each title and subtitle; 0 for none.",
    )

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items and config; see `import_ebnerd`."""
        import_ebnerd(source, out, self.vectors, report)


def import_ebnerd(
    source: Path, out: Path, vectors: int = _VECTORS, report: Report = lambda line: None
) -> EbnerdSummary:
    """Write `log/`, `items.parquet`, `users.parquet` and `config.yaml` to `out`, whole or not at all.

    The log keeps a row an impression, with lists; a user has the last 50 clicks of the history of each part. Times are
    taken as UTC, since the release does not say. The last day of `train` is for validation, all of `validation` for the
    test; without `validation` the last two days are. Without `articles.parquet` the ids of articles alone are known.

    Args:
        source: the folder of the release.
        out: a folder that is not there or empty.
        vectors: numbers of the vectors of titles and subtitles; 0 for none.
        report: takes a line about each step.

    Raises:
        DataError: a file is missing, or a column cannot be read.
    """
    parts = find_parts(source, PARTS, "behaviors.parquet")
    with atomic_folder(out) as unfinished:
        (unfinished / "log").mkdir()
        for part, folder in parts.items():
            rows = _write_behaviors(folder, part, unfinished / "log" / f"{part}.parquet")
            report(f"{part}: {rows:,} impressions")
        path = source / "articles.parquet"
        facts = _write_items(path, unfinished, vectors, report)
        report(f"{_write_users(parts, unfinished):,} readers' histories")
        write_news_config("ebnerd", unfinished, facts.split, facts.impressions, path.is_file())
        report(f"{facts.candidates:,} candidates, {facts.clicks:,} clicks; split {facts.split}")
        if facts.elsewhere:
            report(
                f"{facts.elsewhere:,} clicks left out on articles that are no candidates of their impression"
            )
    return facts


def _scan_columns(path: Path, columns: Mapping[str, str]) -> pl.LazyFrame:
    """Open a Parquet file and choose columns.

    Args:
        path: the file.
        columns: name → `id`, `number`, `text`, `time`, `flag` or `list`, what it must hold.

    Raises DataError for a column that is missing or of another type.
    """
    frame = pl.scan_parquet(path)
    types = read_schema(path, frame)
    for name, kind in columns.items():
        if name not in types:
            raise DataError(f"{path}: no column {name}; it has {', '.join(types)}")
        if not _fits(types[name], kind):
            raise DataError(f"{path}: column {name} is {types[name]}; expected {_EXPECTED[kind]}")
    return frame.select(*columns)


_EXPECTED = {
    "id": "whole numbers or text",
    "number": "numbers",
    "text": "text",
    "time": "times",
    "flag": "true and false",
    "list": "lists",
}


def _fits(kind: pl.DataType, expected: str) -> bool:
    return (
        kind == pl.Null
        or (expected == "id" and (kind.is_integer() or kind == pl.String))
        or (expected == "number" and (kind.is_numeric() or kind == pl.Boolean))
        or (expected == "text" and isinstance(kind, pl.String | pl.Categorical | pl.Enum))
        or (expected == "time" and isinstance(kind, pl.Datetime))
        or (expected == "flag" and (kind == pl.Boolean or kind.is_integer()))
        or (expected == "list" and isinstance(kind, pl.List | pl.Array))
    )


def _write_behaviors(folder: Path, part: str, out: Path) -> int:
    """Write the impressions of a part with their users' histories. Returns how many."""
    path, past = folder / "behaviors.parquet", folder / "history.parquet"
    frame, history = _scan_columns(path, BEHAVIORS), _scan_columns(past, HISTORY)
    keys = ("impression_id", "user_id", "impression_time")
    nulls = [(name, pl.col(name).is_null(), "a value in every row") for name in keys]
    rows = refuse_rows(path, frame, nulls)
    length = pl.col("article_id_fixed").list.len()
    others = [name for name, kind in HISTORY.items() if kind == "list" and name != "article_id_fixed"]
    faults = [(n, pl.col(n).list.len() != length, "a list as long as article_id_fixed") for n in others]
    refuse_rows(past, history, [("user_id", pl.col("user_id").is_duplicated(), "one row of a user"), *faults])
    frame.select(
        pl.lit(part).alias("part"),
        pl.col("impression_id", "user_id").cast(pl.Int64),
        pl.col("impression_time").dt.replace_time_zone("UTC").alias("time"),
        pl.col("impression_time").dt.hour().alias("hour"),
        "device_type",
        pl.col("is_subscriber", "is_sso_user").cast(pl.Int8),
        "gender",
        "age",
        pl.col("article_ids_inview").cast(pl.List(pl.Int64)),
        pl.col("article_ids_clicked").cast(pl.List(pl.Int64)),
    ).sink_parquet(out)
    return rows


def _write_items(path: Path, out: Path, vectors: int, report: Report) -> EbnerdSummary:
    """Write the articles, or the ids alone if there is no file. Raises DataError for a candidate without a row."""
    log = pl.scan_parquet(out / "log" / "*.parquet")
    split = choose_splits(*find_times(log, "train"))
    shown = log.select("part", article_id=pl.col("article_ids_inview")).explode("article_id").drop_nulls()
    seen = shown.unique().collect(engine="streaming").sort("article_id")
    if path.is_file():
        items = _read_articles(path, seen)
        if vectors:
            early = seen.filter(pl.col("part") == "train")["article_id"]
            known = items["article_id"].is_in(early.implode()).to_numpy()
            texts = (items["title"].fill_null("") + " " + items["subtitle"].fill_null("")).to_list()
            made = embed_texts(texts, known, vectors)
            items = items.with_columns(vector=pl.Series(made, dtype=pl.Array(pl.Float32, made.shape[1])))
            report(f"vectors of {made.shape[1]} numbers from titles and subtitles")
    else:
        items = seen.select(pl.col("article_id").unique(maintain_order=True))
        report(f"{path}: no such file; of {len(items):,} articles the ids alone are known")
    items.write_parquet(out / "items.parquet")
    within = pl.col("article_ids_clicked").list.set_intersection("article_ids_inview").list.len().sum()
    counts: dict[str, Any] = log.select(
        impressions=pl.len(),
        candidates=pl.col("article_ids_inview").list.len().sum(),
        clicks=within,
        elsewhere=pl.col("article_ids_clicked").list.len().sum() - within.cast(pl.Int64),
    ).collect().row(0, named=True)  # fmt: skip
    return EbnerdSummary(items=len(items), split=split, **counts)


def _read_articles(path: Path, seen: pl.DataFrame) -> pl.DataFrame:
    """Read the articles. Raises DataError if a candidate has no row."""
    articles = _scan_columns(path, ARTICLES)
    several = pl.col("article_id").is_duplicated() | pl.col("article_id").is_null()
    refuse_rows(path, articles, [("article_id", several, "one row of an id")])
    items = articles.with_columns(
        pl.col("article_id").cast(pl.Int64),
        pl.col("published_time").dt.replace_time_zone("UTC"),
        pl.col("premium").cast(pl.Int8),
    ).collect()
    if len(missing := seen.join(items, "article_id", how="anti").sort("article_id")):
        count = missing["article_id"].n_unique()
        raise DataError(
            f"{path}: no row for {count:,} articles that are candidates, such as {missing['article_id'][0]}"
        )
    return items


def _write_users(parts: dict[str, Path], out: Path) -> int:
    """Write each user's history of each part, from the part's first impression on. Returns the rows."""
    begin = find_times(pl.scan_parquet(out / "log" / "*.parquet"), "train")[2]
    from_when = {"train": pl.lit(None, pl.Datetime("us", "UTC"))}
    if begin is not None:
        from_when["validation"] = pl.lit(begin, pl.Datetime("us")).dt.replace_time_zone("UTC")
    histories = [
        _scan_columns(folder / "history.parquet", HISTORY).select(
            pl.col("user_id").cast(pl.Int64),
            valid_from=from_when[part],
            history=pl.col("article_id_fixed").list.tail(_LAST).cast(pl.List(pl.Int64)),
            history_time=pl.col("impression_time_fixed").list.tail(_LAST),
            history_read=pl.col("read_time_fixed").list.tail(_LAST),
            history_scroll=pl.col("scroll_percentage_fixed").list.tail(_LAST),
        )
        for part, folder in parts.items()
    ]
    readers = pl.concat(histories).sort("user_id", "valid_from", nulls_last=False).collect()
    items = pl.read_parquet(out / "items.parquet")
    known = [name for name in ("category_str",) if name in items.columns]
    describe_reads(readers, items, "article_id", known).write_parquet(out / "users.parquet")
    return len(readers)


@WORLDS.register("news_ebnerd")
class EbnerdFiles(NewsWorld):
    """The simulated news site as EB-NeRD's files; the last day is `validation`, `truth/` has click probabilities."""

    format = "ebnerd"
    files = ("articles.parquet", "train/*.parquet", "validation/*.parquet", "truth/truth.parquet")

    def write(self, out: Path) -> Simulated:
        """Write the articles, both folders and the truth."""
        traffic = NewsTraffic(self)
        parts, written = simulate_parts(traffic, out)
        rng = np.random.default_rng([self.seed, 3])
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
        for folder, log in zip(PARTS, parts, strict=True):
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
        return written


def _clicked(log: pl.DataFrame) -> pl.Series:
    """The clicked candidates of each request."""
    rows = log.select("request_id", "candidates", "clicked").explode("candidates", "clicked")
    chosen = rows.group_by("request_id", maintain_order=True).agg(
        pl.col("candidates").filter(pl.col("clicked") == 1).cast(pl.Int32)
    )
    return chosen["candidates"].alias("article_ids_clicked")
