"""Packings of random worlds that go on from others know what one packing of all days knows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from corank.data.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.data.state.earlier_pack import EarlierPack
from corank.features.vocabulary import Vocabulary
from corank.training.config_file import from_plain
from tests.support.random_config import world_config
from tests.support.random_tables import write_tables
from tests.support.random_worlds import DAY, HOUR, RICH, Drawn, drawn_worlds

pytestmark = pytest.mark.slow
FIRST = {"train": "..1970-01-03", "valid": "1970-01-03..1970-01-04"}
SECOND = {"train": "1970-01-03..1970-01-04", "valid": "1970-01-04.."}


def packed(
    folder: Path, drawn: Drawn, split: dict[str, str], out: str, earlier: EarlierPack | None = None
) -> PackedDataset:
    plain: dict[str, Any] = world_config(drawn)
    config = from_plain(plain | {"data": plain["data"] | {"split": split}}, "config", folder)
    return pack_log(config.data, config.declared, folder, folder / out, earlier=earlier)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn_worlds)
@example(RICH)
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
        for found, expected in zip(later.splits[split], shards, strict=True):
            assert found.keys.equals(expected.keys)
            assert np.array_equal(found.item, expected.item)
            assert np.array_equal(found.user, expected.user)
            for label in expected.labels:
                assert np.array_equal(found.labels[label], expected.labels[label])
            names = whole.schema.row_features("query").lists
            lists = zip(names, found.query.lists, expected.query.lists, strict=True)
            for name, here, there in lists:
                if name in whole.schema.histories():
                    assert np.array_equal(here.length, there.length)
    check_priors(later, whole)


def check_priors(later: PackedDataset, whole: PackedDataset) -> None:
    """All counts of keys that no bucket is part of, whose edges are learnt, are the same at any later cut."""
    for name, prior in whole.schema.priors().items():
        operands = whole.schema.derived()[name].operands
        if any(whole.schema.features[operand].kind == "bucket" for operand in operands):
            continue
        held = [one.priors.rates[name] for one in (later, whole)]
        keys = np.unique(np.concatenate([one.keys for one in held]))
        for time in (2 * DAY, 2 * DAY + 7 * HOUR, 3 * DAY, 3 * DAY + 5 * HOUR, 5 * DAY):
            cuts = whole.priors.cuts(name, prior.every, np.full(len(keys), time))
            index = [np.searchsorted(one.keys, keys) for one in held]
            assert all(np.array_equal(one.keys, keys) for one in held), name
            found, expected = (
                one.counts.before(at, cuts, prior.memory) for one, at in zip(held, index, strict=True)
            )
            assert np.array_equal(found, expected), name
