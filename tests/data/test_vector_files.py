"""Files of vectors next to a table: the same packed data as a column of the table, and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.analysis.logged_request import logged_request
from corank.core.errors import CorankError
from corank.data.packed.dataset import PackedDataset
from corank.training.config.config import Config
from corank.training.packed_data import pack_config
from corank.training.run import Run
from tests.support.configs import ID, of_side, small_config

HOUR, DAY = 3_600_000, 86_400_000
IDS = [3, 1, 2, 5]
VECTORS = np.arange(16, dtype=np.float32).reshape(4, 4) / 8
TEXT = {"side": "item", "kind": "vector", "dim": 4, "normalise": True}


def write_tables(base: Path, items: dict[str, Any] | None = None) -> None:
    """Ten requests of two users for two of four items; the second changes, the fourth has no vector in any file."""
    log = {
        "request": np.arange(10).repeat(2),
        "user_id": [1, 1, 2, 2] * 5,
        "item_id": [1, 2, 3, 4] * 5,
        "time": (np.arange(10) * 9 * HOUR).repeat(2),
        "click": [0, 1] * 10,
    }
    pl.DataFrame(log).write_parquet(base / "log.parquet")
    columns = {
        "item_id": [1, 2, 2, 3, 4],
        "valid_from": pl.Series([None, None, DAY, None, None], dtype=pl.Int64),
    }
    pl.DataFrame(columns | {"price": [1.0, 2, 3, 4, 5]} | (items or {})).write_parquet(base / "items.parquet")
    pl.DataFrame({"user_id": [1, 2], "age": [20, 30]}).write_parquet(base / "users.parquet")
    np.save(base / "text.npy", VECTORS)
    np.save(base / "ids.npy", np.array(IDS))
    pl.DataFrame({"item_id": IDS, "text": VECTORS}).write_parquet(base / "text.parquet")


TABLES = {"items": "items.parquet", "users": "users.parquet", "user": "user_id", "item": "item_id"}


def config(text: dict[str, Any], **features: dict[str, Any]) -> Config:
    ids = of_side("user", ID, "user_id") | of_side("item", ID, "item_id")
    return Config.model_validate(small_config(ids | {"text": TEXT | text} | features, TABLES))


def item_vectors(packed: PackedDataset) -> dict[tuple[int, int], list[float]]:
    keys = packed.item_keys
    dense = packed.items.vectors[0].dense().tolist()
    return {key: vector for key, vector in zip(keys.rows(), dense, strict=True)}  # noqa: C416


NPY = {"file": "text.npy", "ids": "ids.npy"}


@pytest.mark.parametrize("text", [NPY, {"file": "text.npy", "ids": "text.parquet"}, {"file": "text.parquet"}])
def test_a_file_is_read_as_a_column_of_the_table(tmp_path: Path, text: dict[str, Any]) -> None:
    write_tables(tmp_path)
    by_file = item_vectors(pack_config(config(text), tmp_path))
    row = {1: VECTORS[1], 2: VECTORS[2], 3: VECTORS[0], 4: None}
    column = [None if row[n] is None else row[n].tolist() for n in (1, 2, 2, 3, 4)]
    other = tmp_path / "other"
    other.mkdir()
    write_tables(other, {"text": column})
    packed = pack_config(config({}), other)
    assert item_vectors(packed) == by_file
    assert packed.items.vectors[0].values.dtype == np.float16
    assert len(packed.items.vectors[0].values) == 3, "both versions of item 2 share a vector"
    assert np.count_nonzero(packed.items.vectors[0].row < 0) == 1


def test_vectors_of_users_are_asked_of_requests_like_columns(tmp_path: Path) -> None:
    write_tables(tmp_path)
    pl.DataFrame({"user_id": [2, 1], "taste": VECTORS[:2]}).write_parquet(tmp_path / "taste.parquet")
    taste = {"side": "user", "kind": "vector", "dim": 4, "file": "taste.parquet"}
    settings = config(NPY, taste=taste, fits={"kind": "cosine", "of": ["taste", "text"]})
    packed = pack_config(settings, tmp_path)
    assert packed.schema.placement("fits") == "cross"
    request = logged_request(Run(tmp_path / "run", settings, tmp_path), "train", 0)
    assert request["user"]["taste"] == VECTORS[1].tolist()


def _save(name: str, array: Any) -> Any:
    return lambda base: np.save(base / name, array, allow_pickle=True)


FAULTS = [
    (
        _save("text.npy", VECTORS[:, :3]),
        NPY,
        "expected numbers of shape (rows, 4), as features.text.dim says",
    ),
    (_save("text.npy", VECTORS[:3]), NPY, "has 3 vectors, and ids.npy 4 ids"),
    (_save("ids.npy", np.array([1, 1, 2, 3])), NPY, "has item_id=1 twice; write one vector an id"),
    (_save("ids.npy", np.arange(4) + 900), NPY, "none of its 4 ids, such as [900, 901, 902]"),
    (lambda base: (base / "ids.npy").unlink(), NPY, "ids.npy: no such file"),
]


@pytest.mark.parametrize(("damage", "text", "message"), FAULTS)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, damage: Any, text: dict[str, Any], message: str
) -> None:
    write_tables(tmp_path)
    damage(tmp_path)
    with pytest.raises(CorankError) as caught:
        pack_config(config(text), tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "packed" / "vectors").exists()
