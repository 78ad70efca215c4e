"""Candidates of a topic become files of the log: a period each, whole requests, nothing lost and nothing twice."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corank.core.errors import BusyError, CorankError, StreamError
from corank.core.time import now_ms
from tests.support.configs import shop
from tests.support.following import Following, following_log
from tests.support.kafka_broker import Broker, to_arrow
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
MINUTE = 60_000
START = 1_772_532_000_000  # 2026-03-03T10:00 UTC


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the log, next to its config."""
    shop(tmp_path).rename(tmp_path / "config.yaml")
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


@contextmanager
def following(
    source: str, folder: Path, dead_letter: Any = None, wait: timedelta = timedelta(minutes=1)
) -> Iterator[Following]:
    config = folder.parent / "config.yaml"
    with following_log(source, folder, config, timedelta(minutes=10), wait, dead_letter) as one:
        yield one


def request(number: int, minute: float, count: int = 3, **columns: Any) -> list[dict[str, Any]]:
    """The rows of a request."""
    time = START + round(minute * MINUTE)
    row = {"request_id": number, "user_id": 1, "time": time, "click": 0, "price": 1.5}
    return [row | {"item_id": n} | columns for n in range(count)]


def logged(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Request and item of each row, by file, ordered."""
    return {
        path.name.removeprefix("follow-20260303T").removesuffix("00Z.parquet"): sorted(
            pl.read_parquet(path).select("request_id", "item_id").rows()
        )
        for path in sorted(folder.glob("*.parquet"))
    }


def whole(*numbers: int) -> list[tuple[int, int]]:
    return [(number, n) for number in numbers for n in range(3)]


def test_a_period_closes_when_all_partitions_have_passed_it(broker: Broker, folder: Path) -> None:
    source = broker.make_topic("periods", 2)
    with following(source, folder) as one:
        # a request's candidates come as messages of several forms, in several partitions
        first, second, third = request(1, 3)
        broker.send("periods", [first, *request(3, 12)], 0)
        broker.send("periods", [json.dumps([second, third]), to_arrow(request(2, 8)), *request(4, 13)], 1)
        one.until(lambda: len(logged(folder)) == 1)
        assert logged(folder) == {"1000": whole(1, 2)}
        broker.send("periods", request(5, 20), 0)  # the other partition has not passed
        broker.send("periods", request(6, 21), 0)
        broker.send("periods", request(7, 19), 1)
        broker.send("periods", request(8, 25), 1)
        one.until(lambda: len(logged(folder)) == 2)
    assert logged(folder) == {"1000": whole(1, 2), "1010": whole(3, 4, 7)}
    # what is open is read on after a restart, in which nothing of it comes again
    with following(source, folder) as one:
        broker.send("periods", request(9, 40), 0)
        broker.send("periods", request(10, 41), 1)
        one.until(lambda: len(logged(folder)) == 3)
    assert [*logged(folder).values()] == [whole(1, 2), whole(3, 4, 7), whole(5, 6, 8)]
    frame = pl.read_parquet(folder / "*.parquet")
    assert frame.schema["time"] == pl.Datetime("ms") and frame.schema["price"] == pl.Float64


def test_a_partition_that_is_read_to_its_end_is_waited_for_so_long(broker: Broker, folder: Path) -> None:
    source = broker.make_topic("idle", 2)
    broker.send("idle", [*request(1, 3), *request(2, 11.5)], 0)
    broker.send("idle", request(3, 4), 1)
    with following(source, folder) as one:
        broker.send("idle", request(4, 12.5), 0)
        one.until(lambda: len(logged(folder)) == 1)
    assert logged(folder) == {"1000": whole(1, 3)}


def test_a_silent_topic_closes_its_periods(broker: Broker, folder: Path) -> None:
    source = broker.make_topic("silent", 2)
    broker.send("silent", [*request(1, 3), *request(2, 14)], 0)
    with following(source, folder, wait=timedelta(seconds=1)) as one:
        one.until(lambda: len(logged(folder)) == 2)
    assert logged(folder) == {"1000": whole(1), "1010": whole(2)}


def test_late_rows_are_in_the_next_file_unless_their_request_is_written(
    broker: Broker, folder: Path, tmp_path: Path
) -> None:
    source, letters = broker.make_topic("late"), tmp_path / "letters.jsonl"
    with following(source, folder, letters) as one:
        broker.send("late", [*request(1, 3), *request(2, 14)])
        one.until(lambda: len(logged(folder)) == 1)
        broker.send("late", [*request(3, 5), *request(1, 3, 4)[3:], *request(4, 21)])
        one.until(lambda: len(logged(folder)) == 2)
        # a part of a request that came late itself
        broker.send("late", [*request(3, 5, 5)[4:], *request(5, 33)])
        one.until(lambda: len(logged(folder)) == 3)
    assert [*logged(folder).values()] == [whole(1), whole(2, 3), whole(4)]
    lines = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [(line["row"]["request_id"], line["row"]["item_id"]) for line in lines] == [(1, 3), (3, 4)]
    assert {line["error"] for line in lines} == {"late, and its request is in the log without it"}


BAD = (
    b"{",
    [5],
    b"\xff\xff\xff\xffnothing",
    {"request_id": 1, "click": 0},
    request(9, 3, 1)[0] | {"time": "yesterday"},
    request(9, 3, 1)[0] | {"request_id": "text"},
    request(9, 3, 1)[0] | {"price": "high"},
    request(9, 3, 1)[0] | {"time": now_ms() + 90 * MINUTE},
    request(9, 3, 1)[0] | {"request_id": None},
    to_arrow([{"request_id": "text", "time": 5}]),
    None,
)


def test_bad_rows_are_put_aside(broker: Broker, folder: Path, tmp_path: Path) -> None:
    source, letters = broker.make_topic("badlog"), tmp_path / "letters.jsonl"
    broker.send("badlog", request(1, 3))
    broker.send(
        "badlog", [one for bad in BAD for one in (request(2, 4, 1)[0] | {"time": "2026-03-03T10:04"}, bad)]
    )
    broker.send("badlog", request(3, 12))
    with following(source, folder, letters) as one:
        one.until(lambda: len(logged(folder)) == 1)
        broker.send("badlog", request(4, 22, new=1))
        one.until(lambda: len(logged(folder)) == 2)
    assert logged(folder) == {"1000": whole(1) + [(2, 0)] * len(BAD), "1010": whole(3)}
    offsets = {json.loads(line)["offset"] for line in letters.read_text().splitlines()}
    assert offsets == {2 * n + 4 for n in range(len(BAD))}
    assert "columns that the log's earlier files lack are left out: new" in one.said


def moments(folder: Path) -> list[int]:
    """The distinct times of a log, ms UTC."""
    times = pl.read_parquet(folder / "*.parquet")["time"].dt.epoch("ms")
    return sorted(times.unique().to_list())


@pytest.mark.parametrize("unit", ["us", "ns", "s"])
def test_times_are_converted_to_the_unit_of_the_log(
    broker: Broker, folder: Path, unit: Literal["us", "ns", "s"]
) -> None:
    earlier = pl.DataFrame(request(0, -60)).with_columns(pl.col("time").cast(pl.Datetime("ms")))
    table = earlier.to_arrow()
    kinds = pa.schema([pa.field(f.name, pa.timestamp(unit)) if f.name == "time" else f for f in table.schema])
    pq.write_table(table.cast(kinds), folder / "earlier.parquet")
    source = broker.make_topic(f"units-{unit}")
    ms, text, last = request(1, 3), request(2, 4, time="2026-03-03T10:04"), request(5, 13)
    arrow = pl.DataFrame(request(3, 5)).with_columns(
        pl.from_epoch("time", "ms").cast(pl.Datetime("us", "UTC"))
    )
    broker.send(f"units-{unit}", [ms, text, to_arrow(arrow.to_arrow()), request(4, 6)[0], *last])
    with following(source, folder) as one:
        one.until(lambda: len(logged(folder)) == 2)
    assert moments(folder) == [START + minute * MINUTE for minute in (-60, 3, 4, 5, 6)]


def test_of_a_list_with_a_bad_row_the_others_are_kept(broker: Broker, folder: Path, tmp_path: Path) -> None:
    source, letters = broker.make_topic("lists"), tmp_path / "letters.jsonl"
    first, second, third = request(1, 3)
    bad = [5, second | {"time": None}, second | {"price": "high"}]
    broker.send("lists", [[first, *bad, second, third], *request(2, 12)])
    broken = pa.Table.from_pylist([first | {"time": 5}, second | {"request_id": 3}])
    with following(source, folder, letters) as one:
        one.until(lambda: len(logged(folder)) == 1)
        cut = second | {"user_id": 1.5}
        broker.send("lists", [to_arrow(broken), [cut, second | {"request_id": 4}], *request(5, 22)])
        one.until(lambda: len(logged(folder)) == 2)
    assert [*logged(folder).values()] == [whole(1), [*whole(2), (3, 1), (4, 1)]]
    rows = [json.loads(line)["row"] for line in letters.read_text().splitlines()]
    assert sorted(rows[3:], key=str) == sorted([cut, first | {"time": 5}], key=str) and rows[:3] == bad


HOSTILE_FIRST = (
    request(9, 3, 1)[0] | {"time": 1.5},
    request(9, 3, 1)[0] | {"time": {"at": 1}},
    request(9, 3, 1)[0] | {"time": 2**63 - 1},
    request(9, 3, 1)[0] | {"time": START // 1000},
    request(9, 3, 1)[0] | {"time": START * 1000},
    request(9, 3, 1)[0] | {"request_id": {"a": 1}},
    {"user_id": 1},
    to_arrow(
        pa.table([pa.array([1]), pa.array([2]), pa.array([START])], ["request_id", "request_id", "time"])
    ),
    to_arrow(pa.table({"request_id": [1.5], "time": [START]})),
    b'{"deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
)
"""Messages that no log begins with."""


def test_a_log_begins_with_its_first_good_row(broker: Broker, folder: Path, tmp_path: Path) -> None:
    source, letters = broker.make_topic("begin"), tmp_path / "letters.jsonl"
    broker.send("begin", [*HOSTILE_FIRST, *request(1, 3, empty={})])
    with following(source, folder, letters) as one:
        one.until(lambda: letters.exists() and len(letters.read_text().splitlines()) == len(HOSTILE_FIRST))
        broker.send("begin", [*HOSTILE_FIRST, *request(2, 12)])
        one.until(lambda: len(logged(folder)) == 1)
    assert logged(folder) == {"1000": whole(1)} and moments(folder) == [START + 3 * MINUTE]
    offsets = [json.loads(line)["offset"] for line in letters.read_text().splitlines()]
    assert sorted(offsets) == [*range(len(HOSTILE_FIRST)), *range(13, 13 + len(HOSTILE_FIRST))]


def test_the_newest_file_must_have_the_columns_of_the_config(broker: Broker, folder: Path) -> None:
    pl.DataFrame({"time": [START]}).write_parquet(folder / "other.parquet")
    said = failures(broker, folder, *request(1, 3))  # type: ignore[arg-type]
    assert "other.parquet: the log goes on in its form: no column request_id" in said


def test_memory_is_bounded(broker: Broker, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corank_continual.streams.log.BUFFER_BYTES", 1)
    monkeypatch.setattr("corank_continual.streams.topic.BATCH_MESSAGES", 1)
    monkeypatch.setattr("corank_continual.streams.topic.STEP_MESSAGES", 1)
    source = broker.make_topic("memory")
    with following(source, folder) as one:
        broker.send("memory", [*request(1, 3), *request(2, 14), *request(3, 5)[:0], *request(4, 23)])
        one.until(lambda: len(logged(folder)) == 2)
        parts = [path for path in folder.iterdir() if path.suffix == ".part"]
        assert parts
    assert [*logged(folder).values()] == [whole(1), whole(2)]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: (folder / ".follow.json").write_text("{"), "damaged"),
        (
            lambda folder: (folder / ".follow.json").write_text('{"topic": "other", "period": 600000}'),
            "other",
        ),
        (
            lambda folder: (folder / ".follow.json").write_text('{"topic": "faults", "period": 1}'),
            "periods of 0 s",
        ),
    ],
)
def test_a_folder_of_something_else_is_refused(
    broker: Broker, folder: Path, change: Callable[[Path], object], fault: str
) -> None:
    change(folder)
    with following(broker.url("faults"), folder) as one:
        eventually(lambda: one.failed)
    with pytest.raises(StreamError, match=fault):
        one.check()


def test_one_process_follows_into_a_folder(broker: Broker, folder: Path) -> None:
    source = broker.make_topic("lock")
    with following(source, folder):
        eventually((folder / ".lock").exists)
        with following(source, folder) as other:
            eventually(lambda: other.failed)
        with pytest.raises(BusyError):
            other.check()


def failures(broker: Broker, folder: Path, *rows: Sequence[Any]) -> str:
    """What a follower says of first rows."""
    name = f"first{len(rows)}{abs(hash(str(rows)))}"
    source = broker.make_topic(name)
    broker.send(name, [*rows])
    with following(source, folder) as one:
        eventually(lambda: one.failed)
    with pytest.raises(CorankError) as error:
        one.check()
    return str(error.value)


def test_dead_letters_need_a_place(broker: Broker, folder: Path) -> None:
    source = broker.make_topic("place")
    with following(source, folder, folder / "no" / "letters") as one:
        eventually(lambda: one.failed)
    with pytest.raises(StreamError, match=r"--dead-letter .*No such file"):
        one.check()
