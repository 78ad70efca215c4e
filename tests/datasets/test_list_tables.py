"""The importer of one's own log: tables of items and users beside it, and logs without users or times."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.datasets.importer import TENTHS

FEW = ["train.epochs=10"]
"""What these logs are trained by: validation has too little to stop by."""
ROLES: dict[str, Any] = {"candidates": "shown", "labels": "click", "user": "user_id", "time": "time"}


def shown(requests: int = 60) -> pl.DataFrame:
    """A row an impression, with a price of each candidate and the user's country."""
    rows = range(requests)
    return pl.DataFrame(
        {
            "user_id": [n % 7 for n in rows],
            "time": [datetime(2026, 3, 1) + timedelta(hours=4 * n) for n in rows],
            "shown": [[n % 9, n % 9 + 1, n % 9 + 2] for n in rows],
            "click": [[0, n % 2, 0] for n in rows],
            "price": [[n % 30 + 0.5, n % 30 + 1.5, 2.5] for n in rows],
            "country": ["de" if n % 3 else "fr" for n in rows],
        }
    )


def keys_of(imported: corank.ImportResult) -> dict[str, dict[str, Any]]:
    """Feature → its keys; the log can be trained on."""
    checked = corank.check(imported.config, FEW)
    checked.require()
    return {name: feature.model_dump() for name, feature in checked.config.features.items()}


ITEMS = pl.DataFrame(
    {"item_id": range(11), "price": [n * 1.25 for n in range(11)], "shop": ["a", "b"] * 5 + ["a"]}
)
USERS = pl.DataFrame({"user_id": range(5), "country": ["it", "de"] * 2 + ["it"], "shop": list("abbab")})


def test_columns_of_users_are_features_by_their_types(tmp_path: Path) -> None:
    users = pl.DataFrame({"user_id": range(7), "age": [n / 2 for n in range(7)], "likes": [["a", "b"]] * 7})
    users.write_parquet(tmp_path / "users.parquet")
    imported = corank.import_lists(shown(), tmp_path / "out", users=tmp_path / "users.parquet", **ROLES)
    keys = keys_of(imported)
    found = {name: (keys[name]["side"], keys[name]["kind"]) for name in users.columns}
    assert found == {"user_id": ("user", "id"), "age": ("user", "number"), "likes": ("user", "ids")}


def test_users_without_a_row_are_said(tmp_path: Path) -> None:
    imported = corank.import_lists(shown(), tmp_path / "out", users=USERS, **ROLES)
    assert "users: 2 of 7 of the log have no row; features are missing" in imported.said
    corank.check(imported.config, FEW).require()


@pytest.mark.parametrize(
    ("users", "more", "told"),
    [
        (USERS, {"user": ""}, "import lists: --users is a table; name the log's column of users as --user"),
        (USERS.rename({"user_id": "id"}), {}, "the frame given as users: no column 'user_id' (--user); it has id"),
        (USERS.cast({"user_id": pl.String}), {}, "column 'user_id' is String, users of the log are Int64; write both"),
        (USERS.vstack(USERS.head(1)), {}, "users: column user_id, row 1: expected one row of a user; received 0"),
        (USERS.with_columns(pl.col("user_id") + 100), {}, "no row for any user of the log, such as 0"),
        (USERS.clear(), {}, "the frame given as users: no rows"),
    ],
)  # fmt: skip
def test_users_that_do_not_fit_are_refused(
    tmp_path: Path, users: pl.DataFrame, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError) as error:
        corank.import_lists(shown(), tmp_path / "out", users=users, **(ROLES | more))
    assert told in str(error.value) and not any(tmp_path.iterdir())


def test_columns_of_one_name_in_several_tables_are_features_of_each(tmp_path: Path) -> None:
    imported = corank.import_lists(shown(), tmp_path / "out", items=ITEMS, users=USERS, **ROLES)
    keys, shared = keys_of(imported), ("country", "price", "shop")
    found = {(name, key["side"], key["column"]) for name, key in keys.items() if key.get("column") in shared}
    assert found == {
        ("log_price", "cross", "price"),
        ("item_price", "item", "price"),
        ("log_country", "context", "country"),
        ("user_country", "user", "country"),
        ("item_shop", "item", "shop"),
        ("user_shop", "user", "shop"),
    }
    assert keys["price_rank"]["of"] == "log_price"
    named = "log_country, log_price, item_price, item_shop, user_country, user_shop"
    assert f"columns of one name in several tables, all kept, as {named}" in imported.said


def test_columns_may_have_the_names_of_what_the_import_adds(tmp_path: Path) -> None:
    items = ITEMS.rename({"price": "item_clicks", "shop": "item_shown"})
    imported = corank.import_lists(shown(), tmp_path / "out", items=items, **ROLES)
    keys = keys_of(imported)
    assert keys["item_clicks"]["side"] == keys["item_shown"]["side"] == "item"
    assert (keys["item_clicks_"]["kind"], keys["item_shown_"]["kind"]) == ("prior", "prior")


def test_a_category_may_be_called_as_what_rates_are_of(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": range(21), "item": ["a", "b", "c"] * 7})
    keys = keys_of(corank.import_lists(shown(), tmp_path / "out", items=items, **ROLES))
    assert [keys[name]["by"] for name in ("item_clicks", "item_clicks_")] == [["item_id"], ["item"]]


def test_a_log_without_users_has_requests_alone(tmp_path: Path) -> None:
    imported = corank.import_lists(shown().drop("user_id"), tmp_path / "out", **(ROLES | {"user": ""}))
    config = corank.check(imported.config, FEW).config
    assert (config.data.user, config.data.request) == ("impression", ["impression"])
    assert not {"user_clicks", "user_shown", "impression"} & {*config.features}
    assert {"item_clicks", "item_shown"} <= {*config.features}
    assert (
        "no --user: each request is its own, and nothing is known of what users did before" in imported.said
    )


def test_a_log_without_times_is_in_the_order_of_its_rows(tmp_path: Path) -> None:
    log = shown(300).drop("time").with_columns(key=pl.int_range(300) * 7)
    roles = ROLES | {"time": "", "request": "key"}
    imported = corank.import_lists(log, tmp_path / "out", **roles)
    assert (
        "no --time: the order of rows counts, with times a minute apart from 2000-01-01 on" in imported.said
    )
    written = pl.read_parquet(tmp_path / "out" / "log.parquet")
    assert written.drop("time").equals(log)
    assert written["time"].diff().drop_nulls().unique().to_list() == [timedelta(minutes=1)]
    checked = corank.check(imported.config, FEW)
    checked.require()
    assert str(TENTHS) in imported.config.read_text()
    assert "# The log has no times. These are a minute apart" in imported.config.read_text()
    requests = {name: split.requests for name, split in checked.profile.splits.items()}
    assert requests == {"train": 240, "valid": 30, "test": 30}


@pytest.mark.parametrize("name", ["impression", "time"])
def test_columns_with_the_names_of_those_that_are_added_are_refused(tmp_path: Path, name: str) -> None:
    log = shown().rename({"time": "when", "price": name})
    with pytest.raises(DataError, match=f"column '{name}' has the name "):
        corank.import_lists(log, tmp_path / "out", candidates="shown", labels="click", request="when")
