"""Checkpoints of several ranks: read at any number of ranks, whole or not at all, and refused if altered."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_into

from corank.core.artifact import read_manifest
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import ALL_BUCKETS, BUCKETS, RowShards
from corank.training.checkpoints.checkpoint import TableRows
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.manifest import CheckpointManifest
from corank.training.run import Run
from tests.support.checkpoint_states import (
    ROWS,
    TRAININGS,
    facts_of,
    go_on,
    state_of,
    whole_tensors,
    written_states,
)

pytestmark = pytest.mark.slow

COUNTS = {"one": 1, "two": 2, "four": 4}


@pytest.fixture(scope="module")
def written() -> Path:
    return written_states()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether tensors are alike bit for bit."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*bits)


def content_of(folder: Path) -> Path:
    return folder / read_manifest(folder, CheckpointManifest).content


# Any number of ranks


@pytest.mark.parametrize("before", COUNTS)
@pytest.mark.parametrize("after", [1, 3])
def test_what_one_number_of_ranks_wrote_another_reads(written: Path, before: str, after: int) -> None:
    for rank in range(after):
        buckets = RowShards(BUCKETS, after).buckets(rank)
        checkpoint, expected = load(written / before / "sharded", buckets), state_of(rank, after, facts_of(8))
        assert checkpoint.facts == expected.facts and checkpoint.names == sorted(whole_tensors())
        for name, tensor in expected.tensors.items():
            assert same(checkpoint.whole(name), tensor)
        for name, table in expected.tables.items():
            rows = TableRows(table.rows, buckets)
            assert same(checkpoint.take(name, rows), table.take(buckets)[: rows.size])
            assert checkpoint.shape(name) == ROWS[name] and checkpoint.dtype(name) == table.dtype


@pytest.mark.parametrize("state", ["replicated", "changed"])
@pytest.mark.parametrize("before", ["two", "four"])
def test_a_state_is_as_it_was_when_its_writing_began(written: Path, before: str, state: str) -> None:
    checkpoint = load(written / before / state)
    assert checkpoint.facts == facts_of(7)
    assert all(same(checkpoint.whole(name), tensor) for name, tensor in whole_tensors().items())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("before", COUNTS)
def test_pytorch_reads_what_any_number_of_ranks_wrote(written: Path, before: str) -> None:
    folder = written / before / "sharded"
    checkpoint = load(folder)
    expected = {name: checkpoint.whole(name) for name in checkpoint.names}
    for name, table in checkpoint.tables.items():
        expected[name] = table.take(ALL_BUCKETS).view(-1, BUCKETS, *table.shape[1:])
    state = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    reader = HuggingFaceStorageReader(str(content_of(folder)))
    load_into(state, storage_reader=reader, no_dist=True)
    assert all(same(tensor, expected[name]) for name, tensor in state.items())


# Trainings


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_that_goes_on_at_one_two_and_four_ranks_ends_as_an_unbroken_one(
    written: Path, training: str
) -> None:
    runs = written / "runs"
    # next to the others: a run names its world relative to itself
    copied = Path(shutil.copytree(runs / "four" / training, runs / "again" / training))
    run, unbroken = Run.open(copied), Run.open(runs / "unbroken" / training)
    go_on(run, Ranks())
    ours, theirs = load(run.latest), load(unbroken.latest)
    assert ours.facts == theirs.facts
    for name, expected in theirs.tensors.items():
        assert torch.allclose(ours.tensors[name].double(), expected.double(), rtol=0, atol=1e-6), name


# Whole or not at all


def test_a_rank_killed_before_the_manifest_leaves_the_checkpoint_before(written: Path) -> None:
    ends = json.loads((written / "ends.json").read_text())
    assert ends["two"][0][0] == -9  # its files were written, its manifest was not
    assert len(list((written / "two" / "sharded").glob("*/*.safetensors"))) == 4
    assert load(written / "two" / "sharded").facts == facts_of(8)


def test_a_full_disk_of_one_rank_is_told_and_leaves_the_checkpoint_before(written: Path) -> None:
    ends = json.loads((written / "ends.json").read_text())["four"]
    said = f"{written / 'four' / 'sharded'}: cannot be written by rank 3: "
    for rank, (code, text) in enumerate(ends):
        assert code == 1 and said in text and "File too large" in text
        assert ("CheckpointError" in text) == (rank == 3)  # the others say that it was another rank
    assert load(written / "four" / "sharded").facts == facts_of(8)


# Altered files
