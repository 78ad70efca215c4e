"""Permutation importance of each feature for each stage.

The importance of a feature is the AUC and GAUC that a stage loses when the feature's values are shuffled among the rows
(Breiman, Random Forests, 2001). Nothing is trained. Only the feature's own input is shuffled, so the importance of a
feature that others are derived from, or that others repeat, is underestimated.

It needs torch, whatever predictions the run keeps: all but one pass in some thirty score inputs that nobody has scored,
and that one has the same batches, so that a feature without effect loses exactly nothing.

Letters: R requests · C candidates · I distinct items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from corank.analysis.comparison import join_figures
from corank.batches.batch import Batch
from corank.batches.build import EncodedBatch, build_batch, replace_rows
from corank.batches.reader import Reader
from corank.core.ragged import Rows
from corank.core.reports import Progress, Report
from corank.core.types import Floats, Longs
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.inputs import Subject
from corank.evaluation.predictions import require_split
from corank.evaluation.table import Figure, measure
from corank.features.encoding import RowFeatures
from corank.features.schema import Schema
from corank.models.joint import JointModel
from corank.models.settings.stage import StageSettings
from corank.training.device import keep_freed_memory
from corank.training.run import Run

REQUESTS = 512
"""Requests of a batch, at most. Values are shuffled within a batch."""

LOST = ("auc", "gauc")
"""Metrics whose loss is shown."""
REPORT_EVERY = 8
"""Batches between two progress reports."""


class _Scores(NamedTuple):
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
        The document of `corank explain --json`: rows of the stages, and, with a feature as their `group`, their
        differences to the same with its values shuffled.

    Raises:
        CheckpointError: if the run is not finished.
        DataError: if the split does not exist or is empty.
    """
    packed = run.packed()
    require_split(packed, split)
    model, _ = run.model(packed)
    keep_freed_memory()  # of every batch; a tenth of the time
    stages = run.config.stages
    scores = _scores(model.eval(), stages, packed, split, most, seed, report, progress)
    whole, schema, folder = _figures(scores, "", stages), packed.schema, str(run.folder)
    rows = [dict(figure.row(folder, split)) for figure in whole]
    for name in schema.inputs():
        lost = join_figures(whole, _figures(scores, name, stages))
        rows += ({"run": folder, "split": split, **row, "group": name} for row in lost)
    features = {
        name: {"side": schema.side(name), "kind": schema.features[name].kind} for name in schema.inputs()
    }
    return {"rows": rows, "split": split, "candidates": len(scores.user), "features": features}


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
    parts: list[_Scores] = []
    total = min(batches * reader.requests, sum(len(shard) for shard in packed.splits[split]))
    for encoded in islice(reader.read_encoded(epoch=0), batches):
        rng = np.random.default_rng([seed, len(parts)])
        batch = build_batch(reader.layout, encoded)
        logits = {"": _logits(model, batch, model.stages)}
        for feature, of in readers.items():
            shuffled = _shuffled(encoded, packed.schema, feature, rng)
            other = replace_rows(reader.layout, batch, encoded, shuffled)
            logits[feature] = logits[""] | _logits(model, other, of)
        labels = {name: encoded.labels[name].astype(np.int8) for name in packed.data.labels}
        parts.append(_Scores(encoded.user[encoded.request_of], labels, encoded.weight, logits))
        progress(min(len(parts) * reader.requests, total), total)
        if len(parts) % REPORT_EVERY == 0:
            report(f"{len(parts) * reader.requests:,} requests scored")
    return _Scores(*(_join(column) for column in zip(*parts, strict=True)))


def _join(parts: Sequence[Any]) -> Any:
    """Join the arrays of batches, or those of each name."""
    if isinstance(parts[0], dict):
        return {name: _join([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


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
    placement, histories = schema.placement(feature), encoded.histories
    if placement == "query":
        order = rng.permutation(len(encoded.query))
        histories = {
            attended: events.take(order) if attended.history == feature else events
            for attended, events in histories.items()
        }
    elif placement == "item":
        # drawn by candidate, so that the value of a popular item is drawn as often as it occurs
        order = encoded.item_of[rng.integers(0, len(encoded.item_of), len(encoded.item))].astype(np.int64)
    else:
        order = rng.permutation(len(encoded.request_of))
    rows = _with_order(getattr(encoded, placement), schema.row_features(placement), feature, order)
    changed: dict[str, Any] = {"histories": histories, placement: rows}
    return replace(encoded, **changed)


def _with_order(rows: Rows, placed: RowFeatures, feature: str, order: Longs) -> Rows:
    kind = next(k for k in ("ids", "numbers", "lists", "vectors") if feature in getattr(placed, k))
    at, values = getattr(placed, kind).index(feature), getattr(rows, kind)
    if kind in ("lists", "vectors"):
        changed: Any = (*values[:at], values[at].take(order), *values[at + 1 :])
    else:
        columns, changed = placed.numbers_at[feature] if kind == "numbers" else at, values.copy()
        changed[:, columns] = values[order, columns]
    return replace(rows, **{kind: changed})


def _figures(scores: _Scores, feature: str, stages: Sequence[StageSettings]) -> list[Figure]:
    """The metrics of stages with a feature shuffled."""
    subjects = (
        Subject(
            s.name,
            s.main,
            "exposed",
            {
                "user": scores.user,
                "logit": scores.logits[feature][s.name],
                "label": scores.labels[s.main],
                "weight": scores.weight,
            },
        )
        for s in stages
    )
    return measure(subjects, lambda subject, name, metric: metric.name in LOST)
