"""What a bundle records of a stage, and records of the first version."""

from corank.bundle.stage_facts import StageFacts

FIRST_VERSION = {
    "cuts": ["retrieved"],
    "keep": 9,
    "labels": ["click"],
    "value": "click",
    "calibrators": {"click": {"slope": 1.0, "intercept": 0.0}},
    "tables": "shared",
    "main": "click",
}


def test_facts_of_the_first_version_are_read() -> None:
    towers = {"name": "prerank", "model": "towers", "scale": 0.5, "bias": -1.0, "width": 32}
    found = StageFacts.model_validate(FIRST_VERSION | towers | {"from_stages": []})
    assert (found.scorer, found.item_parts, found.vector_width) == ("vectors", {"vector": 32}, 32)
    assert found.constants == {"scale": 0.5, "bias": -1.0}
    mlp = {"name": "rank", "model": "mlp", "scale": None, "bias": None, "width": None}
    seen = [["prerank", "place"], ["prerank", "score"]]
    found = StageFacts.model_validate(FIRST_VERSION | mlp | {"from_stages": seen})
    assert (found.scorer, found.item_parts, found.vector_width) == ("graph", {}, None)
    assert found.from_stages == [("prerank", "rank"), ("prerank", "score")]
    assert StageFacts.model_validate(found.model_dump(mode="json")) == found
