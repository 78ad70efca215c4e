"""Texts that stand for nothing in the files of an import, such as NULL or N/A, told from values and read as nulls.

A column of text is numbers, times, or true and false if all its other values are. In a column of other texts what
sounds like nothing stays a value, unless it is blank or `--nulls` names it. What was done is reported.
"""

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report
from corank.data.null_texts import NOTHING, find_among_numbers, is_text, name_texts
from corank.datasets.list_files import ListFiles

_Read = Callable[[pl.Expr], pl.Expr]


def _read_time(form: str) -> _Read:
    return lambda text: text.str.to_datetime(form, time_unit="us", strict=False)


_KINDS: Mapping[str, _Read] = {
    "numbers": lambda text: text.cast(pl.Int64, strict=False),
    "decimal numbers": lambda text: text.cast(pl.Float64, strict=False),
    "true and false": lambda text: text.str.to_lowercase().replace_strict(
        {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
    ),
    "dates": lambda text: text.str.to_date("%Y-%m-%d", strict=False),
    "times": _read_time("%Y-%m-%d %H:%M:%S%.f"),
    "times (ISO 8601)": _read_time("%Y-%m-%dT%H:%M:%S%.f"),
}
"""What texts may be, the first that fits."""
_CODE = r"^\s*[+-]?0\d"
"""Digits that are no number: their zeros count."""
_WHOLE = r"^\s*[+-]?\d+\s*$"
HEAD = 10_000
"""Rows that tell a column of text."""


@dataclass(frozen=True)
class NullTexts:
    """What stands for nothing in the columns of a log and its tables."""

    texts: tuple[str, ...] = ()
    """By hand, in any column."""
    report: Report = lambda line: None
    """Takes a line about each column."""
    _found: set[str] = field(default_factory=set)

    def settle(self, files: ListFiles, ids: Collection[str]) -> ListFiles:
        """Read such texts as nulls, and what is then numbers or the like as such.

        Args:
            files: as they are.
            ids: columns that stay text.
        """
        columns = {name: _Column.of(name, kind, files.rows) for name, kind in files.types.items()}
        columns = {name: one for name, one in columns.items() if is_text(one.kind) or one.kind.is_numeric()}
        held = _Column.row(files.rows, [self._nothing(column).any() for column in columns.values()])
        changes = dict[str, pl.Expr]()
        for (name, column), holds in zip(columns.items(), held, strict=True):
            read: _Read | None = None
            if holds:
                text = is_text(column.kind)
                read = self._settle_text(column, name in ids) if text else self._settle_number(column)
            elif is_text(column.kind):
                self._tell_among_numbers(column)
            if read is not None:
                values = pl.col(name)
                changes[name] = values.list.eval(read(pl.element())) if column.listed else read(values)
        frames = {path: frame.with_columns(**changes) for path, frame in files.frames.items()}
        return replace(files, frames=frames, types=next(iter(frames.values())).collect_schema())

    def refuse_unfound(self) -> None:
        """Raise DataError for a text that is named, and in no column."""
        for text in self.texts:
            if text not in self._found:
                raise DataError(f"import lists: no column holds {text!r} (--nulls); drop it")

    def _nothing(self, column: "_Column") -> pl.Expr:
        """Whether a value may stand for nothing."""
        values = column.values
        if is_text(column.kind):
            text = values.cast(pl.String)
            return text.str.contains(NOTHING) | text.is_in(list(self.texts))
        named = (
            values.cast(pl.Float64).is_in(list(self._numbers.values())) if self._numbers else pl.lit(False)
        )
        return named | values.is_nan() if column.kind.is_float() else named

    @cached_property
    def _numbers(self) -> dict[str, float]:
        """Texts by hand that are numbers, too."""
        return {text: number for text in self.texts if (number := _number(text)) is not None}

    def _settle_text(self, column: "_Column", keep: bool) -> _Read | None:
        text, nothing = column.values.cast(pl.String), self._nothing(column)
        counts = column.count(text.filter(nothing))
        fits = column.fits(text.filter(~nothing))
        by_hand = {one: n for one, n in counts.items() if not one.strip() or one in self.texts}
        nulls = counts if fits else by_hand
        if nulls:
            self._say_read(column, nulls, f"; the others are {fits}" if fits else "")
        if kept := {one: n for one, n in counts.items() if one not in nulls}:
            self._say_kept(f"{column.name}: {name_texts(kept)} taken as a value", kept)
        if not nulls:
            return None

        def read(values: pl.Expr) -> pl.Expr:
            texts = values.cast(pl.String)
            known = pl.when(~texts.is_in(list(nulls))).then(texts)
            return _KINDS[fits](known) if fits and not keep else known

        return read

    def _tell_among_numbers(self, column: "_Column") -> None:
        """Say that a column of text is numbers but for a few texts."""
        if among := column.among_numbers():
            self._say_kept(f"{column.name}: numbers but for {name_texts(among)}, taken as text", among)

    def _settle_number(self, column: "_Column") -> _Read:
        """Of numbers NaN is nothing, and what is named."""
        values, is_float = column.values, column.kind.is_float()
        nothing = {"NaN": values.is_nan()} if is_float else {}
        nothing |= {text: values == number for text, number in self._numbers.items() if text not in nothing}
        sums = _Column.row(column.rows, [one.sum() for one in nothing.values()])
        self._say_read(column, {text: n for text, n in zip(nothing, sums, strict=True) if n})
        nulls = list(self._numbers.values())

        def read(values: pl.Expr) -> pl.Expr:
            known = values.fill_nan(None) if is_float else values
            return pl.when(~known.cast(pl.Float64).is_in(nulls)).then(known) if nulls else known

        return read

    def _say_read(self, column: "_Column", nulls: dict[str, int], more: str = "") -> None:
        self._found.update(nulls.keys() & self.texts)
        self.report(f"{column.name}: {name_texts(nulls)} read as missing{more}")

    def _say_kept(self, said: str, texts: Collection[str]) -> None:
        """Name what may stand for nothing and is kept: it sounds like it, or it stands among numbers alone."""
        self.report(f"{said}; --nulls {shlex.quote(','.join(texts))} reads it as missing")


@dataclass(frozen=True)
class _Column:
    """A column of files, or the elements of its lists."""

    name: str
    kind: pl.DataType
    """Of the elements, if it holds lists."""
    listed: bool
    rows: pl.LazyFrame

    @classmethod
    def of(cls, name: str, kind: pl.DataType, rows: pl.LazyFrame) -> Self:
        """A column of a type."""
        listed = isinstance(kind, pl.List)
        return cls(name, kind.inner if listed else kind, listed, rows)  # type: ignore[attr-defined]

    @property
    def values(self) -> pl.Expr:
        """Each by itself."""
        return pl.col(self.name).explode() if self.listed else pl.col(self.name)

    @staticmethod
    def row(rows: pl.LazyFrame, sums: Sequence[pl.Expr]) -> tuple[Any, ...]:
        """Values of all rows together."""
        chosen = rows.select(one.alias(f"{n}") for n, one in enumerate(sums))
        return chosen.collect(engine="streaming").row(0) if sums else ()

    def count(self, texts: pl.Expr) -> dict[str, int]:
        """The rows of each text, the most frequent first."""
        counted = self.rows.select(texts.alias("text")).drop_nulls().group_by("text").len()
        return dict(counted.sort("len", "text", descending=[True, False]).collect(engine="streaming").rows())

    def fits(self, texts: pl.Expr) -> str:
        """What all texts are, by the names of `_KINDS`; blank if there is none, or they are texts."""
        unlike = [read(texts).is_null().any() for read in _KINDS.values()]
        known = texts.drop_nulls()
        sums = [known.len(), known.str.contains(_CODE).any(), known.str.contains(_WHOLE).all(), *unlike]
        count, codes, whole, *unfit = self.row(self.rows, sums)
        fitting = next((name for name, bad in zip(_KINDS, unfit, strict=True) if not bad), "")
        beyond = whole and fitting != "numbers"  # ids of more than 64 bits
        return fitting if count and not codes and not beyond else ""

    def among_numbers(self) -> dict[str, int]:
        """The few texts of a column of numbers; its first rows tell whether it can be one."""
        value = self.values.cast(pl.String).alias("value")
        head = self.rows.head(HEAD).select(value).drop_nulls().unique().collect().to_series()
        if 2 * head.cast(pl.Float64, strict=False).is_not_null().sum() <= len(head):
            return {}
        counts = self.rows.select(value).group_by("value").agg(rows=pl.len())
        return find_among_numbers(counts.collect(engine="streaming"))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
