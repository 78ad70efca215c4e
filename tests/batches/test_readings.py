"""Requests from which no loss learns are not read: they cost no step."""

from itertools import chain

import numpy as np
import polars as pl
import pytest

from corank.batches.draws import Draws
from corank.batches.reader import Reader
from corank.batches.sampling import CATALOGUE, Reading
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from tests.support.packing import DAY, HOUR, World

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
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    world = World(tmp_path_factory.mktemp("readings"), log=log(), data={"levels": LEVELS})
    return world.pack()


def read(packed: PackedDataset, *readings: Reading, ranks: Ranks | None = None) -> list[list[int]]:
    """The request keys of each batch that a rank reads."""
    population = {code: count for reading in readings for code, count in reading.population.items()}
    reader = Reader(packed, "train", 16, population, ranks=ranks or Ranks(), readings=readings)
    (shard,) = packed.splits["train"]
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
        ([ANY], [0, 1]),
        ([KNOWN, ANY], [0, 1]),
        ([DEEP], [0, 1, 2]),
        ([KNOWN, BEYOND], [0, 1, 2]),
        ([], [0, 1, 2]),
    ],
)
def test_requests_from_which_a_loss_learns_are_read(
    packed: PackedDataset, readings: list[Reading], kinds: list[int]
) -> None:
    batches = read(packed, *readings)
    assert sorted(n for batch in batches for n in batch) == numbers(*kinds)
    assert len(batches) == -(-len(numbers(*kinds)) // 16)


def test_batches_do_not_depend_on_the_ranks(packed: PackedDataset) -> None:
    alone = read(packed, KNOWN)
    parts = [read(packed, KNOWN, ranks=Ranks(rank, 3)) for rank in range(3)]
    assert [sorted(chain(*batch)) for batch in zip(*parts, strict=True)] == alone


def test_what_is_read_has_what_losses_need(packed: PackedDataset) -> None:
    reader = Reader(packed, "train", 16, KNOWN.population, readings=[KNOWN])
    for batch in reader.read_shuffled(0):
        assert len(batch) == int((batch.labels["click"] >= 0).sum())
