"""MIND in its official layout, as corank's tables and a ready config.

Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020. A row of `behaviors.tsv` is an impression:
its id, the user, the time, the news that the user clicked before, and candidates with their clicks (`N12-0 N7-1`). The
files of the test, whose clicks are not published, are not read. The simulated news site can be written in the layout.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.datasets.importer import IMPORTERS, ImportedSplit, Importer, read_schema, refuse_rows
from corank.datasets.simulated import WORLDS, Simulated
from corank_lab.datasets.news import simulate_parts
from corank_lab.datasets.news_world import NewsTraffic, NewsWorld
from corank_lab.datasets.reader_table import describe_reads, list_readers
from corank_lab.datasets.release import choose_splits, find_parts, find_times, write_news_config
from corank_lab.datasets.text_vectors import embed_texts

MIND_TIME = "%m/%d/%Y %I:%M:%S %p"
"""How MIND writes times, such as 11/15/2019 9:05:58 AM."""
PARTS = {"train": "MIND's impressions for training", "dev": "those for the test"}
BEHAVIORS = ("impression", "user_id", "time", "history", "impressions")
NEWS = (
    "item_id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "title_entities",
    "abstract_entities",
)
_VECTORS = 64


@dataclass(frozen=True)
class MindSummary:
    """The result of an import of MIND."""

    impressions: int
    candidates: int
    clicks: int
    items: int
    split: ImportedSplit


@IMPORTERS.register("mind")
class Mind(Importer):
    """Import MIND, small or large: impressions with lists of news, histories, titles and abstracts."""

    source_help = "The folder that holds the folders train and dev (or MINDsmall_train and MINDsmall_dev)."
    vectors: int = Field(
        _VECTORS,
        ge=0,
        description="Numbers of the vector that is made of each title and abstract; 0 for none.",
    )

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items and config; see `import_mind`."""
        import_mind(source, out, self.vectors, report)


def import_mind(
    source: Path, out: Path, vectors: int = _VECTORS, report: Report = lambda line: None
) -> MindSummary:
    """Write `log/`, `items.parquet`, `users.parquet` and `config.yaml` to `out`, whole or not at all.

    The log keeps a row an impression, with lists. Times are taken as UTC, since the release does not say. The last day
    of `train` is for validation, all of `dev` for the test; without `dev` the last two days are.

    Args:
        source: the folder of the release.
        out: a folder that is not there or empty.
        vectors: numbers of the vectors of titles and abstracts; 0 for none.
        report: takes a line about each step.

    News without a row in `news.tsv` have an item of which only the id is known, and blank categories are missing.

    Raises:
        DataError: a file is missing, or a row cannot be read.
    """
    parts = find_parts(source, PARTS, "behaviors.tsv")
    with atomic_folder(out) as unfinished:
        news = _read_news(parts)
        report(f"{len(news):,} news")
        (unfinished / "log").mkdir()
        for part, folder in parts.items():
            rows = _write_behaviors(folder / "behaviors.tsv", part, unfinished / "log" / f"{part}.parquet")
            report(f"{part}: {rows:,} impressions")
        facts = _write_items(news, unfinished, parts, vectors, report)
        report(f"{_write_users(parts, unfinished):,} readers' histories")
        write_news_config("mind", unfinished, facts.split, facts.impressions)
        report(f"{facts.candidates:,} candidates, {facts.clicks:,} clicks; split {facts.split}")
    return facts


def _scan_text(path: Path, columns: tuple[str, ...]) -> pl.LazyFrame:
    """Open a table of text without a head. Raises DataError if it has not the columns."""
    frame = pl.scan_csv(path, separator="\t", has_header=False, quote_char=None, infer_schema=False)
    types = read_schema(path, frame)
    if len(types) != len(columns):
        raise DataError(f"{path}: {len(types)} columns; expected {len(columns)}: {', '.join(columns)}")
    return frame.rename(dict(zip(types, columns, strict=True))).with_columns(pl.all().fill_null(""))


def _read_news(parts: dict[str, Path]) -> pl.DataFrame:
    """Read the news of all parts, a row each, and whether training has it."""
    tables = []
    for part, folder in parts.items():
        path = folder / "news.tsv"
        frame = _scan_text(path, NEWS)
        refuse_rows(
            path,
            frame,
            [
                ("item_id", ~pl.col("item_id").str.contains(r"^\S+$"), "the id of a news"),
            ],
        )
        tables.append(frame.with_columns(training=pl.lit(part == "train")).collect())
    news = pl.concat(tables).unique("item_id", keep="first", maintain_order=True)
    entities = pl.col("title_entities") + pl.col("abstract_entities")
    return news.with_columns(
        pl.col("category", "subcategory").replace("", None),
        entities=entities.str.extract_all(r'"WikidataId": ?"Q\d+"').list.eval(
            pl.element().str.extract(r"(Q\d+)")
        ).list.unique(maintain_order=True)
    )  # fmt: skip


