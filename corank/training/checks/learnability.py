"""Findings on what can be learnt: an error where nothing can, a warning where little can or the log looks wrong.

Warnings are also of losses that drown others, and of draws that a stage recognises by what is missing.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from corank.batches.sampling import SOURCES, LabelCounts, SplitCounts
from corank.core.yaml_names import quote
from corank.metrics.metric import validation_metrics
from corank.training.checks.findings import Finding
from corank.training.checks.profile import Profile

FEWEST_STEPS = 50
"""Fewer optimiser steps cause a warning: in simulated worlds 30 steps of 256 requests lost .03 of the
recall and .01 of the AUC of 60, and many smaller ones gained nothing (docs/results/joint-training.md)."""
FEW = 100
"""Fewer positives or negatives cause a warning: the AUC's standard error is then .03 or more."""
SMALL = 1000
"""With fewer positives or negatives in training, boosted trees may learn more (docs/results/logs.md)."""
FEWEST = 10
"""Fewer positives or negatives, or requests with both, cannot tell one epoch from another: with so many positives the
AUC's standard error is .09, so that the interval of a guess reaches .68."""
MOST_TENTHS = 3
"""Of a log, to validate; one that needs more is too small to stop by."""

# Errors


def reads_outcomes(profile: Profile) -> Iterator[Finding]:
    """What is read that looks known only after the request."""
    for column, (reader, why) in profile.outcomes.items():
        said = (
            f"its column '{column}' looks like an outcome, known only after the request: {why}; drop it, or, if it is "
            f"known before, write known_before: [{column}]"
        )
        yield Finding("error", reader, said)


def nothing_to_learn(profile: Profile) -> Iterator[Finding]:
    """Labels of a stage whose losses get no positives, or no negatives."""
    counts = profile.train.labels
    for learner in profile.learners:
        targets = profile.targets(learner, "train")
        lacks = " and no ".join(kind for kind in ("positives", "negatives") if not getattr(targets, kind))
        if learner.losses and lacks:
            losses = ", ".join(name for name, _ in learner.losses)
            said = (
                f"stage '{learner.stage}' cannot learn '{learner.label}' from the split 'train': its losses ({losses}) "
                f"get no {lacks}; {_describe(counts[learner.label])}; {_remedy(profile, learner.label)}"
            )
            yield Finding("error", "losses", said)


def nothing_to_fit(profile: Profile) -> Iterator[Finding]:
    """Labels of a stage that is fitted, without positives or negatives."""
    counts = profile.train.labels
    for stage in profile.config.stages:
        for label in stage.labels if stage.fitted else ():
            if not (counts[label].positives and counts[label].negatives):
                said = (
                    f"'{stage.name}' cannot be fitted to '{label}' of the split 'train': {_describe(counts[label])}; "
                    f"{_remedy(profile, label)}"
                )
                yield Finding("error", "stages", said)


def nothing_to_stop_by(profile: Profile) -> Iterator[Finding]:
    """A metric to stop by that has no value, or rests on too little."""
    stop = profile.config.train.early_stop
    if stop is None:
        return
    _, label, name = stop.metric.rsplit(".", 2)
    split = profile.splits["valid"]
    counts, mixed = split.labels[label], split.mixed[label].requests
    classes = [1.0] * bool(counts.positives) + [0.0] * bool(counts.negatives)
    lacks = _describe(counts)
    if "request" in validation_metrics()[name].inputs:
        longest = max((size for size, requests in split.sizes[-1].items() if requests), default=0)
        classes = [1.0] + [0.0] * (longest - 1) if mixed else []
        lacks = (
            f"{mixed:,} of {split.requests:,} requests show a 1 and a 0, none more than {longest} candidates"
        )
    few, defined = _scarcest(split, label, name), _defined(name, classes)
    if defined and (few >= FEWEST or profile.continues or _defined(name, [0.0])):
        return
    state = "rests on too little to tell epochs apart" if defined else "has no value"
    remedy = "change data.split, or stop by another metric"
    if few < FEWEST and (found := few + _scarcest(profile.train, label, name)):
        remedy = f"{FEWEST} of each are needed: {_enlarge_split(found)}"
    said = f"'{stop.metric}' {state} in the split 'valid': {lacks}; {remedy}"
    yield Finding("error", "train.early_stop.metric", said)


# Warnings


