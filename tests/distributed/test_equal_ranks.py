"""Ranks that share each batch end with the weights of one process that has all of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.equal_ranks import WORLDS, make_base, require_equal_ahead, runs, train_cases
from tests.support.network import Hosts, can_make_hosts, hosts_with_loss
from tests.support.ranks import fork_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 1, 2 and 4 ranks, a file a run."""
    folder = tmp_path_factory.mktemp("equal_ranks")
    make_base(folder)
    for world in WORLDS:
        train_on(world, folder, folder)
    return folder


def train_on(world: int, *arguments: object, hosts: Hosts | None = None) -> None:
    """Train cases on some ranks, as `train_cases` does with the arguments."""
    ends = fork_ranks(train_cases, world, *arguments, hosts=hosts)
    assert [code for code, _ in ends] == [0] * world, "\n".join(text for _, text in ends)


def trained(results: Path, world: int) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Case, placement of tables and results of each run."""
    for number, (case, tables) in enumerate(runs(world)):
        yield case, tables, load_file(results / f"{world}.{number}.safetensors")


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_end_with_the_weights_of_one_process(results: Path, world: int) -> None:
    alone = {case: tensors for case, _, tensors in trained(results, 1)}
    for case, tables, tensors in trained(results, world):
        assert tensors.keys() == alone[case].keys()
        for name, tensor in tensors.items():
            apart = (tensor - alone[case][name]).abs()
            if case != "float32":
                assert apart.max() < 1e-12, (case, tables, name, float(apart.max()))
            elif tensor.dim() == 2 and "tables" in name:
                # the order of the sums decides the sign of a gradient that is nearly 0: a row may be apart
                apart_rows = int((apart.amax(1) >= 1e-6).sum())
                assert apart_rows <= max(1, len(tensor) // 1000), (case, tables, name, apart_rows)


def test_a_repeated_training_ends_with_the_same_bits(results: Path) -> None:
    repeats = [
        tensors
        for case, tables, tensors in trained(results, 2)
        if (case, tables) == ("everything", "sharded")
    ]
    assert len(repeats) == 2
    for name, tensor in repeats[0].items():
        assert torch.equal(tensor, repeats[1][name]), name


def test_batches_agreed_on_ahead_change_no_bit(results: Path) -> None:
    ends = fork_ranks(require_equal_ahead, 2, results)
    assert [code for code, _ in ends] == [0, 0], "\n".join(text for _, text in ends)


@pytest.mark.skipif(
    not can_make_hosts(), reason="needs root and /dev/net/tun, to join two hosts by a bad link"
)
def test_a_slow_link_that_loses_packets_changes_no_bit(results: Path, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    for folder in (near, far):
        folder.mkdir()
    train_on(2, results, near, 1, 2)
    with hosts_with_loss(delay=0.002, loss=0.01) as hosts:
        train_on(2, results, far, 1, 2, hosts=hosts)
    assert max(hosts.lost) > 1000, "a part of a table or a gradient was lost and came again"
    trainings = [load_file(folder / "2.0.safetensors") for folder in (near, far)]
    assert trainings[0].keys() == trainings[1].keys()
    for name, tensor in trainings[0].items():
        assert torch.equal(tensor, trainings[1][name]), name
