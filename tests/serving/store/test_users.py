"""Users in a store: the newest row of each, as a request would give it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corank.bundle.bundle import Bundle
from corank.core.errors import DataError
from corank.funnel.request import Request
from corank_serve.store.base import Store
from corank_serve.store.put_users import put_users
from corank_serve.store.users import UserStore, user_columns
from tests.support.command_line import run_corank
from tests.support.random_worlds import DAY
from tests.support.shared import derived
from tests.support.stores import requests


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(derived().base / "bundle")


def table(path: Path, **columns: Any) -> str:
    pl.DataFrame(columns).write_parquet(path / "users.parquet")
    return str(path / "users.parquet")


def as_json(value: Any) -> Any:
    """A value as a store holds it: a time as text."""
    return value.isoformat() if isinstance(value, datetime) else value


def test_a_user_has_the_columns_of_the_newest_row(bundle: Bundle, store: Store) -> None:
    """By a table in which users 0 to 3 change, in no order."""
    path = derived().base / "users.parquet"
    users = pl.read_parquet(path)
    assert put_users(str(path), bundle, store) == users["user_id"].n_unique() == 8
    newest = users.sort("valid_from", nulls_last=False).unique("user_id", keep="last")
    known = [name for name in user_columns(bundle.manifest) if name in users.columns]
    for row in newest.iter_rows(named=True):
        columns = UserStore(store).find(row["user_id"])
        assert columns == {name: as_json(row[name]) for name in known}
    assert [UserStore(store).find(id_) for id_ in (8, "0", None, True, 1.0)] == [None] * 5


def test_a_stored_user_is_ranked_as_one_that_is_given(bundle: Bundle, local: Store) -> None:
    case = derived()
    put_users(str(case.base / "users.parquet"), bundle, local)
    users, compared = UserStore(local), 0
    for asked in requests():
        id_ = asked["user"]["id"]
        if id_ in (4, 5, 6, 7):  # of whom there is one row
            columns = users.find(id_)
            assert columns and columns.items() <= asked["user"].items()
            logged = {name: value for name, value in asked["user"].items() if name not in columns}
            again = asked | {"user": logged | columns}
            assert case.funnel.rank(Request.parse(again)) == case.funnel.rank(Request.parse(asked))
            compared += 1
    assert compared


def test_histories_are_kept_with_their_times(bundle: Bundle, local: Store, tmp_path: Path) -> None:
    events = [[{"id": 3, "time": DAY}, {"id": 4, "time": 2 * DAY}], None]
    source = table(tmp_path, user_id=[1, 2], history_0=events, history_1=events, unheard_of=[1, 2])
    assert put_users(source, bundle, local) == 2
    users = UserStore(local)
    assert users.find(1) == {"history_0": events[0], "history_1": events[0]}
    assert users.find(2) == {"history_0": None, "history_1": None}
    asked = requests()[0] | {"user": {"id": 1} | (users.find(1) or {})}
    missing = derived().funnel.rank(Request.parse(asked))["missing"]
    assert missing and not any("history" in name for name in missing)
    # a time may be a datetime
    at = datetime(1970, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    put_users(table(tmp_path, user_id=[1], history_0=[[{"id": 3, "time": at}]]), bundle, local)
    (event,) = (UserStore(local).find(1) or {})["history_0"]
    first, second = (
        derived().funnel.rank(Request.parse(asked | {"user": asked["user"] | {"history_0": [one]}}))
        for one in (event, {"id": 3, "time": 97445678})
    )
    assert first == second


def test_users_of_no_id_are_left_out(bundle: Bundle, local: Store, tmp_path: Path) -> None:
    source = table(tmp_path, user_id=[7, None], user_0=[float("nan"), 1.0])
    assert put_users(source, bundle, local) == 1
    users = UserStore(local)
    assert users.find(7) == {"user_0": None} and users.find("7") is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1], "user_0": [1.0]}, "no column 'user_id'; near ones: user"),
        ({"user_id": [1.5], "user_0": [1.0]}, "column 'user_id' identifies, but holds 1.5"),
        (
            {"user_id": [datetime(2026, 1, 1)], "user_0": [1.0]},
            "'user_id' is Datetime.*; expected whole numbers",
        ),
        ({"user_id": [1], "age": [1.0]}, "has none of the columns "),
        (
            {"user_id": [1], "user_0": [1.0], "valid_from": ["today"]},
            "'valid_from' is String; expected times",
        ),
        ({"user_id": ["a"], "user_0": [1.0]}, "user 'a': user.id: expected whole numbers, as in the log"),
        ({"user_id": [1], "user_0": ["x"]}, "user 1: user.user_0: feature .user_0.: expected numbers"),
        ({"user_id": [1], "history_0": [[{"time": 0}]]}, r"user 1: .*history_0"),
    ],
)
def test_tables_that_cannot_be_used_are_told(
    bundle: Bundle, local: Store, tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        put_users(table(tmp_path, **columns), bundle, local)
    assert local.tables() == []


def test_the_command_puts_users_beside_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, url = derived().base, f"lmdb:{tmp_path / 'store'}"
    code, out, err = run_corank(capsys, "publish", base / "bundle", url, "--users", base / "users.parquet")
    assert (code, out) == (0, "")
    assert err.startswith("users: 8\n") and "live: " in err
    code, out, err = run_corank(capsys, "publish", base / "bundle", url, "--users", base / "none.parquet")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {base}/none.parquet: no such file")
