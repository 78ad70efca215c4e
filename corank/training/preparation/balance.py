"""Settings that would make a training useless, reported before it starts.

Losses that drown others, draws that a stage recognises by what is missing, and averages too long.
"""

from collections.abc import Iterator

from corank.batches.label_counts import SplitCounts
from corank.batches.sampling import SOURCES
from corank.training.config import Config

FEWEST_STEPS = 50
"""Fewer optimiser steps cause a warning: in simulated worlds 30 steps of 256 requests lost .03 of the
recall and .01 of the AUC of 60, and many smaller ones gained nothing (docs/results/defaults.md)."""
LASTED = 5
"""A training that lasts so many times as far as its average reaches back has .7 % of the first weights left."""


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


def long_averages(config: Config, requests: int) -> Iterator[str]:
    """Report stages and teachers that train for fewer steps than the average of the weights reaches back.

    The average begins at the first weights, of which it holds dᵗ after t steps.

    Args:
        config: its `train`.
        requests: of the training split.
    """
    decay = config.train.average
    if decay is None:
        return
    for whose, steps in _lasting(config, requests):
        if 0 < steps < 1 / (1 - decay):
            shorter = (
                f"write {1 - LASTED / steps:.4g} or less, or drop it" if steps > 2 * LASTED else "drop it"
            )
            yield (
                f"train.average: {whose} for about {steps:,} steps, and an average of {decay:g} reaches back over "
                f"{1 / (1 - decay):,.0f}: {decay**steps:.0%} of what is shipped would be the first, random "
                f"weights; {shorter}"
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
