"""Tables in parts: the same rows, however many parts there are and whoever takes them."""

import pytest
import torch
from torch import Tensor

from corank.distributed.ranks import BUCKETS, RowShards
from corank.training.checkpoints import checkpoint as split_table
from corank.training.checkpoints.checkpoint import ALL_BUCKETS, SplitTable, TablePart

ROWS = [1, 255, 256, 257, 1281]
SHAPES: list[tuple[int, ...]] = [(), (3,)]


def truth(rows: int, inner: tuple[int, ...] = (3,)) -> Tensor:
    size = rows
    for n in inner:
        size *= n
    return torch.arange(1, size + 1, dtype=torch.float64).reshape(rows, *inner)


def whole(rows: int, inner: tuple[int, ...] = (3,)) -> SplitTable:
    return SplitTable(rows, (TablePart(ALL_BUCKETS, truth(rows, inner)),))


def cut(table: SplitTable, ranks: int) -> SplitTable:
    shards = RowShards(table.rows, ranks)
    parts = tuple(TablePart(b, table.take(b)) for b in map(shards.buckets, range(ranks)))
    return SplitTable(table.rows, parts)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("inner", SHAPES, ids=str)
def test_a_table_in_parts_is_the_table(rows: int, inner: tuple[int, ...]) -> None:
    for ranks in (1, 2, 7, 200):
        table = cut(whole(rows, inner), ranks)
        assert table.shape == (rows, *inner)
        assert torch.equal(table.whole(), truth(rows, inner))
        assert torch.equal(torch.cat(list(table.pieces())), truth(rows, inner))


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 5), (32, 7)])
def test_parts_of_one_number_of_ranks_are_read_at_another(before: int, after: int) -> None:
    table = cut(whole(700), before)
    for rank in range(after):
        buckets = RowShards(700, after).buckets(rank)
        assert torch.equal(table.take(buckets), whole(700).take(buckets))


def test_what_stands_for_no_row_does_not_leak() -> None:
    """A rank's tensor may hold anything there; neither a file nor another rank gets it."""
    table = cut(whole(300), 2)
    for rank, part in enumerate(table.parts):
        none = torch.from_numpy(RowShards(300, 2).rows_of(rank) >= 300)
        part.values[none] = torch.nan
    assert torch.equal(table.whole(), truth(300))
    assert not table.take(range(10, 250)).isnan().any()


def test_pieces_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_table, "PIECE_BYTES", 3 * BUCKETS * 24 + 1)
    for table in (whole(2000), cut(whole(2000), 3)):
        assert [len(piece) for piece in table.pieces()] == [768, 768, 464]
        assert torch.equal(torch.cat(list(table.pieces())), truth(2000))


def test_a_whole_table_is_not_copied() -> None:
    table = whole(300)
    assert table.whole().data_ptr() == table.parts[0].values.data_ptr()
    assert next(table.pieces()).data_ptr() == table.parts[0].values.data_ptr()
