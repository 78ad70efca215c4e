"""Arms: configs that are compared with others by name, and the changes of a config that make the arms of a study.

An arm is trained at several rates (a factor on all its learning rates) and seeds; arms that come out as the same
config are one. A change takes the plain values of a config and returns the changed ones.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.losses.base import LOSSES
from corank.models.settings.stage import StageSettings
from corank.training.config.config import Config
from corank.training.config.config_file import (
    Plain,
    plain,
    plain_stage,
    schema_of,
    stage_settings,
    without_features,
)
from corank.training.config.settings import DenseOptimiser

BASE = "as written"


@dataclass(frozen=True)
class Arm:
    """A config with one change, by name."""

    name: str
    config: Config

    def at(self, rate: float, seed: int) -> Config:
        """The arm's config with all learning rates times `rate`, and the `seed`-th seed from the config's own."""
        value = plain(self.config)
        value["train"]["table"]["lr"] *= rate
        value["train"]["seed"] += seed
        for network in networks_of(value):
            scale_lr(value, network["name"], rate)
        return validate(Config, value, self.name)

    @property
    def identity(self) -> str:
        """A hash of the config at its own rate and seed."""
        return identity(self.at(1.0, 0))


def identity(config: Config) -> str:
    """A hash of a config without its name: 24 hex digits."""
    value = plain(config)
    del value["name"]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


Change = Callable[[Plain], Plain]


def networks_of(value: Plain) -> list[Plain]:
    """Stages and teachers."""
    return [*value["stages"], *value["teachers"]]


def optimiser_of(value: Plain, name: str, rate: float = 1.0) -> Plain:
    """Optimiser of a network, its learning rate times `rate`."""
    optimiser = value["train"].get(name) or DenseOptimiser().model_dump(mode="json")
    return optimiser | {"lr": optimiser["lr"] * rate}


def scale_lr(value: Plain, name: str, factor: float) -> Plain:
    """Multiply the learning rate of a network or of the table."""
    value["train"][name] = optimiser_of(value, name, factor)
    return value


def scale_widths(value: Plain, factor: float) -> Plain:
    """Multiply the widths of all layers."""
    return _change_stages(value, lambda stage: stage.scale_widths(factor))


def train_jointly(value: Plain) -> Plain:
    """Train all stages in one step over shared tables."""
    value["train"]["mode"] = "joint"
    for stage in value["stages"]:
        stage |= {"embeddings": "shared", "table_gradient": True}
    return value


def with_own_tables(value: Plain) -> Plain:
    """Give every network tables of its own."""
    for network in networks_of(value):
        network |= {"embeddings": "own", "table_gradient": True}
    return value


def train_separately(value: Plain) -> Plain:
    """Train one stage after another, each with tables of its own."""
    value["train"] |= {"mode": "separate", "early_stop": None}
    return with_own_tables(value)


def with_losses(value: Plain, losses: list[Plain]) -> Plain:
    """Replace the losses, and drop teachers that no loss learns from."""
    taught = {name for loss in losses for name in LOSSES[loss["kind"]].model_validate(loss).teachers}
    gone = [teacher["name"] for teacher in value["teachers"] if teacher["name"] not in taught]
    value["losses"] = losses
    value["tree_teachers"] = [
        tree_teacher for tree_teacher in value["tree_teachers"] if tree_teacher["name"] in taught
    ]
    value["teachers"] = [teacher for teacher in value["teachers"] if teacher["name"] not in gone]
    value["train"] = {key: setting for key, setting in value["train"].items() if key not in gone}
    return value


def _click_losses(value: Plain) -> list[Plain]:
    """The click losses of the config, and one for each stage that has none."""
    clicks = [loss for loss in value["losses"] if loss["kind"] == "click"]
    for stage in value["stages"]:
        if stage["name"] not in [loss["stage"] for loss in clicks]:
            clicks.append({"kind": "click", "stage": stage["name"], "label": main_label(stage)})
    return clicks


def main_label(stage: Plain) -> str:
    """The label that a stage's value names first."""
    return stage_settings(stage).main


