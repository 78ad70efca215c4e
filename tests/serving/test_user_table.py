"""`corank users`: a user's histories in a store are those that a request of the log would carry."""

from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.bundle.bundle import Bundle
from corank.core.errors import DataError
from corank_serve.store.base import open_store
from corank_serve.store.put_users import put_users
from corank_serve.store.users import UserStore
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.random_worlds import DERIVED, LISTED
from tests.support.shared import bare_case, shared_case

pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module", params=[(shared_case, DERIVED), (bare_case, LISTED)], ids=["derived", "listed"]
)
def case(request: pytest.FixtureRequest) -> Case:
    make, drawn = request.param
    shared: Case = make(drawn)
    assert shared.funnel
    return shared


def sources(case: Case) -> list[str]:
    """The options that name the tables that the bundle's histories are made of."""
    histories = case.packed.schema.histories().values()
    log = any(history.lists is None and history.table is None for history in histories)
    named = [f"--events={name}={case.base / name}.parquet" for name in case.config.data.events]
    return [f"--users={case.base / 'users.parquet'}", *[f"--log={case.base / 'log.parquet'}"] * log, *named]


def test_a_store_has_what_a_request_of_the_same_time_carries(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, compared = tmp_path / "users.parquet", 0
    histories = [n for n, h in case.packed.schema.histories().items() if h.lists is None]
    bundle = Bundle.open(case.base / "bundle")
    for number in range(0, 9, 2):
        carried = case.request("test", number)
        time = pl.Series([carried["time"]]).cast(pl.Datetime("ms", "UTC"))[0].isoformat()
        flags = ("--out", made, "--until", time, *sources(case), *["--overwrite"] * (number > 0))
        code, _, err = run_corank(capsys, "users", case.base / "bundle", *flags)
        assert code == 0 and err.endswith(f"{made}: {len(pl.read_parquet(made))} users\n")
        with closing(open_store(f"lmdb:{tmp_path / str(number)}", create=True)) as store:
            put_users(str(made), bundle, store)
            stored = UserStore(store).find(carried["user"]["id"])
        assert stored is not None
        assert {n: stored[n] for n in histories} == {n: carried["user"][n] for n in histories}
        compared += sum(len(stored[name]) for name in histories)
    assert compared > 3
    code, _, err = run_corank(capsys, "users", case.base / "bundle", "--out", made, *sources(case))
    assert (code, err) == (1, f"error: {made}: exists; name another file, or replace it with --overwrite\n")


def test_tables_that_are_missing_or_in_vain_are_named(case: Case, tmp_path: Path) -> None:
    bundle, log, out = case.base / "bundle", str(case.base / "log.parquet"), tmp_path / "users.parquet"
    named = {n: str(case.base / f"{n}.parquet") for n in case.config.data.events}
    if named:
        refused: list[tuple[str | None, dict[str, str], str]] = [
            (None, {}, "--events: the bundle makes histories of the events 'past_1'; give"),
            (log, named, "--log: the bundle makes no history of a log's exposures; leave it"),
        ]
    else:
        refused = [
            (None, {}, "--log: the bundle makes the history 'history_0' of a log's expos"),
            (log, {"clicks": log}, "--events: the bundle reads no 'clicks'"),
        ]
    for given, events, message in refused:
        with pytest.raises(DataError, match=message):
            corank.users(bundle, out, given, events=events)
    assert not out.exists()