def few_steps(profile: Profile) -> Iterator[Finding]:
    """Stages and teachers that train for few optimiser steps, unless they go on from others."""
    if profile.continues:
        return
    an_epoch = profile.config.train.steps_of_epoch(profile.train.requests)
    for name, epochs in reversed(profile.config.turns.items()):
        steps = epochs * an_epoch
        if 0 < steps < FEWEST_STEPS:
            whose = "training lasts" if name is None else f"'{name}' trains"
            said = (
                f"{whose} for {steps:,} steps at most; below {FEWEST_STEPS} a model may have learnt little: compare "
                "with epochs: auto and requests: auto, which plan some 600"
            )
            yield Finding("warning", "train", said)


def constant_labels(profile: Profile) -> Iterator[Finding]:
    """Labels that are always 0, or always 1."""
    for label in profile.labels:
        train = profile.train.labels[label]
        if train.known and not (train.positives and train.negatives):
            always = int(train.positives > 0)
            yield Finding("warning", label, f"always {always} where it is known in the split 'train'")


def unread_outcomes(profile: Profile) -> Iterator[Finding]:
    """Labels that are known everywhere, of which no loss learns."""
    read = {label for loss in profile.config.losses if loss.weight > 0 for label in loss.needed_labels()}
    for label in profile.config.data.everywhere:
        if label not in read and (positives := profile.train.labels[label].positives):
            stage = profile.config.stages[0]
            head = "" if stage.main == "click" else f", label: {stage.main}"
            said = (
                f"no loss learns it, although it is known everywhere, and 1 for {positives:,} candidates of 'train'; "
                f"add {{kind: outcome, stage: {stage.name}{head}, of: {label}, weight: 0.03}}"
            )
            yield Finding("warning", label, said)


def untaught_stages(profile: Profile) -> Iterator[Finding]:
    """Stages before fitted trees that learn from labels alone: trees of other rows could teach them."""
    *stages, last = profile.config.stages
    taught = {loss.learner for loss in profile.config.losses if loss.teachers}
    for student in stages if last.fitted else ():
        if student.fitted or student.name in taught:
            continue
        label, level = quote(student.main), quote(profile.config.data.levels[-1])
        teacher = quote(f"{last.name}_trees")
        named = f"kind: distill, teacher: {teacher}, student: {quote(student.name)}"
        trees = f"--set 'tree_teachers=[{{name: {teacher}, label: {label}}}]'"
        loss = f"losses.{len(profile.config.losses)}={{{named}, label: {label}, on: [{level}]}}"
        said = f"learns from labels alone, not from the trees of '{last.name}'; add {trees} --set '{loss}'"
        yield Finding("advice", f"stages.{student.name}", said)


def untrained_labels(profile: Profile) -> Iterator[Finding]:
    """Labels of a stage that no loss trains."""
    fitted = {stage.name for stage in profile.config.stages if stage.fitted}
    for learner in profile.learners:
        if not learner.losses and learner.stage not in fitted:
            yield Finding("warning", learner.name, "no loss trains it")


def few_to_learn_from(profile: Profile) -> Iterator[Finding]:
    """Labels of a stage whose losses get few positives, or few negatives."""
    for learner in profile.learners:
        targets = profile.targets(learner, "train")
        if 0 < min(targets.positives, targets.negatives) < FEW:
            fewer = min(("positives", "negatives"), key=lambda kind: getattr(targets, kind))
            said = f"only {getattr(targets, fewer):,} {fewer} in the split 'train'"
            yield Finding("warning", learner.name, said)


def idle_losses(profile: Profile) -> Iterator[Finding]:
    """Losses that train nothing."""
    total = profile.config.total
    for name, loss in total.select(None):
        if loss.weight > 0 and not loss.targets(profile.train, total.funnel).rows:
            said = (
                "no candidate of the split 'train' is in its population, or has another of its request to be compared "
                "with, so it trains nothing"
            )
            yield Finding("warning", name, said)


def misplaced_labels(profile: Profile) -> Iterator[Finding]:
    """Labels that are 1 above the exposed level."""
    for label, elsewhere in profile.misplaced.items():
        where = ", ".join(f"{count:,} at '{level}'" for level, count in elsewhere.items())
        said = (
            f"the column '{profile.config.data.labels[label].column}' is 1 in rows above the exposed level ({where}), "
            "which are ignored"
        )
        yield Finding("warning", label, said)


