"""A world of some days whose funnel is trained daily, and what a run of `corank daily` leaves."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import corank
from corank.analysis.logged_request import logged_request
from corank.bundle.manifest import load_manifest
from corank.datasets.feed.simulate import simulate_world
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.config.yaml_values import read_values
from corank.training.run import Run
from corank_continual.periods.history import DailyHistory

SMALL = {"prerank": {"query": [16, 8], "item": [16, 8]}, "rank": {"hidden": [16, 8]}}
"""The widths of all simulated worlds of tests: where features are the same, too, one export serves their bundles."""
SETTINGS: dict[str, Any] = {
    "config": "config.yaml",
    "first": "2026-03-02",
    "holdout": "6h",
    "changes": ["train.epochs=1"],
    "gate": ["rank.exposed.click.auc >= live - 1"],
    "store": "lmdb:store",
    "users": "users.parquet",
    "verify": 2,
}
"""Every candidate goes live: chance decides on figures of so few rows."""


JOIN = {"log": "raw/*.parquet", "labels": {"later": "organic/*.parquet:order"}, "window": "3d"}
"""Of a world whose log waits to be joined with what users do outside of its funnel."""


def write_daily_world(
    folder: Path, days: int, requests: int, drifts: bool = True, joins: bool = False
) -> Path:
    """Write a world, a small config and the settings of `corank daily`. Returns the settings' path."""
    drift = {"lifetime": 3} if drifts else None
    sizes: dict[str, Any] = {"requests": requests, "candidates": 12, "users": 40, "items": 50, "days": days}
    simulate_world(folder, **sizes, drift=drift, organic=0.3 if joins else None)
    config = read_values(folder / "config.yaml", []).value
    config["stages"] = [stage | SMALL[stage["name"]] for stage in config["stages"]]
    config["train"] |= {"requests": 32, "average": 0.9, "checkpoint_every": 2}
    config["drift"] = dict.fromkeys(("rows", "levels", "labels", "missing", "new_ids", "psi"))
    settings = SETTINGS
    if joins:
        (folder / "log").rename(folder / "raw")
        config["data"] |= {"log": "log/*.parquet", "as_of": "labels_as_of"}
        config["data"]["labels"]["later"]["matures_after"] = "3d"
        settings = SETTINGS | {"join": JOIN}
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    path = folder / "daily.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def call_daily(settings: Path) -> None:
    """Run `corank daily`, for processes of their own."""
    corank.daily(settings)


def store_of(settings: Path) -> str:
    """The address of the store."""
    return f"lmdb:{settings.parent / 'store'}"


def live_model(settings: Path, cache: Path, request: dict[str, Any]) -> str | None:
    """The model version that is live in the store, which is read whole and ranks a request. None if none is live."""
    if not (settings.parent / "store").exists():
        return None
    if not any(version["live"] for version in corank.store_versions(store_of(settings))):
        return None
    answer = Funnel.open(store_of(settings), cache=cache).rank(Request.parse(request))
    assert answer["items"], "the live version ranks nothing"
    return str(answer["model_version"])


def request_of(settings: Path) -> dict[str, Any]:
    """A logged request of the first period, after it is over."""
    first = DailyHistory(settings.parent / "daily").records[0].period
    return logged_request(Run.open(settings.parent / "daily" / "periods" / first / "run"), "test", 0)


def bundles_of(settings: Path) -> dict[str, str]:
    """A hash of each file of all periods' bundles, but of the manifest, which has a random name in it."""
    digests = {}
    for bundle in sorted(settings.parent.glob("daily/periods/*/bundle")):
        content = load_manifest(bundle).content
        for path in sorted(bundle.rglob("*")):
            if path.is_file() and path.name != "manifest.json":
                assert path.is_relative_to(bundle / content), f"{path} was left behind"
                name = f"{bundle.parent.name}/{path.relative_to(bundle / content)}"
                digests[name] = sha256(path.read_bytes()).hexdigest()
    return digests
