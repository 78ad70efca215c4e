"""Negatives beyond the log in a batch: their requests, their features, and that the seed determines them."""

from collections.abc import Iterable, Iterator

import polars as pl
import pytest
import torch

from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.batches.sampling import BATCH, CATALOGUE, Population
from corank.data.packed.dataset import PackedDataset
from corank.features.encoders import assemble_rows
from tests.support.versioned_log import (
    EXPOSED,
    RETRIEVED,
    SCHEMA,
    TRAIN_ITEMS,
    WANTED,
    pack_versioned_log,
)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedDataset, pl.DataFrame]:
    return pack_versioned_log(tmp_path_factory.mktemp("negatives"))


def reader(packed: PackedDataset, population: Population = WANTED, seed: int = 2, size: int = 7) -> Reader:
    return Reader(packed, "train", size, population, seed)


Row = tuple[int, int, int]


def rows(batch: Batch) -> list[Row]:
    """The log's request number, the item's mark and the level or source of each candidate."""
    number = batch.numbers["query"][:, 0][batch.request_of.long()]
    mark = batch.numbers["item"][:, 0][batch.item_of.long()]
    return [(int(n), int(m), int(s)) for n, m, s in zip(number, mark, batch.level, strict=True)]


def beyond(batches: Iterable[Batch]) -> Iterator[Row]:
    return (row for batch in batches for row in rows(batch) if row[2] in (BATCH, CATALOGUE))


def test_a_requests_own_candidates_are_never_among_them(case: tuple[PackedDataset, pl.DataFrame]) -> None:
    """Neither those that the batch reads nor those that no loss asks for."""
    packed, log = case
    own = {(row["number"], row["item"]) for row in log.iter_rows(named=True)}
    negatives = list(beyond(batch for epoch in range(5) for batch in reader(packed).read_shuffled(epoch)))
    assert len(negatives) > 500
    assert not {(number, mark // 10) for number, mark, _ in negatives} & own


def test_the_catalogue_is_what_was_seen_and_a_batch_its_own_items(
    case: tuple[PackedDataset, pl.DataFrame],
) -> None:
    packed, _ = case
    drawn_items: dict[int, set[int]] = {BATCH: set(), CATALOGUE: set()}
    for epoch in range(20):
        for batch in reader(packed).read_shuffled(epoch):
            pairs = [(number, mark // 10) for number, mark, _ in rows(batch)]
            assert len(pairs) == len(set(pairs)), "no item is there twice"
            batch_items = {mark // 10 for _, mark, source in rows(batch) if source in (RETRIEVED, EXPOSED)}
            for _, mark, source in beyond([batch]):
                drawn_items[source].add(mark // 10)
                assert source == CATALOGUE or mark // 10 in batch_items
    assert drawn_items[CATALOGUE] == set(range(TRAIN_ITEMS))
    assert drawn_items[BATCH] <= set(range(TRAIN_ITEMS))


def test_an_item_is_as_it_was_at_the_time_of_the_request(case: tuple[PackedDataset, pl.DataFrame]) -> None:
    packed, log = case
    time = dict(log.select("number", "time").iter_rows())
    versions = set()
    for number, mark, _ in beyond(reader(packed).read_shuffled(0)):
        hours = time[number] / 3_600_000
        assert mark % 10 == (hours >= 12) + (hours >= 36), (hours, mark)
        versions.add(mark % 10)
    assert versions == {0, 1, 2}


def test_nothing_is_known_of_the_pair(case: tuple[PackedDataset, pl.DataFrame]) -> None:
    packed, _ = case
    (group,) = [g for g in reader(packed).layout.groups["cross"] if g.dim == 4]
    for batch in reader(packed).read_shuffled(0):
        far = batch.level >= BATCH
        assert 0 < far.sum() < len(far)
        assert (batch.labels["click"][far] == -1).all() and (batch.labels["click"][~far] >= -1).all()
        assert (batch.weight[far] == 1).all() and (batch.weight[~far] == 7).all()
        assert batch.scores["production"][far].isnan().all()
        assert (batch.scores["production"][~far] == 0.5).all()
        nothing = packed.row_encoders["cross"].missing(1)
        missing = assemble_rows(SCHEMA.row_features("cross"), nothing, 1)
        assert (batch.numbers["cross"][far] == torch.from_numpy(missing.numbers)).all()
        assert (batch.numbers["cross"][~far] != torch.from_numpy(missing.numbers)).all()
        # two bags a candidate: the pair's id, then the list, which is empty
        read = batch.lookups[4].reads["cross"]
        assert read.start is not None
        bags = [
            read.row[a:b].tolist()
            for a, b in zip(read.start[:-1].tolist(), read.start[1:].tolist(), strict=True)
        ]
        bare = group.bags(missing)
        assert bare.start is not None
        expected = [bare.row[a:b].tolist() for a, b in zip(bare.start, bare.start[1:], strict=False)]
        for n in torch.nonzero(far).flatten().tolist():
            assert bags[2 * n : 2 * n + 2] == expected
        for n in torch.nonzero(~far).flatten().tolist():
            assert len(bags[2 * n + 1]) == 2


def test_the_seed_and_the_epoch_decide(case: tuple[PackedDataset, pl.DataFrame]) -> None:
    packed, _ = case

    def drawn(seed: int, epoch: int, skip: int = 0) -> list[list[Row]]:
        return [rows(batch) for batch in reader(packed, seed=seed).read_shuffled(epoch, skip)]

    first = drawn(2, 0)
    assert drawn(2, 0) == first
    assert drawn(2, 0, skip=2) == first[2:], "a resumed epoch goes on as the unbroken one"
    assert drawn(3, 0) != first and drawn(2, 1) != first
