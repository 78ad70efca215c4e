"""Topics followed: rows a second, against a consumer that only decodes; kills; seconds from a click to its model.

- `items.json`, `items.arrow`: upserts a second of one process into an LMDB store; `log.*`: candidates a second into
  files. Messages of JSON have one row, those of Arrow `ROWS_A_MESSAGE`. `floor.*` reads and decodes the same messages,
  and does nothing else.
- `burst_seconds`: until `--rows` items of JSON that came at once are applied.
- `kills`: a follower of items, and one of the log, get SIGKILL again and again, after a while that is drawn; `lost` and
  `twice` count rows by the journal and the files.
- `learnt_seconds`: from a click, as it is produced, to the version in the store whose training had it, with `--minutes`
  of live requests, periods of a minute and a `corank daily` that is called again and again; of the clicks of each
  version the mean and the longest. A click of the holdout counts for the next version.

The broker is Tansu, on this machine, beside the followers.
"""

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from rich.console import Console

import corank
from benchmarks import harness
from corank_continual.periods.history import DailyHistory
from corank_continual.streams.store import ItemSink
from corank_serve.store.base import Store, open_store
from corank_serve.store.journal import read_journal
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from tests.support.bundle_versions import first
from tests.support.daily_world import write_daily_world
from tests.support.followers import follow_items, follow_log
from tests.support.following import following_log, following_store
from tests.support.kafka_broker import Broker, kafka_broker, to_arrow
from tests.support.kills import start
from tests.support.waiting import eventually

ROWS_A_MESSAGE = 500
AIMS = {"kills.lost": ("==", 0.0), "kills.twice": ("==", 0.0)}
START = 1_772_532_000_000
SECOND, MINUTE = 1_000, 60_000
Figures = dict[str, float | int | str]


def say(text: str) -> None:
    Console(stderr=True).print(text)


def item_rows(bundle: Path, count: int) -> list[dict[str, Any]]:
    """Rows of new items, like those of the world."""
    table = pl.read_parquet(bundle.parent / "world" / "items.parquet")
    like = table.sample(count, with_replacement=True, seed=0)
    return like.with_columns(pl.Series("item_id", np.arange(count) + 10**6)).to_dicts()


def log_rows(count: int) -> list[dict[str, Any]]:
    """Candidates of a log, 50 a request, ten periods of ten minutes."""
    step = 100 * MINUTE // (count // 50)
    return [
        {"request_id": n // 50, "user_id": n % 997, "time": START + n // 50 * step, "item_id": n % 50,
         "price": n / 7, "level": "exposed", "is_click": n % 10 == 0}
        for n in range(count)
    ]  # fmt: skip


def pack(rows: Sequence[dict[str, Any]], form: str) -> list[bytes]:
    """Rows as messages."""
    if form == "json":
        return [msgspec.json.encode(row) for row in rows]
    table = pa.Table.from_pylist([*rows])
    return [to_arrow(table.slice(n, ROWS_A_MESSAGE)) for n in range(0, len(table), ROWS_A_MESSAGE)]


