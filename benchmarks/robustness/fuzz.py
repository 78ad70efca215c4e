"""Hostile input against a real `corank serve`: no 5xx, no hang, no growth in memory.

Two attackers: schemathesis, which makes requests from the OpenAPI document, and mutations of a valid request, of its
values, its fields and its bytes. Every answer must come within seconds and be what the document allows.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

import corank
from benchmarks import harness
from corank.analysis.logged_request import logged_request
from corank.analysis.study.trials import Quiet
from corank.datasets.simulate import simulate
from corank.training.config_file import read
from corank.training.run import Run

TOKEN = {"Authorization": "Bearer secret"}
SECONDS = 10.0
"""An answer that takes longer counts as a hang."""
ALLOWED = {200, 400, 401, 403, 404, 405, 409, 413, 503}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["", "\x00", "9" * 400, 2**63, -(2**63), 1e308, -0.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@dataclass
class Result:
    cases: int = 0
    failed: int = 0
    """5xx but for 503 with Retry-After, an answer that is not JSON, a status that is not declared."""
    hung: int = 0
    slowest: float = 0.0
    first: str = ""


@contextlib.contextmanager
def served(
    source: str, cache: Path, *options: str, workers: int | None = 1
) -> Iterator[tuple[str, psutil.Process]]:
    """A service on a free port, as a command; with so many workers, or as many as it takes by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("corank"))
    command = [program, "serve", source, "--port", str(port), "--cache", str(cache)]
    command += [] if workers is None else ["--workers", str(workers)]
    environment = os.environ | {"CORANK_TOKEN": "secret"}
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"{url}/healthz").status_code == 200:
                    break
            time.sleep(0.05)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def mutated(random_: random.Random, value: Any, new: Any) -> Any:
    """A copy in which one part, at random, is another value, gone, or there twice."""
    if isinstance(value, dict) and value and random_.random() < 0.8:
        key = random_.choice(list(value))
        act = random_.random()
        if act < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if act < 0.2:
            return value | {f"{key}x": new}
        return value | {key: mutated(random_, value[key], new)}
    if isinstance(value, list) and value and random_.random() < 0.8:
        n = random_.randrange(len(value))
        if random_.random() < 0.2:
            return [*value, value[n]]
        return [*value[:n], mutated(random_, value[n], new), *value[n + 1 :]]
    return new


def judge(result: Result, response: httpx2.Response, began: float, what: str) -> None:
    took = time.perf_counter() - began
    result.cases += 1
    result.slowest = max(result.slowest, took)
    told = response.status_code in ALLOWED
    if response.status_code == 503:
        told = "Retry-After" in response.headers
    with contextlib.suppress(ValueError):
        told = told and isinstance(response.json(), dict)
    if not told:
        result.failed += 1
        result.first = result.first or f"{response.status_code} for {what[:500]}: {response.text[:500]}"


def bodies(url: str, path: str, valid: dict[str, Any], cases: int, seed: int) -> Result:
    """Mutations of a valid body."""
    result = Result()
    with httpx2.Client(base_url=url, timeout=SECONDS, headers=TOKEN) as client:

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.randoms(use_true_random=False), json_values, st.integers(0, 9), st.binary(max_size=8))
        def attack(random_: random.Random, new: Any, how: int, raw: bytes) -> None:
            body = json.dumps(mutated(random_, valid, new)).encode()
            if how == 0:  # bytes that are no JSON
                at = random_.randrange(len(body))
                body = body[:at] + raw + body[at + len(raw) :]
            began = time.perf_counter()
            try:
                judge(result, client.post(path, content=body), began, body.decode(errors="replace"))
            except httpx2.TimeoutException:
                result.cases += 1
                result.hung += 1

        attack()
    return result


def document(url: str, cases: int) -> Result:
    """What schemathesis makes of the OpenAPI document, at most so many cases an operation."""
    result = Result()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for operation in schema.get_all_operations():
        made = operation.ok()

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(made.as_strategy())
        def attack(case: Any) -> None:
            began = time.perf_counter()
            judge(result, case.call(headers=TOKEN, timeout=SECONDS), began, f"{case.method} {case.path}")

        attack()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate(folder / "world", "medium", 0, 400)
        config = folder / "world" / "config.yaml"
        run, _ = corank.train(config, Quiet(), ["train.epochs=1"], folder=folder / "run")
        corank.export(folder / "run", folder / "bundle")
        corank.publish(folder / "bundle", f"lmdb:{folder / 'store'}")
        valid = logged_request(Run.open(folder / "run"), "test", 0)
        valid["candidates"] = valid["candidates"][:20]
        item = {"items": [{"id": 7, "brand": "brand_001", "price": 3.5, "tags": ["tag_001"]}]}
        assert read(config) and run
        with served(f"lmdb:{folder / 'store'}", folder / "cache") as (url, process):
            each = arguments.cases // 4
            parts = {"warm": bodies(url, "/rank", valid, each // 4, arguments.seed)}
            before = process.memory_info().rss
            parts["rank"] = bodies(url, "/rank", valid, 2 * each, arguments.seed + 1)
            parts["items"] = bodies(url, "/items", item, each, arguments.seed + 2)
            parts["document"] = document(url, each // 7)
            after = process.memory_info().rss
            alive = httpx2.post(f"{url}/rank", json=valid).status_code == 200
    for part, result in parts.items():
        say(f"{part}: {result.cases:,} cases, {result.failed} failed {result.first}", markup=False)
    figures: dict[str, float] = {
        "cases": sum(result.cases for result in parts.values()),
        "failed": sum(result.failed for result in parts.values()),
        "hung": sum(result.hung for result in parts.values()),
        "slowest_s": max(result.slowest for result in parts.values()),
        "alive": float(alive),
        "rss_start_mib": before / 2**20,
        "rss_end_mib": after / 2**20,
    }
    aims: dict[str, tuple[str, float]] = {
        "cases": (">=", 10_000),
        "failed": ("<=", 0),
        "hung": ("<=", 0),
        "rss_end_mib": ("<=", before / 2**20 * 1.1),
    }
    harness.report("fuzz", figures, aims, arguments.json)


if __name__ == "__main__":
    main()
