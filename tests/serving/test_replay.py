"""Served requests are a log that packs, and a record by which each answer is computed again."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import yaml

import corank
from corank.analysis.logged_request import logged_request
from corank.bundle.bundle import Bundle
from corank.core.time import now_ms, to_ms
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.config.config import Config
from corank.training.run import Run
from corank_serve.log.log_format import REQUEST, SERVED
from corank_serve.log.replay import bundle_funnels, replay_log, store_funnels
from corank_serve.log.request_log import OpenLogFiles, RequestLog
from corank_serve.store.base import Store
from corank_serve.store.fetch import fetch_bundle, load_latest
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import roll_back_store
from corank_serve.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.command_line import run_corank
from tests.support.shared import derived
from tests.support.stores import item, opened, requests

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened("lmdb", tmp_path) as backend:
        yield backend


def serve(folder: Path, funnel: Funnel, asked: list[dict[str, Any]]) -> Path:
    """The file of some requests."""
    log = RequestLog(folder)
    for one in asked:
        log.add(funnel, funnel.run(Request.parse(one)))
    path = log.write()
    assert path is not None and log.write() is None
    assert [file.name for file in folder.glob(".partial-*")] == []
    return path


def copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def live(store: Store, cache: Path) -> Funnel:
    version = StoreState.read(store)[1].require_live(store)
    return load_latest(store, version, Funnel(fetch_bundle(store, version, cache)))


# As a log


@pytest.fixture(scope="module")
def logged() -> list[tuple[int, dict[str, Any]]]:
    """Every request of the log: its key, and what was asked."""
    case = derived()
    return [
        (shard.request_key(row)["request"], case.request(split, row))
        for split, (shard,) in case.packed.splits.items()
        for row in range(len(shard))
    ]


@pytest.fixture(scope="module")
def frame(logged: list[tuple[int, dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    asked = [request for _, request in logged]
    return pl.read_parquet(serve(tmp_path_factory.mktemp("served"), derived().funnel, asked))


def test_a_row_tells_what_happened_to_a_candidate(
    frame: pl.DataFrame, logged: list[tuple[int, dict[str, Any]]]
) -> None:
    case, answers = derived(), frame.partition_by(SERVED, maintain_order=True)
    assert len(answers) == len(logged) == frame["request"].n_unique()
    for (_, asked), rows in zip(logged, answers, strict=True):
        answer = case.funnel.rank(Request.parse(asked))
        ids = [candidate["id"] for candidate in asked["candidates"]]
        assert rows["item_id"].to_list() == ids
        assert rows["bid"].to_list() == [candidate["bid"] for candidate in asked["candidates"]]
        assert rows["cross_1"].to_list() == [candidate["cross_1"] for candidate in asked["candidates"]]
        traced = {one["id"]: one for one in answer["trace"]}
        for row in rows.iter_rows(named=True):
            one = traced[row["item_id"]]
            for stage in ("prerank", "rank"):
                assert row[f"score_{stage}"] == one["stages"].get(stage, {}).get("score")
            # what cut it; what was shown only the page knows
            assert row["level"] == ("retrieved" if one["cut"] == "prerank" else "ranked")
            assert row["time"].timestamp() * 1000 == asked["time"]
            assert (row["user_id"], row["context_0"]) == (asked["user"]["id"], asked["context"]["context_0"])
            assert (row["model_version"], row["items_seq"]) == (answer["model_version"], 1)
    assert "worth" not in frame.columns  # the items' own


def test_served_requests_pack_as_the_log_that_they_are(
    frame: pl.DataFrame, logged: list[tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the labels, positions and levels that the page reports later."""
    case = derived()
    keys = pl.DataFrame(
        {"request": frame[SERVED].unique(maintain_order=True), "key": [key for key, _ in logged]}
    )
    labels = pl.read_parquet(case.base / "log.parquet").select(
        "click", "buy", "position", "level", "item_id", key="request"
    )
    rows = frame.drop("request", "level").rename({SERVED: "request"}).join(keys, on="request")
    rows.join(labels, on=["key", "item_id"]).drop("key").write_parquet(case.base / "served.parquet")
    plain = case.config.model_dump(mode="json", by_alias=True)
    plain = plain | {"name": "served", "data": plain["data"] | {"log": "served.parquet"}}
    (case.base / "served.yaml").write_text(yaml.safe_dump(plain))

    code, _, err = run_corank(capsys, "pack", case.base / "served.yaml")
    assert code == 0, err
    run = Run(case.base / "run", Config.model_validate(plain), case.base)
    packed = run.packed()
    assert {s: sum(map(len, shards)) for s, shards in packed.splits.items()} == {
        s: sum(map(len, shards)) for s, shards in case.packed.splits.items()
    }
    for split, (shard,) in packed.splits.items():
        (theirs,) = case.packed.splits[split]
        assert sorted(shard.level.tolist()) == sorted(theirs.level.tolist())
        ours = [plainly(logged_request(run, split, n)) for n in range(len(shard))]
        assert sorted(ours) == sorted(plainly(logged_request(case.run, split, n)) for n in range(len(theirs)))
    assert packed.encoders.sizes == case.packed.encoders.sizes


def plainly(request: dict[str, Any]) -> str:
    """A request as text; days as the milliseconds that a log of served requests holds."""
    candidates = sorted(request["candidates"], key=lambda candidate: candidate["id"])
    sides = {
        side: {name: in_ms(value) for name, value in request[side].items()} for side in ("user", "context")
    }
    return json.dumps(request | sides | {"candidates": candidates}, sort_keys=True)


