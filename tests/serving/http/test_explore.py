"""A service that draws some pages: which requests, what it answers and logs, and what a replay makes of it."""

import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

import corank
from corank.core.errors import ConfigError
from corank.funnel.exploration import Draw
from corank.funnel.ranking import Ranking
from corank.funnel.request import NumberIds, Request
from corank_serve.api.serving import format_serve_settings, read_serve_settings
from corank_serve.http.access_control import AccessControl, OriginPolicy
from corank_serve.http.exploration import Explorer
from corank_serve.http.explore_secret import read_secret
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import ExploreSettings, Limits
from corank_serve.http.tokens import Token, Tokens
from corank_serve.http.worker import RankingService
from corank_serve.log.log_format import EXPLORED, SERVED
from corank_serve.log.request_log import RequestLog
from corank_serve.store.source import BundleSource
from tests.support.cases import Case
from tests.support.random_worlds import PAGED
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(PAGED)


@pytest.fixture
def log(tmp_path: Path) -> RequestLog:
    return RequestLog(tmp_path / "served", seconds=1e9)


@pytest.fixture
def client(case: Case, log: RequestLog) -> Iterator[TestClient]:
    tokens = [Token.of("secret", "checkout", "read"), Token.of("other", "feed", "read")]
    service = RankingService(
        Follower(BundleSource(case.base / "bundle")),
        Limits(seconds=PATIENCE),
        AccessControl(OriginPolicy(["testserver"]), Tokens(tokens)),
        request_log=log,
        explorer=Explorer(ExploreSettings(share=0.5, exclude=("checkout",)), b"secret"),
    )
    with TestClient(service.app(), headers={"Authorization": "Bearer other"}) as client:
        yield client


def asked(case: Case, time: int) -> dict[str, Any]:
    fields = {"candidates": case.items["item_id"].to_list(), "time": time, "trace": False}
    return case.request("test", 0) | fields


def test_some_requests_get_a_drawn_page_which_is_logged_and_replayed(
    case: Case, client: TestClient, log: RequestLog, tmp_path: Path
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

    log.flush(complete=True)
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


def draws(
    case: Case, share: float, requests: Iterable[Request], secret: bytes = b"secret"
) -> list[Draw | None]:
    explorer = Explorer(ExploreSettings(share=share), secret)
    return [explorer.find_draw(Ranking(one), case.funnel.manifest.data, "") for one in requests]


def test_a_larger_share_keeps_the_requests_of_a_smaller_one(case: Case) -> None:
    requests = [Request({"id": 1}, time=n, candidates=[1]) for n in range(2000)]
    small, large = (
        {n for n, draw in enumerate(draws(case, share, requests)) if draw is not None}
        for share in (0.05, 0.2)
    )
    assert small < large and 60 < len(small) < 140 and 320 < len(large) < 480


def test_a_request_is_drawn_by_chance_if_user_or_time_is_missing(case: Case) -> None:
    for asked, alike in (
        (Request({"id": 1}, time=5, candidates=[1]), True),
        (Request({"id": 1}, candidates=[1]), False),  # as `corank request --now` writes it
        (Request({}, time=5, candidates=[1]), False),
    ):
        assert len({*draws(case, 1.0, [asked] * 20)}) == (1 if alike else 20)


def test_nobody_without_the_secret_chooses_a_draw(case: Case) -> None:
    """Who knows all but the secret searches for a time that draws the first candidate, and sends that request."""
    ids = case.items["item_id"].to_list()
    logits = np.zeros(len(ids))

    def shows_first(draw: Draw | None) -> bool:
        assert draw is not None
        return 0 in draw.choose(logits, 1, None)[0]

    guessed, searched = iter(range(10**6)), list[Request]()
    while len(searched) < 60:
        asked = Request({"id": 1}, time=next(guessed), candidates=ids)
        if shows_first(draws(case, 1.0, [asked], b"guess")[0]):
            searched.append(asked)
    wins = [shows_first(draw) for draw in draws(case, 1.0, searched, b"guess")]
    assert all(wins)  # the search works where the secret is known
    wins = [shows_first(draw) for draw in draws(case, 1.0, searched)]
    assert sum(wins) < 60 * (2 / len(ids)) + 6


def test_an_answer_tells_nothing_of_another_request(case: Case) -> None:
    """Else a client would learn which position is drawn for an id, and send the id again with its item there."""
    ids = case.items["item_id"].to_list()
    asked = Request({"id": 1}, time=5, candidates=ids)
    again = [
        asked,
        Request({"id": 1}, time=5, candidates=ids[::-1]),
        Request({"id": 1, "age": 3}, time=5, candidates=ids),
        Request({"id": 1}, {"page": 2}, time=5, candidates=ids),
        Request({"id": 1}, time=5, candidates=ids, keep={"rank": 1}),
    ]
    found = draws(case, 1.0, [asked, *again])
    assert found[0] == found[1] and len({*found}) == len(again)


def test_columns_that_a_store_has_of_the_user_change_no_draw(case: Case) -> None:
    explorer, data = Explorer(ExploreSettings(share=1.0), b"secret"), case.funnel.manifest.data
    ids: Any = NumberIds(np.arange(3))
    users: list[tuple[dict[str, Any], str]] = [
        ({"id": 1}, "unavailable"),
        ({"id": 1, "age": 3}, "stored"),
        ({"id": 1, "age": 4}, "stored"),
    ]
    found = [
        explorer.find_draw(Ranking(Request(user, time=5, candidates=candidates), user=said), data, "")
        for user, said in users
        for candidates in (ids, [*ids])
    ]
    assert len({*found}) == 1


def test_the_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = read_serve_settings(None, {"source": "x", "explore": "2%", "cache": tmp_path / "cache"})
    explore = settings.explore
    assert explore is not None
    with ThreadPoolExecutor(8) as pool:
        (secret,) = {*pool.map(lambda _: read_secret(settings, explore), range(32))}
    (path,) = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(secret) == 64
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=f"{path}: has the mode 0644; run `chmod 600"):
        read_secret(settings, explore)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="16 to 4,096 bytes; received 5"):
        read_secret(settings, explore)
    path.unlink()
    assert read_secret(settings, explore) != secret
    named = explore.model_copy(update={"secret": path / "inner"})
    with pytest.raises(ConfigError, match="secret: FILE"):
        read_secret(settings, named)
