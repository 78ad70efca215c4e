"""The page on formats has the numbers of the code, and quotes what an error says of another number."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from corank.bundle.manifest import BundleManifest
from corank.cli.version import FORMATS
from corank.core.artifact import Manifest, parse_manifest
from corank.core.errors import CorankError
from corank_serve.log.log_format import LogColumns
from corank_serve.store.base import open_store
from corank_serve.store.live_version import StoreState
from supply_chain.lock import ROOT

TEXT = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")


def tables() -> list[dict[str, list[str]]]:
    """The tables of the page: the other cells by the first of a row, without the head."""
    found: list[dict[str, list[str]]] = []
    for block in re.findall(r"^\|.*\n\|-.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        found.append({name: rest for name, *rest in rows})
    return found


def quoted(cell: str) -> str:
    """The text of a cell of code."""
    fence = "``" if cell.startswith("``") else "`"
    return cell.removeprefix(fence).removesuffix(fence)


def test_every_artifact_has_the_number_of_the_code() -> None:
    """All kinds of artifacts are on the page, and nothing else has a number."""
    numbers = {name: cells[0] for name, cells in tables()[0].items()}
    assert {name: numbers[name] for name in FORMATS} == {
        name: str(kind.written_format()) for name, kind in FORMATS.items()
    }
    assert {number for name, number in numbers.items() if name not in FORMATS} == {"none"}
    assert {
        kind.kind_name() for kind in Manifest.__subclasses__() if kind.__module__.startswith("corank")
    } == {kind.kind_name() for kind in FORMATS.values()}


def test_the_examples_of_other_pages_have_the_numbers_of_the_code() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert json.loads(example) == {"kind": "bundle", "format": BundleManifest.written_format()}
    page = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    assert (
        f"`manifest.json` has `kind`, `bundle`, and `format`, now {BundleManifest.written_format()}." in page
    )


@pytest.mark.parametrize("name", FORMATS)
def test_an_artifact_of_another_number_is_refused_as_the_page_says(name: str) -> None:
    kind, other = FORMATS[name], FORMATS[name].written_format() + 1
    raw = json.dumps({"kind": kind.kind_name(), "format": other}).encode()
    with pytest.raises(kind.error) as refused:
        parse_manifest(raw, kind, "manifest.json")
    assert f"format {other}; this corank reads {other - 1}; " in str(refused.value)
    assert str(refused.value).endswith(quoted(tables()[1][name][0]))


def read_foreign_store(folder: Path) -> None:
    """Read the head of a store that another release wrote, with a key that this one does not know."""
    with closing(open_store(f"lmdb:{folder / 'store'}", create=True)) as store:
        assert store.swap(None, b'{"epoch": 1}')
        StoreState.read(store)


def read_foreign_log(folder: Path) -> None:
    """Read the columns of a log without those that this release writes into a file."""
    pl.DataFrame({"user_id": [1]}).write_parquet(folder / "log.parquet")
    LogColumns.read(folder / "log.parquet")


@pytest.mark.parametrize(
    ("name", "read"), [("store", read_foreign_store), ("served log", read_foreign_log)], ids=["store", "log"]
)
def test_a_store_or_a_log_of_another_release_is_refused_as_the_page_says(
    name: str, read: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(CorankError, match=re.escape(quoted(tables()[1][name][0]))):
        read(tmp_path)
