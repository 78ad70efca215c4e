"""The importer of EB-NeRD: a simulated world in its layout comes back, and faulty files are named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.data.log_rows import scan_log
from corank.datasets.ebnerd import import_ebnerd
from corank.training.checks.summary import check_config
from corank.training.config.config_file import read
from tests.datasets.conftest import plain_rows

pytestmark = pytest.mark.slow

BEHAVIORS, HISTORY, ARTICLES = "train/behaviors.parquet", "train/history.parquet", "articles.parquet"


@pytest.fixture(scope="module")
def imported(news_worlds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ebnerd") / "out"
    import_ebnerd(news_worlds / "ebnerd", out, vectors=8)
    return out


def test_the_world_comes_back(news_worlds: Path, imported: Path) -> None:
    table = scan_log(read(imported / "config.yaml").data, imported)
    users = pl.read_parquet(imported / "users.parquet")
    part = pl.when(pl.col("valid_from").is_null()).then(pl.lit("train")).otherwise(pl.lit("validation"))
    read_before = users.select("user_id", "history", part=part)
    log = table.collect(table.frame).join(read_before, ["user_id", "part"], how="left", maintain_order="left")
    rows = log.select(
        "user_id", pl.col("time").dt.epoch("s"), "history", item_id="article_id", clicked="clicked"
    )
    assert rows.equals(plain_rows(news_worlds))
    assert users["history_time"].list.len().eq(users["history_read"].list.len()).all()
    items = pl.read_parquet(imported / "items.parquet")
    plain = pl.read_parquet(news_worlds / "plain" / "items.parquet")
    assert items["published_time"].equals(plain["published"]) and items["title"].equals(plain["title"])
    assert items["vector"].dtype == pl.Array(pl.Float32, 8)
    assert not any(name.startswith("total_") for name in items.columns)


def test_the_config_is_accepted_and_splits_by_the_files(imported: Path) -> None:
    summary = check_config(read(imported / "config.yaml"), imported)
    summary.data_check.require()
    # few users with many visits in this world; a score of each article
    assert [suggestion.kind for suggestion in summary.profile.suggestions] == ["prior", "within"]
    last = pl.read_parquet(imported / "log" / "validation.parquet")
    assert summary.splits["test"] == last["article_ids_inview"].list.len().sum()


def test_without_articles_the_ids_alone_are_known(news_worlds: Path, tmp_path: Path) -> None:
    shutil.copytree(news_worlds / "ebnerd", tmp_path / "in")
    (tmp_path / "in" / ARTICLES).unlink()
    said: list[str] = []
    summary = import_ebnerd(tmp_path / "in", tmp_path / "out", report=said.append)
    assert any(f"of {summary.items:,} articles the ids alone are known" in line for line in said)
    config = read(tmp_path / "out" / "config.yaml")
    assert {"article_id", "clicks", "candidates"} <= config.declared.features.keys()
    check_config(config, tmp_path / "out").data_check.require()
    run = corank.train(tmp_path / "out" / "config.yaml", ["train.epochs=1"], folder=tmp_path / "run").run
    corank.export(run.folder, tmp_path / "bundle")
    assert corank.rank(tmp_path / "bundle", corank.request(run.folder))["items"]


def test_clicks_elsewhere_are_counted_and_left_out(news_worlds: Path, tmp_path: Path) -> None:
    shutil.copytree(news_worlds / "ebnerd", tmp_path / "in")
    change(lambda frame: frame.with_columns(
        article_ids_clicked=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit([1], pl.List(pl.Int32)))
        .otherwise("article_ids_clicked")
    ), "validation/behaviors.parquet")(tmp_path / "in")  # fmt: skip
    said: list[str] = []
    summary = import_ebnerd(tmp_path / "in", tmp_path / "out", vectors=0, report=said.append)
    assert summary.elsewhere == 1 and any("1 clicks left out" in line for line in said)
    assert "kind: vector" not in (tmp_path / "out" / "config.yaml").read_text()
    table = scan_log(read(tmp_path / "out/config.yaml").data, tmp_path / "out")
    assert table.collect(table.frame)["clicked"].sum() == summary.clicks


def change(edit: Callable[[pl.DataFrame], pl.DataFrame], file: str) -> Callable[[Path], None]:
    """Change a Parquet file."""

    def spoil(folder: Path) -> None:
        edit(pl.read_parquet(folder / file)).write_parquet(folder / file)

    return spoil


def nothing_at(column: str, row: int) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(
        pl.when(pl.int_range(pl.len()) != row).then(pl.col(column)).alias(column)
    )


def shorten(column: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(pl.col(column).list.head(1))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (change(nothing_at("user_id", 3), BEHAVIORS), ["column user_id, row 4", "nothing"]),
        (change(nothing_at("impression_time", 0), "validation/behaviors.parquet"), ["column impression_time, row 1"]),
        (change(lambda f: f.drop("age"), BEHAVIORS), ["no column age; it has"]),
        (change(lambda f: f.with_columns(article_ids_inview=1), BEHAVIORS), ["is Int32; expected lists"]),
        (change(shorten("read_time_fixed"), HISTORY), [HISTORY, "as long as article_id"]),
        (change(lambda f: pl.concat([f, f.head(1)]), HISTORY), ["column user_id, row 1"]),
        (change(lambda f: pl.concat([f, f.head(1)]), ARTICLES), ["column article_id, row 1"]),
        (change(lambda f: f.head(50), ARTICLES), ["articles.parquet: no row for", "candidates, such as"]),
        (lambda folder: (folder / "validation/history.parquet").unlink(), ["no such file"]),
        (lambda folder: (folder / "articles.parquet").write_text("no"), ["articles.parquet", "cannot be read"]),
        (lambda folder: shutil.rmtree(folder / "train"), ["no folder train with behaviors.parquet"]),
    ],
)  # fmt: skip
def test_faulty_files_are_named_and_nothing_is_left(
    news_worlds: Path, tmp_path: Path, spoil: Callable[[Path], None], told: list[str]
) -> None:
    shutil.copytree(news_worlds / "ebnerd", tmp_path / "in")
    spoil(tmp_path / "in")
    with pytest.raises(DataError) as error:
        import_ebnerd(tmp_path / "in", tmp_path / "out", vectors=0)
    assert all(part in str(error.value) for part in told), str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
