"""Tables of a lakehouse: the rows of a snapshot, packed, repeated and continued, and what is wrong with a table."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import corank
from corank.core.errors import CorankError, DataError
from corank.data.packing.input_files import SurveyFile
from corank.data.tables import Table, cut_table, find_source_files
from tests.support.daily_log import ROWS, config_of, day_of, write_day
from tests.support.lake import LAKES, DeltaLake, Iceberg, LakeKind
from tests.support.object_store import ObjectStore

pytestmark = pytest.mark.slow
FRAME = pl.DataFrame(
    {
        "item": [3, 1, 2, 4],
        "shop": ["a b", "é/ü", None, "a b"],
        "time": [datetime(2026, 4, 1 + n) for n in range(4)],
    }
)


@pytest.fixture(params=LAKES, ids=lambda kind: kind.kind)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> DeltaLake | Iceberg:
    kind: LakeKind = request.param
    return kind(tmp_path / "a lake" / "log")


Lake = DeltaLake | Iceberg


def rows_of(table: Table) -> pl.DataFrame:
    return table.collect(table.frame).sort("item")


def shifted(by: int) -> pl.DataFrame:
    return FRAME.with_columns(pl.col("item") + by)


# Rows


def test_rows_are_those_of_the_table_with_its_partitions_new_columns_and_deleted_rows(
    lake: Lake, tmp_path: Path
) -> None:
    lake.append(FRAME, by="shop")
    lake.append(shifted(10).with_columns(price=pl.lit(0.5)), by="shop")
    lake.delete("item = 11")
    expected = pl.concat([FRAME, shifted(10).with_columns(price=pl.lit(0.5))], how="diagonal")
    expected = expected.filter(pl.col("item") != 11).sort("item")
    table = Table.scan("items", lake.uri, tmp_path)
    assert rows_of(table).select(expected.columns).equals(expected)
    relative = Table.scan("items", f"{lake.kind}://./a lake/log", tmp_path)
    assert relative.paths == table.paths
    with pytest.raises(DataError, match=r"data\.items: no column 'prize'; near ones: price"):
        table.require(["prize"])


def test_every_range_reads_its_own_rows_in_any_process_and_after_later_commits(
    lake: Lake, tmp_path: Path
) -> None:
    for n in range(3):
        lake.append(shifted(10 * n), by="shop")
    table = Table.scan("log", lake.uri, tmp_path)
    whole = table.collect(table.frame)
    ranges = cut_table(table, 2)
    sent = pickle.loads(pickle.dumps(table))
    lake.delete("item = 3")
    lake.append(shifted(90))
    read = pl.concat([batch for one in ranges for batch in one.read(sent, [pl.col("item")])])
    assert len(ranges) == 6
    assert read["item"].to_list() == whole["item"].to_list()
    assert sent.collect(sent.frame).equals(whole)
    some = pickle.loads(pickle.dumps(Table.scan("log", list(table.paths[1:3]), tmp_path)))
    assert len(some.collect(some.frame)) == sum(table.row_counts[1:3]) < len(whole)
    again = Table.scan("log", lake.uri, tmp_path)
    assert len(again.collect(again.frame)) == 15


def test_rows_deleted_by_a_vector_are_left_out_and_change_the_version_of_the_file(tmp_path: Path) -> None:
    lake = DeltaLake(tmp_path / "a lake ü")
    lake.append(FRAME.with_columns(shop=pl.lit("a b")), by="shop")
    lake.append(shifted(10).with_columns(shop=pl.lit("a b")))
    before = find_source_files(lake.uri, tmp_path)
    lake.mark_deleted([0, 2])
    after = find_source_files(lake.uri, tmp_path)
    assert [file.name(tmp_path) for file in after] == [file.name(tmp_path) for file in before]
    assert len({file.version for file in before} - {file.version for file in after}) == 1
    table = Table.scan("log", lake.uri, tmp_path)
    assert rows_of(table)["item"].to_list() == [1, 4, 11, 12, 13, 14]
    assert sorted(table.row_counts) == [2, 4]


def test_a_renamed_column_has_its_rows_of_before(tmp_path: Path) -> None:
    lake = Iceberg(tmp_path / "log")
    lake.append(FRAME)
    old = lake.number
    with lake.table.update_schema() as schema:
        schema.rename_column("item", "article")
    lake.append(shifted(10).rename({"item": "article"}))
    table = Table.scan("items", lake.uri, tmp_path)
    assert sorted(table.collect(table.frame)["article"]) == [1, 2, 3, 4, 11, 12, 13, 14]
    assert rows_of(Table.scan("items", f"{lake.uri}?snapshot={old}", tmp_path)).equals(FRAME.sort("item"))


def test_rows_that_the_library_of_the_table_must_read_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Iceberg(tmp_path / "log")
    for n in range(3):
        lake.append(shifted(10 * n))
    expected = rows_of(Table.scan("log", lake.uri, tmp_path))
    monkeypatch.setenv("POLARS_ICEBERG_READER_OVERRIDE", "pyiceberg")
    table = Table.scan("log", lake.uri, tmp_path)
    assert rows_of(table).equals(expected)
    assert table.row_counts == (4, 4, 4)
    read = [batch for one in cut_table(table, 3) for batch in one.read(table, [pl.col("item")])]
    assert sorted(pl.concat(read)["item"]) == expected["item"].to_list()


def test_a_table_of_a_catalog_is_named(tmp_path: Path) -> None:
    lake = Iceberg(tmp_path / "log")
    lake.append(FRAME)
    (tmp_path / ".pyiceberg.yaml").write_text(yaml.safe_dump({"catalog": {"shop": lake.properties}}))
    code = (
        "from pathlib import Path; from corank.data.tables import Table\n"
        "table = Table.scan('log', 'iceberg://shop.lake.log', Path())\n"
        "print(table.paths[0], sorted(table.collect(table.frame)['item']))"
    )
    environment = os.environ | {"PYICEBERG_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.stdout.startswith(f"iceberg://shop.lake.log?snapshot={lake.number}#"), ended.stderr
    assert ended.stdout.endswith("[1, 2, 3, 4]\n")


def test_a_table_in_object_storage_is_read(
    lake: Lake, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    url = f"{object_store.url}/lake/log"
    if isinstance(lake, DeltaLake):
        from deltalake import write_deltalake

        options = {"AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
        write_deltalake(url, FRAME, storage_options=options, partition_by=["shop"])
    else:
        from pyiceberg.catalog.sql import SqlCatalog

        catalog = SqlCatalog(
            "tests", uri=f"sqlite:///{tmp_path}/c.db", **{"s3.endpoint": object_store.endpoint}
        )
        catalog.create_namespace("lake")
        arrow = FRAME.to_arrow(compat_level=pl.CompatLevel.oldest())
        made = catalog.create_table("lake.log", arrow.schema, location=url)
        with made.update_spec() as spec:
            spec.add_identity("shop")
        made.append(arrow)
        hint = made.metadata_location.rpartition("/")[2]
        object_store.put("lake/log/metadata/version-hint.text", hint.encode())
    table = Table.scan("log", f"{lake.kind}+{url}", tmp_path)
    assert rows_of(table).equals(FRAME.sort("item"))
    for name in object_store.names("lake/log/"):
        if name.endswith(".parquet") and "_delta_log" not in name:
            object_store.put(name, object_store.get(name)[:300])
    with pytest.raises(DataError, match=r"^data\.log: .*") as caught:
        table.collect(table.frame)
    assert "\n" not in str(caught.value)


# Packing


def write_days(lake: Lake, folder: Path, first: int, last: int) -> None:
    for n in range(first, last):
        write_day(folder, n)
        lake.append(pl.read_parquet(folder / "log" / f"{day_of(n)}.parquet"))


def config(n: int, folder: Path, lake: Lake, pin: str = "") -> dict[str, Any]:
    made = config_of(n, folder)
    made["data"]["log"] = lake.uri + pin
    return made | {"packed": str(folder / f"packed{pin.partition('?')[0]}")}


def shards_of(packed: Any) -> dict[str, str]:
    files = packed.manifest.files
    return {
        name: entry.sha256 for name, entry in files.items() if name.partition("/")[0] in ("train", "valid")
    }


def test_a_pack_records_its_snapshot_and_is_repeated_by_it(lake: Lake, tmp_path: Path) -> None:
    write_days(lake, tmp_path, 0, 2)
    said: list[str] = []
    first = corank.pack(config(1, tmp_path, lake), report=said.append).packed
    pin = f"?{lake.pin}={lake.number}"
    assert first.manifest.snapshots == {"data.log": [f"{lake.uri}{pin}"]}
    assert f"data.log: {lake.uri}{pin}" in said
    plain = corank.pack(config_of(1, tmp_path) | {"packed": str(tmp_path / "plain")}).packed
    assert shards_of(first) == shards_of(plain)
    assert plain.manifest.snapshots == {}
    write_days(lake, tmp_path, 2, 3)
    with pytest.raises(DataError, match=r"data\.log: other files, or changed since"):
        corank.train(config(1, tmp_path, lake), folder=tmp_path / "run")
    pinned = config(1, tmp_path, lake, pin) | {"packed": str(tmp_path / "again")}
    again = corank.pack(pinned, workers=2).packed
    assert shards_of(again) == shards_of(first)
    assert again.manifest.snapshots == first.manifest.snapshots
    corank.train(pinned, folder=tmp_path / "run")


def test_a_continued_pack_opens_the_files_that_were_added(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    inner = SurveyFile.__call__

    def counted(self: SurveyFile, path: str) -> dict[str, Any]:
        opened.append(path)
        return inner(self, path)

    monkeypatch.setattr(SurveyFile, "__call__", counted)
    before: dict[str, Any] = {"lake": None, "plain": None}
    said: list[str] = []
    for n in range(4):
        write_days(lake, tmp_path, n, n + 1)
        settings = config_of(n, tmp_path) | {"packed": str(tmp_path / "plain")}
        plain = corank.pack(settings, continue_from=before["plain"])
        opened.clear()
        read = corank.pack(config(n, tmp_path, lake), continue_from=before["lake"], report=said.append)
        # the new day, and the one before, whose last minutes validated
        assert len(opened) == min(n + 1, 2)
        assert shards_of(read.packed) == shards_of(plain.packed)
        before = {"lake": read["packed"], "plain": plain["packed"]}
    assert not [line for line in said if "came after" in line or "are gone" in line]


def test_rewritten_files_bring_no_rows_late_and_lost_rows_are_reported(lake: Lake, tmp_path: Path) -> None:
    write_days(lake, tmp_path, 0, 2)
    first = corank.pack(config(1, tmp_path, lake))
    write_days(lake, tmp_path, 2, 3)
    lake.compact()
    assert len(find_source_files(lake.uri, tmp_path)) == 1
    said: list[str] = []
    second = corank.pack(config(2, tmp_path, lake), continue_from=first["packed"], report=said.append)
    assert second["splits"]["train"]["candidates"] == ROWS
    assert not [line for line in said if "came after" in line or "are gone" in line]
    write_days(lake, tmp_path, 3, 4)
    lake.append(pl.read_parquet(tmp_path / "log" / f"{day_of(1)}.parquet").head(7))
    lake.delete("request = '0--3' or request = '0--4'")
    said.clear()
    third = corank.pack(config(3, tmp_path, lake), continue_from=second["packed"], report=said.append)
    assert third["splits"]["train"]["candidates"] == ROWS
    notices = [line for line in said if "came after" in line or "are gone" in line]
    assert any(f"log: 7 rows of {day_of(1)} in " in line for line in notices)
    gone = f"log: 2 rows of {day_of(0)} to {day_of(0)} are gone from the table"
    assert any(line.startswith(gone) for line in notices)
    assert len(notices) == 2


def test_items_users_and_events_are_tables_of_a_lakehouse_too(lake: Lake, tmp_path: Path) -> None:
    write_days(lake, tmp_path, 0, 1)
    ids = {"items": "item", "users": "user"}
    log = pl.read_parquet(tmp_path / "log" / "*.parquet")
    settings = config(0, tmp_path, lake)
    for name, column in ids.items():
        table = type(lake)(tmp_path / name / name)
        table.append(log.select(pl.col(column).unique(), kind=pl.lit("a")))
        settings["data"][name] = table.uri
    settings["data"]["events"] = {"views": {"table": lake.uri}}
    settings["features"]["viewed"] = {"side": "user", "kind": "ids", "of": "item", "events": "views"}
    settings["features"]["kind"] = {"side": "item", "kind": "id"}
    checked = corank.check(settings)
    packed = corank.pack(settings).packed
    assert sorted(packed.manifest.snapshots) == ["data.events.views", "data.items", "data.log", "data.users"]
    assert packed.manifest.sources["kind"] == "items"
    assert checked.document()


# What is wrong with a table


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{lake}?{pin}=99", r"has no such (version|snapshot), or no more; the newest is [0-9]+$"),
        (
            "{lake}?{pin}=9999999999999999999",
            r"has no such (version|snapshot), or no more; the newest is [0-9]+$",
        ),
        ("{lake}?{pin}=1&{pin}=1", "nothing or"),
        ("{lake}?also=s3://other", "also= is gone"),
        (
            "{lake}?{pin}=new",
            r"expected (delta|iceberg)://PATH .* nothing or \?(version|snapshot)=NUMBER",
        ),
        ("{lake}?at=3", "nothing or"),
        ("{lake}#nothing.parquet", "the table has no file nothing.parquet"),
        ("{kind}://./nowhere", "nowhere: cannot be read: "),
        ("{kind}://", "expected "),
        ("{kind}+ftp://shop/log", r"expected s3://BUCKET/KEY"),
        ("{kind}+s3://me:word@shop/log", r"a URL holds no credentials"),
    ],
)
def test_a_table_that_is_not_there_is_named_in_a_line(
    lake: Lake, tmp_path: Path, uri: str, message: str
) -> None:
    lake.append(FRAME)
    given = uri.format(lake=lake.uri, pin=lake.pin, kind=lake.kind)
    settings = config_of(0, tmp_path)
    settings["data"]["log"] = given
    with pytest.raises(CorankError, match=message) as caught:
        corank.pack(settings)
    assert "\n" not in str(caught.value)
    assert "word" not in str(caught.value)
    assert not (tmp_path / "packed").exists()


def test_a_folder_of_other_files_and_a_table_among_files_are_no_table(lake: Lake, tmp_path: Path) -> None:
    lake.append(FRAME)
    FRAME.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"/: cannot be read|: cannot be read"):
        Table.scan("log", f"{lake.kind}://{tmp_path}/", tmp_path)
    with pytest.raises(DataError, match=r"expected files of one format, .* or tables of a lakehouse alone"):
        Table.scan("log", ["a.parquet", lake.uri], tmp_path)
    with pytest.raises(DataError, match=r"iceberg://log: expected CATALOG\.NAMESPACE\.TABLE, or \./log"):
        Table.scan("log", "iceberg://log", tmp_path)


def test_a_table_without_rows_is_named(tmp_path: Path) -> None:
    lake = DeltaLake(tmp_path / "log")
    lake.append(FRAME)
    lake.delete("item > 0")
    with pytest.raises(DataError, match=r"delta://.*/log: the table has no rows yet"):
        Table.scan("log", lake.uri, tmp_path)


def data_files(lake: Lake) -> list[Path]:
    return [path for path in lake.folder.rglob("*.parquet") if "_delta_log" not in path.parts]


def metadata_file(lake: Lake) -> Path:
    """The file of a table of one commit that names its data files."""
    (path,) = lake.folder.glob("_delta_log/*.json" if lake.kind == "delta" else "metadata/snap-*.avro")
    return path


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def test_a_damaged_table_is_named_in_a_line_before_it_is_read(lake: Lake, tmp_path: Path) -> None:
    lake.append(FRAME)
    cut_off(metadata_file(lake))
    with pytest.raises(DataError, match=": cannot be read: ") as caught:
        Table.scan("log", lake.uri, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(Path.unlink, r"^data\.log: .*No such file .* VACUUM"), (cut_off, r"^data\.log: ")],
)
def test_a_data_file_that_is_damaged_once_the_table_is_open_is_named(
    lake: Lake, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    lake.append(FRAME)
    table = Table.scan("log", lake.uri, tmp_path)
    damage(data_files(lake)[0])
    with pytest.raises(DataError, match=message) as caught:
        table.collect(table.frame)
    assert "\n" not in str(caught.value)


def test_row_counts_and_statistics_of_metadata_lose_no_rows(tmp_path: Path) -> None:
    lake = DeltaLake(tmp_path / "log")
    lake.append(FRAME)
    (commit,) = (lake.folder / "_delta_log").glob("*.json")
    text = commit.read_text().replace('\\"numRecords\\":4', '\\"numRecords\\":1')
    commit.write_text(text.replace("2026-04-04", "2026-04-01"))
    assert text != commit.read_text()
    table = Table.scan("log", lake.uri, tmp_path)
    assert table.row_counts == (4,)
    late = table.collect(table.frame.filter(pl.col("time") >= datetime(2026, 4, 4)))
    assert late["item"].to_list() == [4]


# Files of Hugging Face
