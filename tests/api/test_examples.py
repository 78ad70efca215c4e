"""Every public name has a docstring with an example, and the examples run, one after another in one folder."""

import doctest
import inspect
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.funnel.request import Request
from corank.testing.worlds import trained_run
from corank_serve.log.request_log import RequestLog
from tests.support.served_worlds import ServedWorld

NAMES = [*(name for name in corank.__all__ if name != "__version__"), "config"]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def shop(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with shop/, its finished run, its bundle (and one to refresh), a store of it, and logs of services."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(world, folder / "shop")
    before = Path.cwd()
    os.chdir(folder)
    text = Path("shop/config.yaml").read_text(encoding="utf-8")
    Path("shop/config.yaml").write_text(
        text.replace("name: simulated-medium", "name: shop"), encoding="utf-8"
    )
    trained_run(Path("shop/config.yaml"), "shop/runs/shop")
    corank.export("shop/runs/shop", "bundle")
    shutil.copytree("bundle", "refreshed")
    corank.publish("bundle", "lmdb:store")
    funnel, served = corank.Funnel.open("bundle"), RequestLog(Path("served"))
    served.add(
        funnel, funnel.run(Request.parse({"user": {"id": 7}, "candidates": [3, 11], "time": "2026-03-11"}))
    )
    served.flush(complete=True)
    ServedWorld(lift=2.0).write(Path("trial"))
    log = pl.read_parquet("shop/log/*.parquet")
    orders = log.filter(pl.col("is_click") == 1).select(
        "user_id", "item_id", pl.col("time").dt.offset_by("3d")
    )
    Path("shop/organic").mkdir(exist_ok=True)
    orders.with_columns(kind=pl.lit("order")).write_parquet("shop/organic/orders.parquet")
    yield folder
    os.chdir(before)


def examples(name: str) -> list[doctest.DocTest]:
    """The examples of a public name, methods of a class included."""
    member = getattr(corank, name)  # a module, too: corank.config
    finder = doctest.DocTestFinder(exclude_empty=True)
    globs = {"corank": corank, "pl": pl, "PosixPath": Path, "Path": Path}
    return [test for test in finder.find(member, name, globs=globs) if test.examples]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(corank, name)) or ""
    assert ">>> " in text, f"corank.{name}: give its docstring an example that starts with >>>"


@pytest.mark.parametrize("name", NAMES)
def test_no_example_is_skipped(name: str) -> None:
    skipped = [one.source for test in examples(name) for one in test.examples if doctest.SKIP in one.options]
    assert not skipped, f"corank.{name}: give an example that runs on the small world"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy and pydantic
@pytest.mark.parametrize("name", NAMES)
def test_examples_run(shop: Path, name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    said: list[str] = []
    for test in examples(name):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
