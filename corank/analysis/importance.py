"""Permutation importance of each feature for each stage, beside its latency online.

The importance of a feature is the AUC and GAUC that a stage loses when the feature's values are shuffled among the rows
(Breiman, Random Forests, 2001). Nothing is trained. Only the feature's own input is shuffled, so the importance of a
feature that others are derived from, or that others repeat, is underestimated.

Letters: R requests · C candidates · I distinct items.
"""

import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corank.analysis.latency import FeatureLatency, feature_latencies
from corank.analysis.logged_request import logged_request
from corank.batches.build import build_batch
from corank.batches.encoded_batch import EncodedBatch
from corank.batches.reader import Reader
from corank.core.errors import DataError
from corank.core.ragged import Rows
from corank.core.types import Floats, Longs, Report
from corank.data.dataset import PackedDataset
from corank.evaluation.stage_order import Calibrators
from corank.features.schema import Schema
from corank.metrics.bootstrap import interval
from corank.metrics.point import auc, gauc
from corank.metrics.regret import PairedDifference
from corank.models.joint import JointModel
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.export import export_bundle
from corank.training.run import Run

REQUESTS = 512
"""Requests of a batch, at most. Values are shuffled within a batch."""

REPORT_EVERY = 8
"""Batches between two progress reports."""


@dataclass(frozen=True)
class _Scores:
    """Logits of exposed candidates, with their users and labels: (C,) each."""

    user: NDArray[np.int32]
    labels: dict[str, NDArray[np.int8]]
    weight: Floats
    logits: dict[str, dict[str, Floats]]
    """Shuffled feature ('' for none) → stage → logits."""


def measure_importance(
    run: Run, split: str, most: int, seed: int = 0, report: Report = lambda line: None
) -> dict[str, Any]:
    """Importance of every feature for every stage on exposed candidates, with 95 % intervals over users.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        most: number of requests to score, at most; they are drawn by the seed.
        seed: of the drawing and the shuffling.
        report: receives lines of progress.

    Returns:
        The document of `corank explain --json`.

    Raises:
        CheckpointError: if the run is not finished.
        DataError: if the split does not exist or is empty.
        BundleError: if the model cannot be exported.
        RequestError: if a logged request cannot be ranked.
    """
    packed = run.packed()
    if not packed.splits.get(split):
        raise DataError(
            f"split '{split}': no such split, or no rows in it; there are {', '.join(packed.splits)}"
        )
    model, calibrators = run.model(packed)
    scores = _scores(model.eval(), packed, split, most, seed, report)
    features: dict[str, dict[str, Any]] = {}
    for name in packed.schema.inputs():
        side, kind = packed.schema.side(name), packed.schema.features[name].kind
        stages = {
            stage.name: _importance(scores, name, stage.name, stage.main) for stage in run.config.stages
        }
        features[name] = {"side": side, "kind": kind, "stages": stages}
    for name, latency in _latencies(run, packed, model, calibrators, split).items():
        features[name]["microseconds"] = latency.plain()
    base = {stage.name: _base(scores, stage.name, stage.main) for stage in run.config.stages}
    return {"split": split, "candidates": len(scores.user), "stages": base, "features": features}


def _latencies(
    run: Run, packed: PackedDataset, model: JointModel, calibrators: Calibrators, split: str
) -> dict[str, FeatureLatency]:
    """Latencies in a logged request of median size, through an exported bundle."""
    sizes = np.concatenate([np.diff(shard.request_start) for shard in packed.splits[split]])
    usual = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    request = Request.parse(logged_request(run, split, usual))
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        bundle = export_bundle(Path(folder) / "bundle", run.config, packed, model, calibrators)
        return feature_latencies(Funnel(bundle), request, run.config.stages)


