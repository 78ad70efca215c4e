"""KuaiRand-Pure in its official layout, whole or in part, as corank's tables and a ready config.

Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos", CIKM 2022.
`video_features_statistic_pure.csv` is left out on purpose: it sums over the days that are to be predicted.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from string import Template

import polars as pl

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.datasets.importer import IMPORTERS, Importer, refuse_rows, scan_texts

LOGS = {
    "log_standard_4_08_to_4_21_pure.csv": "standard",
    "log_standard_4_22_to_5_08_pure.csv": "standard",
    "log_random_4_22_to_5_08_pure.csv": "random",
}
"""File of each log → the policy that chose what it exposes."""
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
TIMEZONE = "Asia/Shanghai"
SPLIT = (date(2022, 4, 29), date(2022, 4, 30))
"""First days of validation and test, the split of the published references."""
CANDIDATE = ["time_ms", "user_id", "video_id"]
REQUEST = ["user_id", "time", "tab"]
"""Sometimes two pages of the app (tab) send requests of a user within one millisecond: they are two requests."""

_LABELS = ["is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_hate"]
_COUNTED = ["follow_user_num", "fans_user_num", "friend_user_num", "register_days"]
_RANGES = [f"{name}_range" for name in _COUNTED]
_ONEHOTS = [f"onehot_feat{n}" for n in range(18)]
_LOG_COLUMNS = [*CANDIDATE, "tab", *_LABELS, "play_time_ms"]
_USER_FLAGS = ["is_lowactive_period", "is_live_streamer", "is_video_author"]
_USER_COLUMNS = ["user_id", "user_active_degree", *_USER_FLAGS, *_COUNTED, *_RANGES, *_ONEHOTS]
_VIDEO_COLUMNS = ["video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status"]
_VIDEO_COLUMNS += ["video_duration", "server_width", "server_height", "music_id", "music_type", "tag"]
_TEXTS = {"user_active_degree", "video_type", "upload_type", "tag", *_RANGES}
_DAY = "upload_dt"
# Every other column holds whole numbers, those with blanks written as floats (`1.0`).


@dataclass(frozen=True)
class KuaiRandSummary:
    """The result of an import of KuaiRand: `rows` candidates of `requests`, after `repeats` rows were dropped."""

    rows: int
    random_rows: int
    repeats: int
    requests: int
    users: int
    items: int
    days: tuple[date, ...]
    """The days of the log, in China."""
    valid: date
    test: date


def import_kuairand(folder: Path, out: Path, report: Report = lambda line: None) -> KuaiRandSummary:
    """Write `log.parquet`, `items.parquet`, `users.parquet` and `config.yaml` to `out`, whole or not at all.

    `folder`, or `folder/data`, holds the users' and the videos' features and at least one log. Rows that
    repeat an earlier (user, video, time) are dropped, as the release has them, and counted.
    `time` is UTC; `hour` is China's. `report` takes a line about each step. Raises DataError.
    """
    source = _source(folder)
    logs = [name for name in LOGS if (source / name).is_file()]
    with atomic_folder(out) as unfinished:
        users = _write_features(source / USERS, _USER_COLUMNS, "user_id", unfinished / "users.parquet")
        items = _write_features(source / VIDEOS, _VIDEO_COLUMNS, "video_id", unfinished / "items.parquet")
        report(f"features of {users:,} users and {items:,} videos")
        read = _write_log(source, logs, unfinished / "log.parquet")
        imported = _summary(unfinished / "log.parquet", read, users, items)
        report(f"{imported.rows:,} candidates of {imported.requests:,} requests from {', '.join(logs)}")
        report(f"{imported.repeats:,} rows dropped that repeat an earlier (user, video, time)")
        if imported.days[0] >= imported.valid:
            report(f"nothing to train on: no day of the logs is before {imported.valid}")
        template = Template(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
        config = template.substitute(valid=imported.valid, test=imported.test)
        (unfinished / "config.yaml").write_text(config, encoding="utf-8")
    return imported


@IMPORTERS.register("kuairand")
class KuaiRand(Importer):
    """Import KuaiRand-Pure in its official layout, whole or in part."""

    source_help = "Where the release's CSV files are."

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items, users and config; see `import_kuairand`."""
        import_kuairand(source, out, report)


