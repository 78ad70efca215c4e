"""The columns of the log of served requests: one Arrow schema per model, so that no column ever changes its type.

Each of its Parquet files says in its metadata which of its columns are what.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from corank.bundle.manifest import BundleManifest
from corank.core.errors import CorankError, DataError
from corank.data.file_columns import ServedColumns
from corank.features.encoders import Encoders
from corank.features.encoding import Placement
from corank.features.feature_kind import ColumnFeature
from corank.funnel.request import RankAnswer


class LogColumns(ServedColumns, frozen=True):
    """The columns by which a log of served requests is read."""

    stages: tuple[str, ...]
    """In order; each has its `score_STAGE`."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read those of a file. Raises DataError if it is damaged, or of an earlier release."""
        if (columns := super().read(file)) is not None:
            return columns
        raise DataError(
            f"{file}: does not say which of its columns are what; `corank serve --log` writes files that do"
        )


SERVED, REQUEST, ROLE = "served_id", "served_request", "served_role"
"""Columns: an id of each time a request is served, which its answer names; the request as JSON, on the first of its
rows; whether the `live` version answered or its `canary`, or the `shadow` would have."""
ITEMS_ID = "items_id"
VERSION = ("model_version", "items_seq", ITEMS_ID)
EXPLORED = "explored"
"""Column: how the page of the request was drawn; null if it was not."""
ANSWERED = {SERVED: "served_id", ROLE: "role", EXPLORED: "explored"} | {name: name for name in VERSION}
"""Columns that are the same on all rows of a request → the field of its answer that each repeats."""
LARGEST = float(np.finfo(np.float32).max)
"""Training reads values as 32-bit floats, and mean and deviation of larger numbers are infinite."""
REACH = 10.0
"""Widths of the range of training by which a number may lie outside of it, and be logged as it is."""


class UnfitValueError(CorankError):
    """A value of a request does not fit its column of the log."""


@dataclass(frozen=True)
class LogColumn:
    """A column of the log that requests fill."""

    type: pa.DataType
    convert: Callable[[Any], Any] | None = None
    """Writes a request's value as tables write it; None if both are the same."""
    limits: tuple[float, float] | None = None
    """The range of training, to which encoders clip numbers; None if they do not."""

    def to_array(self, name: str, values: list[Any]) -> pa.Array:
        """Convert values of requests. Raises UnfitValueError, which names the column and the value."""
        try:
            if self.convert is not None:
                values = [None if value is None else self.convert(value) for value in values]
            if not set(map(type, values)) <= _exact(self.type):
                values = [None if value is None else _fit(self.type, value) for value in values]
            array = pa.array(values, self.type)
        except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
            raise UnfitValueError(f"column '{name}': {str(error).splitlines()[0][:300]}") from None
        return self._bound_numbers(name, array) if pa.types.is_floating(self.type) else array

    def _bound_numbers(self, name: str, array: pa.Array) -> pa.Array:
        """Write numbers far outside the range of training as the model saw them: as the end of the range."""
        largest = pc.max(pc.abs(array)).as_py()
        if largest is not None and largest > LARGEST:
            raise UnfitValueError(f"column '{name}': {largest} is too large")
        if self.limits is None:
            return array
        low, high = self.limits
        reach = REACH * ((high - low) or max(abs(high), 1.0))
        array = pc.if_else(pc.less(array, low - reach), low, array)
        return pc.if_else(pc.greater(array, high + reach), high, array)


def _exact(kind: pa.DataType) -> set[type]:
    """The types of values that Arrow takes as they are."""
    if pa.types.is_floating(kind):
        return {float, type(None)}
    if pa.types.is_integer(kind):
        return {int, type(None)}
    return {str, type(None)} if pa.types.is_large_string(kind) else set()


def _fit(kind: pa.DataType, value: Any) -> Any:
    """Convert a value to a column's type, by the rules of encoders. Raises ValueError if it is of another type."""
    if pa.types.is_floating(kind) and type(value) in (int, float, bool):
        return float(value)
    if pa.types.is_integer(kind) and (
        type(value) in (int, bool) or (type(value) is float and value.is_integer())
    ):
        return int(value)
    if pa.types.is_large_string(kind) and type(value) is str:
        return value
    if pa.types.is_large_list(kind) and isinstance(value, list):
        return [None if one is None else _fit(kind.value_type, one) for one in value]
    raise ValueError(f"expected {_describe(kind)}; received {value!r}")


