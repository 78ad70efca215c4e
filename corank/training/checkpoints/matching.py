"""Checks that a checkpoint matches a config and packed data."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corank.core.errors import CheckpointError, ConfigError
from corank.core.settings import validate
from corank.data.dataset import PackedDataset
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.location import CheckpointLocation
from corank.training.checkpoints.split_table import ALL_BUCKETS
from corank.training.config import Config
from corank.training.config_file import complete_saved, flatten, plain

MAY_CHANGE = {"packed", "train.tables"}
"""Keys of a config that may change when a training continues: they say where data and weights lie."""
AFTERWARDS = ("validation.", "export.")
"""Prefixes of keys that do not affect training, and that may change, too."""


def config_facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    """The facts that tie a checkpoint to a config and to packed data."""
    return {"config": plain(config), "codes": packed.codes}


def load_matching(
    location: CheckpointLocation,
    parts: Sequence[str],
    config: Config,
    packed: PackedDataset,
    buckets: range = ALL_BUCKETS,
) -> Checkpoint:
    """Load a checkpoint of this config and packing that holds some facts.

    Of tables it has at least the rows of some buckets. Raises CheckpointError, which names the keys that differ, if
    it is of another config or packing.
    """
    path, checkpoint = location.path, location.load(buckets)
    _refuse_other_config(checkpoint, config, path)
    if checkpoint.facts.get("codes") != packed.codes:
        raise CheckpointError(
            f"{path}: trained on another packing of the data, whose vocabularies differ; "
            "train anew with --overwrite"
        )
    require_facts(checkpoint, parts, path)
    return checkpoint


def require_facts(held: Checkpoint, names: Iterable[str], path: Path) -> None:
    """Raise CheckpointError, which names the checkpoint's path, if it lacks a fact."""
    for name in names:
        if name not in held.facts:
            raise CheckpointError(f"{path}: holds no {name}; it is a checkpoint of another kind; train again")


def _refuse_other_config(checkpoint: Checkpoint, config: Config, path: Path) -> None:
    ours, theirs = flatten(plain(config)), flatten(_with_defaults(checkpoint.facts.get("config", {})))
    keys = {k for k in (ours.keys() | theirs.keys()) - MAY_CHANGE if not k.startswith(AFTERWARDS)}
    differing = sorted(key for key in keys if ours.get(key) != theirs.get(key))
    if differing:
        named = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise CheckpointError(
            f"{path}: a checkpoint of another config ({named}{more}); "
            "give the config that it was trained with, or train anew without --resume"
        )


def _with_defaults(settings: Any) -> Any:
    """A checkpoint's config with what keys added since meant then; unchanged if it is not valid now."""
    try:
        return plain(validate(Config, complete_saved(settings), "checkpoint"))
    except ConfigError:
        return settings
