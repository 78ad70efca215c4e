"""Users in a store: their columns, for requests that give only a user's id."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import polars as pl
from msgspec import Meta

from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, StoreError
from corank.funnel.funnel import Funnel
from corank.funnel.request import MAX_VALUES, Columns, Request
from corank_serve.store.base import Pairs, Store
from corank_serve.store.live_version import USERS, OffsetMoves, StoreState
from corank_serve.store.record_codec import to_keys

USER_BYTES = 1 << 20
"""Largest columns of one user."""
_decoder = msgspec.json.Decoder(Annotated[Columns, Meta(max_length=MAX_VALUES)])


def user_columns(manifest: BundleManifest) -> list[str]:
    """Return the columns of a user that a request may have, histories among them."""
    columns = manifest.request_columns
    return [*columns.user, *(name for name in columns.histories if name not in columns.user)]


def change_users(store: Store, users: Pairs, removed: Sequence[bytes], moves: OffsetMoves) -> None:
    """Put users of a stream into a store, and remove others, with the offsets of their messages.

    Args:
        store: the store.
        users: key and columns.
        removed: keys, others than those.
        moves: offsets, which change with the users.

    Raises OffsetsMovedError if the users were applied already, StoreError.
    """
    while True:
        raw, state = StoreState.read(store)
        after = state.with_offsets(moves, store.address).to_bytes()
        if store.swap(raw, after, {USERS: users} if users else {}, {USERS: removed} if removed else {}):
            return


def encode_user(columns: Mapping[str, Any]) -> bytes:
    """Encode a user's columns as a store has them. Raises DataError if a request could not have them."""
    try:
        value = msgspec.json.encode(columns)
        _decoder.decode(value)
    except (msgspec.MsgspecError, TypeError, UnicodeEncodeError) as error:
        raise DataError(str(error)) from None
    if len(value) > USER_BYTES:
        raise DataError(
            f"the columns take {len(value):,} bytes, {USER_BYTES:,} at most are taken; shorten the histories"
        )
    return value


def check_user(funnel: Funnel, id_: int | str, value: bytes) -> None:
    """Raise RequestError for a user, as `encode_user` encoded it, whose requests a bundle would refuse."""
    funnel.prepare(Request(user={**_decoder.decode(value), "id": id_}))


class UserStore:
    """Looks users up in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, id_: Any) -> dict[str, Any] | None:
        """Return a user's columns, None if the store does not have the user. Raises StoreError."""
        if type(id_) not in (int, str) or (isinstance(id_, int) and not -(2**63) <= id_ < 2**63):
            return None
        (raw,) = self._store.get(USERS, to_keys(pl.Series([id_])))
        return None if raw is None else self._decode(raw, id_)

    def _decode(self, raw: bytes, id_: int | str) -> dict[str, Any]:
        """Decode columns, which have the bounds of a request's. Raises StoreError."""
        where = f"{self._store.address}: the stored columns of user {id_!r} cannot be used"
        if len(raw) > USER_BYTES:
            raise StoreError(f"{where}: {len(raw):,} bytes, {USER_BYTES:,} at most are read")
        try:
            columns = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{where}: {error}") from None
        return {name: value for name, value in columns.items() if name != "id"}
