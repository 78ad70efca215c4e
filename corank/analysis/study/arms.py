"""A config → the arms of a study: what the config is compared with, each one change away from it.

An arm is trained at several rates (a factor on all its learning rates) and seeds; arms that come out as the same
config are one.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.features.feature_kind import Feature
from corank.features.schema import Schema
from corank.losses.base import LOSSES
from corank.models.stage_model import STAGE_MODELS, StageSettings
from corank.training.config import Config
from corank.training.config_file import plain
from corank.training.optimisers import DenseOptimiser

Plain = dict[str, Any]
"""A config's plain values, every default written out."""
Change = Callable[[Plain], Plain]

_FEATURES: TypeAdapter[dict[str, Feature]] = TypeAdapter(dict[str, Feature])

BASE = "as written"
STEP = 3.0
"""How far apart learning rates are tried."""


@dataclass(frozen=True)
class Arm:
    name: str
    config: Config

    def at(self, rate: float, seed: int) -> Config:
        """The arm's config with all learning rates times `rate`, and the `seed`-th seed from the config's own."""
        value = plain(self.config)
        train = value["train"]
        train["table"]["lr"] *= rate
        train["seed"] += seed
        for network in _networks(value):
            train[network["name"]] = _optimiser(value, network["name"], rate)
        return validate(Config, value, self.name)

    @property
    def identity(self) -> str:
        return identity(self.at(1.0, 0))


@dataclass(frozen=True)
class Arms:
    """The arms of one question, the base first, and what did not become one."""

    arms: list[Arm]
    same: dict[str, str]
    """Name of an arm that comes out the same as another → that one."""
    refused: dict[str, str]
    """Name of an arm that the config does not allow → the reason."""


def identity(config: Config) -> str:
    """A hash of all of a config but its name."""
    value = plain(config)
    del value["name"]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def arms_of(config: Config, questions: Iterable[int]) -> dict[int, Arms]:
    """The arms that each question needs.

    Raises ConfigError unless there are two stages, of which the first alone has item vectors.
    """
    if [stage.has_vectors for stage in config.stages] != [True, False]:
        raise ConfigError(
            "stages: a study compares two stages, the first with item vectors, such as `model: towers`, the last "
            f"without, such as `model: mlp`; found {', '.join(stage.model for stage in config.stages)}"
        )
    changes = _changes(config)
    return {question: _changed(config, changes.get(question, {})) for question in questions}


def _changed(config: Config, changes: dict[str, Change]) -> Arms:
    base = Arm(BASE, config)
    found, same, refused = {base.identity: base}, {}, {}
    for name, change in changes.items():
        try:
            arm = Arm(name, validate(Config, change(plain(config)), name))
        except ConfigError as error:
            refused[name] = str(error)
            continue
        if found.setdefault(arm.identity, arm) is not arm:
            same[name] = found[arm.identity].name
    return Arms(list(found.values()), same, refused)


def _changes(config: Config) -> dict[int, dict[str, Change]]:
    """By question and name of the arm; questions 5 and 7 look at the base alone."""
    architecture: dict[str, Change] = {
        "joint, shared embeddings": _together,
        "joint, own embeddings": lambda value: _own_tables(_together(value)),
        "alternating steps": lambda value: value | {"train": value["train"] | {"mode": "alternate"}},
        "separate, the ranker first": _apart,
        "recipe: own samples, distilled": _distilled,
        "recipe: one network, two heads": _two_heads,
    }
    consistency: dict[str, Change] = {
        "distillation and unexposed": lambda value: _taught(value, True, True),
        "distillation alone": lambda value: _taught(value, True, False),
        "unexposed alone": lambda value: _taught(value, False, True),
        "neither": lambda value: _taught(value, False, False),
    }
    priors, crosses = _priors(plain(config)), _query_crosses(plain(config))
    first, last = (stage.model for stage in config.stages)
    towers: dict[str, Change] = {
        "with distillation": lambda value: _distillation(value, True),
        "without distillation": lambda value: _distillation(value, False),
        "no crosses, with distillation": lambda value: _no_crosses(_distillation(value, True)),
        "no crosses, without distillation": lambda value: _no_crosses(_distillation(value, False)),
    }
    if priors:
        towers["no priors"] = lambda value: _without(value, _priors(value))
    if crosses:
        towers["no user × context crosses"] = lambda value: _without(value, _query_crosses(value))
    return {
        1: architecture,
        2: architecture | consistency,
        3: {
            f"{last}, then {last}": lambda value: _structures(value, (1, 1)),
            f"{first}, then {first}": lambda value: _structures(value, (0, 0)),
            f"{last}, then {first}": lambda value: _structures(value, (1, 0)),
        },
        4: _settings(config),
        6: consistency,
        8: towers,
    }


