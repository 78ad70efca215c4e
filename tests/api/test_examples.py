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
from tests.support.simulated_runs import trained_run

NAMES = [*(name for name in corank.__all__ if name != "__version__"), "config"]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def shop(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with shop/, its finished run, its bundle (and one to refresh) and a store of it."""
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


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_examples_run(shop: Path, name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    said: list[str] = []
    for test in examples(name):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
