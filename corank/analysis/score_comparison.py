"""Two tables of scores of the same rows compared: from `corank predict`, or any Parquet with the same keys.

Letters: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl

from corank.analysis.comparison import Margins, join_document
from corank.core.errors import DataError
from corank.core.lazy import lazy
from corank.core.objects import Location
from corank.core.types import Longs
from corank.evaluation.inputs import Subject
from corank.evaluation.table import Figure, measure
from corank.training.run_file import RUN_FILE

if TYPE_CHECKING:
    from corank.funnel import predict
else:  # what reads tables: runs are compared without
    predict = lazy("corank.funnel.predict")

_OTHER = "@b "
"""Before the names of the columns of the second table."""


@dataclass(frozen=True)
class ScoreChoice:
    """Columns of two tables by use. Those that the user does not name are empty, and detected."""

    scores: Sequence[str] = ()
    labels: Sequence[str] = ()
    user: Sequence[str] = ()
    """One, or none."""
    request: Sequence[str] = ()
    keys: Sequence[str] = ()


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores, a row a candidate."""

    path: Path
    rows: pl.DataFrame
    columns: "predict.ScoreColumns | None"
    """The columns that `corank predict` records in its own files."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a Parquet file, or all of a folder. Raises DataError."""
        files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
        columns = predict.ScoreColumns.read(files[0])
        return cls(path, collect_rows(pl.scan_parquet(files), path), columns)

    def require(self, columns: Sequence[str], option: str) -> None:
        """Raise DataError if a column is not there."""
        for column in columns:
            if column not in self.rows.columns:
                raise DataError(
                    f"{option}: {self.path} has no column '{column}'; it has {', '.join(self.rows.columns)}"
                )


def collect_rows(rows: pl.LazyFrame, source: Path) -> pl.DataFrame:
    """Read rows. Raises DataError if a file is damaged, or columns do not fit each other."""
    try:
        return rows.collect(engine="streaming")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{source}: cannot be read: {str(error).splitlines()[0]}") from None


def two_tables(a: Location, b: Location) -> bool:
    """Whether both locations are tables of scores. Raises DataError if one alone is."""
    tables = [place for place in (a, b) if isinstance(place, Path) and _is_scores(place)]
    if len(tables) == 1:
        raise DataError(f"{tables[0]}: holds scores, the other does not; compare two runs or two of scores")
    return bool(tables)


def _is_scores(path: Path) -> bool:
    """Whether a path is of a Parquet file, or of a folder with such files and no run."""
    return path.is_file() or (not (path / RUN_FILE).exists() and any(path.glob("*.parquet")))


def compare_scores(a: Path, b: Path, choice: ScoreChoice, margins: Margins) -> dict[str, Any]:
    """Compare the scores that two tables give the same rows.

    Rows are joined by the key columns; those without a score in one table are left out of both, and counted.

    Returns the document of `corank compare --json`, a score in place of a stage. Raises DataError if the tables do not
    fit each other.
    """
    one, other = ScoreTable.read(a), ScoreTable.read(b)
    columns = _find_columns(one, other, choice)
    rows = _join(one, other, columns)
    values = [*columns.scores, *(_OTHER + name for name in columns.scores)]
    known = rows.filter(pl.all_horizontal(pl.col(values).is_finite()))
    if not len(known):
        raise DataError(f"{a}, {b}: no row has a score in both; compared are {', '.join(columns.scores)}")
    user = code_rows(known, columns.user)
    request = code_rows(known, columns.request) if columns.request else None
    ours, theirs = (
        measure_scores(known, {name: before + name for name in columns.scores}, columns.labels, user, request)
        for before in ("", _OTHER)
    )
    facts = {
        "a": str(a),
        "b": str(b),
        "requests": None if request is None else int(request.max()) + 1,
        "candidates": len(known),
        "unknown": len(rows) - len(known),
    }
    return join_document(facts, ours, theirs, margins)


def _find_columns(one: ScoreTable, other: ScoreTable, choice: ScoreChoice) -> ScoreChoice:
    """Sort the columns that both have by their use. Raises DataError for what must be named."""
    columns = one.columns if one.columns == other.columns else None
    for table in (one, other):
        table.require(choice.scores, "--score")
        table.require(choice.user, "--user")
        table.require(choice.request, "--request")
    one.require(choice.labels, "--label")
    both = [c for c in one.rows.columns if c in other.rows.columns]
    detected = columns.labels if columns else [c.name for c in one.rows if is_label(c)]
    labels = choice.labels or detected
    if not labels:
        raise DataError(f"{one.path}: no column of 0, 1 and null is a label; name one by --label")
    scores = choice.scores or _scores(one, other, [c for c in both if c not in labels])
    user = choice.user or ([columns.user] if columns else [])
    if not user:
        raise DataError(f"{one.path}: name the column of the user by --user; there are {', '.join(both)}")
    if columns:
        keys = list(dict.fromkeys([*columns.request, columns.user, columns.item]))
    else:
        keys = [c for c in both if c not in (*labels, *scores) and not one.rows[c].dtype.is_float()]
    return ScoreChoice(scores, labels, user, choice.request or (columns.request if columns else ()), keys)


