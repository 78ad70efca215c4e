"""Loss `mimic`: the generators of two towers imagine the other side's vector of a positive pair."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES, FunnelSpec, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("mimic")
class MimicLoss(Loss):
    """L = mean over clicked (r, i) of 2 − cos(g_r, v_i) − cos(h_i, q_r), q and v without gradient.

    g_r is what the query imagines of the items it clicks, h_i what the item imagines of the queries that click it: they
    approach the mean direction of what a side meets. Only the generators, and the tables below them, learn from it.

    Source: the generation loss of HIT for targets, Yang et al. 2025 (arXiv 2505.19849), where its weight is 0.1.
    """

    kind: Literal["mimic"] = "mimic"
    stage: str
    """The stage to train; it must have `generated`."""
    weight: NonNegativeFloat = 0.01
    """Small: the tables that all share learn from it, too."""
    label: str = "click"
    """The label whose positives pair a query with an item."""

    @property
    def name(self) -> str:
        return f"{self.stage}.mimic"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, self.label, f"{key}.stage")
        if self.stage not in funnel.generating:
            raise ConfigError(
                f"{key}.stage: '{self.stage}' generates no vectors; write generated: [64] for it, a key of towers"
            )

    def population(self, funnel: FunnelSpec) -> Population:
        return {len(funnel.levels) - 1: None}

    def needed_labels(self) -> Sequence[str]:
        return [self.label]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        clicked = counts.labels[self.label].positives
        return Targets(clicked, clicked, clicked)  # each is a target of its own

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """2: directions that know nothing of each other."""
        return 2.0

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.mimic import mimic_values

        return mimic_values(self, outputs, batch, funnel)
