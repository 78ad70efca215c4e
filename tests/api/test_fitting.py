"""One call from a frame to a funnel: the same as the commands one after the other."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.errors import DataError, StorageError

pytestmark = pytest.mark.slow
ROLES: dict[str, Any] = {
    "candidates": "item",
    "labels": "click",
    "request": "request",
    "user": "user",
    "time": "time",
}
QUICK = ["train.epochs=1", "baseline=false"]


def rows(first: int, last: int) -> pl.DataFrame:
    """Six items a request, a row each."""
    random = np.random.default_rng(first)
    request = np.repeat(np.arange(first, last), 6)
    return pl.DataFrame(
        {
            "request": request,
            "user": request % 17,
            "item": random.integers(0, 40, len(request)),
            "click": random.integers(0, 2, len(request)),
            "time": [datetime(2026, 4, 1) + timedelta(minutes=20 * int(number)) for number in request],
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted") / "shop"


@pytest.fixture(scope="module")
def funnel(folder: Path) -> corank.FittedFunnel:
    return corank.fit(rows(0, 200), **ROLES, overrides=QUICK, folder=folder)


def test_it_is_what_import_and_train_make(funnel: corank.FittedFunnel, tmp_path: Path) -> None:
    imported = corank.import_lists(rows(0, 200), tmp_path / "shop", **ROLES)
    run = corank.train(imported.config, QUICK).run
    assert funnel.config == imported.config.read_text()
    exported = corank.export(run.folder, tmp_path / "bundle")
    assert exported["model_version"] == funnel.funnel.manifest.model_version
    new = rows(200, 220).drop("click")
    corank.predict(run.folder, new, tmp_path / "predicted")
    assert funnel.predict(new).equals(pl.read_parquet(tmp_path / "predicted" / "*.parquet"))
    judged, expected = funnel.evaluate().frame(), corank.evaluate(run.folder).frame()
    assert judged.drop("run").equals(expected.drop("run"))


def test_what_is_saved_ranks_alike(funnel: corank.FittedFunnel, tmp_path: Path) -> None:
    request = {"user": {"id": 7}, "candidates": [3, 11, 24], "time": "2026-04-04T10:00:00Z"}
    saved = funnel.save(tmp_path / "bundle")
    assert corank.Funnel(saved.bundle).rank(request)["items"] == funnel.rank(request)["items"]


def test_without_a_folder_all_goes_with_the_funnel() -> None:
    funnel = corank.fit(rows(0, 60).to_pandas(), **ROLES, overrides=QUICK)
    folder = funnel.folder
    assert (folder / "bundle").is_dir() and str(folder) in repr(funnel)
    del funnel
    assert not folder.exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises((DataError, StorageError), match=str(tmp_path)):
        corank.fit(rows(0, 60), **ROLES, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


UNUSABLE = {
    "empty": (rows(0, 1).clear(), "no rows"),
    "one request": (rows(0, 1), "data.split"),
    "labels as text": (rows(0, 60).with_columns(click=pl.lit("yes")), "click"),
    "all clicked": (rows(0, 60).with_columns(click=pl.lit(1)), "negatives"),
    "no item": (rows(0, 60).with_columns(item=pl.lit(None, pl.Int64)), "item"),
    "no frame": ({"item": [1]}, "dict"),
    "two columns of a name": (rows(0, 60).to_pandas().rename(columns={"user": "item"}), "unique"),
    "an index": (rows(0, 60).to_pandas().set_index("user"), "--user"),
}


@pytest.mark.parametrize(("frame", "named"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_frame_that_cannot_be_learnt_from_is_one_clear_error(frame: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        corank.fit(frame, **ROLES, overrides=QUICK)
