"""A log with a row an exposure as one with a row an impression: the rows of a request become lists.

What is the same in all rows of every request is the request's; all else has an element a candidate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report

PART = 2**22
"""Rows that are grouped at a time, about: as many as memory holds easily."""
_ROW, _SIZE, _PART = "@row", "@size", "@part"


@dataclass(frozen=True)
class Exposures:
    """Columns of a log with a row an exposure, by their roles."""

    keys: Sequence[str]
    """Rows that are equal in these are of one request; without any, each row is its own."""
    listed: Sequence[str]
    """They become lists whatever they hold: the candidate, its labels."""
    single: Sequence[str]
    """A request has one value of each, such as the user."""
    time: str
    """The earliest is the request's; blank if there is none."""

    def group(self, rows: pl.LazyFrame, source: Path, work: Path, report: Report) -> pl.LazyFrame:
        """Make a row of every request, in the order of time.

        Args:
            rows: of the files, in order; the keys are in every row.
            source: the files, for errors.
            work: a folder for files that the result is read from.
            report: takes a line about what was found.

        Raises:
            DataError: a request has several users.
        """
        if not self.keys:
            report(_ALONE.format("no --request, and no --user and --time, to group rows by"))
            return rows.with_columns(pl.concat_list(name) for name in self.listed)
        path = work / "rows.parquet"
        rows.with_row_index(_ROW).sink_parquet(path)
        numbered = pl.scan_parquet(path)
        for n, part in enumerate(self._cut(numbered, report)):
            chosen = numbered.join(part.lazy(), on=self.keys, how="semi").collect(engine="streaming")
            grouped = chosen.sort(_ROW).group_by(self.keys, maintain_order=True).agg(pl.exclude(_ROW))
            ordered = part.select(self.keys).join(grouped, on=self.keys, maintain_order="left")
            ordered.write_parquet(work / f"requests-{n:06}.parquet")
        return self._unlist(pl.scan_parquet(work / "requests-*.parquet", glob=True), source, report)

    def _cut(self, rows: pl.LazyFrame, report: Report) -> Iterator[pl.DataFrame]:
        """Cut the requests, in the order of time, into parts with about as many rows."""
        order = [self.time] if self.time and self.time not in self.keys else []
        order.append(_ROW)
        found = rows.group_by(self.keys).agg(pl.col(order).min(), pl.len().alias(_SIZE))
        requests = found.sort(self.time or _ROW, _ROW).collect(engine="streaming")
        if not requests.is_empty():
            self._say(requests[_SIZE], report)
        ends = pl.col(_SIZE).cast(pl.Int64).cum_sum()
        yield from requests.with_columns((ends // PART).alias(_PART)).partition_by(_PART, maintain_order=True)

    def _say(self, sizes: pl.Series, report: Report) -> None:
        by = ", ".join(f"'{name}'" for name in self.keys)
        if sizes.max() == 1:
            report(_ALONE.format(f"no two rows are equal in {by}"))
        else:
            rows, requests = sizes.sum(), len(sizes)
            report(f"{rows:,} exposures are {requests:,} requests by {by}, {rows / requests:.1f} each")

    def _unlist(self, requests: pl.LazyFrame, source: Path, report: Report) -> pl.LazyFrame:
        """Take what is the same in all rows of every request out of lists. Raises DataError."""
        names = [n for n in requests.collect_schema() if n not in (*self.keys, *self.listed)]
        several = requests.select((pl.col(name).list.n_unique() > 1).sum() for name in names)
        counts = several.collect(engine="streaming").to_dicts()[0] if names else {}
        for name in self.single:
            if counts.get(name):
                keys = requests.filter(pl.col(name).list.n_unique() > 1).select(self.keys).head(1).collect()
                one = ", ".join(f"{key}={value}" for key, value in keys.row(0, named=True).items())
                raise DataError(
                    f"{source}: the request {one} has rows of several values of '{name}'; name more columns as "
                    f"--request, such as --request {','.join([*self.keys, name])}"
                )
        if counts.get(self.time):
            report(f"{counts[self.time]:,} requests have rows of several times: the earliest counts")
        once = [name for name in names if not counts[name] and name != self.time]
        moment = [pl.col(self.time).list.min()] if self.time in names else []
        return requests.with_columns(*(pl.col(name).list.first() for name in once), *moment)


_ALONE = (
    "{}: each row is a request of its own, which has no order to judge (NDCG) and no other candidates to compare "
    "with; its columns are taken as the request's, but those that --along names"
)
