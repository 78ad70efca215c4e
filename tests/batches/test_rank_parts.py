"""The parts that several ranks read of a batch, in rank order, equal what one rank reads; a part may be empty."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from corank.batches import reader as reading
from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.batches.sampling import BATCH, CATALOGUE, Population
from corank.data.packed.dataset import PackedDataset
from corank.data.packing import pack
from corank.distributed.ranks import Ranks
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED
from tests.support.thread_ranks import run_ranks

WANTED: Population = {0: 3, 2: None, BATCH: 4, CATALOGUE: 5}
SIZE = 9
"""Requests a batch: some ranks get more than others."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "PARTITION", 25)
        yield Case.of(tmp_path_factory.mktemp("parts"), DERIVED)


def reader(case: Case, ranks: Ranks, size: int = SIZE, population: Population | None = WANTED) -> Reader:
    model = case.model
    return Reader(case.packed, "train", size, population, 5, ranks, attended=model.attended, sees_ranks=True)


def columns(batch: Batch, packed: PackedDataset) -> dict[str, np.ndarray]:
    """A batch's values of each candidate and each request, without numbers that hold in the batch alone."""
    item = batch.item_of.long()
    tensors = {
        "item row": batch.item_row[item],
        "ordinal": batch.ordinal[item],
        "share": batch.share[item],
        "level": batch.level,
        "weight": batch.weight,
        "cross": batch.numbers["cross"],
        "snapshot": batch.numbers["snapshot"],
        "item": batch.numbers["item"][item],
        "query": batch.numbers["query"],
        "size": torch.bincount(batch.request_of, minlength=len(batch.numbers["query"])),
    }
    tensors |= {f"label {name}": values for name, values in batch.labels.items()}
    tensors |= {f"score {name}": values for name, values in batch.scores.items()}
    tensors |= {f"column {name}": values for name, values in batch.columns.items()}
    for name in ("draw_order", "represents", "position"):
        if (values := getattr(batch, name)) is not None:
            tensors[name] = values
    for dim, lookup in batch.lookups.items():
        tensors[f"table rows of queries {dim}"] = lookup.reads["query"].row
    return {name: values.numpy() for name, values in tensors.items()}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("population", [None, WANTED])
def test_the_parts_of_all_ranks_are_the_batch_of_one(
    case: Case, world: int, population: Population | None
) -> None:
    packed = case.packed
    assert len(packed.splits["train"]) > 3

    def read(ranks: Ranks) -> list[Batch]:
        parts = reader(case, ranks, population=population)
        return [*parts.read_shuffled(1), *parts.read_ordered()]

    whole, parts = read(Ranks()), run_ranks(world, read)
    sources = np.unique(np.concatenate([batch.level.numpy() for batch in whole]))
    assert {BATCH, CATALOGUE} <= set(sources.tolist()) or population is None
    for n, batch in enumerate(whole):
        of_ranks = [columns(of_rank[n], packed) for of_rank in parts]
        for name, values in columns(batch, packed).items():
            joined = np.concatenate([part[name] for part in of_ranks])
            np.testing.assert_array_equal(joined, values, err_msg=name)


def test_a_block_of_any_size_gives_the_same_batches(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(skip: int = 0) -> list[dict[str, np.ndarray]]:
        parts = reader(case, Ranks(), size=5).read_shuffled(2, skip)
        return [columns(batch, case.packed) for batch in parts]

    whole = read()
    assert len(whole) > 4
    monkeypatch.setattr(reading, "BLOCK", 1)
    for skip in (0, 3):
        for one, other in zip(read(skip), whole[skip:], strict=True):
            for name, values in one.items():
                np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize("population", [None, WANTED, {2: None}])
def test_a_rank_without_requests_has_an_empty_batch_that_the_model_runs_on(
    case: Case, population: Population | None
) -> None:
    """A batch of 9 requests takes one of 9 streams, so that most of 16 ranks have none."""

    def read(ranks: Ranks) -> list[Batch]:
        parts = reader(case, ranks, 9, population)
        return [*parts.read_shuffled(0), *parts.read_ordered()]

    for part in run_ranks(16, read):
        empty = [batch for batch in part if not len(batch.numbers["query"])]
        assert empty
        batch = empty[0]
        assert len(batch) == len(batch.share) == len(batch.item_row) == 0
        outputs = case.model(batch)
        for stage, output in outputs.items():
            assert all(len(logits) == 0 for logits in output.logits.values()), stage
        total = sum(logits.sum() for output in outputs.values() for logits in output.logits.values())
        assert isinstance(total, torch.Tensor)
        case.model.zero_grad()
        total.backward()
        assert not any(p.grad is not None and p.grad.abs().sum() for p in case.model.parameters())
