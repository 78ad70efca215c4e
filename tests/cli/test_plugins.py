"""A plug-in with a feature and a loss, from the config to a service, each command in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.support.service import running_service
from tests.support.simulated_runs import make_world

pytestmark = pytest.mark.slow

PLUGIN = """
from typing import Literal

import numpy as np

from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature
from corank.features.scale import to_numbers
from corank.losses.base import LOSSES, Loss


@FEATURE_KINDS.register("cyclical")
class CyclicalFeature(ColumnFeature):
    kind: Literal["cyclical"]
    period: float

    @property
    def width(self):
        return 2

    def encode(self, encoder, values, name):
        angle = 2 * np.pi * to_numbers(values, name) / self.period
        return np.nan_to_num(np.stack((np.sin(angle), np.cos(angle)), axis=1)).astype(np.float32)


@LOSSES.register("squared")
class SquaredLoss(Loss):
    kind: Literal["squared"]
    stage: str

    @property
    def name(self):
        return f"{self.stage}.squared"

    @property
    def learner(self):
        return self.stage

    def check(self, funnel, key):
        funnel.check_label(self.stage, "click", f"{key}.stage")

    def population(self, funnel):
        return {len(funnel.levels) - 1: None}

    def values(self, outputs, batch, funnel):
        error = outputs[self.stage].logits["click"].sigmoid() - batch.labels["click"].clamp_min(0)
        return error**2, batch.label_weight("click")
"""
CONFIG = {
    "  hour:            {side: context, kind: id}": "  hour: {side: context, kind: cyclical, period: 24}",
    "  - {kind: click, stage: rank}": "  - {kind: click, stage: rank}\n  - {kind: squared, stage: rank}",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A world whose config uses a feature and a loss of `plugin_shop.py` beside it."""
    path = make_world(tmp_path / "world", requests=400)
    text = path.read_text(encoding="utf-8")
    for without, with_plugin in CONFIG.items():
        assert without in text
        text = text.replace(without, with_plugin)
    path.write_text(text + "plugins: [plugin_shop]\n", encoding="utf-8")
    path.with_name("plugin_shop.py").write_text(PLUGIN, encoding="utf-8")
    return path


def corank(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `corank ARGUMENTS` does in a folder, in a process of its own."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "corank", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": root} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_the_config_to_a_service(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, elsewhere = config.parent, tmp_path / "elsewhere"
    elsewhere.mkdir()

    def output(*arguments: object, folder: Path = elsewhere, **environment: str) -> str:
        done = corank(*arguments, folder=folder, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # commands that read a config or a run load its plug-ins by themselves
    output("pack", config)
    assert "squared" in output("check", config)
    output("train", config)
    run, bundle, request = world / "runs" / "simulated-medium", tmp_path / "bundle", tmp_path / "request.json"
    assert set(json.loads(output("evaluate", run, "--json"))["stages"]) == {"prerank", "rank"}
    output("export", run, bundle)
    assert json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["plugins"] == ["plugin_shop"]
    request.write_text(output("request", run), encoding="utf-8")
    # those that read a bundle are told, and the bundle's word is not enough, even where the plug-in is at hand
    absent = corank("rank", bundle, request, folder=world)
    assert absent.returncode == 1 and "unknown kind 'cyclical'" in absent.stderr
    assert absent.stderr.endswith("needs the plug-in 'plugin_shop': pass --plugin plugin_shop\n")
    answer = json.loads(output("--plugin", "plugin_shop", "rank", bundle, request, "--json", folder=world))
    assert len(answer["items"]) == 6
    by_environment = output("rank", bundle, request, "--json", folder=world, CORANK_PLUGINS="plugin_shop")
    assert json.loads(by_environment)["items"] == answer["items"]
    # a store, the process that fetches from it, and the workers of a service
    store = f"lmdb:{tmp_path / 'store'}"
    refused = corank("publish", bundle, store, folder=world)
    assert refused.returncode == 1 and "pass --plugin plugin_shop" in refused.stderr
    output("--plugin", "plugin_shop", "publish", bundle, store, folder=world)
    monkeypatch.chdir(world)
    monkeypatch.setenv("CORANK_PLUGINS", "plugin_shop")
    with running_service(store, tmp_path / "cache", workers=2) as (url, _):
        served = httpx2.post(f"{url}/rank", content=request.read_bytes())
        assert served.status_code == 200, served.text
        assert [item["id"] for item in served.json()["items"]] == [item["id"] for item in answer["items"]]
