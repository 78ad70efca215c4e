"""The importer of the Open Bandit Dataset: what files hold, and faulty ones named."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.training.checks.findings import refuse_errors
from corank.training.checks.summary import check_config
from corank.training.config.config_file import read
from corank_lab.datasets.obd import MOST_WEIGHT, import_obd
from tests.support.open_bandit_files import ITEMS, release


def test_tables_hold_the_files_values(tmp_path: Path) -> None:
    folder = release(tmp_path / "in")
    summary = import_obd(folder, tmp_path / "out", campaign="men")
    log = pl.read_parquet(tmp_path / "out" / "log.parquet")
    raw = pl.read_csv(folder / "random" / "men" / "men.csv")
    assert log["time"][0] == datetime(2019, 11, 24, 0, 0, 0, 4101, tzinfo=UTC)
    assert (
        log.select("item_id", "position", "click").rows() == raw.select("item_id", "position", "click").rows()
    )
    assert log["affinity"].to_list() == [10.0 * k + n for n, k in enumerate(raw["item_id"])]
    assert log["weight"].to_list() == [1.0] * 200 and log["request_id"].to_list() == list(range(200))
    assert (
        log["user_id"].n_unique() == raw.select(pl.struct(f"user_feature_{n}" for n in range(4))).n_unique()
    )
    assert (summary.rows, summary.items, summary.clicks) == (200, ITEMS, log["click"].sum())
    assert summary.split == (date(2019, 11, 26), date(2019, 11, 27))
    refuse_errors(check_config(read(tmp_path / "out" / "config.yaml"), tmp_path / "out").findings)


def field(file: str, row: int, column: int, value: str) -> Callable[[Path], None]:
    """Write a value into a row of a file, from 1 after the head."""

    def spoil(folder: Path) -> None:
        path = folder / "random" / "men" / file
        lines = [line.split(",") for line in path.read_text().splitlines()]
        lines[row][column] = value
        path.write_text("\n".join(map(",".join, lines)) + "\n")

    return spoil


def test_weights_are_inverse_propensities_with_an_end(tmp_path: Path) -> None:
    folder = release(tmp_path / "in")
    for row, chance in ((1, "0.5"), (2, "0.00001")):
        field("men.csv", row, 5, chance)(folder)
    import_obd(folder, tmp_path / "out", campaign="men")
    assert pl.read_parquet(tmp_path / "out" / "log.parquet")["weight"][:3].to_list() == [0.5, MOST_WEIGHT, 1]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (field("men.csv", 5, 2, "4"), ["column item_id, row 5", "0 to 3"]),
        (field("men.csv", 7, 5, "0"), ["column propensity_score, row 7", "above 0"]),
        (field("men.csv", 0, 4, "clicks"), ["men.csv: no column click"]),
        (
            lambda folder: (folder / "random/men/item_context.csv").unlink(),
            ["item_context.csv: no such file"],
        ),
    ],
)
def test_faulty_files_are_named_and_nothing_is_left(
    tmp_path: Path, spoil: Callable[[Path], None], told: list[str]
) -> None:
    folder = release(tmp_path / "in")
    spoil(folder)
    with pytest.raises(DataError) as error:
        import_obd(folder, tmp_path / "out", campaign="men")
    assert all(part in str(error.value) for part in told), str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
