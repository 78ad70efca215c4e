"""Predictions → the inputs of metrics, by population; `corank.metrics.inputs` defines each.

Letters: C candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corank.core.calibration import Platt
from corank.core.lazy import lazy
from corank.core.types import Floats
from corank.evaluation.predictions import EvaluatedStage, Predictions
from corank.metrics.cascade import cascade_ranks
from corank.metrics.inputs import Inputs, Population

special = lazy("scipy.special")
Scores = NDArray[np.floating]


class Subject(NamedTuple):
    """What metrics are measured on: a population of a stage and a label, or of the cascade, whole or in a group."""

    stage: str
    label: str
    population: Population
    inputs: Inputs
    group: str = ""


def candidate_inputs(
    predictions: Predictions,
    stage: str,
    label: str,
    calibrator: Platt,
    cuts: Sequence[int],
    truth: Floats | None,
    reference: Predictions | None = None,
) -> Inputs:
    """A stage and label on all candidates.

    Args:
        cuts: codes of the levels that the stage cut.
        truth: the known probability of the label: (C,).
        reference: what a model without selection bias predicts of the same candidates.
    """
    everywhere = np.ones(len(predictions.level), dtype=bool)
    inputs = point_inputs(predictions, stage, label, calibrator, everywhere)
    inputs |= {"level": predictions.level, "cuts": cuts or None, "truth": truth}
    return inputs if reference is None else inputs | {"reference_logit": reference.logits[stage][label]}


def point_inputs(
    predictions: Predictions,
    stage: str,
    label: str,
    calibrator: Platt | None = None,
    rows: NDArray[np.bool_] | None = None,
) -> dict[str, object]:
    """A stage and label on some candidates, the exposed unless given; without a calibrator no `calibrated`."""
    rows = predictions.exposed if rows is None else rows
    logits = predictions.logits[stage][label][rows]
    inputs: dict[str, object] = {
        "user": predictions.requests.user_of()[rows],
        "request": predictions.requests.request_of[rows],
        "day": predictions.day[predictions.requests.request_of[rows]],
        "logit": logits,
        "probability": special.expit(logits),
        "label": predictions.labels[label][rows],
        "weight": predictions.weight[rows],
    }
    return inputs if calibrator is None else inputs | {"calibrated": calibrator.apply(logits)}


@dataclass(frozen=True)
class CascadeRows:
    """The candidates of a split as the stages of a cascade order them."""

    predictions: Predictions
    stages: Sequence[EvaluatedStage]
    scores: Sequence[Scores]
    """The scores that each stage orders by: (C,) each."""
    last_value: Scores
    """The last stage's value: (C,)."""
    truth: Floats | None
    """The last stage's value by the true probabilities: (C,)."""
    expected: Scores
    """The last stage's calibrated probability of its main label: (C,)."""

    @cached_property
    def _last_rank(self) -> NDArray[np.int64]:
        return self.predictions.requests.ranks(self.scores[-1])

    @cached_property
    def _truth_rank(self) -> NDArray[np.int64] | None:
        return None if self.truth is None else self.predictions.requests.ranks(self.truth)

    @cached_property
    def _shared(self) -> dict[str, object]:
        *earlier, last = self.stages
        shared: dict[str, object] = {
            "requests": self.predictions.requests,
            "scores": self.scores,
            "quotas": [stage.keep for stage in earlier],
            "k": last.keep,
            "exposed": self.predictions.exposed,
        }
        if self.predictions.later is not None:
            shared["later"] = self.predictions.labels[self.predictions.later] == 1
        propensity = self.predictions.propensity
        return shared if propensity is None else shared | {"propensity": propensity}

    def subjects(self, levels: Sequence[str], group: str = "") -> Iterator[Subject]:
        """What each stage but the last keeps, and what all of them keep."""
        for n, stage in enumerate(self.stages[:-1]):
            yield Subject(stage.name, "", "cut", self.cut_inputs(n), group)
        yield Subject("", "", "cascade", self.cascade_inputs(levels), group)

    def cut_inputs(self, index: int) -> Inputs:
        """What the stage of an index keeps, against the last stage."""
        stage, score = self.stages[index], self.scores[index]
        return self._shared | {
            "m": stage.keep,
            "label": self.predictions.labels[stage.main],
            "score": score,
            "rank": self.predictions.requests.ranks(score),
            "last_index": len(self.stages) - 1,
            "last_value": self.last_value,
            "last_rank": self._last_rank,
            "truth_rank": self._truth_rank,
            "expected": self.expected,
        }

    def cascade_inputs(self, levels: Sequence[str]) -> Inputs:
        """What all stages together keep; `levels` are those of the log, shallow to deep."""
        *earlier, last = self.stages
        cuts = [levels.index(level) for level in last.cuts]
        kept = self.predictions.level > max(cuts, default=len(levels))
        inputs = self._shared | {
            "m": earlier[-1].keep,
            "clicked": self.predictions.labels[last.main] == 1,
            "truth_top": None if self._truth_rank is None else self._truth_rank < last.keep,
            "kept": kept if kept.any() and not kept.all() else None,
            "last_top": self._last_rank < last.keep,
        }
        if self.predictions.propensity is not None:
            quotas = [stage.keep for stage in earlier]
            listed = cascade_ranks(self.predictions.requests, self.scores, quotas) < min([last.keep, *quotas])
            inputs |= {"listed": listed, "expected": self.expected}
        if len(earlier) > 1:  # with two stages the recall of the last one's top is `agree_recall`
            quotas = [stage.keep for stage in earlier[:-1]]
            inputs |= {"earlier_scores": self.scores[:-1], "earlier_quotas": quotas}
        return inputs