def in_ms(value: Any) -> Any:
    """A day such as 1970-01-02 in ms UTC; other values as they are."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        return to_ms(datetime.fromisoformat(value).replace(tzinfo=UTC))
    return value


# Again


@pytest.mark.parametrize(("stage", "by"), [("prerank", -1e-4), ("rank", math.inf)])
def test_a_score_that_was_altered_is_found(tmp_path: Path, stage: str, by: float) -> None:
    source = serve(tmp_path, derived().funnel, requests())
    frame = pl.read_parquet(source)
    scores = frame[f"score_{stage}"].to_list()
    # of one that is not alone: a stage that has no score at all was late
    alone = frame.select(pl.col(f"score_{stage}").count().over(SERVED)).to_series() == 1
    at = next(n for n in range(20, len(scores)) if scores[n] is not None and not alone[n])
    scores[at] = None if math.isinf(by) else scores[at] + by
    # and a candidate that another state does not know
    items = frame["item_id"].to_list()
    items[1] = 77
    frame.with_columns(pl.Series(f"score_{stage}", scores), pl.Series("item_id", items)).write_parquet(source)
    report = replay_log([source], bundle_funnels(derived().base / "bundle"))
    assert report.differ == 2
    if math.isfinite(by):
        assert report.agreement.largest == pytest.approx(1e-4)
    altered = next(row for row in report.agreement.rows if row["stage"] == stage)
    assert altered["differ"] >= 1 and altered["where"] in frame[SERVED].to_list()


def test_a_request_of_no_time_is_computed_as_of_when_it_was_served(tmp_path: Path) -> None:
    """By histories that fade it would be another one later."""
    asked = requests()[0] | {"time": None}
    earliest = now_ms()
    source = serve(tmp_path, derived().funnel, [asked])
    served = json.loads(pl.read_parquet(source)[REQUEST][0])
    assert earliest <= served["time"] <= now_ms() and served["candidates"] == asked["candidates"]
    assert replay_log([source], bundle_funnels(derived().base / "bundle")).differ == 0


# By a store


def test_every_state_of_a_store_is_computed_again(store: Store, tmp_path: Path) -> None:
    """Of several versions of one model, with items that came, back and forth."""
    base, cache, served = derived().base / "bundle", tmp_path / "cache", tmp_path / "served"
    asked = [one | {"candidates": [*one["candidates"], {"id": 99, "bid": 1.0}]} for one in requests()[:5]]
    bundles = [base, tmp_path / "same", variant(base, tmp_path / "other", 2)]
    same = Bundle.open(base)
    copy(base, tmp_path / "same")
    corank.refresh(tmp_path / "same", str(derived().base / "log.parquet"), until="1970-01-06")
    assert Bundle.open(tmp_path / "same").manifest.model_version == same.manifest.model_version
    states = 0

    def go() -> None:
        nonlocal states
        funnel = live(store, cache)
        serve(served, funnel, asked)
        upsert(store, funnel, [item(states % 16, 99, worth=states)])
        serve(served, live(store, cache), asked)
        states += 2

    for bundle in bundles:
        publish_bundle(bundle, store)
        go()
    roll_back_store(store)
    go()
    roll_back_store(store, Bundle.open(base).manifest.content)
    go()
    paths = sorted(served.glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    assert len(paths) == states == 10
    report = replay_log(paths, store_funnels(store, tmp_path / "again"))
    # in the first state nobody knew of item 99
    assert (report.requests, report.skipped, report.differ) == (50, 0, 0)
    assert report.candidates == 10 * sum(len(one["candidates"]) for one in asked) - 5
    assert report.agreement.largest < 1e-6
    frames = [pl.read_parquet(path) for path in paths]
    assert len({tuple(frame["score_rank"].to_list()) for frame in frames}) == 10


# By the command line


def test_the_command_tells_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = derived().base / "bundle"
    source = serve(tmp_path / "served", derived().funnel, requests())
    figures = {"requests": len(requests()), "differ": 0, "largest": 0.0, "skipped": 0, "tolerance": 1e-5}
    figures["candidates"] = sum(len(asked["candidates"]) for asked in requests())
    code, out, err = run_corank(capsys, "replay", tmp_path / "served", bundle, "--json")
    assert (code, err) == (0, f"{source.name}: {figures['requests']} requests, largest difference 0\n")
    printed = json.loads(out)
    assert {(row["stage"], row["metric"], row["differ"]) for row in printed.pop("rows")} == {
        ("prerank", "score", 0),
        ("rank", "score", 0),
    }
    assert printed == figures
    code, out, err = run_corank(capsys, "replay", source, bundle)
    assert code == 0
    said = f"{figures['requests']} requests, {figures['candidates']} candidates: 0 differ, by 0 at most; 0 requests"
    assert out.startswith(said)


def test_requests_in_files_that_are_still_written_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, served, rows = derived().base / "bundle", tmp_path / "served", pa.table({SERVED: ["a"]})
    files = OpenLogFiles(served, rows.schema)
    files.write(rows)
    code, _, err = run_corank(capsys, "replay", served, bundle)
    assert code == 1 and err.startswith(f"error: {served}: 1 file is not complete yet, the first begun at 20")
    source = serve(tmp_path / "another", Funnel.open(bundle), requests()[:2])
    shutil.copy(source, served)
    code, out, err = run_corank(capsys, "replay", served, bundle)
    assert code == 0 and out.startswith("2 requests") and "1 file is not complete yet" in err
    files.give_up()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "no served requests here; `corank serve --log "),
        ("broken.parquet", "cannot be read: "),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    code, out, err = run_corank(capsys, "replay", tmp_path / name, derived().base / "bundle")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path / name}: ") and message in err
