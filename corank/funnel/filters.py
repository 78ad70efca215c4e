"""The filters of retrieval: encoded, checked, and why nothing passes them."""

from typing import Any

import polars as pl

from corank.bundle.retrieval import Where, filter_columns
from corank.core.errors import DataError, RequestError
from corank.features.encoders import Encoders
from corank.features.encoding import FIRST_KNOWN, Hash, Vocabulary, hash_values, to_identifiers
from corank.funnel.ranking import RequestWarning
from corank.funnel.request import Request, refuse_unknown_column, to_series


class FilterEncoder:
    """Encodes and checks the filters of requests to one bundle."""

    def __init__(self, encoders: Encoders) -> None:
        self._columns = filter_columns(encoders.schema)
        self._encoders = encoders.fitted

    def encode(self, request: Request) -> Where:
        """Encode the filters of a request.

        Raises RequestError for a column that is no filter, and for values of another type than the items'.
        """
        filters = []
        for column, values in request.where.items():
            if column not in self._columns:
                refuse_unknown_column("where", column, set(self._columns))
            try:
                hashed = hash_values(self._read(column, values), self._columns[column])
            except DataError as error:
                raise RequestError(f"where: {error}") from None
            filters.append((self._columns[column], tuple(sorted(set(hashed.tolist()) - {0}))))
        return tuple(sorted(filters))

    def warn(self, request: Request) -> list[RequestWarning]:
        """Say why no item passes the filters of a request, if it has any."""
        if not request.where:
            return []
        strange = [column for column, values in request.where.items() if not self._is_known(column, values)]
        reason = f"the bundle knows no such {', '.join(strange)}" if strange else "no item has them all"
        return [("filter", f"where: no item passes; {reason}")]

    def _read(self, column: str, values: Any) -> pl.Series:
        """The values of a filter. Raises RequestError or DataError for values of another type than the items'."""
        listed = values if isinstance(values, list) else [values]
        read = to_identifiers(to_series(column, listed, "where"), self._columns[column])
        dtype = self._type(column)
        if dtype is not None and read.dtype != dtype and read.null_count() < len(read):
            expected = "text" if dtype == pl.String else "whole numbers"
            value = next(value for value in listed if value is not None)
            raise RequestError(
                f"where.{column}: expected {expected}, as in the bundle; received {value!r:.100}"
            )
        return read

    def _type(self, column: str) -> pl.DataType | None:
        """The type of a column's values; None if the bundle has none."""
        encoder = self._encoders.get(self._columns[column])
        if isinstance(encoder, Vocabulary):
            return encoder.dtype if len(encoder.values) else None
        return encoder.dtype if isinstance(encoder, Hash) else None

    def _is_known(self, column: str, values: Any) -> bool:
        """Whether training knew some value of a filter, as far as the bundle can tell."""
        encoder = self._encoders.get(self._columns[column])
        if not isinstance(encoder, Vocabulary):
            return True
        codes = encoder.codes(self._read(column, values), self._columns[column])
        return bool((codes >= FIRST_KNOWN).any())
