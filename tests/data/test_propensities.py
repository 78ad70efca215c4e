"""`data.propensity`: from the log to the evaluation's rows, and refusals by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.analysis.evaluation_view import cascade_blocks
from corank.evaluation.predictions import read_propensities
from corank.evaluation.rows import Row
from corank.evaluation.table import measure, reasons_of, subjects_of
from corank.features.kinds.id import IdFeature
from corank.metrics import off_policy
from tests.support.packing import World
from tests.support.predictions import IDENTITY, LEVELS, STAGES, predictions, rows_of

DAY = 86_400_000
ESTIMATES = ["ips_click_rate@1", "snips_click_rate@1", "dr_click_rate@1", "bucket_weight"]


def drawn(folder: Path, chances: list[Any], **keys: Any) -> World:
    """Three days of a request of three candidates, the first two of which are exposed."""
    log = pl.DataFrame(
        {
            "request": np.repeat(np.arange(3), 3),
            "user": [0] * 9,
            "item": list(range(9)),
            "time": np.repeat(np.arange(3) * DAY, 3),
            "level": ["exposed", "exposed", "cut"] * 3,
            "click": [1, 0, None] * 3,
            "chance": chances,
        },
        strict=False,
    )
    features = {"item": IdFeature(side="item", kind="id")}
    data = {"propensity": "chance", "levels": ["cut", "exposed"]} | keys
    return World(folder, log, None, None, features=features, data=data)


def test_propensities_are_packed_with_nan_where_nothing_was_drawn(tmp_path: Path) -> None:
    dataset = drawn(tmp_path, [0.5, 1, None, None, None, None, 0.25, 0.25, 0.5]).pack()
    read = {split: read_propensities(dataset, split) for split in ("train", "valid", "test")}
    assert read["train"] is not None and read["valid"] is not None and read["test"] is not None
    np.testing.assert_array_equal(read["train"], np.array([0.5, 1, np.nan], np.float32))
    assert np.isnan(read["valid"]).all()
    assert read["test"].tolist() == [0.25, 0.25, 0.5]


def test_exposures_of_the_bucket_weigh_their_inverse_propensity_up_to_a_bound(tmp_path: Path) -> None:
    chances = [0.5, 1, 0.5, None, None, None, 0.25, 0.05, 0.5]
    for name in ("plain", "weighted", "none"):
        (tmp_path / name).mkdir()
    plain = drawn(tmp_path / "plain", chances).pack()
    assert plain.splits["train"][0].weight is None
    weighted = drawn(tmp_path / "weighted", chances, propensity_weight=10).pack()
    found = {split: shard.weight for split, (shard,) in weighted.splits.items()}
    assert {split: None if w is None else w.tolist() for split, w in found.items()} == {
        "train": [2, 1, 1],
        "valid": [1, 1, 1],
        "test": [4, 10, 1],
    }
    with pytest.raises(ValueError, match="propensity_weight: name the column of propensities as propensity"):
        drawn(tmp_path / "none", chances, propensity=None, propensity_weight=10).pack()


def test_what_is_no_probability_is_refused_by_name(tmp_path: Path) -> None:
    assert drawn(tmp_path, [0.5, 0.5, None, None, 1.5, None, 0.5, 0.5, 0.5]).refused() == (
        "data.propensity: column 'chance' holds 1.5; expected probabilities above 0 and up to 1, or null "
        "outside of the random bucket (at request=1, item=4)"
    )


def test_an_exposed_candidate_of_a_bucket_needs_a_number(tmp_path: Path) -> None:
    message = drawn(tmp_path, [0.5, 0.5, 0.5, 0.5, None, 0.5, None, None, None]).refused()
    assert "null for the exposed candidate item=4 of the request request=1" in message
    message = drawn(tmp_path, ["high"] * 9).refused()
    assert "column 'chance' is String; expected probabilities above 0, as data.propensity reads it" in message


def test_the_document_has_estimates_only_of_a_log_with_propensities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cascade shows the second candidate, exposed but not clicked, and the sixth; by hand."""

    def estimates(rows: Mapping[str, Row]) -> list[Row]:
        return [row for name in ESTIMATES for row in rows.values() if row["metric"] == name]

    assert not estimates(rows_of(predictions()))
    chance = np.array([0.5, 0.5, 0.5, 0.5, np.nan, np.nan], np.float32)
    propensities = predictions(propensity=chance)
    few = estimates(rows_of(propensities))
    assert [row["value"] for row in few] == [None, None, None, 1]
    figures = measure(subjects_of(propensities, STAGES, LEVELS, IDENTITY, {}))
    reasons, rows = reasons_of(figures), [figure.row("run", "test", bootstrap=False) for figure in figures]
    shown = cascade_blocks(
        {"rows": rows, "run": {"stages": [stage.name for stage in STAGES]}, "reasons": reasons}
    )
    said = f"{', '.join(ESTIMATES[:3])}: the log cannot judge"
    assert any(isinstance(block, str) and block.startswith(said) for block in shown)
    assert [*reasons] == [f"cascade.{name}" for name in ESTIMATES[:3]]
    assert "effective sample 1 of 1" in reasons[f"cascade.{ESTIMATES[0]}"]
    monkeypatch.setattr(off_policy, "LEAST_EFFECTIVE", 0.0)
    found = estimates(rows_of(propensities))
    assert [row["n"] for row in found] == [1] * 4
    assert [row["value"] for row in found] == pytest.approx([0, 0, 0.9 - 0.9 / 0.5, 1])
    unknown = predictions(propensity=np.full(6, np.nan, np.float32))
    assert [row["value"] for row in estimates(rows_of(unknown))] == [None] * 4
