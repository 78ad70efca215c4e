"""Daily files that cannot be imported are refused by file, column and row."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.datasets.recflow import import_recflow
from tests.support.recflow import Release, levels, log_of, release, write


def without_column(days: Release) -> None:
    for row in days["2024-01-14"]:
        del row["coarse_neg"]


def bad_flag(days: Release) -> None:
    days["2024-01-14"][2]["rank_neg"] = 2


def no_flag(days: Release) -> None:
    days["2024-01-14"][1]["rank_pos"] = None


def bad_label(days: Release) -> None:
    days["2024-01-15"][3]["like"] = -1


def no_video(days: Release) -> None:
    days["2024-01-13"][0]["video_id"] = None


def other_day(days: Release) -> None:
    days["2024-01-15"] = levels(15, 18)


def seconds(days: Release) -> None:
    days["2024-01-13"][1]["request_timestamp"] //= 1000


def absurd_upload(days: Release) -> None:
    days["2024-01-13"][1]["upload_timestamp"] = 10**17


def two_days(days: Release) -> None:
    del days["2024-01-14"]


def other_name(days: Release) -> None:
    days["notes"] = days["2024-01-14"]


def empty(days: Release) -> None:
    days["2024-01-14"] = pl.DataFrame(days["2024-01-14"]).clear().to_dict(as_series=False)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_column, ["2024-01-14.feather", "no column coarse_neg"]),
        (bad_flag, ["2024-01-14.feather", "column rank_neg, row 3", "0 or 1", "received 2"]),
        (no_flag, ["2024-01-14.feather", "column rank_pos, row 2", "received nothing"]),
        (bad_label, ["2024-01-15.feather", "column like, row 4", "0 or 1", "received -1"]),
        (no_video, ["2024-01-13.feather", "column video_id, row 1", "a whole number", "received nothing"]),
        (other_day, ["2024-01-15.feather", "column request_timestamp, row 1", "within a day of 2024-01-15"]),
        (seconds, ["2024-01-13.feather", "column request_timestamp, row 2", "milliseconds"]),
        (absurd_upload, ["2024-01-13.feather", "column upload_timestamp, row 2", "seconds", str(10**17)]),
        (two_days, ["all_stage", "2 days from 2024-01-13 to 2024-02-04", "at least three"]),
        (other_name, ["notes.feather", "2024-01-13.feather"]),
        (empty, ["2024-01-14.feather", "no rows"]),
    ],
)
def test_faulty_files_are_named_and_nothing_is_left(
    tmp_path: Path, spoil: Callable[[Release], None], told: list[str]
) -> None:
    days = release()
    spoil(days)
    write(tmp_path / "in", days)
    with pytest.raises(DataError) as error:
        import_recflow(tmp_path / "in", tmp_path / "out")
    assert all(part in str(error.value) for part in told), str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("name", "values", "wrong"),
    [
        ("user_id", pl.Series(["a", "b", "c", "d"]), "column user_id is String; expected whole numbers"),
        (
            "user_id",
            pl.Series([1.0, 2.5, 3.0, 4.0]),
            "column user_id, row 2: expected a whole number; received 2.5",
        ),
        (
            "realshow",
            pl.Series([0.0, 1.0, float("nan"), 0.0]),
            "column realshow, row 3: expected 0 or 1; received nan",
        ),
    ],
)
def test_columns_of_another_type(tmp_path: Path, name: str, values: pl.Series, wrong: str) -> None:
    folder = write(tmp_path / "in", release())
    file = folder / "all_stage/2024-01-14.feather"
    table = pl.DataFrame(release()["2024-01-14"]).with_columns(values.alias(name))
    table.write_ipc(file)
    with pytest.raises(DataError) as error:
        import_recflow(folder, tmp_path / "out")
    assert str(error.value) == f"{file}: {wrong}"


def test_whole_floats_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", release())
    table = pl.DataFrame(release()["2024-01-14"]).with_columns(
        pl.col("user_id", "age", "rank_pos").cast(pl.Float64)
    )
    table.write_ipc(folder / "all_stage/2024-01-14.feather")
    import_recflow(folder, tmp_path / "out")
    assert log_of(tmp_path / "out").filter(request_id=14)["user_id"].to_list() == [7] * 4


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"ARROW1\x00\x00cut short"])
def test_a_file_that_is_no_feather(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "in", release())
    (folder / "all_stage/2024-01-14.feather").write_bytes(content)
    with pytest.raises(DataError, match=r"2024-01-14\.feather: not readable as Feather"):
        import_recflow(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_files_and_a_full_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all_stage: no Feather files"):
        import_recflow(tmp_path / "nowhere", tmp_path / "out")
    write(tmp_path / "in", release())
    with pytest.raises(DataError, match="not an empty folder"):
        import_recflow(tmp_path / "in", tmp_path / "in")


def test_truth_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", release())
    (folder / "truth").mkdir()
    with pytest.raises(DataError, match=r"2024-01-13\.parquet: not the truth of a simulation"):
        import_recflow(folder, tmp_path / "out")