def growing_levels(profile: Profile) -> Iterator[Finding]:
    """Levels that hold the more candidates, the deeper they are."""
    data, counts = profile.config.data, profile.train.levels
    filled = [(name, n) for name, n in zip(data.levels, counts, strict=True) if n > 0]
    grows = all(a < b for (_, a), (_, b) in pairwise(filled))
    if data.level and data.weight is None and len(filled) > 1 and grows:
        held = ", ".join(f"{name} {n:,}" for name, n in filled)
        said = (
            f"deeper levels have more candidates ({held}); are they from shallow to deep, and if cut candidates were "
            "sampled, should data.weight say how?"
        )
        yield Finding("warning", "data.levels", said)


def no_validation(profile: Profile) -> Iterator[Finding]:
    """A split without `valid`."""
    if "valid" not in profile.config.data.split_names:
        said = (
            "there is no split 'valid', so probabilities are not calibrated and no figures are computed while "
            "training; a few hours of 'valid' at the end give both"
        )
        yield Finding("warning", "data.split", said)


def outweighing_losses(profile: Profile) -> Iterator[Finding]:
    """Losses that begin too large compared with the pointwise losses of their stage.

    Before it has learnt, a stage has a cross-entropy of the label's entropy, .17 at a rate of 4 %, and a softmax
    over n items of ln n, 8 at 3,000: at a weight of .1 the second is nearly five times the first.
    """
    config, counts = profile.config, profile.train
    total = config.total
    values = (
        (name, loss, loss.untrained_value(counts, total.funnel, config.train.batch_size) or 0.0)
        for name, loss in total.select(None)
    )
    sized = [(name, loss, loss.weight * value) for name, loss, value in values]
    for name, loss, size in sized:
        others = sum(s for _, one, s in sized if one.pointwise and one.learner == loss.learner)
        if not loss.pointwise and 0 < others * loss.max_initial_ratio < size:
            most = loss.weight * others * loss.max_initial_ratio / size
            said = (
                f"begins {size / others:.1f} times as large as the click losses of '{loss.learner}' ({size:.2f} "
                f"against {others:.2f}, weights included), so that the stage learns it rather than to order what is "
                f"shown; take a weight below {most:.2g}"
            )
            yield Finding("warning", name, said)


def leaky_negatives(profile: Profile) -> Iterator[Finding]:
    """Losses of draws beyond the log, whose stage reads what is missing there and not elsewhere."""
    total = profile.config.total
    for name, loss in total.select(None):
        drawn = [source for source, code in SOURCES.items() if code in loss.population(total.funnel)]
        for learner in total.trained_by(loss) if loss.weight > 0 and drawn else ():
            if missing := total.funnel.logged_inputs.get(learner):
                said = (
                    f"candidates drawn beyond the log ({', '.join(drawn)}) have no {', '.join(missing)}, which "
                    f"'{learner}' reads: it learns to tell them by what is missing, which candidates online have; take "
                    "logged levels, or a stage that does not read it"
                )
                yield Finding("warning", name, said)


def few_to_validate(profile: Profile) -> Iterator[Finding]:
    """Labels with few positives, or few negatives, to validate by."""
    for label in profile.labels if "valid" in profile.splits else ():
        counts = profile.splits["valid"].labels[label]
        if min(counts.positives, counts.negatives) < FEW:
            said = f"the split 'valid' has {_describe(counts)}; its figures and the calibration are uncertain"
            yield Finding("warning", label, said)


def small_log(profile: Profile) -> Iterator[Finding]:
    """Labels with so few positives, or negatives, that boosted trees may do as well."""
    for label in profile.labels:
        train = profile.train.labels[label]
        if FEW <= min(train.positives, train.negatives) < SMALL:
            said = (
                f"the split 'train' has {_describe(train)}, a small log: boosted trees may order as well or better; "
                "`corank compare RUN trees` tells"
            )
            yield Finding("warning", label, said)


def single_buckets(profile: Profile) -> Iterator[Finding]:
    """Features that packing could cut into one bucket alone."""
    for name in profile.single:
        said = (
            "all its training values lie in one bucket, so that it tells no candidate from another; drop it, or mend "
            "what it is made of"
        )
        yield Finding("warning", f"features.{name}", said)


def _remedy(profile: Profile, label: str) -> str:
    split = profile.train
    counts = split.labels[label]
    if counts.positives and counts.negatives and not split.mixed[label].requests:
        return (
            f"but none of {split.requests:,} requests holds both, and losses over lists compare candidates of one "
            "request: take {kind: click}, or a request key that joins what was shown together"
        )
    data, column = profile.config.data, profile.config.data.labels[label].column
    if elsewhere := profile.misplaced.get(label):
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
    reasons = {"null": label.null, "not given": label.excluded, "not mature": label.immature}
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
