"""What a stage gives for a batch.

Letters: R requests · I distinct items · C candidates · d width of the vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class StageVectors:
    """Vectors whose product is a stage's logit: scale · ⟨query, item⟩ + bias, defined for any pair of the two."""

    query: Tensor  # (R, d)
    item: Tensor
    """(padded I, d)"""
    scale: Tensor  # ()
    bias: Tensor  # ()


@dataclass(frozen=True)
class StageOutput:
    """What a stage, or a teacher, gives for the candidates of a batch."""

    logits: Mapping[str, Tensor]
    """By label: (C,)."""
    vectors: StageVectors | None = None
    """What the logits are made of, if the stage has item vectors."""
    positions: Mapping[str, Tensor] = field(default_factory=dict)
    """By label, what a candidate's position on the page adds to its logit: (C,). Only in training, and only if the
    log has positions; serving leaves it out."""
