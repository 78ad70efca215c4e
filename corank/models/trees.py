"""Network of stage model `trees`: the sum of boosted trees over codes and numbers, without a weight that learns.

Trees are arrays over columns of dense inputs, which come from tables of codes of the stage's own: these hold, in place
of embeddings, the code of a value, and 1, which a list sums up to its length. So rows become inputs as they do for
every stage: in training, in a bundle, for readers of bundles.

Inner node k sends a row to `left[k]` if its column is at most `threshold[k]`, or equal to it where the column holds
categories, else to `right[k]`; a child c < 0 is leaf −1 − c. Inner nodes come before their children.

Letters: C' candidates of a batch, rounded up · F columns · B labels · T trees of a label · L leaves of a tree, at most.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from corank.core.errors import ConfigError
from corank.core.types import Floats, Ints, Longs
from corank.features.encoding import PLACEMENTS, Placement
from corank.features.input_layout import Layout, TableSet
from corank.models.layers import Columns
from corank.models.settings.trees import LEFT_OUT, MOST_CODES, TreesSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import REQUEST_TENSORS, Graph, RequestGraph, StageModel

Attributes = dict[
    str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]
]
"""Of an operator of ONNX."""
AT_ONCE = 1 << 18
"""Rows times trees that are followed at a time."""


@dataclass(frozen=True)
class CodeColumn:
    """A column of a dense input that trees read."""

    placement: Placement
    at: int
    """Its position in the dense input."""
    codes: int | None = None
    """How many codes there are, if it holds those of an id."""
    averaged: bool = False
    """Whether it is a mean of ones, 1 but for rounding, which depends on the list's length and on who adds up."""

    @property
    def categorical(self) -> bool:
        """Whether its codes are categories."""
        return self.codes is not None and self.codes <= MOST_CODES

    @property
    def left_out(self) -> bool:
        """Whether it has more codes than trees can use, so that none is grown on it."""
        return self.codes is not None and self.codes > LEFT_OUT


def code_columns(layout: Layout) -> list[CodeColumn]:
    """The columns that trees read of dense inputs from tables of codes: codes of ids, sums of lists, numbers."""
    return [column for placement in PLACEMENTS for column in _columns_of(layout, placement)]


def _columns_of(layout: Layout, placement: Placement) -> Iterator[CodeColumn]:
    placed, at = layout.schema.row_features(placement), 0
    for group in layout.groups[placement]:
        for feature in group.ids.tolist():
            codes = layout.sizes[layout.schema.table_of(placed.ids[feature])]
            yield CodeColumn(placement, at, codes)
            at += group.dim
        for listed in group.lists:
            if group.dim > 1:
                yield CodeColumn(placement, at + 1, averaged=listed.mean)
            at += group.dim
    for number in range(at, at + placed.width):
        yield CodeColumn(placement, number)


def code_tables(layout: Layout) -> TableSet:
    """The tables of codes, by dimension: (rows, d), a code in the first column, 1 in the second if there is one."""
    tables: dict[int | str, Floats] = {
        dim: np.zeros((rows, dim), dtype=np.float32) for dim, rows in layout.table_rows.items()
    }
    for name, first in layout.offset.items():
        rows = tables[layout.schema.embedded()[name].width][first : first + layout.sizes[name]]
        rows[:, 0] = np.arange(len(rows))
        rows[:, 1:2] = 1
    return tables