def _settings(config: Config) -> dict[str, Change]:
    first, last = (stage.name for stage in config.stages)
    changes: dict[str, Change] = {
        "half the widths": lambda value: _widths(value, 0.5),
        "twice the widths": lambda value: _widths(value, 2),
    }
    for name in (first, "table"):
        changes[f"{name} lr × {STEP:g}"] = lambda value, name=name: _lr(value, name, STEP)  # type: ignore[misc]
        changes[f"{name} lr ÷ {STEP:g}"] = lambda value, name=name: _lr(value, name, 1 / STEP)  # type: ignore[misc]
    rates = {name: _optimiser(plain(config), name)["lr"] for name in (first, last)}
    changes["one lr for both stages"] = lambda value: _lr(value, first, rates[last] / rates[first])
    return changes


def _networks(value: Plain) -> list[Plain]:
    return [*value["stages"], *value["teachers"]]


def _optimiser(value: Plain, name: str, rate: float = 1.0) -> Plain:
    held = value["train"].get(name) or DenseOptimiser().model_dump(mode="json")
    return held | {"lr": held["lr"] * rate}


def _lr(value: Plain, name: str, factor: float) -> Plain:
    value["train"][name] = _optimiser(value, name, factor)
    return value


def _widths(value: Plain, factor: float) -> Plain:
    return _change_stages(value, lambda stage: stage.scale_widths(factor))


def _together(value: Plain) -> Plain:
    value["train"]["mode"] = "joint"
    for stage in value["stages"]:
        stage |= {"embeddings": "shared", "table_gradient": True}
    return value


def _own_tables(value: Plain) -> Plain:
    for network in _networks(value):
        network |= {"embeddings": "own", "table_gradient": True}
    return value


def _apart(value: Plain) -> Plain:
    value["train"] |= {"mode": "separate", "early_stop": None}
    return _own_tables(value)


def _learn(value: Plain, losses: list[Plain]) -> Plain:
    """Other losses, and of the teachers those that still teach."""
    taught = {name for loss in losses for name in LOSSES[loss["kind"]].model_validate(loss).teachers}
    gone = [teacher["name"] for teacher in value["teachers"] if teacher["name"] not in taught]
    value["losses"] = losses
    value["teachers"] = [teacher for teacher in value["teachers"] if teacher["name"] not in gone]
    value["train"] = {key: held for key, held in value["train"].items() if key not in gone}
    return value


def _clicks(value: Plain) -> list[Plain]:
    """The config's click losses, and one for a stage that has none."""
    clicks = [loss for loss in value["losses"] if loss["kind"] == "click"]
    for stage in value["stages"]:
        if stage["name"] not in [loss["stage"] for loss in clicks]:
            clicks.append({"kind": "click", "stage": stage["name"], "label": _label_of(stage)})
    return clicks


def _label_of(stage: Plain) -> str:
    """The label that a stage's value names first."""
    return _read(stage).main


def _read(stage: Plain) -> StageSettings:
    """The settings of a stage."""
    return validate(STAGE_MODELS[stage["model"]], stage, f"stages.{stage['name']}")


def _change_stages(value: Plain, change: Callable[[StageSettings], StageSettings]) -> Plain:
    """The config with each stage changed."""
    value["stages"] = [_dump(change(_read(stage))) for stage in value["stages"]]
    return value


def _dump(stage: StageSettings) -> Plain:
    """The plain values of a stage."""
    plain: Plain = stage.model_dump(mode="json", by_alias=True)
    return plain


def _two_heads(value: Plain) -> Plain:
    return _learn(_together(value), _clicks(value))


