"""Hostile messages to followers: mutated Arrow and JSON among sound ones, and what became of each row."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from corank.core.errors import CorankError, DataError
from corank_continual.streams.messages import read_rows
from corank_serve.store.base import Store
from corank_serve.store.journal import read_journal
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.users import UserStore
from tests.support.bundle_versions import variant
from tests.support.configs import shop
from tests.support.hostile_input import mutate
from tests.support.kafka_broker import Broker, to_arrow
from tests.support.shared import derived
from tests.support.stores import item, opened, served
from tests.support.waiting import PATIENCE, eventually

ROWS = 3
"""Of a hostile message."""
SOUND = 10
"""After so many hostile messages one comes that is sound."""
STEP = 1_000_003
"""Between ids, so that hardly a mutation makes one of another."""
MOST_ENDS = 20
"""After so many ends of a follower it is not started again."""
START = 1_772_532_000_000  # 2026-03-03T10:00 UTC
HOSTILE: tuple[Any, ...] = (
    None, True, "", "x", "\x00", "9" * 400, 1.5, -0.0, 1e308, 2**63 - 1, 2**63, 2**64, -(2**70), 5, START * 1000,
    [], {}, [[]], {"id": 5}, {"": 1}, {"\x00": 1}, [1, "a"], {"time": {}},
)  # fmt: skip
"""What a value, a row or a list of them is replaced by."""
DEPTHS = (100, 800, 900, 930, 950, 960, 970, 980, 200_000)
"""Of nested lists: some are near what Python's stack holds."""
WORDS = (b"\xff" * 8, b"\0" * 8, (2**31 - 1).to_bytes(8, "little"), (2**62).to_bytes(8, "little"))


def mutate_bytes(random_: random.Random, value: bytes) -> bytes:
    """Flip bits, or put other bytes or words in place, or take some out; the first four bytes, a mark, stay."""
    changed, how = bytearray(value), random_.randrange(4)
    for _ in range(random_.choice([1, 1, 1, 2, 4, 16])):
        at = random_.randrange(4, len(changed))
        if how == 0:
            changed[at] ^= 1 << random_.randrange(8)
        elif how == 1:
            changed[at] = random_.choice([0, 127, 128, 255, random_.randrange(256)])
        elif how == 2:
            at -= at % 8
            changed[at : at + 8] = random_.choice(WORDS)
        else:
            del changed[at : at + random_.randrange(1, 9)]
    return bytes(changed)


def mutate_json(random_: random.Random, rows: Sequence[dict[str, Any]]) -> bytes:
    """A mutation of a row, or of a list of them, by values or by bytes; now and then with an `id`, or very deep."""
    if random_.random() < 0.1:
        depth, row = random_.choice(DEPTHS), json.dumps(rows[0]).encode()
        return row[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"
    if random_.random() < 0.2:
        rows = [row | {"id": random_.choice(HOSTILE)} for row in rows]
    value = mutate(random_, random_.choice([rows[0], [*rows]]), random_.choice(HOSTILE))
    text = json.dumps(value).encode()
    return text if random_.random() < 0.7 or len(text) < 200 else mutate_bytes(random_, text)


@dataclass(frozen=True)
class Target:
    """What a follower fills."""

    words: Sequence[str]
    """Of `corank follow`: the command, and where to."""
    key: str
    """The column of ids."""
    row: Callable[[int], dict[str, Any]]
    """A sound row of an id."""
    found: Callable[[set[int]], set[int]]
    """Which of some ids are there."""
    offset: Callable[[str], int] | None = None
    """Of a topic, up to which it was filled; None if it is written at the end alone."""


def attack(broker: Broker, target: Target, folder: Path, arrow: int, plain: int, seed: int) -> Counter[str]:
    """Send mutated messages to a follower, in a process of its own.

    Args:
        broker: of a topic that is made for this.
        target: that is filled.
        folder: of the dead letters.
        arrow: number of mutated messages of record batches.
        plain: of JSON.
        seed: of the mutations.

    Returns:
        `cases`; `failed`: how often the follower ended otherwise than it was told to; `lost`: messages and rows that
        are neither there nor among the dead letters; `wronged`: sound messages among those; and `letters`.
    """
    random_ = random.Random(seed)
    sound, messages = set[int](), list[bytes]()
    kinds = [to_arrow] * arrow + [None] * plain
    random_.shuffle(kinds)
    for n, form in enumerate(kinds):
        rows = [target.row((n * ROWS + k + 1) * STEP) for k in range(ROWS)]
        if n % SOUND == 0:
            sound.add(len(messages))
            messages.append(json.dumps(rows[:1]).encode() if form is None else to_arrow(rows[:1]))
            rows = [row | {target.key: row[target.key] + 1} for row in rows]
        messages.append(mutate_json(random_, rows) if form is None else mutate_bytes(random_, form(rows)))
    messages.append(b"the end")
    topic = f"hostile-{target.words[0]}-{seed}"
    source = broker.make_topic(topic)
    broker.send(topic, messages)
    counts = Counter(cases=len(kinds), failed=0, lost=0, wronged=0)
    counts["failed"] = follow(target, source, folder, len(messages) - 1)
    letters = read_letters(*folder.glob("letters-*.jsonl"))
    counts["letters"] = len(letters) - 1
    counts["wronged"] = sum(offset in sound for offset in {letter["offset"] for letter in letters})
    counts["lost"] = count_lost(target, messages[:-1], letters)
    return counts


def follow(target: Target, source: str, folder: Path, last: int) -> int:
    """Follow until the last message is a dead letter. Returns how often the follower ended before, or with an error."""
    name, where = target.words
    topic = source.rpartition("/")[2]
    for ends in range(MOST_ENDS):
        letters = folder / f"letters-{ends}.jsonl"
        command = [
            sys.executable,
            "-m",
            "corank",
            "follow",
            name,
            source,
            where,
            "--dead-letter",
            str(letters),
        ]
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)

        def is_over(letters: Path = letters, process: subprocess.Popen[str] = process) -> bool:
            if process.poll() is not None:
                return True
            return is_there(letters, last) and (target.offset is None or target.offset(topic) > last)

        eventually(is_over)
        process.terminate()
        said = process.communicate(timeout=PATIENCE)[1]
        if process.returncode == 0:
            return ends
        print(f"follow {name}: status {process.returncode}: {said[-2000:]}", file=sys.stderr)
    return MOST_ENDS


