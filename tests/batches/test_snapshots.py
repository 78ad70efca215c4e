"""Snapshot features in a batch: those of each candidate at its request, and an item's earliest."""

from datetime import timedelta

import polars as pl
import pytest

from corank.batches.reader import Reader
from corank.batches.sampling import BATCH, CATALOGUE
from corank.data.packed.dataset import PackedDataset
from corank.features.feature_kind import FeatureKind
from corank.features.kinds.id import IdFeature
from corank.features.kinds.prior import PriorFeature
from tests.support.versioned_log import WANTED, pack_versioned_log

HOUR = 3_600_000
Case = tuple[PackedDataset, pl.DataFrame]


def shown(every: timedelta) -> dict[str, FeatureKind]:
    """How often an item was exposed; each has a code of its own."""
    return {
        "item": IdFeature(side="item", kind="id", dim=4, min_count=1),
        "shown": PriorFeature(kind="prior", by=["item"], every=every, scale="none"),
    }


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return pack_versioned_log(tmp_path_factory.mktemp("snapshots"), shown(timedelta(hours=1)))


@pytest.mark.slow
def test_a_pair_beyond_the_log_has_them_as_of_its_request(case: Case) -> None:
    """Like a pair of the log; counted from the log by hand."""
    packed, log = case
    exposed = log.filter(pl.col("level") == "exposed")
    lengths = {"log": set[int](), "beyond": set[int]()}
    for epoch in range(3):
        for batch in Reader(packed, "train", 7, WANTED, 2).read_shuffled(epoch):
            number = batch.numbers["query"][:, 0][batch.request_of.long()].numpy()
            item = (batch.numbers["item"][:, 0][batch.item_of.long()] // 10).numpy()
            assert batch.numbers["snapshot"].shape == (len(batch), 1)
            rows = zip(number, item, batch.level, batch.numbers["snapshot"][:, 0].exp() - 1, strict=True)
            for n, i, level, value in rows:
                at = log.filter(pl.col("number") == n)["time"][0] // HOUR * HOUR
                before = exposed.filter((pl.col("item") == i) & (pl.col("time") < at))
                assert value == pytest.approx(before["weight"].sum(), rel=1e-4, abs=1e-4), (n, i, level)
                lengths["beyond" if level in (BATCH, CATALOGUE) else "log"].add(len(before))
    assert all(len(values) > 3 for values in lengths.values())