def _write_behaviors(path: Path, part: str, out: Path) -> int:
    """Write the impressions of a part, with lists. Returns how many."""
    frame = _scan_text(path, BEHAVIORS)
    time = pl.col("time").str.to_datetime(MIND_TIME, strict=False)
    rows = refuse_rows(
        path,
        frame,
        [
            ("impression", ~pl.col("impression").str.contains(r"^\d+$"), "the number of an impression"),
            ("user_id", ~pl.col("user_id").str.contains(r"^\S+$"), "the id of a user"),
            ("time", time.is_null(), "a time such as 11/15/2019 9:05:58 AM"),
            (
                "impressions",
                ~pl.col("impressions").str.contains(r"^\S+-[01]( \S+-[01])*$"),
                "candidates with their clicks, such as N55689-1 N35729-0",
            ),
        ],
    )
    pairs = pl.col("impressions").str.split(" ")
    frame.select(
        pl.lit(part).alias("part"),
        pl.col("impression").cast(pl.Int64),
        "user_id",
        time.dt.replace_time_zone("UTC"),
        time.dt.hour().alias("hour"),
        pairs.list.eval(pl.element().str.head(-2)).alias("candidates"),
        pairs.list.eval(pl.element().str.tail(1).cast(pl.Int8)).alias("clicked"),
    ).sink_parquet(out)
    return rows


def _write_items(
    news: pl.DataFrame, out: Path, parts: dict[str, Path], vectors: int, report: Report
) -> MindSummary:
    """Write the news with the time of their first impression. Raises DataError for a candidate without a row."""
    log = pl.scan_parquet(out / "log" / "*.parquet")
    seen = (
        log.select("time", "candidates", "clicked")
        .explode("candidates", "clicked")
        .group_by(item_id="candidates")
        .agg(first_seen=pl.col("time").min(), shown=pl.len(), clicks=pl.col("clicked").sum().cast(pl.Int64))
        .collect(engine="streaming")
    )
    if len(missing := seen.join(news, "item_id", how="anti").sort("item_id").select("item_id")):
        where = ", ".join(str(folder / "news.tsv") for folder in parts.values())
        report(
            f"{where}: no row for {len(missing):,} news that are candidates, such as {missing['item_id'][0]}: of them "
            "only the id is known"
        )
        news = pl.concat([news, missing.with_columns(training=False)], how="diagonal")
    columns = ["item_id", "category", "subcategory", "title", "abstract", "entities"]
    items = news.select(*columns, "training").join(
        seen.select("item_id", "first_seen"), "item_id", how="left", maintain_order="left"
    )
    if vectors:
        texts = (items["title"].fill_null("") + " " + items["abstract"].fill_null("")).to_list()
        made = embed_texts(texts, items["training"].to_numpy(), vectors)
        items = items.with_columns(vector=pl.Series(made, dtype=pl.Array(pl.Float32, made.shape[1])))
        report(f"vectors of {made.shape[1]} numbers from titles and abstracts")
    items.drop("training").write_parquet(out / "items.parquet")
    split = choose_splits(*find_times(log, "train"))
    count: dict[str, Any] = {"candidates": int(seen["shown"].sum()), "clicks": int(seen["clicks"].sum())}
    rows = log.select(pl.len()).collect().item()
    return MindSummary(impressions=rows, items=len(items), split=split, **count)


def _write_users(parts: dict[str, Path], out: Path) -> int:
    """Write what each reader had clicked before, with the mean of its vectors. Returns the rows."""
    frames = [_scan_text(folder / "behaviors.tsv", BEHAVIORS) for folder in parts.values()]
    time = pl.col("time").str.to_datetime(MIND_TIME, strict=False).dt.replace_time_zone("UTC")
    impressions = pl.concat(frames).with_columns(time)
    readers = list_readers(impressions, ["history"])
    history = pl.col("history").str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    readers = readers.with_columns(history)
    items = pl.read_parquet(out / "items.parquet")
    read = describe_reads(readers, items, "item_id", ["category", "subcategory"])
    read.write_parquet(out / "users.parquet")
    return len(readers)


@WORLDS.register("news_mind")
class MindFiles(NewsWorld):
    """The simulated news site as MIND's files; the last day is `dev`, and `truth/` has click probabilities."""

    format = "mind"
    files = ("train/*.tsv", "dev/*.tsv", "truth/truth.parquet")

    def write(self, out: Path) -> Simulated:
        """Write both folders and the truth."""
        traffic = NewsTraffic(self)
        parts, written = simulate_parts(traffic, out)
        articles = traffic.articles.table
        table = articles.select(
            pl.format("N{}", "item_id"),
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
        for folder, log in zip(PARTS, parts, strict=True):
            lists = log.select(
                pl.col("request_id") + 1,
                pl.format("U{}", "user_id"),
                pl.col("time").dt.strftime(MIND_TIME),
                pl.col("history").list.eval(pl.format("N{}", pl.element())).list.join(" "),
                _impressions(log),
            )
            _write_text(lists, out / folder / "behaviors.tsv")
            _write_text(table, out / folder / "news.tsv")
        return written


def _impressions(log: pl.DataFrame) -> pl.Series:
    """Candidates and clicks as MIND writes them: `N12-0 N7-1`."""
    rows = log.select("request_id", "candidates", "clicked").explode("candidates", "clicked")
    pairs = rows.select("request_id", pair=pl.format("N{}-{}", "candidates", "clicked"))
    joined = pairs.group_by("request_id", maintain_order=True).agg(pl.col("pair").str.join(" "))
    return joined["pair"].alias("impressions")


def _write_text(table: pl.DataFrame, path: Path) -> None:
    table.write_csv(path, separator="\t", include_header=False, quote_style="never")
