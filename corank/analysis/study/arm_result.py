"""The results of the trials of one arm of a study."""

from collections.abc import Mapping
from dataclasses import dataclass

from corank.analysis.study.trials import Trial
from corank.analysis.trials.arm import Arm
from corank.analysis.trials.figure import Figure


@dataclass(frozen=True)
class ArmResult:
    """An arm with all its trials and the rate that was chosen."""

    arm: Arm
    sweep: list[Trial]
    rate: float | None
    """None if every rate diverged."""
    seeds: list[Trial]

    @property
    def trials(self) -> list[Trial]:
        """All trials, each once: seed 0 of the chosen rate belongs to the sweep."""
        return [*self.sweep, *self.seeds[1:]]

    @property
    def held(self) -> list[Mapping[str, Figure]]:
        """The figures of its seeds; none if it diverged."""
        return [trial.figures for trial in self.seeds if trial.figures]
