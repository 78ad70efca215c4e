"""How long a config trains and in batches of what size, where it says `auto`: by the number of training requests."""

from typing import Any

from corank.data.dataset import PackedDataset
from corank.training.config import Config
from corank.training.train_settings import AUTO, EarlyStop

STEPS = 600
"""Optimiser steps that are planned at least; early stopping on the validation split may end them before."""
MOST_EPOCHS = 20
LONG = 10 * STEPS
"""An epoch of so many steps, 1.5 million requests, is the only one: fewer are seen twice, the better epoch is kept."""
SMALLEST, LARGEST = 16, 256
"""Requests a batch."""
PATIENCE = 2
"""Epochs without a better AUC after which a training of planned epochs ends."""


def plan_training(config: Config, requests: int) -> Config:
    """A config with numbers in place of `auto` in `train`; any other as it is.

    Batches are of about a two-hundredth of the requests; epochs are as many as make STEPS steps.

    Args:
        config: the config.
        requests: of the training split.
    """
    train = config.train
    if train.planned:
        return config
    changed: dict[str, Any] = {}
    if train.requests == AUTO:
        changed["requests"] = max(SMALLEST, min(LARGEST, 1 << max(0, (requests // 200).bit_length() - 1)))
    if train.epochs == AUTO:
        steps = max(1, -(-requests // changed.get("requests", train.requests)))
        changed["epochs"] = 1 if steps >= LONG else max(2, min(MOST_EPOCHS, -(-STEPS // steps)))
        if train.early_stop is None and train.mode != "separate" and "valid" in config.data.split_names:
            last = config.stages[-1]
            changed["early_stop"] = EarlyStop(metric=f"{last.name}.{last.labels[0]}.auc", patience=PATIENCE)
    return config.model_copy(update={"train": train.model_copy(update=changed)})


def plan_packed(config: Config, packed: PackedDataset) -> Config:
    """As `plan_training`, for packed data."""
    return plan_training(config, sum(shard.requests for shard in packed.manifest.splits["train"]))
