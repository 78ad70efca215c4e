"""What losses over the labels of a request's candidates share: the logits, and the grades of the candidates.

Letters: C candidates · G labels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.losses.settings.label_lists import LabelListLoss
from corank.models.stage_io import StageOutput


class Grades(NamedTuple):
    """How good each candidate proved to be."""

    grade: Tensor
    """0 where no label is 1, else the number of its best label, the weakest 1: (C,) int64."""
    known: Tensor
    """Whether the candidate is in the list: exposed, and its grade known: (C,) bool."""


def list_logits(loss: LabelListLoss, outputs: Mapping[str, StageOutput]) -> Tensor:
    """The logits that the lists are ordered by: (C,)."""
    output = outputs[loss.stage]
    z = output.logits[loss.label]
    if loss.label in output.positions:
        z = z + output.positions[loss.label]
    return z / loss.temperature


def grade_candidates(loss: LabelListLoss, batch: Batch) -> Grades:
    """Grade the candidates of a batch."""
    labels = torch.stack([batch.labels[label] for label in reversed(loss.order)])  # (G, C)
    number = torch.arange(1, len(labels) + 1, device=labels.device).unsqueeze(1)
    grade = ((labels > 0) * number).amax(0)
    unknown = torch.nn.functional.pad(labels < 0, (0, 0, 0, 1))  # above the best label there is none
    above = unknown.gather(0, grade.unsqueeze(0)).squeeze(0)
    return Grades(grade, (batch.level == batch.exposed) & ~above)