def is_label(values: pl.Series) -> bool:
    """Whether a column holds 0, 1 and null alone."""
    kind = values.dtype
    return kind == pl.Boolean or (kind.is_integer() and bool(values.is_in([0, 1]).all()))


def read_label(values: pl.Series, what: str) -> pl.Series:
    """A label as 0, 1 or null. Raises DataError, which says `what` it is, for another value."""
    kind = values.dtype
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.String, pl.Null)):
        raise DataError(f"{what} '{values.name}' is {kind}; expected 0, 1 or null")
    plain = values.cast(pl.Float64, strict=False)
    others = values.filter(values.is_not_null() & ~plain.is_in([0.0, 1.0]).fill_null(False))
    if len(others):
        raise DataError(f"{what} '{values.name}' holds {others[0]!r}; expected 0, 1 or null")
    return plain.cast(pl.Int8)


def _scores(one: ScoreTable, other: ScoreTable, columns: Sequence[str]) -> list[str]:
    """The columns of floats that both have; of a logit and its probability the latter, since their order is one."""
    floats = [c for c in columns if all(table.rows[c].dtype.is_float() for table in (one, other))]
    scores = [c for c in floats if not (c.startswith("logit.") and f"probability.{c[6:]}" in floats)]
    if not scores:
        raise DataError(
            f"{one.path}, {other.path}: no column of floats is in both; the first has {', '.join(one.rows.columns)}, "
            f"the second {', '.join(other.rows.columns)}"
        )
    return scores


def _join(one: ScoreTable, other: ScoreTable, columns: ScoreChoice) -> pl.DataFrame:
    """Join by the keys: labels of the first, scores of both. Raises DataError unless the rows are the same."""
    keys = columns.keys
    beside = [name for name in columns.labels if name in other.rows.columns]
    ours = _select(one, columns, columns.labels, "")
    theirs = _select(other, columns, beside, _OTHER)
    for key in keys:
        if one.rows[key].dtype != other.rows[key].dtype:
            raise DataError(
                f"{other.path}: column '{key}' is {other.rows[key].dtype}, and {one.rows[key].dtype} in {one.path}"
            )
    joined = ours.join(theirs, on=keys, how="inner", nulls_equal=True, maintain_order="left")
    lacks = len(ours) - len(joined), len(theirs) - len(joined)
    if any(lacks):
        raise DataError(
            f"the rows differ: {other.path} lacks {lacks[0]:,} of the {len(ours):,} rows of {one.path}, which lacks "
            f"{lacks[1]:,} of its {len(theirs):,}; keys are {', '.join(keys)}"
        )
    for name in beside:
        differ = joined[name].ne_missing(joined[_OTHER + name]).sum()
        if differ:
            raise DataError(f"label '{name}' differs between the tables in {differ:,} rows; compare one log")
    return joined


def _select(table: ScoreTable, columns: ScoreChoice, labels: Sequence[str], before: str) -> pl.DataFrame:
    """Keys, labels and scores of a table, the latter two named with `before`. Raises DataError if they do not fit."""
    where = f"--label: {table.path}: column"
    labelled = [read_label(table.rows[name], where).alias(before + name) for name in labels]
    selected = []
    for name in columns.scores:
        if not table.rows[name].dtype.is_numeric():
            raise DataError(f"--score: {table.path}: column '{name}' is {table.rows[name].dtype}, no number")
        selected.append(pl.col(name).cast(pl.Float64).alias(before + name))
    keys = table.rows.select(columns.keys)
    if len(repeated := keys.filter(keys.is_duplicated())):
        raise DataError(
            f"{table.path}: {len(repeated):,} rows share the keys {', '.join(columns.keys)}, such as "
            f"{repeated.row(0, named=True)}"
        )
    return table.rows.select(*columns.keys, *labelled, *selected)


def code_rows(rows: pl.DataFrame, columns: Sequence[str]) -> Longs:
    """Number the distinct values of columns, in the order of the rows: (N,)."""
    values = rows.select(columns)
    numbers = values.unique(maintain_order=True).with_row_index("@code")
    joined = values.join(numbers, on=list(columns), how="left", nulls_equal=True, maintain_order="left")
    return joined["@code"].to_numpy().astype(np.int64)


def measure_scores(
    rows: pl.DataFrame,
    scores: Mapping[str, str],
    labels: Sequence[str],
    user: Longs,
    request: Longs | None,
) -> list[Figure]:
    """Measure scores as those of stages on exposed candidates, of the rows whose label is known.

    Args:
        rows: a candidate each: (N,).
        scores: by stage, a column; of probabilities if all are from 0 to 1.
        labels: columns of 1, 0 and null.
        user: code of each row's user: (N,).
        request: code of its request; None without metrics within requests: (N,).
    """

    def inputs(column: str, label: str) -> Mapping[str, Any]:
        values = rows[column].to_numpy()
        return {
            "user": user,
            "request": request,
            "day": None,
            "logit": values,
            "probability": values if ((values >= 0) & (values <= 1)).all() else None,
            "label": rows[label].fill_null(-1).to_numpy(),
            "weight": np.ones(len(values), dtype=np.float32),
        }

    return measure(
        Subject(stage, label, "exposed", inputs(column, label))
        for stage, column in scores.items()
        for label in labels
    )
