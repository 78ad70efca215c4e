"""Open Bandit Dataset in its official layout, as corank's tables and a ready config.

Saito et al., "Open Bandit Dataset and Pipeline: Towards Realistic and Reproducible Off-Policy Evaluation", NeurIPS
2021. `POLICY/CAMPAIGN/CAMPAIGN.csv` holds a row an exposure of one item at one of three positions, with the probability
(propensity) at which the policy chose it; `item_context.csv` beside it holds the items. The release has no user ids: a
user here is a combination of the four features that it has of users.
"""

from dataclasses import dataclass
from pathlib import Path
from string import Template

import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.datasets.importer import IMPORTERS, ImportedSplit, Importer, refuse_rows, scan_texts
from corank_lab.datasets.release import choose_splits

POLICIES, CAMPAIGNS = ("random", "bts"), ("all", "men", "women")
USER = tuple(f"user_feature_{n}" for n in range(4))
LOG = ("timestamp", "item_id", "position", "click", "propensity_score", *USER)
ITEM = tuple(f"item_feature_{n}" for n in range(4))
MOST_WEIGHT = 10.0
"""Largest weight of a row: rare choices of a policy would otherwise decide alone."""
_AFFINITY = "user-item_affinity_"


@dataclass(frozen=True)
class ObdSummary:
    """The result of an import of the Open Bandit Dataset."""

    rows: int
    clicks: int
    items: int
    split: ImportedSplit


@IMPORTERS.register("obd")
class OpenBandit(Importer):
    """Import the Open Bandit Dataset: exposures of single items, chosen at random or by a bandit, with propensities."""

    source_help = "The folder that holds the folders random and bts."
    policy: str = Field("random", description=f"One of {', '.join(POLICIES)}.")
    campaign: str = Field("all", description=f"One of {', '.join(CAMPAIGNS)}.")

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items and config; see `import_obd`."""
        import_obd(source, out, self.policy, self.campaign, report)


def import_obd(
    source: Path, out: Path, policy: str = "random", campaign: str = "all", report: Report = lambda line: None
) -> ObdSummary:
    """Write `log.parquet`, `items.parquet` and `config.yaml` to `out`, whole or not at all.

    A row is a request of one candidate. Its `weight` is the probability of a uniform choice over that of the policy's,
    at most MOST_WEIGHT. The last two days are for validation and for the test.

    Args:
        source: the folder of the release.
        out: a folder that is not there or empty.
        policy: whose log.
        campaign: of which campaign.
        report: takes a line about each step.

    Raises:
        DataError: a file is missing, or a row cannot be read.
    """
    for name, value, known in (("policy", policy, POLICIES), ("campaign", campaign, CAMPAIGNS)):
        if value not in known:
            raise DataError(f"--{name}: expected {' or '.join(known)}; received {value!r}")
    folder = source / policy / campaign
    with atomic_folder(out) as unfinished:
        items = _write_items(folder / "item_context.csv", unfinished / "items.parquet")
        _write_log(folder / f"{campaign}.csv", items, unfinished / "log.parquet")
        log = pl.scan_parquet(unfinished / "log.parquet")
        time = pl.col("time").dt.replace_time_zone(None)
        facts = log.select(time.min(), time.max().alias("last"), pl.len(), pl.col("click").sum()).collect()
        first, last, rows, clicks = facts.row(0)
        if not rows:
            raise DataError(f"{folder / campaign}.csv: no rows; expected exposures")
        split = choose_splits(first, last, None)
        template = Template(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
        config = template.substitute(policy=policy, campaign=campaign, split=split)
        (unfinished / "config.yaml").write_text(config, encoding="utf-8")
        report(f"{rows:,} exposures of {items:,} items, {clicks:,} clicks; split {split}")
    return ObdSummary(rows, clicks, items, split)


def _is_not(column: str, pattern: str) -> pl.Expr:
    return ~pl.col(column).str.contains(f"^(?:{pattern})$").fill_null(False)


def _write_items(path: Path, out: Path) -> int:
    """Write the items. Returns how many."""
    frame = scan_texts(path, ("item_id", *ITEM))
    number = pl.col(ITEM[0]).cast(pl.Float64, strict=False)
    rows = refuse_rows(
        path,
        frame,
        [
            (
                "item_id",
                _is_not("item_id", r"\d{1,9}") | pl.col("item_id").is_duplicated(),
                "a number, one row each",
            ),
            (ITEM[0], number.is_null() | ~number.is_finite(), "a number"),
            *((name, pl.col(name).is_null(), "a code") for name in ITEM[1:]),
        ],
    )
    frame.select(pl.col("item_id").cast(pl.Int64), number, *ITEM[1:]).sink_parquet(out)
    return rows


def _write_log(path: Path, items: int, out: Path) -> None:
    """Write the exposures in the order of the file."""
    frame = scan_texts(path, LOG)
    columns = frame.collect_schema().names()
    affinities = [f"{_AFFINITY}{n}" for n in range(items)]
    if missing := [name for name in affinities if name not in columns]:
        raise DataError(f"{path}: no column {missing[0]}; expected one for each of the {items:,} items")
    time = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_zone="UTC", strict=False)
    chance = pl.col("propensity_score").cast(pl.Float64, strict=False)
    item = pl.col("item_id").cast(pl.Int64, strict=False)
    refuse_rows(
        path,
        frame,
        [
            ("timestamp", time.is_null(), "a time such as 2019-11-24 00:00:17.004101+00:00"),
            ("item_id", ~item.is_between(0, items - 1).fill_null(False), f"an item, 0 to {items - 1}"),
            ("position", _is_not("position", "[1-3]"), "1, 2 or 3"),
            ("click", _is_not("click", "[01]"), "0 or 1"),
            ("propensity_score", ~((chance > 0) & (chance <= 1)).fill_null(False), "a probability above 0"),
            *((name, pl.col(name).is_null(), "a code") for name in USER),
        ],
    )
    affinity = pl.concat_list([pl.col(name).cast(pl.Float64, strict=False) for name in affinities])
    frame.with_row_index("request_id").select(
        pl.col("request_id").cast(pl.Int64),
        pl.concat_str(USER, separator=" ").alias("user_id"),
        item,
        time.alias("time"),
        time.dt.hour().alias("hour"),
        pl.col("position", "click").cast(pl.Int8),
        *USER,
        affinity.list.get(item, null_on_oob=True).alias("affinity"),
        chance.alias("propensity"),
        (1 / (items * chance)).clip(upper_bound=MOST_WEIGHT).alias("weight"),
    ).sink_parquet(out)