def _describe(kind: pa.DataType) -> str:
    if pa.types.is_large_list(kind):
        return f"a list of {_describe(kind.value_type)}"
    if pa.types.is_large_string(kind):
        return "text"
    return "whole numbers" if pa.types.is_integer(kind) else "numbers"


TEXT = pa.large_string()
_ANY = LogColumn(TEXT, lambda value: value if isinstance(value, str) else repr(value))
"""A column whose type the bundle does not know: everything as text."""


@dataclass(frozen=True)
class LogFormat:
    """The columns of the log of one model."""

    user: str
    time: str
    item: str
    level: str
    levels: tuple[str, ...]
    propensity: str
    """Of the probability at which a candidate is on a drawn page."""
    request: dict[str, LogColumn]
    """Columns of the user and the context, with the user's id."""
    candidate: dict[str, LogColumn]
    """Columns that come with the candidates."""
    generated: tuple[str, ...]
    """Parts of the request key that no request carries: a new id each time."""
    stages: tuple[str, ...]
    schema: pa.Schema

    @classmethod
    def of(cls, manifest: BundleManifest, encoders: Encoders, item: pl.DataType) -> Self:
        """Derive the columns from a bundle; `item` is the type of its items' ids."""
        data = manifest.data
        request = _feature_columns(encoders, "query")
        request[data.user] = _user_column(manifest, request.get(data.user))
        values = {name: LogColumn(pa.float64()) for name in manifest.request_columns.values}
        candidate = _feature_columns(encoders, "cross") | values
        generated = [name for name in data.request if name not in request and name != data.time]
        stages, level = [stage.name for stage in manifest.stages], data.level or "level"
        types = {name: column.type for name, column in request.items()}
        types |= {data.time: pa.timestamp("ms", "UTC")} | dict.fromkeys(
            [*generated, SERVED, ROLE, REQUEST], TEXT
        )
        types |= {name: _answer_type(of) for name, of in ANSWERED.items()} | {data.item: to_arrow(item)}
        types |= {name: column.type for name, column in candidate.items()} | {level: TEXT}
        types |= {f"score_{stage}": pa.float64() for stage in stages}
        types[propensity := propensity_column(manifest)] = pa.float64()
        return cls(
            data.user,
            data.time,
            data.item,
            level,
            tuple(data.levels),
            propensity,
            request,
            candidate,
            tuple(generated),
            tuple(stages),
            pa.schema(
                list(types.items()), LogColumns(data.user, data.time, data.item, tuple(stages)).metadata()
            ),
        )


def propensity_column(manifest: BundleManifest) -> str:
    """The column of propensities: that of the log on which the model was trained, if it has one."""
    return manifest.data.propensity or "propensity"


def _answer_type(name: str) -> pa.DataType:
    """The Arrow type of a field of an answer."""
    kind = get_type_hints(RankAnswer)[name]
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}.get(kind, TEXT)


def to_arrow(kind: pl.DataType) -> pa.DataType:
    """Give the Arrow type of a polars type."""
    return pl.Series([], dtype=kind).to_arrow().type


def _feature_columns(encoders: Encoders, placement: Placement) -> dict[str, LogColumn]:
    """The columns of a placement's features."""
    schema, columns = encoders.schema, dict[str, LogColumn]()
    for name, feature in schema.columns(placement).items():
        encoder, column = encoders.fitted.get(schema.table_of(name)), schema.column(name)
        kind = feature.dtype(encoder)
        plain = type(feature).to_table is ColumnFeature.to_table
        # several features may read one column, and some of them clip
        limits = (encoder.limits if encoder else None) or (
            columns[column].limits if column in columns else None
        )
        columns[column] = (
            LogColumn(to_arrow(kind), None if plain else feature.to_table, limits) if kind else _ANY
        )
        for more, (more_kind, convert) in feature.more_columns.items():
            columns[more] = LogColumn(to_arrow(more_kind), convert)
    return columns


def _user_column(manifest: BundleManifest, id_column: LogColumn | None) -> LogColumn:
    """The column of the user's id: by the manifest, by its feature, else text."""
    types: dict[str | None, pa.DataType] = {"text": TEXT, "whole numbers": pa.int64()}
    if manifest.user_ids in types:
        return LogColumn(types[manifest.user_ids])
    return id_column or _ANY
