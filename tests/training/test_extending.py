"""The plug-ins of docs/extending work: one run is trained, evaluated, exported and served with all of them."""

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.support import kills

ROOT = Path(__file__).parents[2]
PLUGINS: dict[str, str] = dict(
    re.findall(
        r"^```python\n# (\w+)\.py\n(.*?)^```",
        (ROOT / "docs" / "extending" / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)
"""Module → text."""
USE = """
import shutil
from pathlib import Path

import polars as pl

import corank
from corank.analysis.logged_request import logged_request
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.simulated import WORLDS
from corank.training.run import Run

simulate_world(Path("world"), requests=400, candidates=30, users=40, items=120)
overrides = [
    "plugins=[difference, focal, linear, click_mrr]",
    "features.gap={kind: difference, of: [price, activity]}",
    "stages.0.query=[16, 8]",
    "stages.0.item=[16, 8]",
    "stages.1={model: linear, name: rank, cuts: [preranked], keep: 5}",
    "losses.0={kind: focal, stage: rank, gamma: 1.5}",
]
run = corank.train(Path("world/config.yaml"), overrides, folder=Path("run")).run
print("click_mrr", corank.evaluate(run.folder, bootstrap=False).row("prerank.cut.click_mrr")["value"])
corank.export(run.folder, Path("bundle"))
request = corank.Request.parse(logged_request(run, "test", 0))
print("kept", len(corank.Funnel.open(Path("bundle")).rank(request)["items"]))

items = pl.read_parquet("world/items.parquet").with_columns(price=pl.lit(None, pl.Float64))
items.write_parquet("unpriced.parquet")
shop = corank.check(Path("world/config.yaml"), ["plugins=[priced]", "data.items=../unpriced.parquet"])
print("found", shop.findings[0])

corank.load_plugins(["coins"])
WORLDS.find("coins")(requests=300).simulate(Path("coins"))
corank.check(Path("coins/config.yaml")).require()

shutil.copytree("world/log", "world/exposures/2026-04-27")
dated = ["plugins=[dated]", "data.log=dated://exposures", "name=dated"]
print("dated", corank.pack(Path("world/config.yaml"), dated).packed.manifest.snapshots)
shutil.copytree("bundle", "bundles/first")
corank.load_plugins(["shelf", "shop_tools"])
print("newest", corank.Funnel.open("shelf:bundles").manifest == corank.Funnel.open("bundle").manifest)
"""


def _use(folder: Path) -> None:
    """Do what a user does with the plug-ins, in the folder where they lie."""
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    with Path("said.txt").open("w", encoding="utf-8") as said, contextlib.redirect_stdout(said):
        exec(USE, {"__name__": "use"})


def test_every_part_has_an_example() -> None:
    assert PLUGINS.keys() == {"difference", "focal", "linear"}


@pytest.mark.slow
def test_the_examples_train_evaluate_and_serve(tmp_path: Path) -> None:
    for example in ("click_mrr.py", "coins.py", "dated.py", "priced.py", "shelf.py", "shop_tools.py"):
        shutil.copy(ROOT / "examples" / "plugins" / example, tmp_path)
    for name, text in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    kills.run(_use, tmp_path)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    value, kept = re.findall(r"^(?:click_mrr|kept) (.+)$", said, re.MULTILINE)
    assert 0 < float(value) < 1
    assert kept == "5"
    assert "?day=2026-04-27" in said and "newest True" in said
    assert "found price (missing in 100% of 'train'): items without a price" in said
