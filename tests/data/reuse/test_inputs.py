"""Whether input files are the same: by version at once, else by what the columns hold that the config names."""

import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.data.reuse import inputs
from corank.data.reuse.column_digests import digest_columns
from corank.data.reuse.feature_sets import open_features
from corank.data.tables import Table
from corank.features.schema import Schema
from tests.support.packing import World


def stay(world: World) -> None:
    """Fail unless the packed data are still those of the tables."""
    open_features(world.folder / "packed", world.settings(), Schema(world.features), world.folder)


def rewrite(world: World, change: Callable[[pl.DataFrame], pl.DataFrame], table: str = "items") -> None:
    """Write a table anew."""
    path = world.folder / f"{table}.parquet"
    change(pl.read_parquet(path)).write_parquet(path, compression="snappy")


def test_a_table_written_anew_with_another_column_is_the_same(world: World) -> None:
    world.pack()
    rewrite(world, lambda items: items.with_columns(unread=pl.lit("x")))
    rewrite(world, lambda log: log.with_columns(more=[[1]] * len(log)), "log")
    stay(world)


def test_versions_that_hold_the_same_are_not_read_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pack()
    os.utime(world.folder / "items.parquet", ns=(1, 1))
    stay(world)
    monkeypatch.setattr(inputs, "read_content", None)
    stay(world)


CHANGES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    r"data.items: column 'brand' changed": lambda items: items.reverse(),
    r"data.items had \d rows, and has \d": lambda items: items[:-1],
    r"data.items: column 'valid_from' is new": lambda items: items.with_columns(valid_from=0),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_changed_is_named(world: World, reason: str) -> None:
    world.pack()
    rewrite(world, CHANGES[reason])
    with pytest.raises(DataError, match=rf"run `corank pack` again \({reason}\)"):
        stay(world)


def test_a_digest_is_of_values_however_they_are_cut(world: World) -> None:
    values = pl.DataFrame(
        {"a": ["x", None, "", "y"], "b": [[1, None], [], None, [2]], "c": [1.0, None, 2.0, 3.0]}
    )
    paths = [world.folder / f"{name}.parquet" for name in ("one", "first", "last")]
    for path, rows in zip(paths, (values, values[:1], values[1:]), strict=True):
        rows.write_parquet(path)

    def digest(*files: str) -> dict[str, str]:
        table = Table.scan("log", list(files), world.folder)
        return digest_columns(table, ["a", "b", "c"], lambda f, ranges: [f(r) for r in ranges]).columns

    whole = digest("one.parquet")
    assert digest("first.parquet", "last.parquet") == whole
    swapped = digest("last.parquet", "first.parquet")
    assert all(swapped[name] != whole[name] for name in whole)


def test_whole_numbers_of_128_bits_have_a_digest(tmp_path: Path) -> None:
    """A column that no feature reads may have them."""
    digests = set()
    for large in (2**70, 2**70 + 1):
        pl.DataFrame({"n": pl.Series([1, large], dtype=pl.Int128)}).write_parquet(tmp_path / "t.parquet")
        table = Table.scan("items", "t.parquet", tmp_path)
        found = digest_columns(table, ["n"], lambda digest, ranges: [digest(rows) for rows in ranges])
        digests.add(found.columns["n"])
    assert len(digests) == 2
