"""In-batch losses compare with the items of all ranks, each at its earliest request in the whole batch."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.core.types import Floats
from corank.data.packing import pack
from corank.distributed.ranks import Ranks
from corank.losses.contrastive.batch_items import BatchItems
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED
from tests.support.thread_ranks import run_ranks


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "PARTITION", 25)
        yield Case.of(tmp_path_factory.mktemp("parts"), DERIVED)


def vectors(case: Case, batch: Batch) -> dict[int, Floats]:
    """Item → the vector that stands for it."""
    with torch.no_grad():
        made = case.model(batch)["prerank"].vectors
        assert made is not None
        items = BatchItems.of(batch, made.items()[: len(batch.item_row)])
    chosen = items.vectors[items.item].numpy()
    return dict(zip(batch.ordinal.tolist(), chosen, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_take_the_vectors_that_one_takes_alone(case: Case, world: int) -> None:
    def read(ranks: Ranks) -> list[Batch]:
        reader = Reader(
            case.packed, "train", 9, None, 5, ranks, attended=case.model.attended, sees_ranks=True
        )
        return list(reader.read_shuffled(1))

    def take(ranks: Ranks) -> list[dict[int, Floats]]:
        return [vectors(case, batch) for batch in read(ranks)]

    alone, parts = take(Ranks()), run_ranks(world, take)
    for n, whole in enumerate(alone):
        for part in parts:
            for item, vector in part[n].items():
                np.testing.assert_allclose(vector, whole[item], rtol=1e-4, atol=1e-5, err_msg=f"{n} {item}")
        assert {item for part in parts for item in part[n]} == set(whole)
    # else any candidate of an item would do
    differ = 0
    for batch in read(Ranks()):
        snapshot, item_of = batch.numbers["snapshot"].numpy(), batch.item_of.numpy()
        differ += sum(len(np.unique(snapshot[item_of == n], axis=0)) > 1 for n in range(len(batch.item_row)))
    assert differ > 3
