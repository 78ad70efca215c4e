"""`corank vectors`: the vectors of a table of items are those that the bundle holds of the same items."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import corank
from corank.bundle import catalogue
from corank.core.errors import DataError
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.random_worlds import DERIVED
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


def held(case: Case, stage: str) -> dict[object, list[float]]:
    """Item → its vector in the bundle."""
    (layer,) = case.funnel.request_encoder.items.layers
    return dict(zip(layer.records.ids.values.to_list(), layer.vectors[stage].tolist(), strict=True))


def test_vectors_are_those_of_the_bundle(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "BATCH", 7)  # several batches
    known = held(case, "prerank")
    done: list[int] = []
    written = corank.vectors(
        case.base / "bundle",
        str(case.base / "items.parquet"),
        tmp_path / "out" / "vectors.parquet",
        lambda now, total: done.append(now),
    )
    found = pl.read_parquet(tmp_path / "out" / "vectors.parquet")
    key = case.funnel.manifest.item
    assert written == len(found) == done[-1] and len(done) > 1
    assert found[key].n_unique() == len(found) >= len(known)
    for item, vector in found.select(key, "vector.prerank").iter_rows():
        if item in known:
            np.testing.assert_allclose(vector, known[item], atol=1e-6)
    assert set(found[key]) >= known.keys()


def test_the_command(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert case.funnel
    out = tmp_path / "vectors.parquet"
    code, _, err = run_corank(capsys, "vectors", case.base / "bundle", case.base / "items.parquet", out)
    assert code == 0 and f"{out}: {len(pl.read_parquet(out)):,} items" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items, key: items.drop(key), "data.items: no column"),
        (lambda items, key: items.head(0), "has no items"),
        (lambda items, key: items.with_columns(pl.lit(None, items[key].dtype).alias(key)), "is null in"),
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
