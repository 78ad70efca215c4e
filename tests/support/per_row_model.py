"""The reference form: the same model fed one row a candidate, as frameworks without requests do it.

Same weights, same tables, same kernels; only that query and item are repeated for every candidate, so that the towers
and the ranker's whole first layer run C times.
"""

import numpy as np
import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.build import EncodedBatch, build_batch
from corank.batches.reader import DrawnRequests, Reader
from corank.features.encoding import PLACEMENTS
from corank.features.input_layout import Bags
from corank.models.joint import JointModel
from corank.models.layers import activated
from corank.models.mlp import Mlp
from corank.models.stage_io import StageOutput
from corank.models.two_tower import Towers


class PerRowReader(Reader):
    """Batches of the same requests, every candidate a row of its own."""

    def _batch(self, drawn: DrawnRequests) -> Batch:
        shard, requests = drawn.rows, drawn.requests
        start, stop = shard.request_start[requests], shard.request_start[requests + 1]
        candidate = np.concatenate([np.arange(a, b) for a, b in zip(start, stop, strict=True)])
        row = np.arange(len(candidate), dtype=np.int32)
        encoded = EncodedBatch(
            user=np.repeat(shard.user[requests], stop - start),
            query=shard.query.take(np.repeat(requests, stop - start)),
            item=self.packed.items.take(shard.item[candidate]),
            cross=shard.cross.take(candidate),
            snapshot=shard.snapshot.take(candidate),
            request_of=row,
            item_of=row,
            item_row=shard.item[candidate],
            ordinal=self.packed.item_ordinals[shard.item[candidate]],
            by_item=Bags(row, np.arange(len(row) + 1, dtype=np.int32), None, len(row)),
            level=shard.level[candidate],
            exposed=len(self.packed.data.levels) - 1,
            weight=np.ones(len(row), np.float32),
            labels={name: values[candidate].astype(np.float32) for name, values in shard.labels.items()},
        )
        return build_batch(self.layout, encoded)


def per_row(model: JointModel, batch: Batch) -> dict[str, StageOutput]:
    """The outputs of `model` from a per-row batch: plain layers, nothing to gather."""
    inputs = {placement: x[: len(batch)] for placement, x in model.inputs(batch).items()}
    outputs: dict[str, StageOutput] = {}
    for name, stage in model.stages.items():
        if isinstance(stage, Towers):
            item, snapshot = inputs["item"], inputs["snapshot"]
            vectors = stage.record_vectors(item, snapshot if snapshot.shape[1] else None)
            dot = (stage.query_vectors(inputs["query"]).float() * vectors.float()).sum(1)
            outputs[name] = StageOutput({stage.label: stage.scale.exp() * dot + stage.bias})
        elif isinstance(stage, Mlp):
            outputs[name] = _rank(stage, torch.cat([inputs[p] for p in PLACEMENTS], dim=1))
    return outputs


def _rank(stage: Mlp, row: Tensor) -> StageOutput:
    assert isinstance(stage.first, torch.nn.Linear)
    x = activated(row, stage.first.weight, stage.first.bias, stage.activation)
    for layer in stage.hidden:
        assert isinstance(layer, torch.nn.Linear)
        x = activated(x, layer.weight, layer.bias, stage.activation)
    out = torch.nn.functional.linear(x, *(p.to(x.dtype) for p in stage.heads.parameters())).float()
    return StageOutput(dict(zip(stage.labels, out.unbind(1), strict=True)))
