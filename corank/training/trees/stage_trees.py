"""Fits the trees of stages to packed data, before the other stages train.

Letters: C candidates whose label is known · F columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from corank.core.errors import ConfigError, DataError
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.features.input_layout import Layout, embed_rows
from corank.features.schema import PLACEMENTS
from corank.models.joint import JointModel
from corank.models.trees import CodeColumn, Trees, code_tables
from corank.training.trees.boosting import ONE_CATEGORY, LabelledRows, grow_trees, read_trees
from corank.training.trees.flat_rows import place_rows


def fit_stage_trees(models: Sequence[JointModel], packed: PackedDataset, seed: int, ranks: Ranks) -> None:
    """Fit the trees of every stage that is made of them. A collective: the first rank fits.

    Args:
        models: get the trees, and codes in these stages' tables: the one under training, and its average.
        packed: the data.
        seed: of the training.
        ranks: the processes that train together.

    Raises ConfigError if the packed data lie in object storage, DataError, MissingExtraError without LightGBM.
    """
    for name, network in models[0].stages.items():
        if not isinstance(network, Trees):
            continue
        if packed.url is not None:
            raise ConfigError(
                f"stages: '{name}': {packed.url} is no folder of this machine, and trees read all rows at once; "
                "pack into a folder"
            )
        for model in models:
            _write_codes(model, name, ranks)

        def fit(network: Trees = network) -> list[dict[str, Any]]:
            return [_fit_label(packed, models[0].layout, network, label, seed) for label in network.labels]

        fitted = ranks.first_does(fit, f"trees of '{name}'")
        for model in models:
            _set_trees(cast(Trees, model.stages[name]), fitted)


def _set_trees(network: Trees, fitted: Sequence[Mapping[str, Any]]) -> None:
    """Set the trees of a network: of each label their arrays by name."""
    network.categorical.copy_(torch.tensor([column.categorical for column in network.read]))
    for name in fitted[0]:
        buffer = network.get_buffer(name)
        buffer.copy_(torch.tensor([by_name[name] for by_name in fitted], dtype=buffer.dtype))


@torch.no_grad()
def _write_codes(model: JointModel, stage: str, ranks: Ranks) -> None:
    """Write the codes of values into the tables of a stage, of which this rank may hold some rows."""
    tables = model.table_sets[model.tables_of[stage]]
    for dim, codes in code_tables(model.layout).items():
        table = tables.weights[str(dim)]
        rows = np.arange(len(codes))
        if len(tables.buckets) < BUCKETS:
            rows = RowShards(len(codes), ranks.world).rows_of(ranks.rank)
        there = rows < len(codes)
        table[torch.from_numpy(np.flatnonzero(there))] = torch.from_numpy(codes[rows[there]]).to(table.device)


def _fit_label(
    packed: PackedDataset, layout: Layout, network: Trees, label: str, seed: int
) -> dict[str, Any]:
    """Fit the trees of a label. Returns their arrays by name, as lists."""
    read, settings = network.read, network.settings
    rows = _read_split(packed, layout, read, "train", label)
    if np.unique(rows.label).size < 2:
        raise DataError(
            f"stage '{settings.name}': the {len(rows.label):,} training rows whose label is known are of one value of "
            f"{label}, or none; drop the label, or take another model"
        )
    valid = None
    if "valid" in packed.data.split_names:
        valid = _read_split(packed, layout, read, "valid", label)
    categorical = [n for n, column in enumerate(read) if column.categorical]
    stop = valid if valid is not None and len(valid.label) else None
    grown = grow_trees(
        rows, categorical, settings, seed, "model: trees", ONE_CATEGORY, stop, settings.patience
    )
    arrays = read_trees(grown, settings.trees, settings.leaves)
    return {name: array.tolist() for name, array in asdict(arrays).items()}


def _read_split(
    packed: PackedDataset, layout: Layout, read: Sequence[CodeColumn], split: str, label: str
) -> LabelledRows:
    """Read what trees read of the candidates of a split whose label is known."""
    tables = code_tables(layout)
    values: list[Floats] = []
    labels: list[NDArray[np.int8]] = []
    weights: list[Floats] = []
    for shard in packed.splits[split]:
        with packed.naming_damage():
            known = np.flatnonzero(shard.labels[label] >= 0)
            placed, parts = place_rows(packed, shard), []
            for placement in PLACEMENTS:
                if at := [column.at for column in read if column.placement == placement]:
                    rows, index = placed[placement]
                    distinct, where = np.unique(index[known], return_inverse=True)
                    # vectors, which come last, are not read
                    dense = embed_rows(
                        rows.take(distinct), layout.groups[placement], (), tables, numbers=True
                    )
                    parts.append(dense[:, at][where])
            whole = np.concatenate(parts, axis=1)
            values.append(np.where([column.averaged for column in read], np.round(whole), whole))
            # no tree splits by a column of one value
            values[-1][:, [n for n, column in enumerate(read) if column.left_out]] = 0
            labels.append(shard.labels[label][known])
            ones = np.ones(len(known), dtype=np.float32)
            weights.append(ones if shard.weight is None else shard.weight[known])
    return LabelledRows(np.concatenate(values), np.concatenate(labels), np.concatenate(weights))
