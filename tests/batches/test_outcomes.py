"""Rows that are drawn for losses of outcomes: outcomes of all levels, others of their requests, and rates of items."""

import numpy as np
import polars as pl
import pytest
import torch

from corank.batches.batch import Batch
from corank.batches.outcomes import smooth_rates
from corank.batches.reader import Reader
from corank.batches.sampling import OUTCOMES, Outcomes
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.features.kinds.id import IdFeature
from corank.features.schema import Schema
from tests.support.configs import data_settings

REQUESTS, CANDIDATES, ITEMS, KNOWN = 400, 10, 40, 4
"""Users act on the first KNOWN items alone, in half of the requests."""
EXPOSED = 1


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    folder, rng = tmp_path_factory.mktemp("outcomes"), np.random.default_rng(0)
    request = np.repeat(np.arange(REQUESTS), CANDIDATES)
    item = np.concatenate([rng.permutation(ITEMS)[:CANDIDATES] for _ in range(REQUESTS)])
    shown = rng.random(len(item)) < 0.3
    log = pl.DataFrame({"request": request, "user": request % 7, "item": item, "time": request * 60_000})
    log = log.with_columns(
        level=pl.when(pl.Series(shown)).then(pl.lit("exposed")).otherwise(pl.lit("cut")),
        click=pl.when(pl.Series(shown)).then(pl.Series(rng.integers(0, 2, len(item)))),
        later=pl.Series(
            ((item < KNOWN) & (request % 2 == 0) & (rng.random(len(item)) < 0.5)).astype(np.int8)
        ),
    )
    log.write_parquet(folder / "log.parquet")
    labels = {"click": {"column": "click"}, "later": {"column": "later", "known": "everywhere"}}
    split = {"valid": "1970-01-01T06:30"}
    data = data_settings(level="level", levels=["cut", "exposed"], labels=labels, split=split)
    schema = Schema({"item": IdFeature(side="item", kind="id"), "user": IdFeature(side="user", kind="id")})
    return pack_log(data, schema, folder, folder / "packed")


def read(packed: PackedDataset, bias: str | None, epoch: int = 0) -> list[Batch]:
    population = {EXPOSED: None, OUTCOMES: 3}
    outcomes = {OUTCOMES: Outcomes("later", bias)}
    return list(Reader(packed, "train", 50, population, 5, outcomes=outcomes).read_shuffled(epoch))


def drawn(batches: list[Batch]) -> list[tuple[int, int]]:
    """Item and label of the drawn rows."""
    return [
        (int(batch.ordinal[batch.item_of[n].long()]), int(batch.labels["later"][n]))
        for batch in batches
        for n in torch.nonzero(batch.level == OUTCOMES).flatten()
    ]


def test_all_outcomes_are_read_and_no_more_others_than_asked_for(packed: PackedDataset) -> None:
    rows = drawn(read(packed, "item"))
    labels = np.concatenate([shard.labels["later"] for shard in packed.splits["train"]])
    with_one = sum(
        bool((shard.labels["later"][a:b] == 1).any())
        for shard in packed.splits["train"]
        for a, b in zip(shard.request_start[:-1], shard.request_start[1:], strict=True)
    )
    assert sum(label == 1 for _, label in rows) == int((labels == 1).sum())
    assert sum(label == 0 for _, label in rows) == 3 * with_one


def test_rates_are_those_of_the_item_or_one_for_all(packed: PackedDataset) -> None:
    for batch in read(packed, "item"):
        known = batch.ordinal[batch.item_of.long()] < KNOWN
        assert batch.log_rates["later"][known].min() > 1 + batch.log_rates["later"][~known].max()
    assert not any(batch.log_rates["later"].any() for batch in read(packed, None))


def test_the_seed_decides_what_is_drawn(packed: PackedDataset) -> None:
    assert drawn(read(packed, "item")) == drawn(read(packed, "item"))
    assert drawn(read(packed, "item")) != drawn(read(packed, "item", epoch=1))


def test_drawn_rows_have_no_part_in_losses_of_clicks(packed: PackedDataset) -> None:
    for batch in read(packed, "item"):
        assert not batch.label_weight("click")[batch.level == OUTCOMES].any()
        assert batch.label_weight("click").sum() == (batch.level == EXPOSED).sum()


def test_rates_keep_as_much_of_their_own_as_groups_differ() -> None:
    """10 groups of 1,000 rows: of equal rates but for chance they become one, of very different ones they stay."""
    rng, known = np.random.default_rng(0), np.full(10, 1000.0)
    alike = smooth_rates(rng.binomial(1000, 0.01, 10).astype(float), known)
    assert alike.max() < 1.2 * alike.min()
    apart = smooth_rates(np.array([0.0] * 9 + [100]), known)
    assert apart[-1] == pytest.approx(0.1, rel=0.02)
    assert apart[0] < 0.002
