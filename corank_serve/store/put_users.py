"""Puts a table of users into a store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from corank.bundle.bundle import Bundle
from corank.core.errors import DataError, RequestError
from corank.data.point_in_time import newest_rows, settle_versions
from corank.data.tables import Table
from corank.data.validate import check_rows, whole_checks
from corank.features.log_schema import FROM, ID
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store
from corank_serve.store.live_version import USERS
from corank_serve.store.publish import BLOCK
from corank_serve.store.record_codec import to_keys
from corank_serve.store.users import check_user, encode_user, user_columns

CHECKED = 100
"""Users of a block that the bundle checks, some ms each: all of a column are of one type."""


def put_users(source: str, bundle: Bundle, store: Store) -> int:
    """Put the newest row of every user of a table into a store, for all its versions.

    Args:
        source: the table: a file or a glob.
        bundle: tells which columns are needed, and checks users as it would in a request.
        store: the store.

    Returns:
        The number of users.

    Raises DataError, StoreError.
    """
    manifest = bundle.manifest
    table = Table.scan("users", source, Path(), manifest.data.nulls)
    table.require([manifest.user])
    check_rows(table, whole_checks(table, [manifest.user]))
    if table.types[manifest.user].is_temporal():
        raise table.unfit(manifest.user, "whole numbers or text")
    columns = [c for c in user_columns(manifest) if c in table.types]
    if not columns:
        raise DataError(f"{source}: has none of the columns {', '.join(user_columns(manifest))}")
    rows = table.collect(table.frame.select(*table.versions(manifest.user), *columns).drop_nulls(ID))
    frame, funnel = newest_rows(settle_versions(rows)), Funnel(bundle)
    for n, (id_, row) in enumerate(_rows(frame)):
        try:
            value = encode_user(row)
            if n % BLOCK < CHECKED:
                check_user(funnel, id_, value)
        except (DataError, RequestError) as error:
            raise DataError(f"{source}: user {id_!r}: {error}") from None
    for some in frame.iter_slices(BLOCK):
        values = [encode_user(row) for _, row in _rows(some)]
        store.put({USERS: list(zip(to_keys(some[ID]), values, strict=True))})
    return len(frame)


def _rows(frame: pl.DataFrame) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """The id and the columns of each user."""
    columns = frame.drop(ID, FROM, strict=False)
    return zip(frame[ID], columns.iter_rows(named=True), strict=True)
