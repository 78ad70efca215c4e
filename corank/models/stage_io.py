"""What a stage reads and what it gives, of a batch in training or of one request in an exported graph.

Letters: R requests · I distinct items · C candidates · d width of the vectors. I' and C' are I and C rounded up; rows
beyond I and C belong to no candidate, and nobody reads what a stage makes of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from corank.models.attention import AttendedHistory
from corank.models.pairs import Pairs


@dataclass(frozen=True)
class StageInputs:
    """The features of a batch as dense inputs: embeddings, pooled lists and numbers, side by side (`Layout`)."""

    query: Tensor  # (R, ·)
    item: Tensor
    """(I', ·)"""
    snapshot: Tensor
    """Features of the item that change with the time of the request, of no columns if there are none: (C', ·)."""
    cross: Tensor
    """Features of the pair, of no columns if there are none: (C', ·)."""
    pairs: Pairs
    """Brings what is computed by query and by item to the candidates."""
    history: AttendedHistory | None = None
    """The events that the stage attends to, if its settings name some."""
    earlier: Tensor | None = None
    """What the stage sees of earlier ones, a column each, without gradient: (C', ·)."""
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    """What production scored, for teachers: (C,) by name, NaN where unknown. Not there when serving."""


@dataclass(frozen=True)
class StageVectors:
    """Vectors whose product is a stage's logit: scale · ⟨query, item⟩ + bias, defined for any pair of the two."""

    query: Tensor  # (R, d)
    items: Callable[[], Tensor]
    """Computes those of items, of a batch at each one's earliest request in it, for losses that ask: (I', d)."""
    scale: Tensor  # ()
    bias: Tensor  # ()


@dataclass(frozen=True)
class StageOutput:
    """What a stage, or a teacher, gives for the candidates of a batch."""

    logits: Mapping[str, Tensor]
    """By label: (C,), or (C',) as a stage's forward returns it."""
    vectors: StageVectors | None = None
    """What the logits are made of, if the stage has item vectors."""
    positions: Mapping[str, Tensor] = field(default_factory=dict)
    """By label, what a candidate's position on the page adds to its logit: (C,). Only in training, and only if the
    log has positions; serving leaves it out."""
    loss_parameters: Mapping[str, Tensor] = field(default_factory=dict)
    """By the name of a loss that learns a number of its own at the stage (`Loss.parameters`), that number: () each."""
    loss_state: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """By the name of a loss that keeps tensors between batches (`Loss.state`), those by name. Only in training."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What its network gives to losses besides, by the names in `StageSettings.extras`. Only in training."""
    members: Mapping[str, Tensor] = field(default_factory=dict)
    """By label the logits of several predictions, each of which learns by itself, if the stage has them: (C, k); its
    logit is that of their mean probability."""

    @property
    def member_count(self) -> int:
        """How many members it has; 0 if its logits are of one prediction."""
        return next((z.shape[1] for z in self.members.values()), 0)

    def member(self, number: int) -> Self:
        """The same with the logits of one of its members alone, counted on from the first; itself if it has none."""
        if not self.members:
            return self
        chosen = number % self.member_count
        return replace(self, logits={label: z[:, chosen] for label, z in self.members.items()}, members={})

    def cut(self, count: int) -> Self:
        """The same without the rows beyond the `count` candidates."""
        logits = {label: z if len(z) == count else z[:count] for label, z in self.logits.items()}
        return replace(self, logits=logits, members={label: z[:count] for label, z in self.members.items()})

    def spread(self, index: Tensor, count: int) -> Self:
        """The same for `count` candidates, 0 for those that are not in the index: (K,) → (C,).

        Args:
            index: the candidates that were scored: (K,) int32.
            count: all candidates, C.
        """

        def fill(z: Tensor) -> Tensor:
            return z.new_zeros((count, *z.shape[1:])).index_copy(0, index.long(), z)

        logits, members = (
            {k: fill(z) for k, z in tensors.items()} for tensors in (self.logits, self.members)
        )
        return replace(self, logits=logits, members=members)
