"""RecFlow's daily files as corank's tables and a ready config: the two-stage benchmark, or every level.

`all_stage/DATE.feather` holds a row per candidate. Source of the layout: Liu et al., "RecFlow: An Industrial Full Flow
Recommendation Dataset", ICLR 2025, and its read-me. The two-stage protocol is that of
LCRON (Wang et al., "Learning Cascade Ranking as One Network", ICML 2025): of each request the first ten candidates,
in the order of the file, of each of four levels.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from math import ceil
from pathlib import Path
from string import Template

import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.core.time import DAY, midnight
from corank.datasets.importer import IMPORTERS, Importer, read_schema, refuse_rows

TIMEZONE = "Asia/Shanghai"
"""Time zone of the days of the files."""
BEGIN = date(2024, 1, 13)
"""RecFlow's first day."""

KEYS = ("request_id", "request_timestamp", "user_id", "video_id")
"""Keys of a candidate. Times are milliseconds since 1970 UTC, those of uploads seconds."""
USER = ("device_id", "age", "gender", "province")
VIDEO = (
    "author_id",
    "category_level_one",
    "category_level_two",
    "upload_type",
    "upload_timestamp",
    "duration",
)
FLAGS = ("realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg")
"""How far a candidate got, each 0 or 1; a candidate may have several flags."""
LABELS = ("effective_view", "long_view", "like", "follow", "forward", "comment")
COLUMNS = (
    *KEYS[:3],
    *USER,
    KEYS[3],
    *VIDEO,
    *FLAGS,
    *("rank_index", "rerank_index", "playing_time"),
    *LABELS,
)
"""All columns; every one holds whole numbers."""
END = date(2024, 2, 4)
"""The last day of RecFlow's first period, the test of the published figures."""
PER_LEVEL = 10
"""Candidates of each level and request in the two-stage protocol."""
TWO_STAGE = {name: (name,) for name in ("prerank_neg", "coarse_neg", "rank_neg", "rank_pos")}
"""Level → its flags, from the shallowest level; the deepest level of a candidate counts."""
EVERY = TWO_STAGE | {"rank_neg": ("rank_neg", "rerank_neg")} | {n: (n,) for n in ("rerank_pos", "realshow")}
"""Like RecFlow's own code, candidates outside the re-ranker's top ten count as `rank_neg`."""

_BOUNDED = {"request_timestamp": "milliseconds", "upload_timestamp": "seconds"}
_PART = 2**22  # rows read at once, in about 2 GiB: a day of RecFlow has fifty million
_TRUTH = "\n  truth: truth/*.parquet      # a simulated world's; read by evaluation alone"


@dataclass(frozen=True)
class RecFlowSummary:
    """The result of an import of RecFlow."""

    days: tuple[date, ...]
    requests: int
    candidates: dict[str, int]
    """Candidates of each level, from the shallowest."""
    short: int
    """Requests that have fewer candidates of a level than requested."""
    repeats: int
    """Dropped rows that repeat a candidate, at its level or a shallower one."""
    items: int

    @property
    def valid(self) -> date:
        """The day for validation."""
        return self.days[-2]

    @property
    def test(self) -> date:
        """The day for the test."""
        return self.days[-1]


def import_recflow(
    folder: Path,
    out: Path,
    begin: date | None = None,
    end: date | None = None,
    full: bool = False,
    per_level: int | None = None,
    report: Report = lambda line: None,
) -> RecFlowSummary:
    """Write `log/`, `items.parquet` and `config.yaml` (and `truth/`, if simulated) to `out`, whole or not at all.

    The files `folder/all_stage/DATE.feather` from `begin` to `end` are read, those of RecFlow's first period unless
    given; days without a file are left out, and reported. The last day is for the test, the one before it for
    validation. Of each request the first `per_level` (10) candidates of each level of the two-stage protocol are taken
    or, if `full`, all of all six. Memory is that of a part of a day, and of the videos' features.
    `report` takes a line about each step.

    Raises:
        DataError: no files, a missing column, a value that its column cannot hold, a file of another day.
    """
    levels = EVERY if full else TWO_STAGE
    count = per_level if per_level or full else PER_LEVEL
    begin, end = begin or BEGIN, end or END
    files = _day_files(folder, begin, end)
    if gaps := _find_gaps(begin, end, files):
        report(
            f"{folder / 'all_stage'}: no file of {', '.join(gaps)}: the {len(files)} days that are there are imported"
        )
    with atomic_folder(out) as unfinished:
        for name in ("log", "videos"):
            (unfinished / name).mkdir()
        parts = []
        for day, path in files.items():
            of_day = pl.concat(_write_day(path, day, levels, count, unfinished)).sum()
            report(f"{day}: {of_day['requests'].item():,} requests")
            parts.append(of_day)
        total = pl.concat(parts).sum().row(0, named=True)
        imported = RecFlowSummary(
            days=tuple(files),
            requests=total["requests"],
            candidates={name: total[name] for name in levels},
            short=total["short"],
            repeats=total["repeats"],
            items=_write_items(unfinished),
        )
        report(f"{', '.join(f'{n:,} {name}' for name, n in imported.candidates.items())}")
        report(
            f"{imported.short:,} of {imported.requests:,} requests have fewer than {count or 1} of a level"
        )
        report(f"{imported.repeats:,} rows dropped that repeat a candidate; {imported.items:,} videos")
        truth = _write_truth(folder, imported.days, unfinished)
        template = Path(__file__).with_name("recflow_full.yaml" if full else "recflow.yaml")
        config = Template(template.read_text(encoding="utf-8")).substitute(
            valid=imported.valid, test=imported.test, truth=_TRUTH if truth else ""
        )
        (unfinished / "config.yaml").write_text(config, encoding="utf-8")
    return imported


