"""The simulated news site: its truth is the truth, and written as MIND or EB-NeRD the importers read it back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corank.core.errors import DataError
from corank.data.log_rows import scan_log
from corank.training.checks.findings import refuse_errors
from corank.training.checks.summary import CheckSummary, check_config
from corank.training.config.config_file import read
from corank_lab.datasets.ebnerd import EbnerdFiles, import_ebnerd
from corank_lab.datasets.mind import MindFiles, import_mind
from corank_lab.datasets.news import News

pytestmark = pytest.mark.slow

SHOWN, READ, ARTICLES = "train/behaviors.parquet", "train/history.parquet", "articles.parquet"
"""Files of EB-NeRD."""


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("news")
    News(requests=1500, users=2000, items=2000, candidates=40).simulate(out)
    return out


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One news world in three layouts: folders `plain`, `mind` and `ebnerd`."""
    out = tmp_path_factory.mktemp("news worlds")
    for name, world in (("plain", News), ("mind", MindFiles), ("ebnerd", EbnerdFiles)):
        world(requests=300, users=400, items=600, candidates=20).simulate(out / name)
    return out


@pytest.fixture(scope="module")
def mind(worlds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mind") / "out"
    import_mind(worlds / "mind", out, vectors=8)
    return out


@pytest.fixture(scope="module")
def ebnerd(worlds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ebnerd") / "out"
    import_ebnerd(worlds / "ebnerd", out, vectors=8)
    return out


def plain_rows(worlds: Path) -> pl.DataFrame:
    """A row a candidate of the world, in order: user, time in seconds, history, item, click."""
    log = pl.read_parquet(worlds / "plain" / "log" / "*.parquet").explode("candidates", "clicked")
    users = pl.read_parquet(worlds / "plain" / "users.parquet").select("user_id", "history")
    log = log.join(users, "user_id", how="left", maintain_order="left")
    seconds = pl.col("time").dt.epoch("s")
    return log.select("user_id", seconds, "history", item_id="candidates", clicked="clicked")


def exploded(news: Path) -> pl.DataFrame:
    """A row a candidate, with its truth and the time at which its article was published."""
    log = pl.read_parquet(news / "log/*.parquet").explode("candidates", "clicked")
    log = log.rename({"candidates": "item_id"})
    truth = pl.read_parquet(news / "truth/*.parquet")
    assert log.select("request_id", "item_id").equals(truth.select("request_id", "item_id"))
    items = pl.read_parquet(news / "items.parquet").select("item_id", "published")
    return log.with_columns(p=truth["click"]).join(items, "item_id", maintain_order="left")


def checked(out: Path) -> CheckSummary:
    """The summary of an imported config that training accepts as it is."""
    summary = check_config(read(out / "config.yaml"), out)
    refuse_errors(summary.findings)
    return summary


def test_equal_settings_write_equal_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        News(seed=seed, requests=100, users=50, items=300).simulate(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_clicks_follow_the_truth_and_the_config_is_accepted(news: Path) -> None:
    rows = exploded(news)
    clicks, p = rows["clicked"].to_numpy(), rows["p"].to_numpy().astype(float)
    for band in (np.arange(len(p)), *np.array_split(np.argsort(p), 5)):
        assert abs(clicks[band].sum() - p[band].sum()) < 4 * np.sqrt((p * (1 - p))[band].sum())
    assert 0.05 < p.mean() < 0.07
    checked(news)


def number(column: str) -> pl.Expr:
    return pl.col(column).str.slice(1).cast(pl.Int64)


def test_mind_comes_back(worlds: Path, mind: Path) -> None:
    log = pl.concat(pl.read_parquet(mind / "log" / f"{part}.parquet") for part in ("train", "dev"))
    users = pl.read_parquet(mind / "users.parquet")
    assert users["valid_from"].null_count() == len(users)  # a history does not change within the world
    rows = log.join(users, "user_id", how="left", maintain_order="left").explode("candidates", "clicked")
    rows = rows.select(
        number("user_id"),
        pl.col("time").dt.epoch("s"),
        pl.col("history").list.eval(pl.element().str.slice(1).cast(pl.Int64)),
        item_id=number("candidates"),
        clicked="clicked",
    )
    assert rows.equals(plain_rows(worlds))
    items = pl.read_parquet(mind / "items.parquet").with_columns(number("item_id"))
    same = ["item_id", "category", "subcategory", "title", "abstract"]
    assert items.select(same).equals(pl.read_parquet(worlds / "plain" / "items.parquet").select(same))
    assert items["entities"].list.first().to_list() == [f"Q{name[-2:]}" for name in items["subcategory"]]
    seen = rows.group_by("item_id").agg(pl.col("time").min()).join(items, "item_id")
    assert seen["time"].eq(seen["first_seen"].dt.epoch("s")).all() and len(seen) < len(items)
    vectors = items["vector"].to_numpy()
    assert vectors.shape == (600, 8) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = np.equal.outer(items["subcategory"].to_numpy(), items["subcategory"].to_numpy())
    other, cosines = ~np.eye(600, dtype=bool), vectors @ vectors.T
    assert cosines[alike & other].mean() > cosines[~alike].mean() + 0.05
    # few users, who come again and again in this world
    summary = checked(mind)
    dev = pl.read_parquet(mind / "log" / "dev.parquet")["candidates"].list.len().sum()
    assert summary.splits["test"] == dev


def test_ebnerd_comes_back(worlds: Path, ebnerd: Path) -> None:
    table = scan_log(read(ebnerd / "config.yaml").data, ebnerd)
    users = pl.read_parquet(ebnerd / "users.parquet")
    part = pl.when(pl.col("valid_from").is_null()).then(pl.lit("train")).otherwise(pl.lit("validation"))
    read_before = users.select("user_id", "history", part=part)
    log = table.collect(table.frame).join(read_before, ["user_id", "part"], how="left", maintain_order="left")
    seconds = pl.col("time").dt.epoch("s")
    rows = log.select("user_id", seconds, "history", item_id="article_id", clicked="clicked")
    assert rows.equals(plain_rows(worlds))
    assert users["history_time"].list.len().eq(users["history_read"].list.len()).all()
    items = pl.read_parquet(ebnerd / "items.parquet")
    plain = pl.read_parquet(worlds / "plain" / "items.parquet")
    assert items["published_time"].equals(plain["published"]) and items["title"].equals(plain["title"])
    assert items["vector"].dtype == pl.Array(pl.Float32, 8)
    assert not any(name.startswith("total_") for name in items.columns)
    summary = checked(ebnerd)
    last = pl.read_parquet(ebnerd / "log" / "validation.parquet")
    assert summary.splits["test"] == last["article_ids_inview"].list.len().sum()


def field(file: str, row: int, n: int, value: str) -> Callable[[Path], None]:
    """Write a field of a row of a file of MIND, from 1."""

    def spoil(folder: Path) -> None:
        lines = [line.split("\t") for line in (folder / file).read_text().splitlines()]
        lines[row - 1][n] = value
        (folder / file).write_text("".join("\t".join(line) + "\n" for line in lines))

    return spoil


def change(file: str, edit: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    """Change a Parquet file of EB-NeRD."""

    def spoil(folder: Path) -> None:
        edit(pl.read_parquet(folder / file)).write_parquet(folder / file)

    return spoil


def refuse(
    read: Callable[..., object], source: Path, folder: Path, spoil: Callable[[Path], None], parts: list[str]
) -> None:
    """Spoil a copy of a release: its import names what is wrong and leaves nothing."""
    shutil.copytree(source, folder / "in")
    spoil(folder / "in")
    with pytest.raises(DataError) as error:
        read(folder / "in", folder / "out", vectors=0)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert [path.name for path in folder.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (field("dev/behaviors.tsv", 2, 2, "2019-11-15"), ["column time, row 2", "9:05:58 AM"]),
        (field("train/behaviors.tsv", 3, 4, "N1-2"), ["column impressions, row 3", "N55689-1", "'N1-2'"]),
        (lambda folder: (folder / "dev" / "news.tsv").unlink(), ["dev/news.tsv", "no such file"]),
        (lambda folder: (folder / "train" / "news.tsv").write_bytes(b""), ["train/news.tsv", "cannot be read"]),
        (lambda folder: shutil.move(folder / "train", folder / "test"), ["no folder train with behaviors.tsv"]),
    ],
)  # fmt: skip
def test_faulty_files_of_mind_are_named(
    worlds: Path, tmp_path: Path, spoil: Callable[[Path], None], parts: list[str]
) -> None:
    refuse(import_mind, worlds / "mind", tmp_path, spoil, parts)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (change(SHOWN, lambda f: f.with_columns(user_id=None)), ["column user_id, row 1", "nothing"]),
        (change(SHOWN, lambda f: f.drop("age")), ["no column age; it has"]),
        (change(READ, lambda f: f.with_columns(pl.col("read_time_fixed").list.head(1))), [READ, "as long as"]),
        (change(ARTICLES, lambda f: f.head(50)), ["articles.parquet: no row for", "candidates, such as"]),
        (lambda folder: (folder / "validation/history.parquet").unlink(), ["no such file"]),
    ],
)  # fmt: skip
def test_faulty_files_of_ebnerd_are_named(
    worlds: Path, tmp_path: Path, spoil: Callable[[Path], None], parts: list[str]
) -> None:
    refuse(import_ebnerd, worlds / "ebnerd", tmp_path, spoil, parts)
