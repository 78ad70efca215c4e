"""`corank vectors`: the vectors of a table of items are those that the bundle holds of the same items."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import corank
from corank.bundle import catalogue_vectors
from corank.bundle.catalogue_vectors import write_catalogue
from corank.core.errors import ConfigError, DataError
from corank.engine.base import open_engine
from corank.funnel.funnel import Funnel
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.engine_tasks import KillingPool
from tests.support.random_worlds import DERIVED
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


def test_vectors_are_those_of_the_bundle(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_vectors, "RANGE", 7)  # several tasks
    (layer,) = case.funnel.request_encoder.items.layers
    known = layer.records.ids.values.to_list()
    out, done = tmp_path / "out" / "vectors.parquet", list[int]()
    items = str(case.base / "items.parquet")
    written = corank.vectors(case.base / "bundle", items, out, lambda now, total: done.append(now))
    table = pl.read_parquet(out)
    key = case.funnel.manifest.item
    assert written == len(table) == done[-1] and len(done) > 1
    assert table[key].n_unique() == len(table) and set(table[key]) >= set(known)
    of_known = pl.DataFrame({key: known}).join(table, on=key, maintain_order="left")["vector.prerank"]
    expected = layer.parts["prerank.vector"].decode()
    np.testing.assert_allclose(of_known.to_numpy(), expected, atol=1e-6)


def test_every_item_part_is_that_of_the_bundle(
    world: Path, trained_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (layer,) = Funnel.open(trained_bundle).request_encoder.items.layers
    out, ids = tmp_path / "parts.parquet", layer.records.ids.values
    assert set(layer.parts) == {"prerank.vector", "rank.item"}
    options = [word for name in layer.parts for word in ("--part", name)]
    code, _, err = run_corank(capsys, "vectors", trained_bundle, world / "items.parquet", out, *options)
    assert code == 0 and f"{out}: {len(pl.read_parquet(out)):,} items" in err
    table = pl.read_parquet(out)
    assert table.columns[1:] == ["vector.prerank", "item.rank"]
    rows = pl.DataFrame({table.columns[0]: ids, "row": range(len(ids))})
    both = table.join(rows, on=table.columns[0])
    assert len(both)
    for name, matrix in layer.parts.items():
        stage, _, part = name.rpartition(".")
        expected = matrix.take(both["row"].to_numpy())
        np.testing.assert_allclose(both[f"{part}.{stage}"].to_numpy(), expected, atol=1e-5)


def many_versions(case: Case, folder: Path) -> pl.DataFrame:
    """Write a table of two files with rows of several times. Returns the newest row of each item."""
    items, key = pl.read_parquet(case.base / "items.parquet"), case.funnel.manifest.item
    rng, rounds = np.random.default_rng(5), []
    for n in range(4):
        some = items.sample(fraction=1, shuffle=True, seed=n)[: len(items) - 3 * n]
        changed = some.select(key).with_columns(items.drop(key).sample(len(some), seed=9 + n))
        rounds.append(changed.with_columns(valid_from=pl.lit([200, 50, 900, 300][n])))
    rows = pl.concat([items.with_columns(valid_from=pl.lit(None, pl.Int32)), *rounds])
    rows = rows[rng.permutation(len(rows)).tolist()]
    rows[:31].write_parquet(folder / "items.0.parquet")
    rows[31:].write_parquet(folder / "items.1.parquet", row_group_size=20)
    by_time: pl.DataFrame = rows.sort("valid_from", nulls_last=False)
    return by_time.unique(key, keep="last", maintain_order=True)


@pytest.mark.slow
def test_any_engine_writes_the_same_bytes_of_the_newest_rows(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_vectors, "RANGE", 23)
    monkeypatch.setattr(catalogue_vectors, "BATCH", 10)
    monkeypatch.setattr(catalogue_vectors, "PARTITION", 40)
    newest, bundle = many_versions(case, tmp_path), case.base / "bundle"
    newest.drop("valid_from").write_parquet(tmp_path / "newest.parquet")
    source = str(tmp_path / "items.*.parquet")
    with KillingPool(tmp_path) as pool:
        counts = [
            write_catalogue(bundle, source, tmp_path / "in_line", open_engine()),
            write_catalogue(bundle, source, tmp_path / "pool", pool),
        ]
    alone = corank.vectors(bundle, str(tmp_path / "newest.parquet"), tmp_path / "alone")
    assert counts == [len(newest)] * 2 == [alone] * 2
    assert (tmp_path / "in_line").read_bytes() == (tmp_path / "pool").read_bytes()
    assert len(list(tmp_path.glob("killed.*"))) == 3  # in each step
    key = case.funnel.manifest.item
    inline, expected = (pl.read_parquet(tmp_path / name).sort(key) for name in ("in_line", "alone"))
    assert inline[key].equals(expected[key])
    for stage in (spec.name for spec in case.funnel.manifest.vector_stages):
        np.testing.assert_allclose(
            inline[f"vector.{stage}"].to_numpy(), expected[f"vector.{stage}"].to_numpy(), atol=1e-6
        )
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items, key: items.drop(key), "data.items: no column"),
        (lambda items, key: items.head(0), "has no items"),
        (lambda items, key: pl.concat([items, items.head(1)]), "is in several rows; keep one"),
    ],
)
def test_a_table_that_is_no_catalogue_is_refused_and_nothing_written(
    case: Case, tmp_path: Path, change: object, message: str
) -> None:
    assert callable(change) and case.funnel
    path, out = tmp_path / "items.parquet", tmp_path / "vectors.parquet"
    change(pl.read_parquet(case.base / "items.parquet"), case.funnel.manifest.item).write_parquet(path)
    with pytest.raises(DataError, match=message):
        corank.vectors(case.base / "bundle", str(path), out)
    assert not out.exists() and list(tmp_path.iterdir()) == [path]


def test_an_array_has_the_vectors_and_its_neighbour_the_ids(
    trained_bundle: Path, world: Path, tmp_path: Path
) -> None:
    items = str(world / "items.parquet")
    corank.vectors(trained_bundle, items, tmp_path / "vectors.parquet")
    corank.vectors(trained_bundle, items, tmp_path / "vectors.npy")
    table = pl.read_parquet(tmp_path / "vectors.parquet")
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), table["vector.prerank"].to_numpy())
    assert np.load(tmp_path / "vectors.ids.npy").tolist() == table[table.columns[0]].to_list()


@pytest.mark.parametrize(
    ("out", "parts", "message"),
    [
        ("vectors.npy", ["prerank.vector", "rank.item"], "one item part, .*--part"),
        ("s3://bucket/vectors.npy", [], "name a path"),
    ],
)
def test_an_array_that_cannot_be_is_refused(
    trained_bundle: Path, world: Path, tmp_path: Path, out: str, parts: list[str], message: str
) -> None:
    place = out if "://" in out else tmp_path / out
    with pytest.raises(ConfigError, match=message):
        corank.vectors(trained_bundle, str(world / "items.parquet"), place, parts=parts)
    assert not list(tmp_path.iterdir())


def test_the_index_that_is_gone_names_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_corank(capsys, "vectors", "bundle", "items.parquet", "out.parquet", "--index=ivf")
    assert code == 2 and "--index" in err and "vectors.npy" in err
