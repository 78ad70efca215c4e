"""Logged scores: read as logits, unknown where null; invalid ones are refused by name."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

import corank
from corank.analysis.logged_request import logged_request
from corank.batches.reader import Reader
from corank.core.errors import DataError
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.evaluation.predict import predict_split
from corank.features.kinds.id import IdFeature
from corank.features.schema import Schema
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.run import Run
from tests.support.configs import data_settings
from tests.support.simulated_runs import Silent

DAY = 86_400_000
SCHEMA = Schema({"user": IdFeature(side="user", kind="id"), "item": IdFeature(side="item", kind="id")})


def packed(base: Path, scale: Any, scores: list[Any], column: str = "production") -> PackedDataset:
    """A log of one request of two candidates a day, four in training."""
    pl.DataFrame(
        {
            "request": [n // 2 for n in range(8)],
            "user": [0] * 8,
            "item": list(range(8)),
            "time": [n // 4 * DAY + n // 2 for n in range(4)] + [2 * DAY] * 2 + [3 * DAY] * 2,
            "click": [0, 1] * 4,
            "production": scores + [scores[0]] * (8 - len(scores)),
        },
        strict=False,
    ).write_parquet(base / "log.parquet")
    data = data_settings(scores={"served": {"column": column, "scale": scale}})
    return pack_log(data, SCHEMA, base, base / "packed")


def train_scores(found: PackedDataset) -> list[float]:
    (batch,) = Reader(found, "train", 10).read_ordered()
    return [float(score) for score in batch.scores["served"]]


def test_probabilities_become_logits(tmp_path: Path) -> None:
    scores = train_scores(packed(tmp_path, "probability", [0.5, 0.9, 0.0, 1.0]))
    edge = math.log((1 - 2**-24) / 2**-24)
    assert scores == pytest.approx([0, math.log(9), -edge, edge], rel=1e-5)


def test_logits_stay_as_they_are_and_null_is_unknown(tmp_path: Path) -> None:
    scores = train_scores(packed(tmp_path, "logit", [-3.5, None, 12, 0.25]))
    assert scores[:1] + scores[2:] == [-3.5, 12, 0.25]
    assert math.isnan(scores[1])


@pytest.mark.parametrize(
    ("scale", "value", "expected"),
    [
        ("logit", math.nan, "nan; expected finite numbers"),
        ("probability", 1.5, "1.5; expected probabilities, 0 to 1"),
    ],
)
def test_what_is_no_score_is_refused_by_name(tmp_path: Path, scale: str, value: float, expected: str) -> None:
    with pytest.raises(DataError) as error:
        packed(tmp_path, scale, [0.5, value, None, 0.5])
    message = f"data.scores.served: column 'production' holds {expected}, or null where there is none"
    message += " (at request=0, item=1)"
    assert str(error.value) == message
    assert not (tmp_path / "packed").exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_pre_ranker_learns_from_production_alone(world: Path, tmp_path: Path) -> None:
    """No ranker, no click: the scores still learn to follow the logged ones."""
    overrides = [
        "name=taught",
        "data.scores={production: {column: score_rank}}",
        "stages=[{name: prerank, model: towers, cuts: [retrieved], keep: 7, query: [16, 8], item: [16, 8]}]",
        "losses=[{kind: distill, teacher: production, student: prerank, on: [retrieved, preranked], "
        "per_request: 9}]",
        "train={epochs: 4, requests: 64, prerank: {lr: 0.003}}",
    ]
    callback, config = Silent(), Path(shutil.copytree(world, tmp_path / "world")) / "config.yaml"
    run = corank.train(config, overrides, folder=tmp_path / "run", callbacks=[callback]).run
    assert list(callback.losses[0]) == ["prerank.distill"]
    opened = Run.open(run.folder)
    data = opened.packed()
    logits = predict_split(opened.model(data)[0], data, "test").logits["prerank"]["click"]
    served = np.concatenate(
        [batch.scores["production"].numpy() for batch in Reader(data, "test", 999).read_ordered()]
    )
    assert np.corrcoef(expit(logits), expit(served))[0, 1] > 0.35
    # it cuts as production did; and what is served needs no score
    assert corank.evaluate(run.folder).row("prerank.candidates.click.cut_auc")["value"] > 0.55
    corank.export(run.folder, tmp_path / "bundle")
    answer = Funnel.open(tmp_path / "bundle").rank(Request.parse(logged_request(opened, "test", 0)))
    assert len(answer["items"]) == 7 and "production" not in str(answer["missing"])
