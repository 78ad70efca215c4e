"""Hostile requests to a running `corank serve`: no 5xx, no hang, no growth of memory.

There are two sources of requests: schemathesis, which makes them from the OpenAPI document, and mutations of a valid
request, in JSON and in MessagePack: of its values, its fields and its bytes. Every response must come within seconds
and be one that the document allows.
"""

import tempfile
from pathlib import Path

import httpx2
from rich.console import Console

import corank
from corank.analysis.logged_request import logged_request
from corank.datasets.feed.simulate import simulate_world
from corank.training.config.config_file import read
from corank.training.run import Run
from tests.support.hostile_input import call_operations, post_mutations
from tests.support.service import running_service, workers_of


def fuzz_http(cases: int, seed: int) -> dict[str, float]:
    """Send about so many hostile requests to a service.

    Returns:
        `cases`; `failed`, the responses that the API does not allow; `hung`; `slowest_s`; `alive`, whether it still
        answers; `rss_start_mib` and `rss_end_mib`.
    """
    say = Console(stderr=True).print
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate_world(folder / "world", requests=400)
        config = folder / "world" / "config.yaml"
        run = corank.train(config, ["train.epochs=1"], folder=folder / "run").run
        corank.export(folder / "run", folder / "bundle")
        corank.publish(folder / "bundle", f"lmdb:{folder / 'store'}")
        valid = logged_request(Run.open(folder / "run"), "test", 0)
        valid["candidates"] = valid["candidates"][:20]
        item = {"items": [{"id": 7, "brand": "brand_001", "price": 3.5, "tags": ["tag_001"]}]}
        assert read(config) and run
        with running_service(f"lmdb:{folder / 'store'}", folder / "cache") as (url, process):
            (worker,) = workers_of(process)
            each = cases // 4
            parts = {"warm": post_mutations(url, "/rank", valid, each // 4, seed)}
            before = worker.memory_info().rss
            parts["rank"] = post_mutations(url, "/rank", valid, each, seed + 1)
            parts["packed"] = post_mutations(url, "/rank", valid, each, seed + 3, packed=True)
            batch = {"requests": [valid, valid]}
            parts["batch"] = post_mutations(url, "/rank/batch", batch, each // 4, seed + 4)
            parts["items"] = post_mutations(url, "/items", item, each, seed + 2)
            parts["document"] = call_operations(url, each // 7)
            after = worker.memory_info().rss
            alive = httpx2.post(f"{url}/rank", json=valid).status_code == 200
    for part, result in parts.items():
        say(f"{part}: {result.cases:,} cases, {result.failed} failed {result.first}", markup=False)
    return {
        "cases": sum(result.cases for result in parts.values()),
        "failed": sum(result.failed for result in parts.values()),
        "hung": sum(result.hung for result in parts.values()),
        "slowest_s": max(result.slowest for result in parts.values()),
        "alive": float(alive),
        "rss_start_mib": before / 2**20,
        "rss_end_mib": after / 2**20,
    }