@IMPORTERS.register("recflow")
class RecFlow(Importer):
    """Import RecFlow: the two-stage benchmark, or with --full every candidate."""

    source_help = "Where the release's all_stage is."
    begin: date | None = Field(None, alias="from", description=f"The first day; {BEGIN}.")
    end: date | None = Field(None, alias="to", description=f"The last day, for the test; {END}.")
    full: bool = Field(False, description="All six levels, not the two-stage protocol's four.")
    per_level: int | None = Field(
        None,
        ge=1,
        description=f"Candidates of each level a request; {PER_LEVEL}, or with --full all, unless given.",
    )

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items and config; see `import_recflow`."""
        import_recflow(source, out, self.begin, self.end, self.full, self.per_level, report)


def _day_files(folder: Path, begin: date, end: date) -> dict[date, Path]:
    """Find the files of the days from `begin` to `end`. Raises DataError if there are fewer than three."""
    source = folder / "all_stage"
    files: dict[date, Path] = {}
    for path in sorted(source.glob("*.feather")):
        try:
            files[date.fromisoformat(path.stem)] = path
        except ValueError:
            raise DataError(
                f"{path}: expected a name such as {BEGIN}.feather, the day of its requests"
            ) from None
    if not files:
        raise DataError(f"{source}: no Feather files; expected RecFlow's, a day each: {BEGIN}.feather, …")
    chosen = {day: path for day, path in files.items() if begin <= day <= end}
    if len(chosen) < 3:
        raise DataError(
            f"{source}: {len(chosen)} days from {begin} to {end}, of files from {min(files)} to {max(files)}; "
            "expected at least three: to train, to validate, to test"
        )
    return chosen


def _find_gaps(begin: date, end: date, days: Iterable[date]) -> list[str]:
    """The days from `begin` to `end` that are not among `days`, which ascend; those in a row as one."""
    edges = [begin.toordinal() - 1, *(day.toordinal() for day in days), end.toordinal() + 1]
    gaps = [(one + 1, other - 1) for one, other in pairwise(edges) if other > one + 1]
    return [
        f"{date.fromordinal(first)}" + ("" if first == last else f" to {date.fromordinal(last)}")
        for first, last in gaps
    ]


def _scan_day(path: Path) -> pl.LazyFrame:
    """Scan the columns of a daily file, without the leading spaces that some names have. Raises DataError."""
    frame = pl.scan_ipc(path)
    types = read_schema(path, frame)
    spelt = {name.strip(): name for name in types}
    if missing := [name for name in COLUMNS if name not in spelt]:
        raise DataError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if not types[spelt[name]].is_numeric():
            raise DataError(f"{path}: column {name} is {types[spelt[name]]}; expected whole numbers")
    return frame.select(pl.col(spelt[name]).alias(name) for name in COLUMNS)


def _holds(name: str, day: date) -> str:
    if name in _BOUNDED:
        return f"{_BOUNDED[name]} since 1970 UTC" + (f", within a day of {day}" if name in KEYS else "")
    return "0 or 1" if name in FLAGS or name in LABELS else "a whole number"


def _faulty(name: str, day: date) -> pl.Expr:
    """Where a value is not what its column holds; keys and flags are never missing, all else may be."""
    value = pl.col(name)
    fault = value.cast(pl.Int64, strict=False).ne_missing(value)
    if name == "request_timestamp":
        # one day off is allowed: the release does not say when its days begin
        fault |= ~value.is_between(
            midnight(day - DAY, TIMEZONE), midnight(day + 2 * DAY, TIMEZONE), closed="left"
        )
    if name == "upload_timestamp":
        fault |= ~value.is_between(-1, 2**32)
    if name in FLAGS or name in LABELS:
        fault |= (value != 0) & (value != 1)
    if name in FLAGS or name in KEYS:
        fault |= value.is_null()
    return fault


def _write_day(
    path: Path, day: date, levels: Mapping[str, Sequence[str]], count: int | None, out: Path
) -> Iterator[pl.DataFrame]:
    """Write the candidates of a day, and their videos, in parts of whole requests; a row of counts for each."""
    rows = _scan_day(path)
    height = refuse_rows(path, rows, [(name, _faulty(name, day), _holds(name, day)) for name in COLUMNS])
    if not height:
        raise DataError(f"{path}: no rows; expected the candidates of {day}")
    parts = ceil(height / _PART)
    of = pl.col("request_id").hash() % parts
    used = pl.col(*KEYS, *USER, *VIDEO), pl.col("realshow", *LABELS).cast(pl.Int8)
    for part in range(parts):
        of_part = rows.filter(of == part).select(_level(levels).alias("level"), *used)
        flagged = of_part.drop_nulls("level").collect(engine="streaming")
        distinct = _deepest(flagged)
        taken = distinct if count is None else distinct.filter(_position("request_id", "level") < count)
        name = f"{day}-{part:02}.parquet"
        taken.select(_logged()).write_parquet(out / "log" / name)
        taken.select("video_id", *VIDEO).unique("video_id", keep="first").write_parquet(out / "videos" / name)
        yield _counts(taken, tuple(levels), count or 1).with_columns(repeats=flagged.height - distinct.height)


def _level(levels: Mapping[str, Sequence[str]]) -> pl.Expr:
    """The deepest level that a candidate has a flag of, null if it has none."""
    deepest_first = reversed(list(levels.items()))
    borne = [(level, pl.any_horizontal(pl.col(flags) == 1)) for level, flags in deepest_first]
    named = pl.coalesce(pl.when(flag).then(pl.lit(level)) for level, flag in borne)
    return named.cast(pl.Enum(list(levels)))


def _deepest(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per candidate, the first of its deepest level, in the order of the file."""
    candidate = ["request_id", "video_id"]
    level = pl.col("level").to_physical()
    return rows.filter(level == level.max().over(candidate)).unique(
        candidate, keep="first", maintain_order=True
    )


