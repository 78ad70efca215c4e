import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corank.batches.batch import csr
from corank.features import input_layout as row_sums
from corank.features.encoding import Placement
from corank.features.input_layout import FEW, TableSet, dense_input
from corank.models.tables.embedding import sum_rows
from corank.testing.batches import LAYOUT, rows

SIDES: tuple[Placement, ...] = ("query", "item", "cross")
"""The placements of what `rows` gives."""


def drawn_tables(rng: np.random.Generator) -> TableSet:
    return {dim: rng.normal(size=(rows, dim)).astype(np.float32) for dim, rows in LAYOUT.table_rows.items()}


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_pooling_by_hand_and_by_torch_agree(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    tables = drawn_tables(rng)
    for placement, side in zip(SIDES, rows(rng, n, n, n), strict=True):
        for group in LAYOUT.groups[placement]:
            bags = group.bags(side)
            by_torch = sum_rows(torch.from_numpy(tables[group.dim]), csr(bags)).numpy()
            ours = np.empty((len(side), group.width), dtype=np.float32)
            group.embed(side, tables[group.dim], ours)
            np.testing.assert_allclose(ours.reshape(by_torch.shape), by_torch, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scipy", [True, False])
def test_many_rows_are_pooled_as_each_alone(scipy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not scipy:
        monkeypatch.setattr(row_sums, "_sparse_array", lambda: None)
    rng = np.random.default_rng(0)
    tables = drawn_tables(rng)
    query, item, cross = rows(rng, FEW + 88, FEW + 88, FEW + 88)
    for placement, side in zip(SIDES, (query, item, cross), strict=True):
        together = dense_input(side, LAYOUT, placement, tables)
        for part in (1, 50):
            split = [side.take(np.arange(n, n + part)) for n in range(0, len(side), part)]
            alone = np.concatenate([dense_input(some, LAYOUT, placement, tables) for some in split])
            np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
