"""Whether a config can learn from its log: an error where nothing can be learnt, a warning where little can.

Warnings are also of losses that drown others, and of draws that a stage recognises by what is missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from corank.batches.sampling import SOURCES, LabelCounts, SplitCounts, Targets
from corank.core.errors import DataError
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.features.scale import Bucket
from corank.losses.base import Loss
from corank.metrics.metric import validation_metrics
from corank.training.config.config import Config, plan_training

FEWEST_STEPS = 50
"""Fewer optimiser steps cause a warning: in simulated worlds 30 steps of 256 requests lost .03 of the
recall and .01 of the AUC of 60, and many smaller ones gained nothing (docs/results/defaults.md)."""


def outweighing_losses(config: Config, counts: SplitCounts) -> Iterator[str]:
    """Report losses that begin too large compared with the pointwise losses of their stage.

    Before it has learnt, a stage has a cross-entropy of the label's entropy, .17 at a rate of 4 %, and a softmax
    over n items of ln n, 8 at 3,000: at a weight of .1 the second is nearly five times the first.

    Args:
        config: its losses.
        counts: of the training split.
    """
    total = config.total
    sized = [
        (
            name,
            loss,
            loss.weight * (loss.untrained_value(counts, total.funnel, config.train.batch_size) or 0.0),
        )
        for name, loss in total.select(None)
    ]
    for name, loss, size in sized:
        others = sum(s for _, one, s in sized if one.pointwise and one.learner == loss.learner)
        if not loss.pointwise and 0 < others * loss.max_initial_ratio < size:
            most = loss.weight * others * loss.max_initial_ratio / size
            yield (
                f"{name}: begins {size / others:.1f} times as large as the click losses of '{loss.learner}' "
                f"({size:.2f} against {others:.2f}, weights included), so that the stage learns it rather than to "
                f"order what is shown; take a weight below {most:.2g}"
            )


def leaky_negatives(config: Config) -> Iterator[str]:
    """Report stages that learn from draws beyond the log, and read what is missing there and not elsewhere."""
    total = config.total
    for name, loss in total.select(None):
        drawn = [source for source, code in SOURCES.items() if code in loss.population(total.funnel)]
        for learner in total.trained_by(loss) if loss.weight > 0 and drawn else ():
            if missing := total.funnel.logged_inputs.get(learner):
                yield (
                    f"{name}: candidates drawn beyond the log ({', '.join(drawn)}) have no {', '.join(missing)}, which "
                    f"'{learner}' reads: it learns to tell them by what is missing, which candidates online have; "
                    "take logged levels, or a stage that does not read it"
                )


def few_steps(config: Config, requests: int) -> Iterator[str]:
    """Report stages and teachers that train for few optimiser steps.

    Args:
        config: its `train`.
        requests: of the training split.
    """
    for whose, steps in _lasting(config, requests):
        if 0 < steps < FEWEST_STEPS:
            yield (
                f"train: {whose} for {steps:,} steps at most; below {FEWEST_STEPS} a model may have learnt little: "
                "compare with epochs: auto and requests: auto, which plan some 600"
            )


def _lasting(config: Config, requests: int) -> Iterator[tuple[str, int]]:
    """Who trains, in words, and for how many steps at most: each network, or all together."""
    train = config.train
    steps = -(-requests // train.batch_size)
    if train.mode != "separate":
        yield "training lasts", train.epochs_of(None) * steps
        return
    for network in config.networks.values():
        if not network.fitted:
            yield f"'{network.name}' trains", train.epochs_of(network.name) * steps


FEW = 100
"""Fewer positives or negatives cause a warning: the AUC's standard error is then .03 or more."""
SMALL = 1000
"""With fewer positives or negatives in training, boosted trees may learn more (docs/results/real-logs.md)."""
FEWEST = 10
"""Fewer positives or negatives, or requests with both, cannot tell one epoch from another: with so many positives the
AUC's standard error is .09, so that the interval of a guess reaches .68."""
MOST_TENTHS = 3
"""Of a log, to validate; one that needs more is too small to stop by."""


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
class TrainingDataCheck:
    """A config with the counts of its splits.

    Example:
        TrainingDataCheck.of(config, packed).require()
    """

    config: Config
    """With numbers in `train`, see `plan_training`."""
    splits: Mapping[str, SplitCounts]
    misplaced: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Label → level above the exposed one → ones there, which training ignores; unknown of packed data."""
    continues: bool = False
    """Whether the training begins at the weights of an earlier run."""
    single: Sequence[str] = ()
    """Features with one bucket: their training values are all equal. Known of packed data."""
    outcomes: Sequence[str] = ()
    """What is read that looks known only after the request. Known of the log's tables."""

    @classmethod
    def of(
        cls, config: Config, packed: PackedDataset, continues: bool = False, outcomes: Sequence[str] = ()
    ) -> "TrainingDataCheck":
        """Count the splits of packed data that training reads."""
        splits = {s: SplitCounts.of(packed, s) for s in packed.data.split_names if s != "test"}
        planned = plan_training(config, splits["train"].requests)
        return cls(
            planned, splits, continues=continues, single=find_single_buckets(packed), outcomes=outcomes
        )

    def require(self) -> None:
        """Raise DataError if training could not learn what the config asks for."""
        if self.faults:
            raise DataError("\n".join(self.faults))

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

    def targets(self, learner: Learner, split: str) -> Targets:
        """Sum the rows from which a label's losses learn."""
        each = [loss.targets(self.splits[split], self.config.total.funnel) for _, loss in learner.losses]
        return Targets(*(sum(column) for column in zip(*each, strict=True))) if each else Targets(0, 0, 0)

    def report(self, say: Report) -> None:
        """Report briefly what each label and split holds, a line each, and the warnings."""
        for split, counts in self.splits.items():
            for name, label in counts.labels.items():
                unknown = label.exposed - label.known
                say(
                    f"{split}: {name} has {label.positives:,} positives and {label.negatives:,} negatives; "
                    f"{unknown:,} of {label.exposed:,} exposed rows are unknown"
                )

        for line in self.warnings:
            say(f"warning: {line}")

    @cached_property
    def faults(self) -> list[str]:
        """Say what cannot be learnt or stopped by, or would be falsely learnt; training is refused for each."""
        faults = []
        for learner in self.learners:
            targets = self.targets(learner, "train")
            if learner.losses and not (targets.positives and targets.negatives):
                faults.append(self._cannot_learn(learner, targets))
        return [*faults, *self._fitted_faults(), *self._stop_faults(), *self.outcomes]

    def _fitted_faults(self) -> Iterator[str]:
        counts = self.splits["train"].labels
        for stage in self.config.stages:
            for label in stage.labels if stage.fitted else ():
                if not (counts[label].positives and counts[label].negatives):
                    yield (
                        f"stages: '{stage.name}' cannot be fitted to '{label}' of the split 'train': "
                        f"{_describe(counts[label])}; {self._remedy(label)}"
                    )

    @cached_property
    def warnings(self) -> list[str]:
        """Say what can be learnt, but hardly, and what in the log looks wrong."""
        return [
            *self._no_validation(),
            *self._few(),
            *self._idle_losses(),
            *outweighing_losses(self.config, self.splits["train"]),
            *leaky_negatives(self.config),
            *([] if self.continues else few_steps(self.config, self.splits["train"].requests)),
            *self._strange_levels(),
            *self._single_buckets(),
        ]

    def _no_validation(self) -> Iterator[str]:
        if "valid" not in self.config.data.split_names:
            yield (
                "data.split: there is no split 'valid', so probabilities are not calibrated and no figures are "
                "computed while training; a few hours of 'valid' at the end give both"
            )

    def _cannot_learn(self, learner: Learner, targets: Targets) -> str:
        losses = ", ".join(name for name, _ in learner.losses)
        lacks = " and no ".join(kind for kind in ("positives", "negatives") if not getattr(targets, kind))
        message = (
            f"losses: stage '{learner.stage}' cannot learn '{learner.label}' from the split 'train': its losses "
            f"({losses}) get no {lacks}; {_describe(self.splits['train'].labels[learner.label])}"
        )
        return f"{message}; {self._remedy(learner.label)}"

    def _remedy(self, label: str) -> str:
        split = self.splits["train"]
        counts = split.labels[label]
        if counts.positives and counts.negatives and not split.mixed[label].requests:
            return (
                f"but none of {split.requests:,} requests holds both, and losses over lists compare candidates of one "
                "request: take {kind: click}, or a request key that joins what was shown together"
            )
        data, column = self.config.data, self.config.data.labels[label].column
        elsewhere = self.misplaced.get(label, {})
        if elsewhere:
            where = " and ".join(f"{count:,} rows at '{level}'" for level, count in elsewhere.items())
            return (
                f"but the column '{column}' is 1 in {where}: data.levels must go from the shallowest level to the "
                f"exposed one, and end with '{data.levels[-1]}' now"
            )
        if data.level:
            return (
                f"look at the column '{column}', data.split, and data.levels, whose last, "
                f"'{data.levels[-1]}', must be the exposed one"
            )
        return f"look at the column '{column}' and at data.split, or add a loss whose targets are not clicks"

    def _stop_faults(self) -> Iterator[str]:
        stop = self.config.train.early_stop
        if stop is None:
            return
        _, label, name = stop.metric.rsplit(".", 2)
        split = self.splits["valid"]
        counts, mixed = split.labels[label], split.mixed[label].requests
        classes = [1.0] * bool(counts.positives) + [0.0] * bool(counts.negatives)
        lacks = _describe(counts)
        if "request" in validation_metrics()[name].inputs:
            longest = max((size for size, requests in split.sizes[-1].items() if requests), default=0)
            classes = [1.0] + [0.0] * (longest - 1) if mixed else []
            lacks = f"{mixed:,} of {split.requests:,} requests show a 1 and a 0, none more than {longest} candidates"
        few, defined = _scarcest(split, label, name), _defined(name, classes)
        if defined and (few >= FEWEST or self.continues or _defined(name, [0.0])):
            return
        said = "rests on too little to tell epochs apart" if defined else "has no value"
        remedy = "change data.split, or stop by another metric"
        if few < FEWEST and (found := few + _scarcest(self.splits["train"], label, name)):
            remedy = f"{FEWEST} of each are needed: {_enlarge_split(found)}"
        yield f"train.early_stop.metric: '{stop.metric}' {said} in the split 'valid': {lacks}; {remedy}"

    def _few(self) -> Iterator[str]:
        fitted = {stage.name for stage in self.config.stages if stage.fitted}
        for learner in self.learners:
            targets = self.targets(learner, "train")
            if not learner.losses and learner.stage not in fitted:
                yield f"{learner.name}: no loss trains it"
            elif 0 < min(targets.positives, targets.negatives) < FEW:
                fewer = min(("positives", "negatives"), key=lambda kind: getattr(targets, kind))
                yield f"{learner.name}: only {getattr(targets, fewer):,} {fewer} in the split 'train'"
        for label in dict.fromkeys(learner.label for learner in self.learners):
            train = self.splits["train"].labels[label]
            if train.known and not (train.positives and train.negatives):
                yield f"{label}: always {int(train.positives > 0)} where it is known in the split 'train'"
            elif FEW <= min(train.positives, train.negatives) < SMALL:
                yield (
                    f"{label}: the split 'train' has {_describe(train)}, a small log: boosted trees may order as "
                    "well or better; `corank compare RUN trees` tells"
                )
            if "valid" not in self.splits:
                continue
            counts = self.splits["valid"].labels[label]
            if min(counts.positives, counts.negatives) < FEW:
                yield (
                    f"{label}: the split 'valid' has {_describe(counts)}; its figures and the calibration "
                    "are uncertain"
                )

    def _idle_losses(self) -> Iterator[str]:
        total = self.config.total
        for name, loss in total.select(None):
            if loss.weight > 0 and not loss.targets(self.splits["train"], total.funnel).rows:
                yield (
                    f"{name}: no candidate of the split 'train' is in its population, or has another of its request to "
                    "be compared with, so it trains nothing"
                )

    def _strange_levels(self) -> Iterator[str]:
        data = self.config.data
        for label, elsewhere in self.misplaced.items():
            where = ", ".join(f"{count:,} at '{level}'" for level, count in elsewhere.items())
            yield (
                f"{label}: the column '{data.labels[label].column}' is 1 in rows above the exposed level "
                f"({where}), which are ignored"
            )
        filled = [
            (name, n) for name, n in zip(data.levels, self.splits["train"].levels, strict=True) if n > 0
        ]
        grows = all(a < b for (_, a), (_, b) in pairwise(filled))
        if data.level and data.weight is None and len(filled) > 1 and grows:
            counts = ", ".join(f"{name} {n:,}" for name, n in filled)
            yield (
                f"data.levels: deeper levels have more candidates ({counts}); are they from shallow to deep, and if "
                "cut candidates were sampled, should data.weight say how?"
            )

    def _single_buckets(self) -> Iterator[str]:
        for name in self.single:
            yield (
                f"features.{name}: all its training values lie in one bucket, so that it tells no candidate from "
                "another; drop it, or mend what it is made of"
            )


