"""The facts of checkpoints: the progress of a training, and what a trained model is of."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, Strict, TypeAdapter, ValidationError, model_validator

from corank.core.formatting import shorten

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
    best: Annotated[float, Strict()] | None = None
    """The best value of the early-stop metric."""
    best_epoch: Count = 0
    worse: Count = 0
    """Epochs since the best one."""
    figures: Figures = field(default_factory=list)


def _check_epochs(progress: TrainingProgress) -> TrainingProgress:
    """Raise ValueError unless there are figures of each epoch; weights that are taken over untrained have some, too."""
    if len(progress.figures) != (progress.epoch or min(len(progress.figures), 1)):
        raise ValueError(f"has figures of {len(progress.figures)} epochs, and is of epoch {progress.epoch}")
    if max(progress.best_epoch, progress.worse) > progress.epoch:
        raise ValueError(f"names epoch {progress.best_epoch} as the best of {progress.epoch}")
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