def read_letters(*paths: Path) -> list[Any]:
    """The dead letters of some files; one of a message that several followers read is in several, and counts once."""
    lines = Counter[str]()
    for path in paths:
        if path.exists():
            lines |= Counter(path.read_text(encoding="utf-8").splitlines())
    return [json.loads(line) for line in lines.elements()]


def is_there(path: Path, offset: int) -> bool:
    """Whether a message is a dead letter."""
    with suppress(json.JSONDecodeError):  # of a line that is being written
        return any(letter["offset"] == offset for letter in read_letters(path))
    return False


def count_lost(target: Target, messages: Sequence[bytes], letters: Sequence[Any]) -> int:
    """Count rows, and messages that cannot be read, that are neither there nor among the dead letters."""
    whole = {letter["offset"] for letter in letters if "row" not in letter}
    single = Counter(letter["offset"] for letter in letters if "row" in letter)
    rows: dict[int, list[Any]] = {}
    lost = 0
    for offset, value in enumerate(messages):
        if offset not in whole:
            try:
                rows[offset] = read_rows(value)
            except DataError:
                lost += 1
    ids = {offset: [_id(row, target.key) for row in some] for offset, some in rows.items()}
    found: set[int | None] = {
        *target.found({id_ for some in ids.values() for id_ in some if id_ is not None})
    }
    return lost + sum(
        max(sum(id_ not in found for id_ in some) - single[offset], 0) for offset, some in ids.items()
    )


def _id(row: Any, key: str) -> int | None:
    value = row.get(key) if isinstance(row, dict) else None
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


@contextmanager
def hostile_store(kind: str, folder: Path) -> Iterator[tuple[Target, Store]]:
    """A store with a live version, which a follower of `items` or `users` fills."""
    with opened("lmdb", folder) as store:
        publish_bundle(derived().base / "bundle", store)

        def offset(topic: str) -> int:
            return StoreState.read(store)[1].offsets.get(f"{kind}/{topic}/0", 0)

        if kind == "items":
            given = {name: value for name, value in item(4).items() if name != "id"}
            yield (
                Target(
                    ["items", store.address],
                    "item_id",
                    lambda id_: {"item_id": id_} | given,
                    lambda ids: ids & changed_items(store),
                    offset,
                ),
                store,
            )
        else:
            manifest, users = derived().funnel.manifest, UserStore(store)
            plain = {
                name: value for name, value in derived().request("test", 0)["user"].items() if name != "id"
            }
            yield (
                Target(
                    ["users", store.address],
                    manifest.user,
                    lambda id_: {manifest.user: id_} | plain,
                    lambda ids: {id_ for id_ in ids if users.find(id_) is not None},
                    offset,
                ),
                store,
            )


def changed_items(store: Store) -> set[Any]:
    """The items that the changes of a store put in."""
    _, state = StoreState.read(store)
    return {row["id"] for _, change in read_journal(store, 0, state.seq) for row in change.items}


def takes_a_version(store: Store, folder: Path) -> bool:
    """Whether another version can be published, and served."""
    try:
        version = publish_bundle(variant(derived().base / "bundle", folder / "second", 2), store)
        return served(store, folder / "fetched").manifest.content == version
    except CorankError as error:
        print(error, file=sys.stderr)
        return False


def hostile_log(folder: Path) -> Target:
    """A log with an earlier file, whose types stay, next to its config."""
    log = folder / "log"
    log.mkdir()
    shop(folder).rename(folder / "config.yaml")
    pl.DataFrame([logged_row(1)]).with_columns(
        pl.from_epoch("time", "ms").cast(pl.Datetime("us"))
    ).write_parquet(log / "earlier.parquet")

    def found(ids: set[int]) -> set[int]:
        files = [path for path in log.iterdir() if path.suffix in (".parquet", ".part")]
        return ids & {
            *pl.concat([pl.read_parquet(path, columns=["request_id"]) for path in files])["request_id"]
        }

    return Target(["log", str(log)], "request_id", logged_row, found)


def logged_row(id_: int) -> dict[str, Any]:
    """A candidate with values of many types."""
    row = {"request_id": id_, "user_id": 1, "time": START, "item_id": 5, "click": 0, "price": 1.5}
    return row | {"brand": "b1", "tags": ["a", "bc"], "place": {"x": 1, "name": "p"}}