def _position(*group: str) -> pl.Expr:
    """Position within a group, from 0, in the order of the file."""
    return pl.int_range(pl.len()).over(group)


def _counts(rows: pl.DataFrame, levels: Sequence[str], least: int) -> pl.DataFrame:
    by_request = rows.group_by("request_id").agg(
        (pl.col("level") == name).sum().alias(name) for name in levels
    )
    short = pl.min_horizontal(levels) < least
    return by_request.select(pl.len().alias("requests"), short.sum().alias("short"), pl.col(levels).sum())


def _logged() -> list[pl.Expr]:
    """The columns of the log. Labels are known where the video was exposed."""
    time = pl.from_epoch("request_timestamp", time_unit="ms").dt.replace_time_zone("UTC")
    exposed = pl.col("realshow") == 1
    return [
        pl.col("request_id", "user_id", "video_id").cast(pl.Int64),
        time.alias("time"),
        pl.col("level").cast(pl.String),
        pl.col(USER).cast(pl.Int64),
        *_clock(time, ""),
        *(pl.when(exposed).then(name).alias(name) for name in LABELS),
    ]


def _clock(time: pl.Expr, stem: str) -> list[pl.Expr]:
    """Weekday, hour and minute in China."""
    china = time.dt.convert_time_zone(TIMEZONE).dt
    return [
        china.weekday().alias(f"{stem}weekday"),
        china.hour().alias(f"{stem}hour"),
        china.minute().alias(f"{stem}minute"),
    ]


def _write_items(out: Path) -> int:
    """The features of every video on the first day that has it; the number of videos."""
    parts = sorted((out / "videos").iterdir())
    uploaded = pl.from_epoch("upload_timestamp", time_unit="s").dt.replace_time_zone("UTC")
    videos = pl.scan_parquet(parts).unique("video_id", keep="first", maintain_order=True).sort("video_id")
    items = videos.cast(pl.Int64).with_columns(_clock(uploaded, "upload_")).collect(engine="streaming")
    items.write_parquet(out / "items.parquet")
    shutil.rmtree(out / "videos")
    return items.height


def _write_truth(folder: Path, days: Sequence[date], out: Path) -> bool:
    """Write the probability of an effective view of a simulated RecFlow; False if the files are not simulated."""
    if not (folder / "truth").is_dir():
        return False
    (out / "truth").mkdir()
    for day in days:
        path = folder / "truth" / f"{day}.parquet"
        try:
            truth = pl.scan_parquet(path).select("request_id", "video_id", click="effective_view")
            truth.sink_parquet(out / "truth" / path.name)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path}: not the truth of a simulation: {str(error).splitlines()[0]}") from None
    return True
