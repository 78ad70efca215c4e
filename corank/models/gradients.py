"""The gradients of a step, summed over all ranks."""

from collections.abc import Iterable

import torch

from corank.distributed.ranks import Ranks
from corank.models.joint import JointModel


def sum_gradients(model: JointModel, names: Iterable[str], ranks: Ranks) -> None:
    """Sum the gradients of an update over all ranks: of layers as one buffer, then of tables, row by row.

    A collective. What has a gradient on some rank has one on all of them afterwards, and what has none on any keeps
    none, so that optimisers do on every rank what they would do alone.

    Args:
        model: with the gradients of this rank.
        names: the stages and teachers that were computed, the same on all ranks.
        ranks: all of them.
    """
    if ranks.alone:
        return
    names = list(names)
    layers = model.layers(names)
    tables = [
        model.table_sets[set_name] for set_name in dict.fromkeys(model.tables_of[name] for name in names)
    ]
    reached = [layer.grad is not None for layer in layers] + [
        some for table_set in tables for some in table_set.reached
    ]
    gradients = [torch.zeros_like(layer) if layer.grad is None else layer.grad for layer in layers]
    flags = torch.tensor(reached, dtype=gradients[0].dtype, device=gradients[0].device)
    buffer = torch.cat([*(gradient.reshape(-1) for gradient in gradients), flags])
    ranks.sum(buffer, "gradients of layers")
    *summed, flags = buffer.split([*(layer.numel() for layer in layers), len(flags)])
    some_rank = [count > 0 for count in flags.tolist()]
    for layer, gradient, some in zip(layers, summed, some_rank, strict=False):
        layer.grad = gradient.view_as(layer) if some else None
    of_tables = iter(some_rank[len(layers) :])
    for table_set in tables:
        by_dim = [next(of_tables) for _ in table_set.reached]
        if any(by_dim):
            table_set.sum_gradients(by_dim)
