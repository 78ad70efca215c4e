"""The importer of MIND: a simulated world in its layout comes back, and faulty files are named."""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corank.core.errors import DataError
from corank.datasets.mind import import_mind
from corank.training.checks.summary import check_config
from corank.training.config.config_file import read
from tests.datasets.conftest import plain_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def imported(news_worlds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mind") / "out"
    import_mind(news_worlds / "mind", out, vectors=8)
    return out


def number(column: str) -> pl.Expr:
    return pl.col(column).str.slice(1).cast(pl.Int64)


def test_the_world_comes_back(news_worlds: Path, imported: Path) -> None:
    log = pl.concat(pl.read_parquet(imported / "log" / f"{part}.parquet") for part in ("train", "dev"))
    users = pl.read_parquet(imported / "users.parquet")
    assert users["valid_from"].null_count() == len(users)  # a history does not change within the world
    log = log.join(users, "user_id", how="left", maintain_order="left")
    rows = log.explode("candidates", "clicked").select(
        number("user_id"),
        pl.col("time").dt.epoch("s"),
        pl.col("history").list.eval(pl.element().str.slice(1).cast(pl.Int64)),
        item_id=number("candidates"),
        clicked="clicked",
    )
    assert rows.equals(plain_rows(news_worlds))
    items = pl.read_parquet(imported / "items.parquet").with_columns(number("item_id"))
    same = ["item_id", "category", "subcategory", "title", "abstract"]
    assert items.select(same).equals(pl.read_parquet(news_worlds / "plain" / "items.parquet").select(same))
    assert items["entities"].list.first().to_list() == [f"Q{name[-2:]}" for name in items["subcategory"]]
    seen = rows.group_by("item_id").agg(pl.col("time").min()).join(items, "item_id")
    assert seen["time"].eq(seen["first_seen"].dt.epoch("s")).all() and len(seen) < len(items)


def test_vectors_are_of_unit_length_and_hold_the_topic(imported: Path) -> None:
    items = pl.read_parquet(imported / "items.parquet")
    vectors = items["vector"].to_numpy()
    assert vectors.shape == (600, 8) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    same = items["subcategory"].to_numpy()[:, None] == items["subcategory"].to_numpy()
    other = ~np.eye(600, dtype=bool)
    assert alike[same & other].mean() > alike[~same].mean() + 0.05


def test_the_config_is_accepted_and_splits_by_the_files(imported: Path) -> None:
    config = read(imported / "config.yaml")
    summary = check_config(config, imported)
    summary.data_check.require()
    lacking = [suggestion.lacking for suggestion in summary.profile.suggestions]
    assert lacking == ["rate of 'click' by user (kind: prior)"], (
        "few users, who come again and again in this world"
    )
    dev = pl.read_parquet(imported / "log" / "dev.parquet")["candidates"].list.len().sum()
    assert summary.splits["test"] == dev


def test_news_without_a_row_and_without_a_category_have_ids_alone(news_worlds: Path, tmp_path: Path) -> None:
    shutil.copytree(news_worlds / "mind", tmp_path / "in")
    shown = (tmp_path / "in/train/behaviors.tsv").read_text().split("\n")[0].split("\t")[4].split()
    gone, blank = (pair.partition("-")[0] for pair in shown[:2])
    for part in ("train", "dev"):
        path = tmp_path / "in" / part / "news.tsv"
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        rows = [[row[0], "", *row[2:]] if row[0] == blank else row for row in rows if row[0] != gone]
        path.write_text("".join("\t".join(row) + "\n" for row in rows))
    said: list[str] = []
    import_mind(tmp_path / "in", tmp_path / "out", vectors=8, report=said.append)
    assert any("no row for 1 news that are candidates" in line and gone in line for line in said)
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert items.filter(pl.col("category").is_null())["item_id"].sort().to_list() == sorted([gone, blank])
    check_config(read(tmp_path / "out" / "config.yaml"), tmp_path / "out").data_check.require()


def test_without_vectors_and_without_dev(news_worlds: Path, tmp_path: Path) -> None:
    shutil.copytree(news_worlds / "mind" / "train", tmp_path / "MINDsmall_train")
    said: list[str] = []
    summary = import_mind(tmp_path, tmp_path / "out", vectors=0, report=said.append)
    assert summary.split == (date(2026, 3, 6), date(2026, 3, 7))
    assert "vector" not in pl.read_parquet_schema(tmp_path / "out" / "items.parquet")
    assert "kind: vector" not in (tmp_path / "out" / "config.yaml").read_text()
    assert any("impressions" in line for line in said)
    check_config(read(tmp_path / "out" / "config.yaml"), tmp_path / "out")


def edit(file: str, row: int, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Change the fields of a row of a file, from 1."""

    def spoil(folder: Path) -> None:
        lines = (folder / file).read_text().splitlines()
        lines[row - 1] = "\t".join(change(lines[row - 1].split("\t")))
        (folder / file).write_text("\n".join(lines) + "\n")

    return spoil


def field(n: int, value: str) -> Callable[[list[str]], list[str]]:
    return lambda fields: [*fields[:n], value, *fields[n + 1 :]]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            edit("dev/behaviors.tsv", 2, field(2, "2019-11-15")),
            ["column time, row 2", "9:05:58 AM"],
        ),
        (
            edit("train/behaviors.tsv", 3, field(4, "N1-2")),
            ["column impressions, row 3", "N55689-1", "'N1-2'"],
        ),
        (edit("train/behaviors.tsv", 1, field(4, "")), ["column impressions, row 1", "received ''"]),
        (edit("train/behaviors.tsv", 5, field(1, "")), ["column user_id, row 5"]),
        (
            edit("train/behaviors.tsv", 1, lambda fields: fields[:3]),
            ["behaviors.tsv", "3 columns; expected 5"],
        ),
        (edit("train/behaviors.tsv", 4, field(0, "x")), ["column impression, row 4", "'x'"]),
        (lambda folder: (folder / "dev" / "news.tsv").unlink(), ["dev/news.tsv", "no such file"]),
        (
            lambda folder: (folder / "train" / "news.tsv").write_bytes(b""),
            ["train/news.tsv", "cannot be read"],
        ),
        (
            lambda folder: shutil.move(folder / "train", folder / "test"),
            ["no folder train with behaviors.tsv"],
        ),
        (lambda folder: shutil.copytree(folder / "dev", folder / "a_dev"), ["are all of 'dev'"]),
    ],
)
def test_faulty_files_are_named_and_nothing_is_left(
    news_worlds: Path, tmp_path: Path, spoil: Callable[[Path], None], told: list[str]
) -> None:
    shutil.copytree(news_worlds / "mind", tmp_path / "in")
    spoil(tmp_path / "in")
    with pytest.raises(DataError) as error:
        import_mind(tmp_path / "in", tmp_path / "out", vectors=0)
    assert all(part in str(error.value) for part in told), str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        import_mind(tmp_path / "nowhere", tmp_path / "out")
