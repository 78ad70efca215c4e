"""Puts a table of users into a store."""

from pathlib import Path

from corank.bundle.bundle import Bundle
from corank.core.errors import DataError
from corank.data.point_in_time import newest_rows
from corank.data.tables import Table
from corank.data.validate import check_rows, whole_checks
from corank.features.log_schema import FROM, ID
from corank.serving.store.base import Store
from corank.serving.store.live_version import USERS
from corank.serving.store.publish import BLOCK
from corank.serving.store.record_codec import to_keys
from corank.serving.store.users import encode_user, user_columns


def put_users(source: str, bundle: Bundle, store: Store) -> int:
    """Put the newest row of every user of a table into a store, for all its versions.

    Args:
        source: the table: a file or a glob.
        bundle: tells which columns are needed.
        store: the store.

    Returns:
        The number of users.

    Raises DataError, StoreError.
    """
    manifest = bundle.manifest
    table = Table.scan("users", source, Path())
    table.require([manifest.user])
    check_rows(table, whole_checks(table, [manifest.user]))
    if table.types[manifest.user].is_temporal():
        raise table.unfit(manifest.user, "whole numbers or text")
    columns = [c for c in user_columns(manifest) if c in table.types]
    if not columns:
        raise DataError(f"{source}: has none of the columns {', '.join(user_columns(manifest))}")
    rows = table.frame.select(table.key(manifest.user).alias(ID), table.valid_from().alias(FROM), *columns)
    frame = newest_rows(table.collect(rows.drop_nulls(ID)))
    for first in range(0, len(frame), BLOCK):
        some = frame[first : first + BLOCK]
        values = []
        for id_, row in zip(some[ID], some.select(columns).iter_rows(named=True), strict=True):
            try:
                values.append(encode_user(row))
            except DataError as error:
                raise DataError(f"{source}: user {id_!r}: {error}") from None
        store.put({USERS: list(zip(to_keys(some[ID]), values, strict=True))})
    return len(frame)