def _distilled(value: Plain) -> Plain:
    """Each stage its own samples: the pre-ranker all that was displayed, the ranker what was exposed."""
    first, data, losses = value["stages"][0], value["data"], _clicks(value)
    named = {"stage": first["name"], "label": _label_of(first)}
    if data["level"] is not None and len(data["levels"]) > 1:
        losses.append({"kind": "unexposed", **named, "from": [data["levels"][-2]]})
    distill = _distill(value) | {"on": [data["levels"][-1]]}
    return _learn(_together(value), [*losses, distill])


def _distill(value: Plain) -> Plain:
    """The config's own distillation of the first stage by the last, or a plain one on what the first let pass."""
    first, last = value["stages"]
    for loss in value["losses"]:
        if loss["kind"] == "distill" and (loss["teacher"], loss["student"]) == (last["name"], first["name"]):
            return dict(loss)
    levels = value["data"]["levels"]
    passed = 1 + max((levels.index(level) for level in first["cuts"]), default=len(levels) - 2)
    named = {"teacher": last["name"], "student": first["name"], "label": _label_of(first)}
    return {"kind": "distill", **named, "on": levels[passed:]}


def _unexposed(value: Plain) -> Plain:
    """Negatives for a config that has none: what the first stage cut, else items of the catalogue."""
    first = value["stages"][0]
    logged = value["data"]["level"] is not None and first["cuts"]
    named = {"stage": first["name"], "label": _label_of(first), "weight": 0.5}
    return {
        "kind": "unexposed",
        **named,
        "from": first["cuts"] if logged else ["catalogue"],
        "per_request": 10,
    }


def _taught(value: Plain, distilled: bool, unexposed: bool) -> Plain:
    """The first stage with distillation, unexposed negatives, both or neither; other losses stay."""
    return _with(_distillation(value, distilled), "unexposed", "stage", _unexposed, unexposed)


def _distillation(value: Plain, wanted: bool) -> Plain:
    return _with(value, "distill", "student", _distill, wanted)


def _with(value: Plain, kind: str, learner: str, default: Callable[[Plain], Plain], wanted: bool) -> Plain:
    """The first stage's losses of a kind kept, or the default if it has none; or all taken away."""
    first = value["stages"][0]["name"]
    own = [loss for loss in value["losses"] if loss["kind"] == kind and loss[learner] == first]
    if not wanted:
        return _learn(value, [loss for loss in value["losses"] if loss not in own])
    return value if own else _learn(value, [*value["losses"], default(value)])


def _no_crosses(value: Plain) -> Plain:
    crosses = list(_schema(value).row_features("cross"))
    if not crosses:
        raise ConfigError("features: none is a cross of query and item, so there is nothing to take away")
    return _without(value, crosses)


def _schema(value: Plain) -> Schema:
    return Schema(_FEATURES.validate_python(value["features"]))


def _priors(value: Plain) -> list[str]:
    return list(_schema(value).priors())


def _query_crosses(value: Plain) -> list[str]:
    """What is made of user and context, rates of the past too: towers may have it."""
    schema = _schema(value)
    return [name for name in schema.derived("query") if schema.side(name) == "context"]


def _without(value: Plain, names: Collection[str]) -> Plain:
    """The config without some features, in its stages, too."""
    value = _change_stages(value, lambda stage: stage.without_features(names))
    return value | {"features": {n: f for n, f in value["features"].items() if n not in names}}


def _structures(value: Plain, structures: tuple[int, int]) -> Plain:
    """The config with the stage model and the widths of its stage `structures[n]` in its `n`-th stage."""
    stages = [_read(stage) for stage in value["stages"]]
    built = [stages[of].in_role_of(stage) for of, stage in zip(structures, stages, strict=True)]
    value["stages"] = [_dump(stage) for stage in built]
    return _learn(value, [loss for loss in value["losses"] if _possible(loss, built)])


def _possible(loss: Plain, stages: Sequence[StageSettings]) -> bool:
    """Whether a loss of one stage still finds the label that it needs, and the vectors."""
    for stage in stages:
        if loss.get("stage") == stage.name:
            return loss.get("label") in [None, *stage.labels] and (
                loss["kind"] != "in_batch" or stage.has_vectors
            )
    return True
