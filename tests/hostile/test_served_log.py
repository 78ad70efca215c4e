"""The log of served requests: nothing that a request holds, and no fault of the disk, costs another request's rows."""

import fcntl
import json
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from corank.bundle.bundle import Bundle
from corank.core.errors import CorankError
from corank.core.time import DAY, MILLISECOND, now_ms
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.log import request_log, served_rows
from corank_serve.log.log_format import REQUEST, SERVED, LogFormat
from corank_serve.log.request_log import RequestLog
from corank_serve.log.served_rows import Served, count_bytes, encode_served, make_rows
from tests.support.served_logs import add_labels, learn_from, serve_hostile
from tests.support.shared import derived
from tests.support.store_faults import full_disk
from tests.support.stores import requests


def add(log: RequestLog, *changes: dict[str, Any]) -> None:
    """Log the first request, changed."""
    funnel: Funnel = derived().funnel
    for change in changes:
        log.add(funnel, funnel.run(Request.parse(requests()[0] | change)))


def log_format() -> LogFormat:
    encoder = derived().funnel.request_encoder
    ids = encoder.items.layers[0].records.ids.values
    return LogFormat.of(derived().funnel.manifest, encoder.encoders, ids.dtype)


def served(**changes: Any) -> Served:
    """A served request; fields of its JSON are changed after it was ranked."""
    ranking = derived().funnel.run(Request.parse(requests()[0]))
    ranking.served_id = "1"
    one = encode_served(ranking)
    return one | {"request": json.dumps(json.loads(one["request"]) | changes).encode()}


def rejected(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in folder.glob("rejected-*.jsonl") for line in file.read_bytes().splitlines()]
    return [json.loads(line) for line in lines]


def test_a_request_is_stored_once(tmp_path: Path) -> None:
    log = RequestLog(tmp_path)
    add(log, {}, {}, {})
    path = log.write()
    assert path is not None
    rows = pl.read_parquet(path)
    assert rows[REQUEST].count() == rows[SERVED].n_unique() == 3
    first = (rows[SERVED] != rows[SERVED].shift(1)).fill_null(True)
    assert rows[REQUEST].is_not_null().equals(first, check_names=False)
    json.loads(rows[REQUEST][0])


def test_files_beyond_their_age_are_removed_and_no_others(tmp_path: Path) -> None:
    old, recent = (f"{datetime.now(UTC) - timedelta(days=age):%Y%m%dT%H%M%S}" for age in (31, 29))
    gone = [tmp_path / f"served-{old}-1.parquet", tmp_path / f"rejected-{old}-1.jsonl"]
    kept = [tmp_path / f"served-{recent}-1.parquet", tmp_path / "notes-1.parquet"]
    for file in (*gone, *kept):
        file.touch()
    log = RequestLog(tmp_path, keep=timedelta(days=30))
    assert not any(file.exists() for file in gone) and all(file.exists() for file in kept)
    gone[0].touch()  # while it serves
    add(log, {})
    written = log.write()
    assert written is not None and written.exists()
    assert not gone[0].exists() and all(file.exists() for file in kept)


def test_what_waits_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = served()
    monkeypatch.setattr(request_log, "MAX_BYTES", 10 * count_bytes(one))
    log = RequestLog(tmp_path)
    add(log, *[{}] * 15)
    assert log.take_counts() == {"dropped": 5}
    path = log.write()
    assert path is not None and pl.read_parquet(path)[SERVED].n_unique() == 10
    add(log, *[{}] * 10)  # there is room again
    assert log.write() is not None
    assert log.take_counts() == {"written": 20}


def test_requests_of_unknown_candidates_alone_are_written_too(tmp_path: Path) -> None:
    log = RequestLog(tmp_path)
    add(log, *[{"candidates": [{"id": 990 + n, "bid": 1}, {"id": 980, "bid": 1}]} for n in range(5)])
    assert log.is_due()
    assert log.write() is None  # no row
    lines = rejected(tmp_path)
    assert [line["request"]["candidates"][0]["id"] for line in lines] == [*range(990, 995)]
    assert {line["reason"] for line in lines} == {"no candidate is known, so there is no row"}
    assert log.take_counts() == {"rejected": 5}
    assert not log.is_due()