@dataclass(frozen=True)
class TreeArrays:
    """The trees of a label: (T, L − 1) each, and the values of leaves, (T, L)."""

    column: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats


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
        return {"": Graph(RequestGraph(ExportedTrees(self)), REQUEST_TENSORS, ("logits",))}

    def _sum_leaves(self, label: int, x: Tensor) -> Tensor:
        """Follow a label's trees: (C', F) → (C',)."""
        grown = self.value[label].any(1)
        rows = max(1, AT_ONCE // max(1, int(grown.sum())))
        return torch.cat([self._follow(label, grown, some) for some in x.split(rows)])

    def _follow(self, label: int, grown: Tensor, x: Tensor) -> Tensor:
        """Follow those trees that add something: (T,) bool, (N, F) → (N,)."""
        parts = (self.column, self.left, self.right)
        column, left, right = (part[label][grown].long() for part in parts)
        threshold, leaves = self.threshold[label][grown], self.value[label][grown]
        trees, inner = column.shape
        # a leaf is a node that leads to itself, so that all rows take as many steps
        first = torch.arange(trees, device=x.device)[:, None] * (inner + leaves.shape[1])
        ends = torch.arange(inner, inner + leaves.shape[1], device=x.device).expand(trees, -1)
        below = [torch.where(child < 0, inner - 1 - child, child) for child in (right, left)]
        child = torch.stack([torch.cat((side, ends), 1) + first for side in below], 2).flatten()
        column, threshold = (pad(part, (0, leaves.shape[1])).flatten() for part in (column, threshold))
        categorical = self.categorical[column] > 0
        node = first.flatten().expand(len(x), -1)
        while True:
            values, bound = x.gather(1, column[node]), threshold[node]
            goes_left = values <= bound
            if categorical.any():
                goes_left = torch.where(categorical[node], values == bound, goes_left)
            following = child[2 * node + goes_left]
            if torch.equal(following, node):
                return leaves.T.gather(0, node - first.flatten() - inner).sum(1)
            node = following

    def arrays(self, label: int) -> TreeArrays:
        """The trees of a label."""
        return TreeArrays(*(getattr(self, part.name)[label].cpu().numpy() for part in fields(TreeArrays)))


class ExportedTrees(nn.Module):
    """Trees whose sum is an operator of ONNX when a graph is exported.

    What is exported holds no tree, only the name of an operator's attributes: torch writes those out as code some forty
    times, which takes a minute for 500 trees.
    """

    def __init__(self, trees: Trees) -> None:
        super().__init__()
        self.trees = trees
        categorical, name = trees.categorical.cpu().numpy() > 0, trees.settings.name
        self.attributes = {
            f"{name}.{label}": ensemble_attributes(trees.arrays(n), categorical)
            for n, label in enumerate(trees.labels)
        }
        """By the name that the exported operator has in place of attributes."""

    def forward(self, inputs: StageInputs) -> StageOutput:
        """As `Trees.forward`."""
        if not torch.compiler.is_exporting():
            output: StageOutput = self.trees(inputs)
            return output
        x = self.trees.read_columns(inputs)
        sums = (_add_up(x, name) for name in self.attributes)
        return StageOutput(dict(zip(self.trees.labels, sums, strict=True)))


OPERATOR, NAMED = "TreeEnsembleRegressor", "post_transform"
"""Of ONNX, and the attribute that an exported one has: a name."""


def _add_up(x: Tensor, name: str) -> Tensor:
    """(n, F) → (n,)."""
    sums: Tensor = torch.onnx.ops.symbolic(
        f"ai.onnx.ml::{OPERATOR}",
        (x,),
        {NAMED: name},
        dtype=torch.float32,
        shape=(x.shape[0], 1),
        version=3,
    )
    return sums.squeeze(1)


def ensemble_attributes(trees: TreeArrays, categorical: NDArray[np.bool_]) -> Attributes:
    """Trees, without those that add nothing, as the attributes of a TreeEnsembleRegressor of ONNX.

    Args:
        trees: of one label.
        categorical: which columns hold categories: (F,).
    """
    grown = np.flatnonzero(trees.value.any(1))
    grown = grown if len(grown) else np.zeros(1, dtype=np.int64)
    children = np.stack((trees.left, trees.right), 2)[grown]  # (T, L − 1, 2)
    tree, node = np.nonzero(_reached(children))
    child = children[tree, node]
    # each leaf below a node is a node of its own, so that none has two parents
    ends = child < 0
    own = children.shape[1] + 2 * node[:, None] + (0, 1)
    below = np.where(ends, own, child)
    leaf_tree, leaf = np.broadcast_to(tree[:, None], child.shape)[ends], own[ends]
    at, none = (grown[tree], node), np.zeros(len(leaf), dtype=np.int64)
    column = trees.column[at]
    modes = np.where(categorical[column], "BRANCH_EQ", "BRANCH_LEQ")
    # nodes of a tree are numbered from 0, without gaps
    keys = np.concatenate((_key(tree, node), _key(leaf_tree, leaf)))
    order = np.argsort(keys)

    def number(tree: Longs, node: Longs) -> Longs:
        return np.searchsorted(keys[order], _key(tree, node)) - np.searchsorted(keys[order], _key(tree, 0))

    parts: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "nodes_treeids": (tree, leaf_tree),
        "nodes_nodeids": (number(tree, node), number(leaf_tree, leaf)),
        "nodes_featureids": (column, none),
        "nodes_modes": (modes, np.full(len(leaf), "LEAF")),
        "nodes_values": (trees.threshold[at], none.astype(np.float32)),
        "nodes_truenodeids": (number(tree, below[:, 0]), none),
        "nodes_falsenodeids": (number(tree, below[:, 1]), none),
    }
    nodes = {name: np.concatenate(both)[order].tolist() for name, both in parts.items()}
    targets = {"target_treeids": leaf_tree, "target_nodeids": number(leaf_tree, leaf), "target_ids": none}
    weights = trees.value[grown[leaf_tree], -1 - child[ends]].tolist()
    leaves = {name: values.tolist() for name, values in targets.items()} | {"target_weights": weights}
    return {"n_targets": 1, **nodes, **leaves}


def _key(tree: Longs, node: Longs | int) -> Longs:
    """A number for each node of each tree, in the order of trees and of nodes: (N,)."""
    return tree << 32 | node


def _reached(children: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The inner nodes below the root, and itself: (T, L − 1, 2) → (T, L − 1)."""
    reached = np.zeros(children.shape[:2], dtype=np.bool_)
    reached[:, 0] = True
    for node in range(children.shape[1]):
        for side in (0, 1):
            child = children[:, node, side]
            below = np.flatnonzero(reached[:, node] & (child >= 0))
            reached[below, child[below]] = True
    return reached
