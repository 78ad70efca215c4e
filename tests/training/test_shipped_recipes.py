"""The configs that corank ships train by the recipe of their kind of log."""

from pathlib import Path
from typing import Any

import pytest

import corank
from corank.datasets.feed.simulate import simulate_world
from corank.training.config.yaml_values import read_yaml_file

ROOT = Path(corank.__file__).parent.parent
SHIPPED = {
    "examples/shop.yaml": "levels",
    "examples/features.yaml": "levels",
    "corank_lab/datasets/recflow_full.yaml": "levels",
    "examples/exposure_only.yaml": "exposures",
    "corank/datasets/kuairand.yaml": "exposures",
    "corank_lab/datasets/mind.yaml": "exposures",
    "corank_lab/datasets/ebnerd.yaml": "exposures",
}
"""Config → the kind of its log."""
RECIPES: dict[str, list[dict[str, Any]]] = {
    "levels": [
        {"kind": "unexposed", "stage": "prerank", "from": ["retrieved"], "per_request": 10, "weight": 0.2},
        {"kind": "in_batch", "stage": "prerank", "weight": 0.05, "temperature": 2},
    ],
    "exposures": [{"kind": "distill", "teacher": "rank", "student": "prerank", "on": ["exposed"]}],
}
"""The losses besides the clicks, by what the log holds: `scripts/bench defaults` measures them."""
OWN = {"from", "label", "weight", "warm_up", "form"}
"""Keys of losses that a log may have of its own: names of levels and labels, and what was chosen on it."""


def beside_clicks(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [loss for loss in value["losses"] if loss["kind"] != "click"]


def test_a_simulated_world_has_the_recipe_to_the_letter(tmp_path: Path) -> None:
    simulate_world(tmp_path, requests=20, candidates=20, users=10, items=40)
    value = read_yaml_file(tmp_path / "config.yaml")
    assert beside_clicks(value) == RECIPES["levels"]
    assert value["stages"][0]["feature_dropout"] == {"item_id": 0.3}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_has_the_losses_of_its_kind_of_log(name: str) -> None:
    value = read_yaml_file(ROOT / name)
    kind = SHIPPED[name]
    own = OWN if kind == "exposures" or name.startswith("corank") else {"label"}
    kept = [{k: v for k, v in loss.items() if k not in own} for loss in beside_clicks(value)]
    assert kept == [{k: v for k, v in loss.items() if k not in own} for loss in RECIPES[kind]]
    levels = value["data"].get("levels")
    assert (levels is not None) == (kind == "levels")
