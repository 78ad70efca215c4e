"""Items of a journal, and records of changed items, come from a store: odd ones are reported, or refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from corank.bundle.item_layers import ItemLayer
from corank.core.errors import StoreError
from corank.core.ragged import Ragged
from corank.core.stored_matrix import StoredMatrix
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.fetch import fetch_bundle, load_latest
from corank.serving.store.journal import JOURNAL, Change, journal_key
from corank.serving.store.publish import changed_records, publish_bundle
from corank.serving.store.record_codec import RecordFormat, to_keys
from corank.serving.store.source import StoreSource
from corank.serving.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.served_logs import VALUES
from tests.support.shared import derived
from tests.support.stores import item, opened, worths

pytestmark = pytest.mark.slow

ODD: list[Any] = [
    *VALUES,
    [[1], 2],
    [None],
    [{}],
    {"a": [1]},
    b"\xff",
    float("nan"),
    float("inf"),
    [[[]]],
    ["x", 1.5],
    [1.5, 2**64 - 1],
    [2**64 - 1],
    [2**70],
    10**400,
    [float("nan")],
    "\ud800",
]


def encode(*items: dict[str, Any]) -> tuple[set[bytes], list[str]]:
    """Encode a journal's items for the bundle of `derived`: the keys of those that it takes, and what is said."""
    said: list[str] = []
    change = Change(version="another", at=0, items=list(items), before="")
    return set(changed_records(derived().funnel, "live", change, said.append)), said


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_an_odd_item_of_the_journal_is_told_and_left_out_alone(value: Any) -> None:
    odd, sound = (set(to_keys(pl.Series([id_]))) for id_ in (98, 99))
    for column in derived().funnel.request_encoder.item_columns:
        keys, said = encode(item(3, 98, **{column: value}), item(4, 99))
        if said:
            assert keys == sound and said[0].startswith("item 98 is left out: ")
        else:
            assert keys == odd | sound


def test_an_item_column_that_no_float_holds_is_refused() -> None:
    _, said = encode(item(3, 98, worth=1e39))
    assert said == ["item 98 is left out: column 'worth': 1e+39 is too large for a 32-bit float"]


def test_a_version_is_published_over_a_journal_of_odd_items(tmp_path: Path) -> None:
    first = derived().base / "bundle"
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(first, store)
        seq = upsert(store, version, derived().funnel, [item(3, 98), item(4, 99)])
        (raw,) = store.get(JOURNAL, [journal_key(seq)])
        assert raw is not None
        change = msgspec.msgpack.decode(raw, type=Change)
        odd = msgspec.structs.replace(change, items=[item(3, 98, worth=[[1], {}]), item(4, 99)])
        store.put({JOURNAL: [(journal_key(seq), msgspec.msgpack.encode(odd))]})
        said: list[str] = []
        live = publish_bundle(variant(first, tmp_path / "second", 2), store, said.append)
        assert said[0].startswith("item 98 is left out: ")
        funnel = load_latest(store, live, Funnel(fetch_bundle(store, live, tmp_path / "cache")))
        assert worths(funnel).keys() == {*range(16), 99}


def _code(layer: ItemLayer, code: int) -> ItemLayer:
    rows = replace(layer.records.rows, ids=np.full_like(layer.records.rows.ids, code))
    return replace(layer, records=replace(layer.records, rows=rows))


def _listed(layer: ItemLayer, code: int) -> ItemLayer:
    rows = layer.records.rows
    count = len(rows.ids)
    lists = tuple(
        Ragged(np.arange(count), np.ones(count, np.int32), np.full(count, code, np.int32)) for _ in rows.lists
    )
    return replace(layer, records=replace(layer.records, rows=replace(rows, lists=lists)))


def _number(layer: ItemLayer, number: float) -> ItemLayer:
    table = layer.records.rows
    rows = replace(table, numbers=np.full_like(table.numbers, number))
    return replace(layer, records=replace(layer.records, rows=rows))


def _vector(layer: ItemLayer, number: float) -> ItemLayer:
    return replace(
        layer, parts={n: StoredMatrix(np.full_like(v.values, number)) for n, v in layer.parts.items()}
    )


@pytest.mark.parametrize(
    ("alter", "value", "reason"),
    [
        (_code, 10**6, "codes from 1000000 to 1000000; the table has "),
        (_code, -1, "codes from -1 to -1; the table has "),
        (_listed, 10**6, "codes from 1000000 to 1000000; the table has "),
        (_listed, -1, "codes from -1 to -1; the table has "),
        (_number, np.nan, "holds an infinity or NaN"),
        (_vector, np.nan, "holds an infinity or NaN"),
        (_vector, np.inf, "holds an infinity or NaN"),
    ],
)
def test_an_intact_record_that_fits_no_table_is_refused_by_its_item(
    tmp_path: Path, alter: Callable[[ItemLayer, Any], ItemLayer], value: Any, reason: str
) -> None:
    """Whoever can write to the store can compute checksums."""
    funnel = derived().funnel
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(derived().base / "bundle", store)
        source = StoreSource(store, tmp_path / "cache")
        served = source.load_newer(None)
        seq = upsert(store, version, funnel, [item(n, 90 + n) for n in range(5)])
        layer = funnel.request_encoder.encode_items([93], [{k: v for k, v in item(3).items() if k != "id"}])
        form = RecordFormat.from_manifest(funnel.manifest)
        forged = dict(form.encode(alter(layer, value), np.arange(1)))
        store.put({f"changed/{version}": [*forged.items()]})
        with pytest.raises(StoreError, match=f"item 93: .*{reason}"):
            StoreSource(store, tmp_path / "cache").load_newer(None)
        (raw,) = store.get(JOURNAL, [journal_key(seq)])
        assert raw is not None and served is not None
        change = msgspec.msgpack.decode(raw, type=Change)
        records = [*(dict(change.records) | forged).items()]
        entry = msgspec.msgpack.encode(msgspec.structs.replace(change, records=records))
        store.put({JOURNAL: [(journal_key(seq), entry)]})
        with pytest.raises(StoreError, match=f"item 93: .*{reason}"):
            source.load_newer(served)
