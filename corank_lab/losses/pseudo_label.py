"""Loss `pseudo_label`: mean predictions of teachers for candidates without labels, weighted less if they disagree.

Letters: C candidates · K predictions of the ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.distill import TaughtLoss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("pseudo_label")
class PseudoLabelLoss(TaughtLoss):
    """Pseudo-labels of an ensemble, for candidates of the levels `on`, which mostly have no label of their own.

    z_k are the detached logits of the K predictions of the `ensemble`: one a teacher, or one a member if it has
    `members`. L = Σ w·BCE(z, p̄) / Σ w: z is the student's logit, p̄ the mean of σ(z_k), w = exp(−β s) times the log's
    `weight`, and s the standard deviation of the z_k, the root of their mean squared distance from their mean.

    Sources: an ensemble's mean as prediction and its spread as uncertainty, Lakshminarayanan et al., NeurIPS 2017
    (arXiv 1612.01474); the weight exp(−uncertainty) of pseudo-labels, Zheng and Yang, IJCV 2021 (arXiv 2003.03773),
    and, for candidates without clicks, Xu et al., UKD, WWW 2022. Their uncertainty is a divergence of two predictions,
    which is near 0 for rare labels whatever the two say: it is about .02 for .02 and .06, whose log-odds differ by 1.1.

    A candidate that lacks a logged score of a teacher is left out.
    """

    kind: Literal["pseudo_label"] = "pseudo_label"
    ensemble: list[str] = Field(min_length=1)
    """The teachers: stages, `teachers`, `tree_teachers` or logged scores of `data.scores`. They need at least two
    predictions in all."""
    beta: NonNegativeFloat = 1.0
    """β: how fast the weight falls with the disagreement; 0 weighs all candidates alike."""

    @model_validator(mode="after")
    def _check_ensemble(self) -> Self:
        if self.student in self.ensemble:
            raise ValueError(f"ensemble: '{self.student}' is the student; name others")
        if len(set(self.ensemble)) < len(self.ensemble):
            raise ValueError(f"ensemble: each once; received {self.ensemble}")
        return self

    @property
    def teachers(self) -> list[str]:
        return self.ensemble

    def check(self, funnel: FunnelSpec, key: str) -> None:
        for name in self.ensemble:
            funnel.check_teacher(name, self.label, f"{key}.ensemble")
        if len(self.ensemble) == 1 and self.ensemble[0] not in funnel.members:
            raise ConfigError(
                f"{key}.ensemble: '{self.ensemble[0]}' is a single prediction, whose uncertainty nobody knows; name "
                "another beside it, give it `members`, or use kind: distill"
            )
        super().check(funnel, key)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        predictions = self._predictions(outputs, batch, funnel)
        known = batch.in_population(self.population(funnel)) & ~predictions.isnan().any(1)
        predictions = predictions.nan_to_num()
        target = predictions.sigmoid().mean(1)
        certain = torch.exp(-self.beta * predictions.std(1, correction=0))
        values = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs[self.student].logits[self.label], target, reduction="none"
        )
        return values, batch.weight * known * certain

    def _predictions(self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec) -> Tensor:
        """The detached logits of all predictions of the ensemble, NaN where a score is unknown: (C, K)."""
        predictions = []
        for name in self.ensemble:
            if name in funnel.scores:
                predictions.append(batch.scores[name].unsqueeze(1))
                continue
            output = outputs[name]
            z = output.members[self.label] if output.members else output.logits[self.label].unsqueeze(1)
            predictions.append(z.detach())
        return torch.cat(predictions, 1)
