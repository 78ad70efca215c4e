"""The files of a table: paths, globs, and objects of a server that speaks S3's protocol."""

from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError, MissingObjectError, StorageError
from corank.data.packed.manifest import fingerprint
from corank.data.tables import Table, find_source_files
from corank.features.schema import Schema
from tests.data.test_tables import FRAME, settings, write
from tests.support.object_store import ObjectStore


def paths(source: str | list[str], base: Path) -> list[str]:
    """The files of a source."""
    return [file.path for file in find_source_files(source, base)]


def send(store: ObjectStore, folder: Path, ending: str, *names: str) -> None:
    """Send FRAME as each object."""
    for name in names:
        write(FRAME, folder / f"t{ending}")
        store.put(f"{name}{ending}", (folder / f"t{ending}").read_bytes())


def test_brackets_of_an_existing_file_are_no_glob(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "day[1].parquet")
    assert paths("day[1].parquet", tmp_path) == [str(tmp_path / "day[1].parquet")]


def test_a_url_of_the_web_is_left_as_it_is(tmp_path: Path) -> None:
    assert paths("https://shop/log/*.parquet", tmp_path) == ["https://shop/log/*.parquet"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.parquet: no such file \(check the path\)"):
        paths("nowhere.parquet", tmp_path)


def test_folder_is_refused_with_the_glob_to_write(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(DataError, match=r"it is a folder; write log/\*\.parquet"):
        paths("log/", tmp_path)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".feather"])
def test_objects_are_found_by_globs_and_read(object_store: ObjectStore, tmp_path: Path, ending: str) -> None:
    send(object_store, tmp_path, ending, "log/day=1/b", "log/day=1/c", "log/day=2/a")
    url = object_store.url
    assert paths(f"{url}/log/day=1/*{ending}", tmp_path) == [f"{url}/log/day=1/{n}{ending}" for n in "bc"]
    assert paths(f"{url}/log/**/a{ending}", tmp_path) == [f"{url}/log/day=2/a{ending}"]
    assert paths(f"{url}/log/*{ending}".replace("log/", "l*/*/"), tmp_path) == [
        f"{url}/log/{name}{ending}" for name in ("day=1/b", "day=1/c", "day=2/a")
    ]
    table = Table.scan("items", [f"{url}/log/day=1/*{ending}", f"{url}/log/day=2/a{ending}"], tmp_path)
    assert table.collect(table.frame).equals(pl.concat([FRAME] * 3))
    batches = list(table.batches([pl.col("item")], 3 * len(FRAME), 2))
    assert pl.concat(batches)["item"].to_list() == FRAME["item"].to_list() * 3


def test_an_object_that_is_not_there_is_named(object_store: ObjectStore, tmp_path: Path) -> None:
    send(object_store, tmp_path, ".parquet", "log/a")
    with pytest.raises(MissingObjectError, match=r"/log/b\.parquet: no such object"):
        paths(f"{object_store.url}/log/b.parquet", tmp_path)
    with pytest.raises(MissingObjectError, match=r"/log/\*\.csv: no such object"):
        paths(f"{object_store.url}/log/*.csv", tmp_path)
    with pytest.raises(MissingObjectError, match=r"/log: is a folder; write .*/log/\*\.parquet"):
        paths(f"{object_store.url}/log/", tmp_path)
    with pytest.raises(StorageError, match="there is no bucket s3://no-such-bucket"):
        paths("s3://no-such-bucket/log/*.parquet", tmp_path)


def test_a_changed_object_changes_the_fingerprint(object_store: ObjectStore, tmp_path: Path) -> None:
    send(object_store, tmp_path, ".parquet", "log/a")
    data = settings(log=f"{object_store.url}/log/*.parquet")
    before = fingerprint(data, Schema({}), tmp_path)
    assert fingerprint(data, Schema({}), tmp_path / "elsewhere") == before
    (key,) = object_store.names("log/")
    content = object_store.get(key)
    object_store.put(key, content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    assert fingerprint(data, Schema({}), tmp_path) != before
