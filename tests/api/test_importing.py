"""Importers as functions: those of corank with their signatures, any other by its name."""

import inspect
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic_core import PydanticUndefined

import corank
from corank.core.errors import ConfigError, DataError
from corank.datasets.importer import IMPORTERS
from tests.support.plugin_files import IMPORTER, plugin_file

LOG = pl.DataFrame(
    {"shown": [[3, 5], [5, 8]] * 20, "click": [[0, 1], [1, 0]] * 20, "like": [[0, 1], [0, 0]] * 20}
)
ITEMS = pl.DataFrame({"item_id": [3, 5, 8], "shop": ["a", "b", "a"]})
FEW = ["train.epochs=10"]
"""What these logs are trained by: validation has too little to stop by."""


@pytest.mark.parametrize("name", ["lists", "kuairand"])
def test_a_function_has_the_options_of_its_command(name: str) -> None:
    parameters = dict(inspect.signature(getattr(corank, f"import_{name}")).parameters)
    for given in ("source", "out", "report"):
        del parameters[given]
    fields = IMPORTERS.find(name).model_fields
    assert parameters.keys() == fields.keys()
    for option, field in fields.items():
        required = parameters[option].default is inspect.Parameter.empty
        assert required if field.default is PydanticUndefined else parameters[option].default == field.default
        assert f"{option}: {field.description}" in str(getattr(corank, f"import_{name}").__doc__)


@pytest.mark.parametrize("make", [pl.DataFrame.lazy, pl.DataFrame.to_arrow, pl.DataFrame.to_pandas])
def test_a_frame_is_imported_as_its_file_is(tmp_path: Path, make: Any) -> None:
    LOG.write_parquet(tmp_path / "log.parquet")
    ITEMS.write_csv(tmp_path / "items.csv")
    names: dict[str, Any] = {"candidates": "shown"}
    files = corank.import_lists(
        str(tmp_path / "log.parquet"),
        tmp_path / "a",
        labels="click,like",
        items=tmp_path / "items.csv",
        **names,
    )
    frames = corank.import_lists(
        make(LOG), str(tmp_path / "b"), labels=["click", "like"], items=make(ITEMS), **names
    )
    for table in ("log", "items"):
        one, other = (
            pl.read_parquet(result.config.with_name(f"{table}.parquet")) for result in (files, frames)
        )
        assert one.equals(other)
    assert files.config.read_text() == frames.config.read_text() and files.said == frames.said
    assert str(frames) == "\n".join(frames.said)
    corank.check(frames.config, FEW).require()


def test_errors_name_the_frame(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^the frame given as source: no .* 'shows' \(--candidates\); near"):
        corank.import_lists(LOG, tmp_path / "out", candidates="shows", labels="click")
    with pytest.raises(DataError, match=r"^the frame given as items: no row for 2 candidates, such as 5$"):
        corank.import_lists(LOG, tmp_path / "out", candidates="shown", labels="click", items=ITEMS.head(1))
    assert not any(tmp_path.iterdir())


def test_an_importer_of_a_plugin_is_a_function(tmp_path: Path) -> None:
    said, source = list[str](), tmp_path / "in"
    source.touch()
    with plugin_file(tmp_path / "plugin_mylog.py", IMPORTER, IMPORTERS) as name:
        corank.load_plugins([name], tmp_path)
        imported = corank.import_mylog(source, tmp_path / "out", limit=3, report=said.append)
        assert imported.said == tuple(said) == ("from 7, until None, all False, limit 3.0",)
        assert imported.config == tmp_path / "out" / "config.yaml"
        with pytest.raises(ConfigError, match=r"unknown key 'limits'; did you mean 'limit'\?$"):
            corank.import_mylog(source, tmp_path / "out", limits=3)
    assert callable(corank.import_mind) and not hasattr(corank, "import_page")