def _scores(
    model: JointModel, packed: PackedDataset, split: str, most: int, seed: int, report: Report
) -> _Scores:
    exposed = {len(packed.data.levels) - 1: None}
    batches = -(-most // REQUESTS)
    reader = Reader(
        packed, split, most // batches, exposed, seed, attended=model.attended, sees_ranks=model.sees_ranks
    )
    features = ["", *packed.schema.inputs()]
    parts: list[_Scores] = []
    for encoded in islice(reader.read_encoded(epoch=0), batches):
        rng = np.random.default_rng([seed, len(parts)])
        logits = {}
        for feature in features:
            dealt = _shuffled(encoded, packed.schema, feature, rng) if feature else encoded
            with torch.no_grad():
                found = model(build_batch(reader.layout, dealt))
            logits[feature] = {name: found[name].logits[model.main[name]].numpy() for name in model.stages}
        labels = {name: values.astype(np.int8) for name, values in encoded.labels.items()}
        parts.append(_Scores(encoded.user[encoded.request_of], labels, encoded.weight, logits))
        if len(parts) % REPORT_EVERY == 0:
            report(f"{len(parts) * reader.requests:,} requests scored")
    return _Scores(
        np.concatenate([part.user for part in parts]),
        {n: np.concatenate([part.labels[n] for part in parts]) for n in packed.data.labels},
        np.concatenate([part.weight for part in parts]),
        {
            f: {s: np.concatenate([part.logits[f][s] for part in parts]) for s in model.stages}
            for f in features
        },
    )


def _shuffled(encoded: EncodedBatch, schema: Schema, feature: str, rng: np.random.Generator) -> EncodedBatch:
    """The batch with the values of one feature shuffled: among its requests, items or pairs."""
    placement = schema.placement(feature)
    if placement == "query":
        order = rng.permutation(len(encoded.query))
        past = {
            attended: (items, events.take(order)) if attended.history == feature else (items, events)
            for attended, (items, events) in encoded.histories.items()
        }
        return replace(encoded, query=_with_order(encoded.query, schema, feature, order), histories=past)
    if placement == "item":
        # drawn by candidate, so that the value of a popular item is drawn as often as it occurs
        order = encoded.item_of[rng.integers(0, len(encoded.item_of), len(encoded.item))].astype(np.int64)
        return replace(encoded, item=_with_order(encoded.item, schema, feature, order))
    order = rng.permutation(len(encoded.request_of))
    if placement == "snapshot":
        assert encoded.snapshot is not None
        return replace(encoded, snapshot=_with_order(encoded.snapshot, schema, feature, order))
    return replace(encoded, cross=_with_order(encoded.cross, schema, feature, order))


def _with_order(rows: Rows, schema: Schema, feature: str, order: Longs) -> Rows:
    placed = schema.row_features(schema.placement(feature))
    ids, numbers, lists, vectors = rows.ids, rows.numbers, list(rows.lists), list(rows.vectors)
    if feature in placed.ids:
        ids = ids.copy()
        ids[:, placed.ids.index(feature)] = ids[order, placed.ids.index(feature)]
    elif feature in placed.numbers_at:
        numbers, at = numbers.copy(), placed.numbers_at[feature]
        numbers[:, at] = numbers[order, at]
    elif feature in placed.lists:
        lists[placed.lists.index(feature)] = lists[placed.lists.index(feature)].take(order)
    else:
        vectors[placed.vectors.index(feature)] = vectors[placed.vectors.index(feature)].take(order)
    return Rows(ids, numbers, tuple(lists), tuple(vectors))


def _importance(scores: _Scores, feature: str, stage: str, label: str) -> dict[str, Any]:
    """Metrics that a stage loses when the feature is shuffled, with intervals."""
    found: dict[str, Any] = {}
    for name, metric in (("auc", auc), ("gauc", gauc)):
        whole, dealt = (
            metric(scores.user, scores.logits[f][stage], scores.labels[label], scores.weight)
            for f in ("", feature)
        )
        lost = PairedDifference(whole, dealt)
        bounds = interval(lost)
        found[name] = {"value": lost.value(), "interval": None if bounds is None else list(bounds)}
    return found


def _base(scores: _Scores, stage: str, label: str) -> dict[str, Any]:
    rows = scores.user, scores.logits[""][stage], scores.labels[label], scores.weight
    return {"label": label, "auc": auc(*rows).value(), "gauc": gauc(*rows).value()}
