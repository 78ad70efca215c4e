"""What is known of a config and its data when they are judged: counts of the splits, and facts of the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from corank.batches.sampling import SplitCounts, Targets
from corank.losses.base import Loss
from corank.training.checks.findings import Finding
from corank.training.checks.log_facts import LogFacts
from corank.training.config.config import Config


class Learner(NamedTuple):
    """A label of a stage or teacher, and the losses that train it."""

    stage: str
    label: str
    losses: list[tuple[str, Loss]]
    """By name."""

    @property
    def name(self) -> str:
        """`STAGE.LABEL`."""
        return f"{self.stage}.{self.label}"


@dataclass(frozen=True)
class Evidence:
    """A config with the counts of its splits."""

    config: Config
    """With numbers in `train`, see `plan_training`."""
    splits: Mapping[str, SplitCounts]
    misplaced: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Label → level above the exposed one → ones there, which training ignores; unknown of packed data."""
    continues: bool = False
    """Whether the training begins at the weights of an earlier run."""
    single: Sequence[str] = ()
    """Features with one bucket: their training values are all equal. Known of packed data."""
    outcomes: Sequence[Finding] = ()
    """What is read that looks known only after the request. Known of the log's tables."""
    log: LogFacts | None = None
    """More that is known of the log's tables."""

    @cached_property
    def learners(self) -> list[Learner]:
        """Every label of every stage and teacher, in the order of the config."""
        total = self.config.total
        trained = [(name, loss) for name, loss in total.select(None) if loss.weight > 0]
        learners = []
        for stage in [*self.config.stages, *self.config.teachers]:
            for label in stage.labels:
                losses = [
                    (name, loss)
                    for name, loss in trained
                    if stage.name in ([loss.learner] if loss.learner else loss.reads(total.funnel))
                    # a plug-in's loss need not name a label; it may then train any
                    and getattr(loss, "label", label) == label
                ]
                learners.append(Learner(stage.name, label, losses))
        return learners

    @property
    def labels(self) -> list[str]:
        """The labels that something learns."""
        return list(dict.fromkeys(learner.label for learner in self.learners))

    def targets(self, learner: Learner, split: str) -> Targets:
        """Sum the rows from which a label's losses learn."""
        each = [loss.targets(self.splits[split], self.config.total.funnel) for _, loss in learner.losses]
        return Targets(*(sum(column) for column in zip(*each, strict=True))) if each else Targets(0, 0, 0)