def _change_stages(value: Plain, change: Callable[[StageSettings], StageSettings]) -> Plain:
    """The config with each stage changed."""
    value["stages"] = [plain_stage(change(stage_settings(stage))) for stage in value["stages"]]
    return value


def learn_clicks_alone(value: Plain) -> Plain:
    """Train jointly on clicks alone: one network with two heads."""
    return with_losses(train_jointly(value), _click_losses(value))


def learn_own_samples(value: Plain) -> Plain:
    """Train each stage on samples of its own, and distil the last stage into the first.

    The first stage takes candidates of the last level but one as negatives.
    """
    first, data, losses = value["stages"][0], value["data"], _click_losses(value)
    named = {"stage": first["name"], "label": main_label(first)}
    if data["level"] is not None and len(data["levels"]) > 1:
        losses.append({"kind": "unexposed", **named, "from": [data["levels"][-2]]})
    distill = _distill_loss(value) | {"on": [data["levels"][-1]]}
    return with_losses(train_jointly(value), [*losses, distill])


def _distill_loss(value: Plain) -> Plain:
    """The config's distillation of the last stage into the first; otherwise one on candidates that passed the first."""
    first, last = value["stages"]
    for loss in value["losses"]:
        if loss["kind"] == "distill" and (loss["teacher"], loss["student"]) == (last["name"], first["name"]):
            return dict(loss)
    levels = value["data"]["levels"]
    passed = 1 + max((levels.index(level) for level in first["cuts"]), default=len(levels) - 2)
    named = {"teacher": last["name"], "student": first["name"], "label": main_label(first)}
    return {"kind": "distill", **named, "on": levels[passed:]}


def _unexposed_loss(value: Plain) -> Plain:
    """A loss on unexposed negatives: candidates that the first stage cut; without levels, items of the catalogue."""
    first = value["stages"][0]
    logged = value["data"]["level"] is not None and first["cuts"]
    named = {"stage": first["name"], "label": main_label(first), "weight": 0.5}
    return {
        "kind": "unexposed",
        **named,
        "from": first["cuts"] if logged else ["catalogue"],
        "per_request": 10,
    }


def set_consistency(value: Plain, distilled: bool, unexposed: bool) -> Plain:
    """Give the first stage distillation, unexposed negatives, both or neither; keep other losses."""
    return _set_loss(set_distillation(value, distilled), "unexposed", "stage", _unexposed_loss, unexposed)


def set_distillation(value: Plain, wanted: bool) -> Plain:
    """Give the first stage distillation, or take it away."""
    return _set_loss(value, "distill", "student", _distill_loss, wanted)


def _set_loss(
    value: Plain, kind: str, learner: str, default: Callable[[Plain], Plain], wanted: bool
) -> Plain:
    """Keep the first stage's losses of a kind, or add the default if it has none; or remove them all."""
    first = value["stages"][0]["name"]
    own = [loss for loss in value["losses"] if loss["kind"] == kind and loss[learner] == first]
    if not wanted:
        return with_losses(value, [loss for loss in value["losses"] if loss not in own])
    return value if own else with_losses(value, [*value["losses"], default(value)])


def without_crosses(value: Plain) -> Plain:
    """Remove the crosses of query and item. Raises ConfigError if there are none."""
    crosses = list(schema_of(value).row_features("cross"))
    if not crosses:
        raise ConfigError("features: none is a cross of query and item, so there is nothing to remove")
    return without_features(value, crosses)


def priors_of(value: Plain) -> list[str]:
    """Names of the priors."""
    return list(schema_of(value).priors())


def query_crosses_of(value: Plain) -> list[str]:
    """Names of features derived from user and context, which towers may read; priors too."""
    schema = schema_of(value)
    return [name for name in schema.derived("query") if schema.side(name) == "context"]


