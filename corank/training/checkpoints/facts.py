"""The facts of a checkpoint: all that is no tensor; and whether they are of a config and packed data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corank.core.errors import CheckpointError, ConfigError
from corank.core.formatting import name_differences
from corank.core.settings import validate
from corank.data.packed.dataset import PackedDataset
from corank.training.config.config import Config
from corank.training.config.config_file import flatten, plain


@dataclass
class TrainingProgress:
    """The progress of a training, without its tensors."""

    epoch: int = 0
    """Epochs that are done."""
    batch: int = 0
    """Batches of the current epoch that are done."""
    step: int = 0
    """Optimiser steps that are done, including those of the runs that it started from."""
    epochs_before: int = 0
    """Epochs of the runs that it started from; none of their draws is drawn again."""
    average_begun: int = 0
    """The step after which the average of the weights began."""
    best: float | None = None
    """The best value of the early-stop metric."""
    best_epoch: int = 0
    worse: int = 0
    """Epochs since the best one that count against the patience."""
    figures: list[dict[str, float | None]] = field(default_factory=list)
    """Validation figures by epoch."""


MAY_CHANGE = {"packed", "train.tables", "baseline"}
"""Keys of a config that may change when a training continues: they say where data and weights lie, and what follows."""
AFTERWARDS = ("drift.", "export.")
"""Prefixes of keys that do not affect training, and that may change, too."""


def config_facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    """The facts that tie a checkpoint to a config and to packed data."""
    return {"config": plain(config), "codes": packed.codes}


def require_matching(facts: Mapping[str, Any], config: Config, packed: PackedDataset, path: Path) -> None:
    """Raise CheckpointError, which names a checkpoint's path and keys that differ, unless it is of config and data."""
    ours, theirs = flatten(plain(config)), flatten(_with_defaults(facts.get("config", {})))
    keys = {k for k in (ours.keys() | theirs.keys()) - MAY_CHANGE if not k.startswith(AFTERWARDS)}
    differing = sorted(key for key in keys if ours.get(key) != theirs.get(key))
    if differing:
        named = name_differences({k: f"{theirs.get(k)!r} there, {ours.get(k)!r} now" for k in differing})
        raise CheckpointError(
            f"{path}: a checkpoint of another config ({named}); "
            "give the config that it was trained with, or train anew without --resume"
        )
    if facts.get("codes") != packed.codes:
        raise CheckpointError(f"{path}: trained on another packing, with other codes; train with --overwrite")


def _with_defaults(settings: Any) -> Any:
    """A checkpoint's config with the defaults of keys that it lacks; unchanged if it is not valid now."""
    try:
        return plain(validate(Config, settings, "checkpoint"))
    except ConfigError:
        return settings
