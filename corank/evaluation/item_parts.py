"""Item parts of a split's candidates, such as vectors, by the network itself: what a bundle would keep of each item."""

import numpy as np
import torch

from corank.core.types import Floats, Longs
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predict import evaluation_mode
from corank.features.input_layout import TableSet, dense_input
from corank.models.joint import JointModel

AT_ONCE = 65_536


def part_of_candidates(model: JointModel, packed: PackedDataset, split: str, part: str, at: Longs) -> Floats:
    """Compute an item part of some candidates, snapshot features as of their requests.

    Args:
        model: the stages, whole and in fp32.
        packed: the data.
        split: of the candidates.
        part: `STAGE.PART`.
        at: which of the split's candidates: (a,).

    Returns:
        (a, d).
    """
    stage, _, name = part.partition(".")
    layout, tables = model.layout, read_tables(model, stage)
    shards = packed.splits[split]
    items = np.concatenate([shard.item for shard in shards])[at]
    widths, place = layout.record_widths, np.arange(len(at))
    if "snapshot" not in widths:  # all that is read is the item's row
        items, place = np.unique(items, return_inverse=True)
    starts = np.cumsum([0, *(len(shard.item) for shard in shards)])
    graph = model.network(stage).graphs()["item"]
    pieces = []
    for first in range(0, max(len(items), 1), AT_ONCE):
        some = items[first : first + AT_ONCE]
        inputs = {"item": dense_input(packed.items.take(some), layout, "item", tables)}
        if "snapshot" in widths:
            here = at[first : first + AT_ONCE]
            shard_of = np.searchsorted(starts, here, side="right") - 1
            rows = np.empty((len(here), widths["snapshot"]), dtype=np.float32)
            for n in np.unique(shard_of):
                mine = np.flatnonzero(shard_of == n)
                snapshot = shards[n].snapshot.take(here[mine] - starts[n])
                rows[mine] = dense_input(snapshot, layout, "snapshot", tables)
            inputs["snapshot"] = rows
        with evaluation_mode(model):
            given = {key: torch.from_numpy(inputs[key]) for key in graph.inputs if key in inputs}
            outputs = graph.module(**given)
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        pieces.append(parts[graph.outputs.index(name)].float().numpy())
    computed: Floats = np.concatenate(pieces)[place]
    return computed


def read_tables(model: JointModel, stage: str) -> TableSet:
    """The embedding tables and projections that a stage reads, as arrays in fp32."""
    state, layout, name = model.state_dict(), model.layout, model.tables_of[stage]
    tables: dict[int | str, Floats] = {
        dim: state[f"tables.{name}.weights.{dim}"].float().numpy() for dim in layout.table_rows
    }
    for n, feature in enumerate(layout.projections):
        tables[feature] = state[f"projections.{name}.{n}"].float().numpy()
    return tables
