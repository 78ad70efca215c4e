"""Arms: configs that are compared with others by name, and the named changes of a config that make them.

An arm is trained at several rates (a factor on all its learning rates) and seeds; arms that come out as the same
config are one. A named change takes the plain values of a config of two stages and returns the changed ones.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.features.log_schema import DataSettings
from corank.losses.base import LOSSES
from corank.models.settings.stage import StageSettings
from corank.training.config.config import Config
from corank.training.config.config_file import (
    Plain,
    plain,
    plain_stage,
    schema_of,
    split_page,
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
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What was changed, as a result shows it."""

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
    """A hash of a config without its name, and what follows a training: 24 hex digits."""
    value = plain(config)
    del value["name"], value["baseline"]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class ArmSet:
    """Arms that differ, the base first, and the changes that did not give an arm."""

    arms: list[Arm]
    same: dict[str, str]
    """Name of an arm that comes out the same as another → that one."""
    refused: dict[str, str] = field(default_factory=dict)
    """Name of an arm that the config does not allow → the reason."""
    title: str = ""
    """What they answer."""

    @classmethod
    def of(
        cls, base: Config, arms: Sequence[Arm], refused: Mapping[str, str] | None = None, title: str = ""
    ) -> "ArmSet":
        """The config as written, and arms, each config once."""
        written = Arm(BASE, base)
        by_identity, same = {written.identity: written}, {}
        for arm in arms:
            if (first := by_identity.setdefault(arm.identity, arm)) is not arm:
                same[arm.name] = first.name
        return cls(list(by_identity.values()), same, dict(refused or {}), title)

    def with_data(self, data: DataSettings) -> "ArmSet":
        """The arms on other `data`, which no arm changes."""
        arms = [replace(arm, config=arm.config.model_copy(update={"data": data})) for arm in self.arms]
        return replace(self, arms=arms)

    @property
    def notes(self) -> list[str]:
        """A sentence for each change that did not give an arm."""
        same = [f"“{name}” comes out the same as “{other}”." for name, other in self.same.items()]
        return same + [f"“{n}” cannot be built of this config: {why}." for n, why in self.refused.items()]


def format_values(values: Mapping[str, Any]) -> list[str]:
    """Settings as `KEY=VALUE`, numbers with four significant digits."""
    return [f"{key}={format_value(value)}" for key, value in values.items()]


def format_value(value: Any) -> str:
    """A setting's value with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def networks_of(value: Plain) -> list[Plain]:
    """Stages and teachers."""
    return [*_stages(value), *value["teachers"]]


def _stages(value: Plain) -> list[Plain]:
    """The stages that are networks: all but the page."""
    stages: list[Plain] = split_page(value)[0]["stages"]
    return stages


def _optimiser_of(value: Plain, name: str) -> Plain:
    """Optimiser of a network, or of the table."""
    return value["train"].get(name) or DenseOptimiser().model_dump(mode="json")


def scale_lr(value: Plain, network: str, factor: float) -> Plain:
    """Multiply the learning rate of a network or of the table."""
    optimiser = _optimiser_of(value, network)
    value["train"][network] = optimiser | {"lr": optimiser["lr"] * factor}
    return value


def equal_lr(value: Plain) -> Plain:
    """Give the first stage the learning rate of the last."""
    first, last = value["stages"][0]["name"], _stages(value)[-1]["name"]
    factor = _optimiser_of(value, last)["lr"] / _optimiser_of(value, first)["lr"]
    return scale_lr(value, first, factor)


def scale_widths(value: Plain, factor: float) -> Plain:
    """Multiply the widths of all layers."""
    for n in range(len(_stages(value))):
        scale_stage(n, value, factor)
    return value


def scale_keep(value: Plain, factor: float) -> Plain:
    """Multiply what the first stage keeps, down to what the next one does."""
    first, second = _stages(value)[:2]
    first["keep"] = max(round(first["keep"] * factor), second["keep"])
    return value


def scale_stage(n: int, value: Plain, factor: float) -> Plain:
    """Multiply the widths of the layers of the `n`-th stage."""
    value["stages"][n] = plain_stage(stage_settings(value["stages"][n]).scale_widths(factor))
    return value


def train_jointly(value: Plain) -> Plain:
    """Train all stages in one step over shared tables."""
    value["train"]["mode"] = "joint"
    for stage in _stages(value):
        stage |= {"embeddings": "shared", "table_gradient": True}
    return value


def own_tables(value: Plain) -> Plain:
    """Give every network tables of its own."""
    for network in networks_of(value):
        network |= {"embeddings": "own", "table_gradient": True}
    return value


def with_losses(value: Plain, losses: list[Plain]) -> Plain:
    """Replace the losses, and drop teachers that no loss learns from."""
    taught = {name for loss in losses for name in LOSSES[loss["kind"]].model_validate(loss).teachers}
    gone = {teacher["name"] for teacher in value["teachers"]} - taught
    value["losses"] = losses
    for kind in ("teachers", "tree_teachers"):
        value[kind] = [teacher for teacher in value[kind] if teacher["name"] in taught]
    value["train"] = {key: setting for key, setting in value["train"].items() if key not in gone}
    return value


def _click_losses(value: Plain) -> list[Plain]:
    """The click losses of the config, and one for each stage that has none."""
    clicks = [loss for loss in value["losses"] if loss["kind"] == "click"]
    having = [loss["stage"] for loss in clicks]
    missing = [stage for stage in _stages(value) if stage["name"] not in having]
    return clicks + [{"kind": "click", **_named(stage)} for stage in missing]


def _named(stage: Plain) -> Plain:
    """A stage with the label that its value names first, as the keys of a loss."""
    return {"stage": stage["name"], "label": stage_settings(stage).main}


def clicks_alone(value: Plain) -> Plain:
    """Keep the losses on clicks alone."""
    return with_losses(value, _click_losses(value))


def own_samples(value: Plain) -> Plain:
    """Train each stage on samples of its own, and distil the last stage into the first.

    The first stage takes candidates of the last level but one as negatives.
    """
    data, losses = value["data"], _click_losses(value)
    if data["level"] is not None and len(data["levels"]) > 1:
        losses.append({"kind": "unexposed", **_named(value["stages"][0]), "from": [data["levels"][-2]]})
    distill = _distill_loss(value) | {"on": [data["levels"][-1]]}
    return with_losses(value, [*losses, distill])


def _distill_loss(value: Plain) -> Plain:
    """The config's distillation of the last stage into the first; otherwise one on candidates that passed the first."""
    first, last = _stages(value)
    for loss in value["losses"]:
        if loss["kind"] == "distill" and (loss["teacher"], loss["student"]) == (last["name"], first["name"]):
            return dict(loss)
    levels = value["data"]["levels"]
    passed = 1 + max((levels.index(level) for level in first["cuts"]), default=len(levels) - 2)
    named = {"teacher": last["name"], "student": first["name"], "label": stage_settings(first).main}
    return {"kind": "distill", **named, "on": levels[passed:]}


