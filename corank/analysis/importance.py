"""What each feature is worth to each stage, and what it costs online: permutation importance beside microseconds.

A feature's importance is what a stage's AUC and GAUC lose where the feature's values are dealt out anew among the rows,
so that they say nothing of the row they stand on (Breiman, Random Forests, 2001). Nothing is trained. A feature that
others are derived from, or that others repeat, is worth more than this says: only its own input is shuffled.

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

from corank import metrics
from corank.analysis.latency import Price, prices
from corank.analysis.logged_request import logged_request
from corank.batches.reader import Draft, Reader
from corank.core.errors import DataError
from corank.core.ragged import Rows
from corank.core.types import Floats, Longs, Report
from corank.data.dataset import PackedDataset
from corank.evaluation.stage_order import Calibrators
from corank.features.schema import Schema
from corank.metrics import Difference
from corank.models.joint import JointModel
from corank.serving.funnel.funnel import Funnel, Request
from corank.training.export import export
from corank.training.run import Run

REQUESTS = 512
"""Of a batch, at most, drawn at random: within it values are dealt out anew."""

SAID = 8
"""Batches between two words of progress."""


@dataclass(frozen=True)
class _Scores:
    """What a model says of exposed candidates, with their users and labels: (C,) each."""

    user: NDArray[np.int32]
    labels: dict[str, NDArray[np.int8]]
    weight: Floats
    logits: dict[str, dict[str, Floats]]
    """By feature, None as '' where nothing is shuffled, and stage."""


def explain(
    run: Run, split: str, most: int, seed: int = 0, report: Report = lambda line: None
) -> dict[str, Any]:
    """Importance of every feature to every stage on a split's exposed candidates, with 95 % intervals over users.

    Of `most` requests, drawn by the seed, at most. Raises CheckpointError, DataError, and BundleError, RequestError
    where the model cannot be exported or a request replayed.
    """
    packed = run.packed()
    if not packed.splits.get(split):
        raise DataError(
            f"split '{split}': no such split, or no rows in it; there are {', '.join(packed.splits)}"
        )
    model, calibrators = run.model(packed)
    scores = _scores(model.eval(), packed, split, most, seed, report)
    features: dict[str, dict[str, Any]] = {}
    for name in packed.schema.features:
        side, kind = packed.schema.side(name), packed.schema.features[name].kind
        stages = {stage.name: _worth(scores, name, stage.name, stage.main) for stage in run.config.stages}
        features[name] = {"side": side, "kind": kind, "stages": stages}
    for name, price in _prices(run, packed, model, calibrators, split).items():
        features[name]["microseconds"] = price.plain()
    base = {stage.name: _base(scores, stage.name, stage.main) for stage in run.config.stages}
    return {"split": split, "candidates": len(scores.user), "stages": base, "features": features}


def _prices(
    run: Run, packed: PackedDataset, model: JointModel, calibrators: Calibrators, split: str
) -> dict[str, Price]:
    """Of a logged request of the usual size, by an exported bundle."""
    sizes = np.concatenate([np.diff(shard.request_start) for shard in packed.splits[split]])
    usual = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    request = Request.parse(logged_request(run, split, usual))
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        bundle = export(Path(folder) / "bundle", run.config, packed, model, calibrators)
        return prices(Funnel(bundle), request, run.config.stages)


def _scores(
    model: JointModel, packed: PackedDataset, split: str, most: int, seed: int, report: Report
) -> _Scores:
    exposed = {len(packed.data.levels) - 1: None}
    batches = -(-most // REQUESTS)
    reader = Reader(
        packed, split, most // batches, exposed, seed, attended=model.attended, places=model.places
    )
    features = ["", *packed.schema.features]
    parts: list[_Scores] = []
    for draft in islice(reader.drafts(epoch=0), batches):
        rng = np.random.default_rng([seed, len(parts)])
        logits = {}
        for feature in features:
            dealt = _dealt(draft, packed.schema, feature, rng) if feature else draft
            with torch.no_grad():
                found = model(dealt.batch(reader.layout))
            logits[feature] = {name: found[name].logits[model.main[name]].numpy() for name in model.stages}
        labels = {name: values.astype(np.int8) for name, values in draft.others["labels"].items()}
        parts.append(_Scores(draft.user[draft.request_of], labels, draft.others["weight"], logits))
        if len(parts) % SAID == 0:
            report(f"{len(parts) * reader.requests:,} requests judged")
    return _Scores(
        np.concatenate([part.user for part in parts]),
        {n: np.concatenate([part.labels[n] for part in parts]) for n in packed.data.labels},
        np.concatenate([part.weight for part in parts]),
        {
            f: {s: np.concatenate([part.logits[f][s] for part in parts]) for s in model.stages}
            for f in features
        },
    )


def _dealt(draft: Draft, schema: Schema, feature: str, rng: np.random.Generator) -> Draft:
    """The batch with one feature's values dealt out anew: among its requests, its candidates' items, or its pairs."""
    placement = schema.placement(feature)
    if placement == "query":
        order = rng.permutation(len(draft.query))
        past = {
            attended: (items, events.take(order)) if attended.history == feature else (items, events)
            for attended, (items, events) in draft.past.items()
        }
        return replace(draft, query=_replaced(draft.query, schema, feature, order), past=past)
    if placement == "item":
        # a popular item's value is dealt out as often as it is met
        order = draft.item_of[rng.integers(0, len(draft.item_of), len(draft.item))].astype(np.int64)
        return replace(draft, item=_replaced(draft.item, schema, feature, order))
    return replace(draft, cross=_replaced(draft.cross, schema, feature, rng.permutation(len(draft.cross))))


def _replaced(rows: Rows, schema: Schema, feature: str, order: Longs) -> Rows:
    placed = schema.placed(schema.placement(feature))
    ids, numbers, lists = rows.ids, rows.numbers, list(rows.lists)
    if feature in placed.ids:
        ids = ids.copy()
        ids[:, placed.ids.index(feature)] = ids[order, placed.ids.index(feature)]
    elif feature in placed.numbers:
        numbers = numbers.copy()
        numbers[:, placed.numbers.index(feature)] = numbers[order, placed.numbers.index(feature)]
    else:
        lists[placed.lists.index(feature)] = lists[placed.lists.index(feature)].take(order)
    return Rows(ids, numbers, tuple(lists))


def _worth(scores: _Scores, feature: str, stage: str, label: str) -> dict[str, Any]:
    """What a stage's metrics lose without the feature."""
    found: dict[str, Any] = {}
    for name, metric in (("auc", metrics.auc), ("gauc", metrics.gauc)):
        whole, dealt = (
            metric(scores.user, scores.logits[f][stage], scores.labels[label], scores.weight)
            for f in ("", feature)
        )
        lost = Difference(whole, dealt)
        bounds = metrics.interval(lost)
        found[name] = {"value": lost.value(), "interval": None if bounds is None else list(bounds)}
    return found


def _base(scores: _Scores, stage: str, label: str) -> dict[str, Any]:
    rows = scores.user, scores.logits[""][stage], scores.labels[label], scores.weight
    return {"label": label, "auc": metrics.auc(*rows).value(), "gauc": metrics.gauc(*rows).value()}
