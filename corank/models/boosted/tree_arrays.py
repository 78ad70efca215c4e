"""Trees as arrays, and as an operator of ONNX.

Inner node k sends a row to `left[k]` if its column is at most `threshold[k]`, or equal to it where the column holds
categories, else to `right[k]`; a child c < 0 is leaf −1 − c. Inner nodes come before their children.

Letters: F columns · T trees of a label · L leaves of a tree, at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Floats, Ints, Longs

Attributes = dict[
    str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]
]
"""Of an operator of ONNX."""


@dataclass(frozen=True)
class TreeArrays:
    """The trees of a label: (T, L − 1) each, and the values of leaves, (T, L)."""

    column: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats


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