def find_single_buckets(packed: PackedDataset) -> list[str]:
    """Find the features that packing could cut into one bucket alone."""
    fitted = packed.encoders.fitted.items()
    return [name for name, encoder in fitted if isinstance(encoder, Bucket) and not len(encoder.edges)]


def _scarcest(split: SplitCounts, label: str, metric: str) -> int:
    """The positives or negatives of a label, whichever are fewer; for a metric of requests those that have both."""
    if "request" in validation_metrics()[metric].inputs:
        return split.mixed[label].requests
    return min(split.labels[label].positives, split.labels[label].negatives)


def _enlarge_split(found: int) -> str:
    """What to write where all but the test holds so many: shares with half as many again as are needed."""
    tenths = max(1, -(-15 * FEWEST // found))
    if tenths > MOST_TENTHS:
        return "the log is too small to stop by; write train.epochs: 10, and no train.early_stop"
    return f"write data.split: {{valid: 0.{tenths}, test: 0.{tenths}}}"


def _describe(label: LabelCounts) -> str:
    reasons = {
        "null": label.null,
        "not given": label.excluded,
        "not mature": label.immature,
    }
    unknown = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    return (
        f"{label.positives:,} positives and {label.negatives:,} negatives among {label.exposed:,} exposed rows"
        + (f" ({unknown})" if unknown else "")
    )


def _defined(metric: str, classes: list[float]) -> bool:
    """Whether a validation metric has a value for rows of some classes, all of one user and request."""
    if not classes:
        return False
    n = len(classes)
    inputs = {
        "user": np.zeros(n, dtype=np.int64),
        "request": np.zeros(n, dtype=np.int64),
        "day": np.zeros(n, dtype=np.int64),
        "logit": np.arange(n, dtype=np.float32),
        "probability": np.full(n, 0.5, dtype=np.float32),
        "label": np.array(classes, dtype=np.int8),
        "weight": np.ones(n, dtype=np.float32),
    }
    measure = validation_metrics()[metric].measure(inputs)
    return measure is not None and measure.value() is not None
