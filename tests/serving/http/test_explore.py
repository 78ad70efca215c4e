"""A service that draws some pages: which requests, what it answers and logs, and what a replay makes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from starlette.testclient import TestClient

import corank
from corank.core.errors import ConfigError
from corank.funnel.exploration import Draw
from corank.funnel.ranking import LIVE
from corank.funnel.request import Request
from corank_serve.api.serving import format_serve_settings, read_serve_settings
from corank_serve.http.access_control import AccessControl, OriginPolicy
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import ExploreSettings, Limits
from corank_serve.http.tokens import Token, Tokens
from corank_serve.http.worker import RankingService
from corank_serve.log.log_format import EXPLORED, SERVED
from corank_serve.log.request_log import RequestLog, RoleLogs, open_logs
from corank_serve.store.source import BundleSource
from tests.support.cases import Case
from tests.support.random_worlds import PAGED
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(PAGED)


@pytest.fixture
def log(tmp_path: Path) -> RoleLogs:
    return open_logs(tmp_path / "served", seconds=1e9, roles=[LIVE])


@pytest.fixture
def client(case: Case, log: RoleLogs) -> Iterator[TestClient]:
    tokens = [Token.of("secret", "checkout", "read"), Token.of("other", "feed", "read")]
    service = RankingService(
        Follower(BundleSource(case.base / "bundle")),
        Limits(seconds=PATIENCE),
        AccessControl(OriginPolicy(["testserver"]), Tokens(tokens)),
        request_logs=log,
        explore=ExploreSettings(share=0.5, exclude=("checkout",)),
    )
    with TestClient(service.app(), headers={"Authorization": "Bearer other"}) as client:
        yield client


def asked(case: Case, time: int) -> dict[str, Any]:
    fields = {"candidates": case.items["item_id"].to_list(), "time": time, "trace": False}
    return case.request("test", 0) | fields


def test_some_requests_get_a_drawn_page_which_is_logged_and_replayed(
    case: Case, client: TestClient, log: RoleLogs, tmp_path: Path
) -> None:
    times = range(40)
    answers = [client.post("/rank", json=asked(case, time)).json() for time in times]
    drawn = [n for n in times if "explored" in answers[n]]
    assert 5 < len(drawn) < 35
    n = drawn[0]
    assert f"corank_explored_total {len(drawn)}.0" in client.get("/metrics").text
    again = client.post("/rank", json=asked(case, n)).json()
    assert again["items"] == answers[n]["items"] and again["propensity"] == answers[n]["propensity"]
    batch = client.post("/rank/batch", json={"requests": [asked(case, n)]}).json()["answers"][0]
    assert batch["items"] == again["items"]
    excluded = client.post("/rank", json=asked(case, n), headers={"Authorization": "Bearer secret"}).json()
    traced = client.post("/rank", json=asked(case, n) | {"trace": True}).json()
    named = client.post("/rank", json=asked(case, n) | {"fields": ["items", "trace", "explored"]}).json()
    assert not any("explored" in one for one in (excluded, traced, named))

    log[LIVE].flush(complete=True)
    (file,) = (tmp_path / "served").glob("served-*.parquet")
    rows = pl.read_parquet(file)
    requests = rows.group_by(SERVED, maintain_order=True).agg(pl.all())
    assert requests[EXPLORED].list.first().is_not_null().sum() == len(drawn) + 2
    for row in requests.iter_rows(named=True):
        assert len(set(row[EXPLORED])) == 1
        assert any(p is not None for p in row["propensity"]) == (row[EXPLORED][0] is not None)
    served = {row[SERVED]: row for row in requests.iter_rows(named=True)}
    row = served[answers[n]["served_id"]]
    chance = dict(zip(row["item_id"], row["propensity"], strict=True))
    assert [chance[item["id"]] for item in answers[n]["items"]] == answers[n]["propensity"]
    replayed = corank.replay(tmp_path / "served", case.base / "bundle")
    assert replayed["requests"] == len(served) and not replayed["differ"]
    # a propensity that the log has wrong is found
    rows.with_columns(pl.col("propensity") / 2).write_parquet(tmp_path / "served" / file.name)
    assert corank.replay(tmp_path / "served", case.base / "bundle")["differ"]


def test_a_draw_by_a_stage_that_did_not_finish_is_not_compared(case: Case, tmp_path: Path) -> None:
    log, asked = RequestLog(tmp_path), Request.parse(case.request("test", 0))
    log.add(case.funnel, case.funnel.run(asked, draw=Draw(3, 0.1)))
    file = log.write()
    assert file is not None
    missed = pl.lit(None, pl.Float64).alias("score_rank")
    for rows, differs in (([], True), ([missed], False)):
        pl.read_parquet(file).with_columns(pl.col("propensity") / 2, *rows).write_parquet(file)
        assert bool(corank.replay(tmp_path, case.base / "bundle")["differ"]) == differs


def test_the_answer_is_in_the_openapi_document(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert {"explored", "propensity"} <= schemas["RankAnswer"]["properties"].keys()


def test_the_settings_are_a_share_or_a_mapping(tmp_path: Path) -> None:
    short = read_serve_settings(None, {"source": "x", "explore": "2%"})
    assert short.explore == ExploreSettings(share=0.02)
    text = "source: x\nexplore: {share: 10%, draw: softened, temperature: 0.05, exclude: [checkout]}\n"
    (tmp_path / "serve.yaml").write_text(text)
    whole = read_serve_settings(tmp_path / "serve.yaml", {})
    assert whole.explore == ExploreSettings(
        share=0.1, draw="softened", temperature=0.05, exclude=("checkout",)
    )
    (tmp_path / "again.yaml").write_text(format_serve_settings(whole))
    assert read_serve_settings(tmp_path / "again.yaml", {}) == whole
    assert type(whole).model_validate_json(whole.model_dump_json()) == whole
    for faulty, message in (
        ("200%", "explore: Input should be less than or equal to 1"),
        (True, "explore: Input should be a valid"),
        ("a bit", "explore: Input should be a valid number"),
        ({"share": 0.1, "draw": "softened"}, "explore: draw: softened needs a temperature"),
        (
            {"share": 0.1, "draw": "softened", "temperature": 1e-310},
            "explore.temperature: Input should be greater",
        ),
        ({"share": 0.1, "temperature": 1}, "explore: temperature goes with draw: softened"),
        ({"share": 0.1, "temprature": 1}, "did you mean 'temperature'"),
    ):
        with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
            read_serve_settings(None, {"source": "x", "explore": faulty})


def test_a_larger_share_keeps_the_requests_of_a_smaller_one() -> None:
    names = [json.dumps([n]).encode() for n in range(2000)]
    small, large = (
        {n for n in names if ExploreSettings(share=share).find_seed(n, "") is not None}
        for share in (0.05, 0.2)
    )
    assert small < large and 60 < len(small) < 140 and 320 < len(large) < 480
