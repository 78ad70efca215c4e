"""Network of stage model `trees`: the sum of boosted trees over codes and numbers, without a weight that learns.

Trees are arrays (`tree_arrays`) over columns of dense inputs, which come from tables of codes of the stage's own
(`codes`). So rows become inputs as they do for every stage: in training, in a bundle, for readers of bundles.

Letters: C' candidates of a batch, rounded up · F columns · B labels · T trees of a label · L leaves of a tree, at most.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from corank.core.errors import ConfigError
from corank.features.input_layout import Layout
from corank.features.schema import PLACEMENTS
from corank.models.boosted.codes import code_columns
from corank.models.boosted.tree_arrays import Attributes, TreeArrays, ensemble_attributes
from corank.models.graphs import REQUEST_TENSORS, Graph, RequestGraph
from corank.models.layers import Columns
from corank.models.settings.trees import LEFT_OUT, TreesSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import StageModel

AT_ONCE = 1 << 21
"""Rows times trees that are followed at a time."""


class Trees(StageModel):
    """Logits by label of boosted trees; all are 0 until trees are grown."""

    averaged: Tensor
    categorical: Tensor
    column: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor

    def __init__(self, settings: TreesSettings, layout: Layout) -> None:
        """Raises ConfigError if trees can read none of the features."""
        super().__init__()
        self.settings, self.labels = settings, list(settings.labels)
        self.read = code_columns(layout)
        if all(column.left_out for column in self.read):
            raise ConfigError(
                f"stages: '{settings.name}' reads numbers, lists, and ids of at most {LEFT_OUT:,} values, and there is "
                "no such feature; add one, or take another model"
            )
        placed = {p: [column.at for column in self.read if column.placement == p] for p in PLACEMENTS}
        self.chosen = nn.ModuleDict({p: Columns(at) for p, at in placed.items() if at})
        averaged = torch.tensor([column.averaged for column in self.read])
        self.register_buffer("averaged", averaged, persistent=False)  # (F,)
        # of the codes when trees were grown: a run may be judged on data of more of them
        self.register_buffer("categorical", torch.zeros(len(self.read), dtype=torch.int32))  # (F,)
        inner = (len(self.labels), settings.trees, settings.leaves - 1)
        self.register_buffer("column", torch.zeros(inner, dtype=torch.int32))  # (B, T, L − 1)
        self.register_buffer("threshold", torch.zeros(inner))
        self.register_buffer("left", torch.full(inner, -1, dtype=torch.int32))
        self.register_buffer("right", torch.full(inner, -1, dtype=torch.int32))
        self.register_buffer("value", torch.zeros(*inner[:2], settings.leaves))  # (B, T, L)

    def forward(self, inputs: StageInputs) -> StageOutput:
        """Add up the leaves that each candidate comes to, in fp32."""
        x = self.read_columns(inputs)
        return StageOutput({label: self._sum_leaves(n, x) for n, label in enumerate(self.labels)})

    def read_columns(self, inputs: StageInputs) -> Tensor:
        """Bring what trees read to the candidates: (C', F)."""
        pairs = inputs.pairs
        dense: dict[str, Callable[[nn.Module], Tensor]] = {
            "query": lambda columns: pairs.spread_query(columns(inputs.query)),
            "item": lambda columns: pairs.spread_item(columns(inputs.item)),
            "snapshot": lambda columns: columns(inputs.snapshot),
            "cross": lambda columns: columns(inputs.cross),
        }
        x = torch.cat([dense[placement](columns) for placement, columns in self.chosen.items()], 1).float()
        return torch.where(self.averaged, x.round(), x)

    def graphs(self) -> Mapping[str, Graph]:
        """The whole graph, in which trees are an operator of ONNX."""
        return {"": Graph(RequestGraph(_ExportedTrees(self)), REQUEST_TENSORS, ("logits",))}

    def _sum_leaves(self, label: int, x: Tensor) -> Tensor:
        """Follow a label's trees: (C', F) → (C',)."""
        grown = self.value[label].any(1)
        rows = max(1, AT_ONCE // max(1, int(grown.sum())))
        return torch.cat([self._follow(label, grown, some) for some in x.split(rows)])

    def _follow(self, label: int, grown: Tensor, x: Tensor) -> Tensor:
        """Follow those trees that add something: (T,) bool, (N, F) → (N,)."""
        parts = (self.column, self.left, self.right)
        column, left, right = (part[label][grown].long().flatten() for part in parts)
        threshold, leaves = self.threshold[label][grown].flatten(), self.value[label][grown]
        first = torch.arange(len(leaves), device=x.device) * (leaves.shape[1] - 1)
        node = torch.zeros(len(x), len(leaves), dtype=torch.long, device=x.device)
        while (inner := node >= 0).any():
            at = first + node.clamp_min(0)
            read = column[at]
            values, bound = x.gather(1, read), threshold[at]
            goes_left = torch.where(self.categorical[read] > 0, values == bound, values <= bound)
            node = torch.where(inner, torch.where(goes_left, left[at], right[at]), node)
        return leaves.T.gather(0, -1 - node).sum(1)

    def arrays(self, label: int) -> TreeArrays:
        """The trees of a label."""
        return TreeArrays(*(getattr(self, part.name)[label].cpu().numpy() for part in fields(TreeArrays)))

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        """As `StageModel.check_weights`: columns and leaves exist, and an inner node has one parent, before it."""
        count, node = self.left.shape[2], torch.arange(self.left.shape[2])
        column = weights["column"]
        _refuse("column", (column < 0) | (column >= len(self.read)))
        parents = torch.zeros(*column.shape[:2], count, dtype=torch.int64)
        for side in ("left", "right"):
            child = weights[side].long()
            inner = (child > node) & (child < count)
            _refuse(side, ~inner & ((child >= 0) | (child < -1 - count)))
            parents.scatter_add_(2, child.clamp_min(0), inner.long())
            _refuse(side, parents > 1)


def _refuse(name: str, odd: Tensor) -> None:
    """Raise ValueError, which names the place, if a number is odd: (B, T, L − 1)."""
    if odd.any():
        label, tree, node = odd.nonzero()[0].tolist()
        raise ValueError(f"{name}: node {node} of tree {tree} of label {label} is no node of a tree")


class _ExportedTrees(nn.Module):
    """Trees whose sum is an operator of ONNX, for a graph alone."""

    def __init__(self, trees: Trees) -> None:
        super().__init__()
        self.trees = trees
        categorical = trees.categorical.cpu().numpy() > 0
        self.attributes = {
            label: ensemble_attributes(trees.arrays(n), categorical) for n, label in enumerate(trees.labels)
        }

    def forward(self, inputs: StageInputs) -> StageOutput:
        """As `Trees.forward`."""
        x = self.trees.read_columns(inputs)
        return StageOutput({label: _add_up(x, attributes) for label, attributes in self.attributes.items()})


def _add_up(x: Tensor, attributes: Attributes) -> Tensor:
    """(n, F) → (n,)."""
    sums: Tensor = torch.onnx.ops.symbolic(
        "ai.onnx.ml::TreeEnsembleRegressor",
        (x,),
        attributes,
        dtype=torch.float32,
        shape=(x.shape[0], 1),
        version=3,
    )
    return sums.squeeze(1)
