"""A config → the arms of a study, each one change away from it.

An arm is trained at several rates (a factor on all its learning rates) and seeds; arms that come out as the same
config are one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from corank.analysis.study.config_changes import (
    Change,
    learn_clicks_alone,
    learn_own_samples,
    optimiser_of,
    priors_of,
    query_crosses_of,
    scale_lr,
    scale_widths,
    set_consistency,
    set_distillation,
    train_jointly,
    train_separately,
    with_own_tables,
    with_structures,
    without_crosses,
)
from corank.analysis.study.sample_changes import (
    distil_catalogue,
    learn_info_nce,
    learn_ranknet,
    split_by_source,
)
from corank.analysis.trials.arm import BASE, Arm
from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.training.config import Config
from corank.training.config_file import plain
from corank.training.feature_changes import without_features

STEP = 3.0
"""Factor between learning rates that question 4 compares."""


@dataclass(frozen=True)
class ArmSet:
    """The arms of one question, the base first, and the changes that did not give an arm."""

    arms: list[Arm]
    same: dict[str, str]
    """Name of an arm that comes out the same as another → that one."""
    refused: dict[str, str]
    """Name of an arm that the config does not allow → the reason."""


def build_arms(config: Config, questions: Iterable[int]) -> dict[int, ArmSet]:
    """The arms that each question needs.

    Raises ConfigError unless there are two stages, of which the first alone has item vectors.
    """
    if [stage.has_vectors for stage in config.stages] != [True, False]:
        raise ConfigError(
            "stages: a study compares two stages, the first with item vectors, such as `model: towers`, the last "
            f"without, such as `model: mlp`; found {', '.join(stage.model for stage in config.stages)}"
        )
    changes = _changes(config)
    return {question: _derive_arms(config, changes.get(question, {})) for question in questions}


def _derive_arms(config: Config, changes: dict[str, Change]) -> ArmSet:
    base = Arm(BASE, config)
    arms, same, refused = {base.identity: base}, {}, {}
    for name, change in changes.items():
        try:
            arm = Arm(name, validate(Config, change(plain(config)), name))
        except ConfigError as error:
            refused[name] = str(error)
            continue
        if arms.setdefault(arm.identity, arm) is not arm:
            same[name] = arms[arm.identity].name
    return ArmSet(list(arms.values()), same, refused)


def _changes(config: Config) -> dict[int, dict[str, Change]]:
    """Question → name of the arm → change. Questions 5 and 7 use the base alone."""
    architecture: dict[str, Change] = {
        "joint, shared embeddings": train_jointly,
        "joint, own embeddings": lambda value: with_own_tables(train_jointly(value)),
        "alternating steps": lambda value: value | {"train": value["train"] | {"mode": "alternate"}},
        "separate, the ranker first": train_separately,
        "recipe: own samples, distilled": learn_own_samples,
        "recipe: one network, two heads": learn_clicks_alone,
    }
    consistency: dict[str, Change] = {
        "distillation and unexposed": lambda value: set_consistency(value, True, True),
        "distillation alone": lambda value: set_consistency(value, True, False),
        "unexposed alone": lambda value: set_consistency(value, False, True),
        "neither": lambda value: set_consistency(value, False, False),
    }
    samples: dict[str, Change] = {
        "InfoNCE in place of unexposed": learn_info_nce,
        "InfoNCE with a margin": lambda value: learn_info_nce(value, margin=1.0),
        "RankNet in place of unexposed": learn_ranknet,
        "InfoNCE beside the losses": lambda value: learn_info_nce(value, beside=True),
        "a loss a source, and the catalogue": split_by_source,
        "the ranker's scores of the catalogue": distil_catalogue,
    }
    priors, crosses = priors_of(plain(config)), query_crosses_of(plain(config))
    first, last = (stage.model for stage in config.stages)
    towers: dict[str, Change] = {
        "with distillation": lambda value: set_distillation(value, True),
        "without distillation": lambda value: set_distillation(value, False),
        "no crosses, with distillation": lambda value: without_crosses(set_distillation(value, True)),
        "no crosses, without distillation": lambda value: without_crosses(set_distillation(value, False)),
    }
    if priors:
        towers["no priors"] = lambda value: without_features(value, priors_of(value))
    if crosses:
        towers["no user × context crosses"] = lambda value: without_features(value, query_crosses_of(value))
    return {
        1: architecture,
        2: architecture | consistency,
        3: {
            f"{last}, then {last}": lambda value: with_structures(value, (1, 1)),
            f"{first}, then {first}": lambda value: with_structures(value, (0, 0)),
            f"{last}, then {first}": lambda value: with_structures(value, (1, 0)),
        },
        4: _settings(config),
        6: consistency,
        8: towers,
        9: samples,
    }


def _settings(config: Config) -> dict[str, Change]:
    first, last = (stage.name for stage in config.stages)
    changes: dict[str, Change] = {
        "half the widths": lambda value: scale_widths(value, 0.5),
        "twice the widths": lambda value: scale_widths(value, 2),
    }
    for name in (first, "table"):
        changes[f"{name} lr × {STEP:g}"] = lambda value, name=name: scale_lr(value, name, STEP)  # type: ignore[misc]
        changes[f"{name} lr ÷ {STEP:g}"] = lambda value, name=name: scale_lr(value, name, 1 / STEP)  # type: ignore[misc]
    rates = {name: optimiser_of(plain(config), name)["lr"] for name in (first, last)}
    changes["one lr for both stages"] = lambda value: scale_lr(value, first, rates[last] / rates[first])
    return changes
