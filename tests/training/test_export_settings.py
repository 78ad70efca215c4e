"""Precisions of a config: parts that exist, and bounds that bound something."""

from typing import Any

import pytest

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.training.config.settings import ExportSettings

PARTS = ["prerank.vector", "fine.vector"]


def settings(**keys: Any) -> ExportSettings:
    return validate(ExportSettings, keys, "a.yaml")


def test_parts_are_of_their_stage() -> None:
    export = settings(precision={"prerank.vector": "fp32", "fine.vector": "int8"}, max_recall_loss=0.1)
    export.check(PARTS)
    assert export.lowered == {"fine.vector": "int8"}
    assert (export.of("prerank"), export.of("fine")) == ({}, {"vector": "int8"})
    assert (export.recall_bound, export.probability_bound) == (0.1, 0.002)


@pytest.mark.parametrize(
    ("keys", "parts", "told"),
    [
        (
            {"precision": {"prerank.vectors": "fp16"}},
            PARTS,
            "export.precision: unknown item part 'prerank.vectors'; did you mean 'prerank.vector'?",
        ),
        (
            {"precision": {"x": "fp16"}},
            PARTS,
            "export.precision: unknown item part 'x'; known item parts: fine.vector, prerank.vector",
        ),
        (
            {"precision": {"rank.vector": "fp16"}},
            [],
            "export.precision.rank.vector: no stage stores anything of an item ahead of requests; take it away",
        ),
        (
            {"max_recall_loss": 0.1, "precision": {"prerank.vector": "fp32"}},
            PARTS,
            "export.max_recall_loss: every part is stored in fp32, which loses nothing; take it away, or name a part "
            "under export.precision",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(keys: dict[str, Any], parts: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**keys).check(parts)
    assert str(caught.value) == told


def test_an_unknown_precision_is_refused() -> None:
    message = "precision.prerank.vector: Input should be 'fp32', 'fp16' or 'int8'"
    with pytest.raises(ConfigError, match=message):
        settings(precision={"prerank.vector": "bf16"})
