"""The facts of a checkpoint: all that is no tensor, checked; and whether they are of a config and packed data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, Strict, TypeAdapter, ValidationError, model_validator

from corank.core.errors import CheckpointError, ConfigError
from corank.core.formatting import name_differences, shorten
from corank.core.settings import validate
from corank.data.packed.dataset import PackedDataset
from corank.training.config.config import Config
from corank.training.config.config_file import flatten, plain

Count = Annotated[int, Strict(), Ge(0), Le(2**48)]
Figures = list[dict[str, Annotated[float, Strict()] | None]]
"""Validation figures by epoch."""


@dataclass
class TrainingProgress:
    """The progress of a training, without its tensors."""

    epoch: Count = 0
    """Epochs that are done."""
    batch: Count = 0
    """Batches of the current epoch that are done."""
    step: Count = 0
    """Optimiser steps that are done, including those of the runs that it started from."""
    epochs_before: Count = 0
    """Epochs of the runs that it started from; none of their draws is drawn again."""
    average_begun: Count = 0
    """The step after which the average of the weights began."""
    best: Annotated[float, Strict()] | None = None
    """The best value of the early-stop metric."""
    best_epoch: Count = 0
    worse: Count = 0
    """Epochs since the best one that count against the patience."""
    figures: Figures = field(default_factory=list)


def _check_epochs(progress: TrainingProgress) -> TrainingProgress:
    """Raise ValueError unless there are figures of each epoch; weights that are taken over untrained have some, too."""
    if len(progress.figures) != (progress.epoch or min(len(progress.figures), 1)):
        raise ValueError(f"has figures of {len(progress.figures)} epochs, and is of epoch {progress.epoch}")
    if max(progress.best_epoch, progress.worse) > progress.epoch:
        raise ValueError(f"names epoch {progress.best_epoch} as the best of {progress.epoch}")
    if progress.average_begun > progress.step:
        raise ValueError(
            f"has an average begun after step {progress.average_begun}, and is of step {progress.step}"
        )
    return progress


class _Facts(BaseModel):
    """Facts of a checkpoint, which may lack some and have others."""

    config: dict[str, Any] = {}
    codes: str = ""
    epoch: Count = 0
    step: Count = 0
    figures: Figures = []
    progress: Annotated[TrainingProgress, AfterValidator(_check_epochs)] = TrainingProgress()

    @model_validator(mode="after")
    def _check_kept(self) -> Self:
        if "figures" in self.model_fields_set and len(self.figures) < max(self.epoch, 1):
            raise ValueError(f"has figures of {len(self.figures)} epochs alone")
        return self


_PROGRESS = TypeAdapter(TrainingProgress)


def check_facts(facts: Any) -> dict[str, Any]:
    """Return facts as they are. Raises ValueError, which names the fact, if one is odd."""
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(map(str, ("facts", *fault["loc"])))
        message = fault["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name}: {message}; found {shorten(repr(fault['input']))}") from None
    plain_facts: dict[str, Any] = facts
    return plain_facts


def training_progress(facts: dict[str, Any]) -> TrainingProgress:
    """The progress among facts that were checked."""
    return _PROGRESS.validate_python(facts["progress"])


MAY_CHANGE = {"packed", "train.tables", "baseline"}
"""Keys of a config that may change when a training continues: they say where data and weights lie, and what follows."""
AFTERWARDS = ("drift.", "export.")
"""Prefixes of keys that do not affect training, and that may change, too."""


def config_facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    """The facts that tie a checkpoint to a config and to packed data."""
    return {"config": plain(config), "codes": packed.codes}


def require_matching(
    facts: Mapping[str, Any], names: Sequence[str], config: Config, packed: PackedDataset, path: Path
) -> None:
    """Raise CheckpointError unless facts are of a config and of packed data, and some are there.

    It names the checkpoint's path, and the keys of the config that differ.
    """
    _refuse_other_config(facts, config, path)
    if facts.get("codes") != packed.codes:
        raise CheckpointError(
            f"{path}: trained on another packing of the data, whose vocabularies differ; "
            "train anew with --overwrite"
        )
    require_facts(facts, names, path)


def require_facts(facts: Mapping[str, Any], names: Iterable[str], path: Path) -> None:
    """Raise CheckpointError, which names the checkpoint's path, if it lacks a fact."""
    for name in names:
        if name not in facts:
            raise CheckpointError(f"{path}: holds no {name}; it is a checkpoint of another kind; train again")


def _refuse_other_config(facts: Mapping[str, Any], config: Config, path: Path) -> None:
    ours, theirs = flatten(plain(config)), flatten(_with_defaults(facts.get("config", {})))
    keys = {k for k in (ours.keys() | theirs.keys()) - MAY_CHANGE if not k.startswith(AFTERWARDS)}
    differing = sorted(key for key in keys if ours.get(key) != theirs.get(key))
    if differing:
        named = name_differences({k: f"{theirs.get(k)!r} there, {ours.get(k)!r} now" for k in differing})
        raise CheckpointError(
            f"{path}: a checkpoint of another config ({named}); "
            "give the config that it was trained with, or train anew without --resume"
        )


def _with_defaults(settings: Any) -> Any:
    """A checkpoint's config with the defaults of keys that it lacks; unchanged if it is not valid now."""
    try:
        return plain(validate(Config, settings, "checkpoint"))
    except ConfigError:
        return settings
