"""Permutation importance of each feature for each stage, with its latency online.

The importance of a feature is the AUC and GAUC that a stage loses when the feature's values are shuffled among the rows
(Breiman, Random Forests, 2001). Nothing is trained. Only the feature's own input is shuffled, so the importance of a
feature that others are derived from, or that others repeat, is underestimated.

Letters: R requests · C candidates · I distinct items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corank.analysis.latency import EncodingModel, FeatureLatency, feature_latencies
from corank.analysis.logged_request import logged_request
from corank.batches.batch import Batch
from corank.batches.build import EncodedBatch, build_batch, replace_rows
from corank.batches.reader import Reader
from corank.core.errors import DataError
from corank.core.ragged import Rows
from corank.core.reports import Progress, Report
from corank.core.types import Doubles, Floats, Longs
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predict import Calibrators
from corank.features.schema import Schema
from corank.metrics.intervals import replicates
from corank.metrics.measure import Measure
from corank.metrics.point import auc, gauc
from corank.models.joint import JointModel
from corank.models.settings.stage import StageSettings
from corank.serving.funnel.request import Request
from corank.training.run import Run
from corank.training.trainer import keep_freed_memory

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
    run: Run,
    split: str,
    most: int,
    seed: int = 0,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Importance of every feature for every stage on exposed candidates, with 95 % intervals over users.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        most: number of requests to score, at most; they are drawn by the seed.
        seed: of the drawing and the shuffling.
        report: receives lines of progress.
        progress: receives how many requests are scored, and of how many.

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
    keep_freed_memory()  # of every batch; a tenth of the time
    scores = _scores(model.eval(), run.config.stages, packed, split, most, seed, report, progress)
    whole = {stage.name: _resample(scores, "", stage.name, stage.main) for stage in run.config.stages}
    features: dict[str, dict[str, Any]] = {}
    for name in packed.schema.inputs():
        side, kind = packed.schema.side(name), packed.schema.features[name].kind
        stages = {
            stage.name: _importance(whole[stage.name], _resample(scores, name, stage.name, stage.main))
            for stage in run.config.stages
        }
        features[name] = {"side": side, "kind": kind, "stages": stages}
    for name, latency in _latencies(run, packed, model, calibrators, split).items():
        features[name]["microseconds"] = latency.plain()
    base = {stage.name: _base(scores, stage.name, stage.main) for stage in run.config.stages}
    return {"split": split, "candidates": len(scores.user), "stages": base, "features": features}


def _latencies(
    run: Run, packed: PackedDataset, model: JointModel, calibrators: Calibrators, split: str
) -> dict[str, FeatureLatency]:
    """Latencies in a logged request of median size, as the bundle encodes it."""
    sizes = np.concatenate([np.diff(shard.request_start) for shard in packed.splits[split]])
    usual = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    request = Request.parse(logged_request(run, split, usual, packed))
    online = EncodingModel.of(run.config, packed, model, calibrators)
    return feature_latencies(online, request, run.config.stages)


def _scores(
    model: JointModel,
    stages: Sequence[StageSettings],
    packed: PackedDataset,
    split: str,
    most: int,
    seed: int,
    report: Report,
    progress: Progress,
) -> _Scores:
    exposed = {len(packed.data.levels) - 1: None}
    batches = -(-most // REQUESTS)
    reader = Reader(
        packed, split, most // batches, exposed, seed, attended=model.attended, sees_ranks=model.sees_ranks
    )
    readers = {feature: _readers(stages, packed.schema, feature) for feature in packed.schema.inputs()}
    features = ["", *readers]
    parts: list[_Scores] = []
    total = min(batches * reader.requests, sum(len(shard) for shard in packed.splits[split]))
    for encoded in islice(reader.read_encoded(epoch=0), batches):
        rng = np.random.default_rng([seed, len(parts)])
        batch = build_batch(reader.layout, encoded)
        logits = {"": _logits(model, batch, model.stages)}
        for feature in readers:
            shuffled = _shuffled(encoded, packed.schema, feature, rng)
            other = replace_rows(reader.layout, batch, encoded, shuffled)
            logits[feature] = logits[""] | _logits(model, other, readers[feature])
        labels = {name: values.astype(np.int8) for name, values in encoded.labels.items()}
        parts.append(_Scores(encoded.user[encoded.request_of], labels, encoded.weight, logits))
        progress(min(len(parts) * reader.requests, total), total)
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


def _readers(stages: Sequence[StageSettings], schema: Schema, feature: str) -> list[str]:
    """The stages that may read a feature: of the pair, those that a layer of theirs takes it into."""
    pair = schema.placement(feature) == "cross"
    return [
        stage.name
        for stage in stages
        if not pair or any(feature in layer.features for layer in stage.first_layers(schema))
    ]


def _logits(model: JointModel, batch: Batch, stages: Iterable[str]) -> dict[str, Floats]:
    """The logits of the main label by stage: (C,) each."""
    with torch.no_grad():
        outputs = model.outputs(batch, stages)
    return {name: output.logits[model.main[name]].numpy() for name, output in outputs.items()}


def _shuffled(encoded: EncodedBatch, schema: Schema, feature: str, rng: np.random.Generator) -> EncodedBatch:
    """The batch with the values of one feature shuffled: among its requests, items or pairs."""
    placement = schema.placement(feature)
    if placement == "query":
        order = rng.permutation(len(encoded.query))
        past = {
            attended: events.take(order) if attended.history == feature else events
            for attended, events in encoded.histories.items()
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


_Resampled = tuple[Measure, Doubles]
"""A metric with its values in resamples of the users."""


def _resample(scores: _Scores, feature: str, stage: str, label: str) -> dict[str, _Resampled]:
    """The metrics of a stage with a feature shuffled: all have the same users, so resamples are paired."""
    metrics: dict[str, _Resampled] = {}
    for name, metric in (("auc", auc), ("gauc", gauc)):
        measure = metric(scores.user, scores.logits[feature][stage], scores.labels[label], scores.weight)
        metrics[name] = measure, replicates(measure)
    return metrics


def _importance(whole: dict[str, _Resampled], shuffled: dict[str, _Resampled]) -> dict[str, Any]:
    """Metrics that a stage loses when the feature is shuffled, with intervals."""
    importance: dict[str, Any] = {}
    for name, (measure, resampled) in whole.items():
        one, other = measure.value(), shuffled[name][0].value()
        if one is None or other is None:
            importance[name] = {"value": None, "interval": None}
            continue
        bounds = None
        if len(np.unique(measure.user)) > 1:
            bounds = np.nanquantile(resampled - shuffled[name][1], [0.025, 0.975]).tolist()
        importance[name] = {"value": one - other, "interval": bounds}
    return importance


def _base(scores: _Scores, stage: str, label: str) -> dict[str, Any]:
    rows = scores.user, scores.logits[""][stage], scores.labels[label], scores.weight
    return {"label": label, "auc": auc(*rows).value(), "gauc": gauc(*rows).value()}