def floor(broker: Broker, topic: str, count: int, form: str) -> float:
    """Rows a second of a consumer that only decodes."""
    from confluent_kafka import Consumer, TopicPartition

    consumer: Any = Consumer({"bootstrap.servers": broker.servers, "group.id": "floor", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    rows, began = 0, time.perf_counter()
    while rows < count:
        for message in consumer.consume(1000, 0.1):
            if rows == count:  # what ends the last period is another row
                break
            if form == "json":
                rows += bool(msgspec.json.decode(message.value()))
            else:
                with pa.ipc.open_stream(message.value()) as stream:
                    rows += len(stream.read_all())
    seconds = time.perf_counter() - began
    consumer.close()
    return count / seconds


@contextmanager
def published(folder: Path, bundle: Path) -> Iterator[Store]:
    """A store in which a bundle is live."""
    with closing(open_store(f"lmdb:{folder}?gib=8", create=True)) as store:
        publish_bundle(bundle, store)
        yield store


def items_offset(store: Store, topic: str) -> int:
    """Messages of a topic's only partition that are applied."""
    return StoreState.read(store)[1].offsets.get(f"items/{topic}/0", 0)


def time_items(broker: Broker, folder: Path, bundle: Path, rows: int, form: str) -> Figures:
    """Upserts a second, and seconds of a burst."""
    topic, messages = f"items-{form}", pack(item_rows(bundle, rows), form)
    source = broker.make_topic(topic)
    with published(folder / topic, bundle) as store:
        broker.send(topic, messages[:1])
        with following_store(ItemSink, source, store.address) as one:
            one.until(lambda: items_offset(store, topic) == 1)
            began = time.perf_counter()
            broker.send(topic, messages[1:])
            one.until(lambda: items_offset(store, topic) == len(messages))
            seconds = time.perf_counter() - began
    figures: Figures = {f"floor.items.{form}": floor(broker, topic, rows, form)}
    figures[f"items.{form}"] = rows / seconds
    return figures | ({"burst_seconds": seconds} if form == "json" else {})


def write_config(folder: Path, world: Path) -> Path:
    """The folder of a log, beside the config of a world."""
    folder.mkdir()
    (folder / "config.yaml").write_text((world / "config.yaml").read_text())
    (folder / "log").mkdir()
    return folder / "log"


def time_log(broker: Broker, folder: Path, world: Path, rows: int, form: str) -> Figures:
    """Candidates a second."""
    given, topic = log_rows(rows), f"log-{form}"
    source = broker.make_topic(topic)
    last = [msgspec.json.encode(given[-1] | {"request_id": 10**9, "time": START + 101 * MINUTE})]
    log = write_config(folder / topic, world)
    config, minutes = log.parent / "config.yaml", timedelta(minutes=10)
    broker.send(topic, pack(given, form) + last)
    with following_log(source, log, config, minutes, timedelta(minutes=1)) as one:
        one.until((log / ".lock").exists)
        began = time.perf_counter()
        one.until(lambda: len([*log.glob("*.parquet")]) == 10)
        seconds = time.perf_counter() - began
    assert pl.scan_parquet(log / "*.parquet").select(pl.len()).collect().item() == rows
    return {f"floor.log.{form}": floor(broker, topic, rows, form), f"log.{form}": rows / seconds}


def kill_items(broker: Broker, folder: Path, bundle: Path, kills: int, rng: random.Random) -> Counter[str]:
    """Kill a follower of items again and again, while items come."""
    source, rows = broker.make_topic("kill-items"), pack(item_rows(bundle, kills * 200), "json")
    counts: Counter[str] = Counter()
    with published(folder / "kill-items", bundle) as store:
        options = source, store.address, folder / "cache", broker.properties
        for n in range(kills):
            broker.send("kill-items", rows[n * 200 : (n + 1) * 200])
            process = start(follow_items, *options, f"kill{n}", 20, 0, False)
            begin = items_offset(store, "kill-items")
            eventually(lambda begin=begin: items_offset(store, "kill-items") > begin)  # type: ignore[misc]
            time.sleep(rng.random() * 0.2)
            process.kill()
            process.join()
        last = start(follow_items, *options, "last", 1000, 0, False)
        eventually(lambda: items_offset(store, "kill-items") == len(rows))
        last.terminate()
        last.join()
        changes = read_journal(store, 0, StoreState.read(store)[1].seq)
        applied = Counter(row["id"] for _, change in changes for row in change.items)
    counts["lost"] = len(rows) - len(applied)
    counts["twice"] = sum(count > 1 for count in applied.values())
    return counts


def closed_periods(share: float) -> int:
    """How many periods of `log_rows` are closed by a share of the rows, with a margin of a minute."""
    return max(0, int(share * 100 - 1.1) // 10)


def read_state(log: Path) -> bytes:
    """What a log's files hold."""
    path = log / ".follow.json"
    return path.read_bytes() if path.exists() else b""


def has_changed(log: Path, before: bytes) -> bool:
    """Whether more was written."""
    return read_state(log) != before


def kill_log(broker: Broker, folder: Path, world: Path, kills: int, rng: random.Random) -> Counter[str]:
    """Kill a follower of the log again and again, while candidates come."""
    source, rows = broker.make_topic("kill-log"), log_rows(kills * 1000)
    messages, log = pack(rows, "json"), write_config(folder / "kill-log", world)
    options = source, log, broker.properties
    for n in range(kills):
        broker.send("kill-log", messages[n * 1000 : (n + 1) * 1000])
        before = read_state(log)
        process = start(follow_log, *options, 10**6)
        if closed_periods((n + 1) / kills) > closed_periods(n / kills):
            eventually(partial(has_changed, log, before))
        time.sleep(rng.random() * 0.5)
        process.kill()
        process.join()
    end = rows[-1] | {"request_id": 10**9, "time": START + 101 * MINUTE}
    broker.send("kill-log", [msgspec.json.encode(end)])
    process = start(follow_log, *options, 10)
    process.join()
    written = Counter(pl.read_parquet(log / "*.parquet").select("request_id", "item_id").rows())
    counts: Counter[str] = Counter(lost=len(rows) - len(written))
    counts["twice"] = sum(count > 1 for count in written.values())
    return counts


def shift_world(folder: Path) -> pl.DataFrame:
    """A world with a day before this minute as its log, and `daily.yaml` of a minute. Returns requests to come."""
    settings = write_daily_world(folder, 3, 6000)
    log = pl.read_parquet(folder / "log" / "*.parquet").sort("time", "request_id")
    half = log.filter(pl.col("request_id") <= log["request_id"][len(log) // 2])
    coming = log.filter(pl.col("request_id") > log["request_id"][len(log) // 2])
    for path in (folder / "log").glob("*.parquet"):
        path.unlink()
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    end = half["time"].max()
    assert isinstance(end, datetime)
    shift = now.replace(tzinfo=end.tzinfo) - end - timedelta(seconds=1)
    half.with_columns(pl.col("time") + shift).write_parquet(folder / "log" / "before.parquet")
    document = json.loads(settings.read_text()) | {
        "first": (now - timedelta(minutes=1)).isoformat(timespec="minutes"), "period": "1m", "holdout": "10s",
        "gate": ["rank.exposed.click.ece <= 1"],  # defined without a click, too
    }  # fmt: skip
    settings.write_text(json.dumps({k: v for k, v in document.items() if k != "users"}))
    return coming


def learn(broker: Broker, folder: Path, minutes: float) -> Figures:
    """Seconds from a click to the version that learnt it."""
    coming = shift_world(folder / "live")
    settings, log = folder / "live" / "daily.yaml", folder / "live" / "log"
    source, clicks, stop = broker.make_topic("live"), list[int](), threading.Event()

    def produce() -> None:
        for _, request in coming.group_by("request_id", maintain_order=True):
            if stop.wait(0.2):
                return
            now = round(time.time() * SECOND)
            rows = request.with_columns(time=pl.lit(datetime.fromtimestamp(now / SECOND, UTC)))
            broker.send("live", [to_arrow(rows.to_arrow())])
            if rows["is_click"].sum():
                clicks.append(now)

    producer = threading.Thread(target=produce, daemon=True)
    figures: Figures = {}
    learnt: list[float] = []
    config = folder / "live" / "config.yaml"
    with following_log(source, log, config, timedelta(minutes=1), timedelta(seconds=2)) as one:
        producer.start()
        say("the model of before …")
        corank.daily(settings)
        end, known = time.monotonic() + minutes * 60, 0
        while time.monotonic() < end:
            one.check()
            corank.daily(settings)
            now = time.time() * SECOND
            records = DailyHistory(settings.parent / "daily").records[1:]
            for record in records[known:]:
                since, until = record.since, record.until
                if record.decision == "live" and since is not None and until is not None:
                    mine = [now - click for click in clicks if since <= click < until]
                    learnt += mine
                    say(f"{record.period}: {len(mine)} clicks, training {sum(record.seconds.values()):.1f} s")
            known = len(records)
            time.sleep(1)
        stop.set()
        producer.join()
    figures["learnt.versions"], figures["learnt.clicks"] = known, len(learnt)
    if learnt:
        figures["learnt_seconds"], figures["learnt_seconds.longest"] = (
            fmean(learnt) / SECOND,
            max(learnt) / SECOND,
        )
    return figures


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=50, help="half of items, half of the log")
    parser.add_argument("--minutes", type=float, default=5, help="of live requests; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng, half = random.Random(options.seed), options.kills // 2
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HOME"] = temporary
        bundle, _ = first(folder, 2000)
        with kafka_broker(folder) as broker:
            for form in ("json", "arrow"):
                figures |= time_items(broker, folder, bundle, options.rows, form)
                figures |= time_log(broker, folder, folder / "world", options.rows, form)
                say(str(figures))
            if half:
                counts = kill_items(broker, folder, bundle, half, rng)
                counts += kill_log(broker, folder, folder / "world", half, rng)
                figures |= {"kills": 2 * half, "kills.lost": counts["lost"], "kills.twice": counts["twice"]}
            if options.minutes:
                figures |= learn(broker, folder, options.minutes)
    aims = AIMS if half else {}
    harness.report("follow", figures, aims, options.json)


if __name__ == "__main__":
    main()