def with_structures(value: Plain, structures: tuple[int, int]) -> Plain:
    """The config with the stage model and the widths of its stage `structures[n]` in its `n`-th stage."""
    stages = [stage_settings(stage) for stage in value["stages"]]
    built = [stages[of].in_role_of(stage) for of, stage in zip(structures, stages, strict=True)]
    value["stages"] = [plain_stage(stage) for stage in built]
    return with_losses(value, [loss for loss in value["losses"] if _fits(loss, built)])


def _fits(loss: Plain, stages: Sequence[StageSettings]) -> bool:
    """Whether the stage of a loss still has the label, and what else the loss needs."""
    for stage in stages:
        if loss.get("stage") == stage.name:
            return (
                loss.get("label") in [None, *stage.labels]
                and (loss["kind"] != "in_batch" or stage.orders_by_product)
                and set(LOSSES[loss["kind"]].extras) <= set(stage.extras)
            )
    return True


LEVELS_OF = {"unexposed": "from", "distill": "on"}
"""Kinds of losses that a source of samples may have one of → the key of their levels."""


def learn_info_nce(value: Plain, margin: float = 0.0, beside: bool = False) -> Plain:
    """Train the first stage by `info_nce` over all levels, in place of its unexposed losses or in addition."""
    return _learn_levels(value, {"kind": "info_nce", "margin": margin}, beside)


def learn_ranknet(value: Plain) -> Plain:
    """Train the first stage by pairs of all levels, in place of its unexposed losses."""
    return _learn_levels(value, {"kind": "levels", "form": "ranknet"}, beside=False)


def _learn_levels(value: Plain, loss: Plain, beside: bool) -> Plain:
    """Give the first stage a loss over all levels; without levels, over the catalogue and exposures."""
    first, data = value["stages"][0], value["data"]
    logged = data["level"] is not None and len(data["levels"]) > 1
    on = data["levels"] if logged else ["catalogue", data["levels"][-1]]
    named = {"stage": first["name"], "label": main_label(first)}
    kept = [one for one in value["losses"] if beside or not _is_of(one, first["name"], "unexposed")]
    return with_losses(value, [*kept, loss | named | {"on": on, "per_request": 10, "weight": 0.3}])


def split_by_source(value: Plain) -> Plain:
    """Give each source of the first stage's samples a loss of its own, with its share of the weight.

    Each level of its unexposed losses and distillations becomes one, and the catalogue, unless it is among them.
    """
    stage, losses = value["stages"][0], list[Plain]()
    for loss in value["losses"]:
        key = LEVELS_OF.get(loss["kind"]) if _is_of(loss, stage["name"], *LEVELS_OF) else None
        if key is None:
            losses.append(loss)
        else:
            levels = loss[key]
            losses += [loss | {key: [level], "weight": loss["weight"] / len(levels)} for level in levels]
    own = [loss for loss in losses if _is_of(loss, stage["name"], *LEVELS_OF)]
    drawn = [loss for loss in own if loss[LEVELS_OF[loss["kind"]]] == ["catalogue"]]
    if not drawn:
        named = {"stage": stage["name"], "label": main_label(stage)}
        losses.append({"kind": "unexposed", **named, "from": ["catalogue"], "per_request": 10, "weight": 0.1})
    return with_losses(value, losses)


def distil_catalogue(value: Plain) -> Plain:
    """Let the first stage learn the last one's scores of items of the catalogue, in addition to its other losses."""
    first, last = value["stages"][0], value["stages"][-1]
    names = {"kind": "distill", "teacher": last["name"], "student": first["name"], "label": main_label(first)}
    drawn = {"on": ["catalogue"], "per_request": 10, "weight": 0.5, "warm_up": _warm_up(value)}
    return with_losses(value, [*value["losses"], names | drawn])


def _warm_up(value: Plain) -> int:
    """As many steps as a distillation of the config takes to warm up; 0 if there is none."""
    return max((loss["warm_up"] for loss in value["losses"] if loss["kind"] == "distill"), default=0)


def _is_of(loss: Plain, stage: str, *kinds: str) -> bool:
    """Whether a loss is of some kinds, and the stage learns from it."""
    return loss["kind"] in kinds and stage in (loss.get("stage"), loss.get("student"))


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