def _unexposed_loss(value: Plain) -> Plain:
    """A loss on unexposed negatives: candidates that the first stage cut; without levels, items of the catalogue."""
    first = value["stages"][0]
    logged = value["data"]["level"] is not None and first["cuts"]
    drawn = {"weight": 0.5, "from": first["cuts"] if logged else ["catalogue"], "per_request": 10}
    return {"kind": "unexposed", **_named(first), **drawn}


def distillation(value: Plain, wanted: bool) -> Plain:
    """Give the first stage distillation, or take it away."""
    return _set_loss(value, "distill", _distill_loss, wanted)


def unexposed(value: Plain, wanted: bool) -> Plain:
    """Give the first stage unexposed negatives, or take them away."""
    return _set_loss(value, "unexposed", _unexposed_loss, wanted)


def _set_loss(value: Plain, kind: str, default: Callable[[Plain], Plain], wanted: bool) -> Plain:
    """Keep the first stage's losses of a kind, or add the default if it has none; or remove them all."""
    own = [loss for loss in value["losses"] if _is_of(loss, value["stages"][0], kind)]
    if not wanted:
        return with_losses(value, [loss for loss in value["losses"] if loss not in own])
    return value if own else with_losses(value, [*value["losses"], default(value)])


def _is_of(loss: Plain, stage: Plain, *kinds: str) -> bool:
    """Whether a loss is of some kinds, and the stage learns from it."""
    return loss["kind"] in kinds and stage["name"] in (loss.get("stage"), loss.get("student"))


LEVELS_OF = {"unexposed": "from", "distill": "on"}
"""Kinds of losses that a source of samples may have one of → the key of their levels."""


def split_by_source(value: Plain) -> Plain:
    """Give each source of the first stage's samples a loss of its own, with its share of the weight.

    Each level of its unexposed losses and distillations becomes one, and the catalogue, unless it is among them.
    """
    stage, losses, sources = value["stages"][0], list[Plain](), list[Any]()
    for loss in value["losses"]:
        if not _is_of(loss, stage, *LEVELS_OF):
            losses.append(loss)
            continue
        key = LEVELS_OF[loss["kind"]]
        sources += loss[key]
        losses += [loss | {key: [level], "weight": loss["weight"] / len(loss[key])} for level in loss[key]]
    if "catalogue" not in sources:
        drawn = {"from": ["catalogue"], "per_request": 10, "weight": 0.1}
        losses.append({"kind": "unexposed", **_named(stage), **drawn})
    return with_losses(value, losses)


def structures(value: Plain, *of: int) -> Plain:
    """The config with the stage model and the widths of its stage `of[n]` in its `n`-th stage."""
    networks, pages = split_page(value)
    stages = [stage_settings(stage) for stage in networks["stages"]]
    built = [stages[source].in_role_of(stage) for source, stage in zip(of, stages, strict=True)]
    value["stages"] = [*map(plain_stage, built), *map(plain_stage, pages)]
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


def priors_of(value: Plain) -> list[str]:
    """Names of the priors."""
    return list(schema_of(value).priors())


def without_crosses(value: Plain) -> Plain:
    """Remove the crosses of query and item. Raises ConfigError if there are none."""
    return _without(value, schema_of(value).row_features("cross"), "cross of query and item")


def without_priors(value: Plain) -> Plain:
    """Remove the priors. Raises ConfigError if there are none."""
    return _without(value, priors_of(value), "prior")


def without_query_crosses(value: Plain) -> Plain:
    """Remove what is derived from user and context, which towers may read; priors too. Raises ConfigError."""
    schema = schema_of(value)
    names = [name for name in schema.derived("query") if schema.side(name) == "context"]
    return _without(value, names, "cross of user and context")


def _without(value: Plain, names: Iterable[str], what: str) -> Plain:
    if not (gone := list(names)):
        raise ConfigError(f"features: none is a {what}, so there is nothing to remove")
    return without_features(value, gone)


Change = Callable[..., Plain]
_NETWORKS: list[Change] = [scale_lr, equal_lr, scale_widths, scale_keep, train_jointly, own_tables]
_LOSSES: list[Change] = [clicks_alone, own_samples, distillation, unexposed, split_by_source, structures]
_FEATURES: list[Change] = [without_crosses, without_priors, without_query_crosses]
CHANGES = {change.__name__: change for change in (*_NETWORKS, *_LOSSES, *_FEATURES)}
"""The named changes of a file of arms."""