def _source(folder: Path) -> Path:
    """Find the folder that holds the files. Raises DataError, which names those that are missing."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected KuaiRand-Pure, unpacked")
    source = next((f for f in (folder, folder / "data") if any((f / name).is_file() for name in LOGS)), None)
    if source is None:
        raise DataError(f"{folder}: no log here or in its folder data; expected any of {', '.join(LOGS)}")
    for name in (USERS, VIDEOS):
        if not (source / name).is_file():
            raise DataError(f"{source / name}: no such file; the import needs it next to the logs")
    return source


def _write_features(path: Path, columns: list[str], key: str, out: Path) -> int:
    """Write one row per `key`. Returns the number of rows."""
    rows = _read(path, columns, required=[key])[0].collect()
    if rows[key].is_duplicated().any():
        repeated = rows.filter(pl.col(key).is_duplicated())[key][0]
        raise DataError(f"{path}: {key} {repeated} has several rows; expected one each")
    rows.sort(key).rename({_DAY: "upload_day"}, strict=False).write_parquet(out)
    return rows.height


def _write_log(source: Path, names: list[str], out: Path) -> int:
    """Write the candidates of all logs by time, without repeats. Returns the number of rows read."""
    logs, read = [], 0
    for name in names:
        rows, height = _read(source / name, _LOG_COLUMNS, required=_LOG_COLUMNS)
        logs.append(rows.with_columns(policy=pl.lit(LOGS[name])))
        read += height
    if not read:
        raise DataError(f"{source}: no rows in {', '.join(names)}; expected exposures")
    candidate = pl.struct(CANDIDATE)
    utc = pl.from_epoch("time_ms", time_unit="ms").dt.replace_time_zone("UTC")
    candidates = (
        pl.concat(logs)
        .sort(CANDIDATE, maintain_order=True)  # repeats become neighbours: less memory than a hash
        .filter(candidate.ne_missing(candidate.shift()))
        .with_columns(time=utc, hour=utc.dt.convert_time_zone(TIMEZONE).dt.hour())
        .drop("time_ms")
    )
    candidates.sink_parquet(out)
    return read


def _read(path: Path, columns: list[str], required: list[str]) -> tuple[pl.LazyFrame, int]:
    """`columns` of a CSV file, parsed, and its number of rows. Raises DataError, which names the first faulty value.

    The file is read twice, once to check it and once to use it, so that it need not fit in memory.
    """
    texts = scan_texts(path, columns)
    height = refuse_rows(
        path, texts, [(name, _faulty(name, name in required), _holds(name)) for name in columns]
    )
    return texts.select(_parsed(name) for name in columns), height


def _holds(name: str) -> str:
    if name in _LABELS:
        return "0 or 1"
    return "a date such as 2022-04-10" if name == _DAY else "a text" if name in _TEXTS else "a whole number"


def _parsed(name: str) -> pl.Expr:
    text = pl.col(name)
    if name in _TEXTS:
        return text
    if name == _DAY:  # days since 1970-01-01: a video's age would depend on the time of the request
        return text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32)
    return text.cast(pl.Float64, strict=False).cast(pl.Int8 if name in _LABELS else pl.Int64, strict=False)


def _faulty(name: str, required: bool) -> pl.Expr:
    """Where the text is not what the column holds; a blank is a missing value unless `required`."""
    text, parsed = pl.col(name), _parsed(name)
    fault = text.is_not_null() & parsed.is_null()
    if name not in _TEXTS and name != _DAY:
        fault |= parsed != text.cast(pl.Float64, strict=False)
    if name in _LABELS:
        fault |= ~parsed.is_in([0, 1])
    return (fault | text.is_null() if required else fault).fill_null(False)


def _summary(log: Path, read: int, users: int, items: int) -> KuaiRandSummary:
    rows = pl.scan_parquet(log)
    day = pl.col("time").dt.convert_time_zone(TIMEZONE).dt.date()
    counts = rows.select(
        pl.len(),
        (pl.col("policy") == "random").sum().alias("random"),
        pl.struct(REQUEST).n_unique().alias("requests"),
        day.unique().sort().implode().alias("days"),
    ).collect()
    kept, random, requests, listed = counts.row(0)
    days = tuple(listed)
    last_two = (days[-2] if len(days) > 1 else days[-1] - timedelta(days=1)), days[-1]
    valid, test = SPLIT if set(SPLIT) <= set(days) else last_two
    return KuaiRandSummary(kept, random, read - kept, requests, users, items, days, valid, test)
