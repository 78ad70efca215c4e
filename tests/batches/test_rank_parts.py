"""What ranks read: their parts are the batch of one, of requests from which a loss learns, and fetched ahead."""

import numpy as np
import polars as pl
import pytest
import torch

from corank.batches.batch import Batch
from corank.batches.draws import Draws
from corank.batches.reader import Reader
from corank.batches.sampling import BATCH, CATALOGUE, Population, Reading
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from tests.support.cases import Case
from tests.support.packing import DAY, HOUR, World
from tests.support.shared import case_in_parts
from tests.support.thread_ranks import run_ranks

WANTED: Population = {0: 3, 2: None, BATCH: 4, CATALOGUE: 5}
SIZE = 9
"""Requests a batch: some ranks get more than others."""


@pytest.fixture(scope="module")
def case() -> Case:
    return case_in_parts()


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


@pytest.mark.parametrize("population", [None, WANTED])
def test_the_parts_of_all_ranks_are_the_batch_of_one(case: Case, population: Population | None) -> None:
    packed = case.packed
    assert len(packed.splits["train"]) > 3

    def read(ranks: Ranks) -> list[Batch]:
        parts = reader(case, ranks, population=population)
        return [*parts.read_shuffled(1), *parts.read_ordered()]

    whole, parts = read(Ranks()), run_ranks(4, read)
    sources = np.unique(np.concatenate([batch.level.numpy() for batch in whole]))
    assert {BATCH, CATALOGUE} <= set(sources.tolist()) or population is None
    for n, batch in enumerate(whole):
        of_ranks = [columns(of_rank[n], packed) for of_rank in parts]
        for name, values in columns(batch, packed).items():
            joined = np.concatenate([part[name] for part in of_ranks])
            np.testing.assert_array_equal(joined, values, err_msg=name)


def test_a_rank_without_requests_has_an_empty_batch_that_the_model_runs_on(case: Case) -> None:
    """A batch of 9 requests takes one of 9 streams, so that most of 16 ranks have none."""

    def read(ranks: Ranks) -> list[Batch]:
        parts = reader(case, ranks, 9)
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


LEVELS = ["retrieved", "exposed"]
REQUESTS = 90
KNOWN, ANY = Reading({1: None}, ("click",)), Reading({1: None})
DEEP, BEYOND = Reading({0: None}), Reading({1: None, CATALOGUE: 2})


def log() -> pl.DataFrame:
    """Requests of 2 candidates a minute apart: a third with known labels, a third without, a third of level 0."""
    number = np.repeat(np.arange(REQUESTS + 2), 2)
    kind = number % 3
    late = np.where(number == REQUESTS, DAY, np.where(number == REQUESTS + 1, 2 * DAY, number * HOUR // 60))
    return pl.DataFrame(
        {
            "request": number,
            "user": number % 7,
            "item": np.tile([10, 11], REQUESTS + 2),
            "time": late,
            "level": [LEVELS[int(k < 2 and n % 2 == 0)] for n, k in enumerate(kind)],
            "click": [1 if k == 0 else None for k in kind],
            "tab": "home",
            "match": 0.5,
        }
    )


@pytest.fixture(scope="module")
def third_known(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    world = World(tmp_path_factory.mktemp("readings"), log=log(), data={"levels": LEVELS})
    return world.pack()


def read_requests(
    third_known: PackedDataset, *readings: Reading, ranks: Ranks | None = None
) -> list[list[int]]:
    """The request keys of each batch that a rank reads."""
    population = {code: count for reading in readings for code, count in reading.population.items()}
    reader = Reader(third_known, "train", 16, population, ranks=ranks or Ranks(), readings=readings)
    (shard,) = third_known.splits["train"]
    keys, requests = shard.keys["request"].to_numpy(), []
    for block in reader._number(reader.streams.read_drawn(Draws(0, 0), 0, 2)):
        requests += [sorted(keys[batch].tolist()) for batch in block]
    assert len(requests) == len(reader)
    return requests


def numbers(*kinds: int) -> list[int]:
    return [n for n in range(REQUESTS) if n % 3 in kinds]


@pytest.mark.parametrize(
    ("readings", "kinds"),
    [
        ([KNOWN], [0]),
        ([KNOWN, BEYOND], [0, 1, 2]),
    ],
)
def test_requests_from_which_a_loss_learns_are_read(
    third_known: PackedDataset, readings: list[Reading], kinds: list[int]
) -> None:
    batches = read_requests(third_known, *readings)
    assert sorted(n for batch in batches for n in batch) == numbers(*kinds)
    assert len(batches) == -(-len(numbers(*kinds)) // 16)
