"""Packings of random worlds that continue others have the features of one packing of all days.

So does `corank check --against`, which reads the new rows alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from corank.core.ragged import Ragged, Vectors
from corank.core.types import Hashes, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.earlier_pack import EarlierPack
from corank.data.packing.pack import pack_log
from corank.features.encoding import Encoded, Vocabulary
from corank.features.priors import PriorCounts
from corank.features.schema import PLACEMENTS
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain
from corank.training.drift.encoded_rows import ComparedFeatures, ReferenceRows, encode_period
from tests.support.random_config import world_config
from tests.support.random_tables import write_tables
from tests.support.random_worlds import DAY, DERIVED, HOUR, Drawn, drawn_worlds

pytestmark = pytest.mark.slow
FIRST = {"train": "..1970-01-03", "valid": "1970-01-03..1970-01-04"}
FULL = DERIVED | {
    "counted": True,
    "histories": [*DERIVED["histories"], {"pool": "sum", "last": 3, "source": "events", "beside": True}],
}
SECOND = {"train": "1970-01-03..1970-01-04", "valid": "1970-01-04.."}


def config_of(folder: Path, drawn: Drawn, split: dict[str, str]) -> Config:
    plain: dict[str, Any] = world_config(drawn)
    return from_plain(plain | {"data": plain["data"] | {"split": split}}, "config", folder)


def packed(
    folder: Path, drawn: Drawn, split: dict[str, str], out: str, earlier: EarlierPack | None = None
) -> PackedDataset:
    config = config_of(folder, drawn, split)
    return pack_log(config.data, config.declared, folder, folder / out, earlier=earlier)


@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn_worlds)
@example(FULL)
def test_what_requests_know_is_the_same(tmp_path_factory: pytest.TempPathFactory, drawn: Drawn) -> None:
    folder = tmp_path_factory.mktemp("days")
    write_tables(folder, drawn, np.random.default_rng(drawn["seed"]))
    first = packed(folder, drawn, FIRST, "first")
    later = packed(folder, drawn, SECOND, "later", EarlierPack.of(first, fixed=True))
    whole = packed(folder, drawn, SECOND, "whole")
    for name, encoder in later.encoders.fitted.items():
        if isinstance(encoder, Vocabulary):
            before = first.encoders.fitted[name]
            assert isinstance(before, Vocabulary)
            assert encoder.values.to_list() == before.values.to_list()
    for split, shards in whole.splits.items():
        for actual, expected in zip(later.splits[split], shards, strict=True):
            assert actual.keys.equals(expected.keys)
            assert np.array_equal(actual.item, expected.item)
            assert np.array_equal(actual.user, expected.user)
            for label in expected.labels:
                assert np.array_equal(actual.labels[label], expected.labels[label])
            names = whole.schema.row_features("query").lists
            lists = zip(names, actual.query.lists, expected.query.lists, strict=True)
            for name, here, there in lists:
                if name in whole.schema.histories():
                    assert np.array_equal(here.length, there.length)
    check_priors(later, whole)
    check_new_rows(first, packed(folder, drawn, SECOND, "grown", EarlierPack.of(first)))


def check_new_rows(first: PackedDataset, later: PackedDataset) -> None:
    """Validation encodes the new rows as the first packing does, where they are its validation rows."""
    compared = ComparedFeatures.of(first.schema, later.schema)
    read = {name for placement in PLACEMENTS for name in first.schema.row_features(placement)}
    known = {*compared.columns, *compared.derived, *compared.histories}
    assert known.isdisjoint(compared.left_out) and known | compared.left_out.keys() == read
    begin, end = first.data.training_end(), later.data.training_end()
    new = encode_period(later, begin, end, sorted(known), first.encoders)
    packed_rows = ReferenceRows(first).encoded("valid", sorted(known))
    assert packed_rows is not None and len(new) == len(packed_rows) > 0
    for name in known:
        assert sorted_values(new.encoded[name]) == sorted_values(packed_rows.encoded[name]), name


def sorted_values(encoded: Encoded) -> list[Any]:
    if isinstance(encoded, Ragged):
        return sorted(encoded.take(np.array([n])).flat().tolist() for n in range(len(encoded.length)))
    numbers = encoded.with_missing() if isinstance(encoded, Vectors) else encoded
    return sorted(np.nan_to_num(numbers.astype(np.float64), nan=-9.0).reshape(len(numbers), -1).tolist())


def check_priors(later: PackedDataset, whole: PackedDataset) -> None:
    """All counts of keys that no bucket is part of, whose edges are learnt, are the same at any later cut."""
    for name, prior in whole.schema.priors().items():
        operands = whole.schema.derived()[name].operands
        if any(whole.schema.features[operand].kind == "bucket" for operand in operands):
            continue
        rates = [one.priors.rates[name] for one in (later, whole)]
        keys = np.unique(np.concatenate([one.keys for one in rates]))
        for time in (2 * DAY, 2 * DAY + 7 * HOUR, 3 * DAY, 3 * DAY + 5 * HOUR, 5 * DAY):
            cuts = whole.priors.cuts(name, prior.every, np.full(len(keys), time))
            actual, expected = (one.counts.before(index_of(one, keys), cuts, prior.memory) for one in rates)
            assert np.array_equal(actual, expected), name


def index_of(counts: PriorCounts, keys: Hashes) -> Longs:
    """Find keys, −1 for a missing one: keys that left the window of a prior are dropped."""
    index = np.minimum(np.searchsorted(counts.keys, keys), len(counts.keys) - 1)
    return np.where(counts.keys[index] == keys, index, -1)