def test_what_the_disk_refuses_is_dropped_with_a_count(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log")
    add(log, {}, {}, {})
    log.flush()  # in the open file
    add(log, {}, {})
    with full_disk(os.getpid()), pytest.raises(CorankError, match="5 served requests are not logged: "):
        log.flush(complete=True)
    assert log.take_counts() == {"dropped": 5}
    assert list((tmp_path / "log").iterdir()) == []
    assert not log.is_due()  # it is tried again later
    add(log, {})
    assert log.write() is not None
    assert log.take_counts() == {"written": 1}


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log")
    (tmp_path / "log").rmdir()
    add(log, {})
    assert log.write() is not None
    for file in (tmp_path / "log").iterdir():
        file.unlink()
    (tmp_path / "log").rmdir()
    (tmp_path / "log").write_text("")
    add(log, {})
    with pytest.raises(CorankError, match="1 served requests are not logged"):
        log.write()
    assert log.take_counts() == {"written": 1, "dropped": 1}


def test_only_the_owner_may_read_served_requests(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log")
    add(log, {}, {"time": 2**62})
    log.write()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    modes = {file.suffix: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "log").iterdir()}
    assert modes == {".parquet": 0o600, ".jsonl": 0o600}


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    left, locked = tmp_path / ".partial-served-1.parquet-ab", tmp_path / ".partial-rejected-2.jsonl-cd"
    left.touch()
    with locked.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        RequestLog(tmp_path)
        assert list(tmp_path.iterdir()) == [locked]


BAD: dict[str, dict[str, Any]] = {
    "column 'user_id': expected whole numbers; received [1, 2]": {"user": {"id": [1, 2]}},
    "column 'user_0': expected numbers; received 'text'": {"user": {"id": 1, "user_0": "text"}},
    "column 'user_2': expected text; received 3": {"user": {"id": 1, "user_2": 3}},
    "column 'cross_1': expected": {"candidates": [{"id": 3, "bid": 1, "cross_1": 7}]},
    "column 'bid': 1e+39 is too large": {"candidates": [{"id": 3, "bid": 1e39}]},
    "column 'user_0': 1e+308 is too large": {"user": {"id": 1, "user_0": -1e308}},
    "time: ": {"time": 253402300800000},
    "no candidate is known": {"candidates": []},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_value_that_does_not_fit_costs_its_request_alone(reason: str) -> None:
    one, bad = served(), served(**BAD[reason])
    if "candidates" in BAD[reason]:  # as many levels and scores as candidates
        n = len(BAD[reason]["candidates"])
        bad |= {"levels": bad["levels"][:n], "scores": [scores[: 8 * n] for scores in bad["scores"]]}
    aside: list[tuple[Served, str]] = []
    rows = list(make_rows(log_format(), [one, one, bad, one], lambda *refused: aside.append(refused)))
    assert sum(table[REQUEST].is_valid().to_pylist().count(True) for table in rows) == 3
    ((refused, why),) = aside
    assert refused == bad and why.startswith(reason)


def test_a_column_has_one_type_whatever_comes(tmp_path: Path) -> None:
    log = RequestLog(tmp_path)
    changes: list[dict[str, Any]] = [{}, {"user": {}}, {"context": {}}, {"user": {"id": None}}]
    for change in changes:
        add(log, change)
        log.write()
    kinds = [pq.read_schema(path) for path in tmp_path.glob("*.parquet")]
    assert kinds == [kinds[0]] * 4


def test_a_large_request_is_written_in_pieces_or_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of the user is on every row of a candidate."""
    small, large = served(), served(user={"id": 1, "user_2": "x" * 4000})
    monkeypatch.setattr(served_rows, "BYTES", 10_000)
    first, *others = make_rows(log_format(), [large], lambda request, why: None)
    assert first[REQUEST][0].as_py() is not None
    assert others and not any(table[REQUEST].is_valid().to_pylist().count(True) for table in others)
    monkeypatch.setattr(served_rows, "LARGEST_BYTES", 10_000)
    aside: list[str] = []
    tables = list(make_rows(log_format(), [small, large], lambda request, why: aside.append(why)))
    assert len(tables) == 1 and len(aside) == 1 and "are logged at most" in aside[0]


def test_a_clock_a_day_ahead_is_logged_and_a_later_one_is_not(tmp_path: Path) -> None:
    log, day, hour = RequestLog(tmp_path), DAY // MILLISECOND, 3_600_000
    add(log, {"time": now_ms() + day - hour}, {"time": now_ms() + day + hour})
    log.write()
    assert log.take_counts() == {"written": 1, "rejected": 1}


@pytest.mark.slow
def test_what_hostile_requests_leave_in_the_log_can_be_learnt_from(tmp_path: Path) -> None:
    case = derived()
    assert case.funnel  # exports the bundle
    served = serve_hostile(case, tmp_path / "served", 400, seed=1)
    assert served.refused > 50 and served.counts["written"] > 50 and served.counts["rejected"] > 0
    assert "dropped" not in served.counts
    assert sum(served.counts.values()) + served.refused == 400
    rows = add_labels(case, served.files, tmp_path / "labelled.parquet")
    shutil.copytree(case.base / "bundle", tmp_path / "bundle")
    packed = learn_from(case, tmp_path / "labelled.parquet", tmp_path / "bundle", tmp_path / "packed")
    assert 0 < packed <= rows
    # the same users and times come again and again
    key = [case.config.data.user, case.config.data.time]
    fewer = learn_from(case, tmp_path / "labelled.parquet", tmp_path / "bundle", tmp_path / "by_time", key)
    assert 0 < fewer < packed
    assert max(Bundle.open(tmp_path / "bundle").manifest.priors.values()) <= now_ms()
