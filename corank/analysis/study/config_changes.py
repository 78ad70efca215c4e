"""Changes to a config that make it an arm of a study. Each takes plain values and returns the changed ones."""

from collections.abc import Callable, Sequence

from corank.core.errors import ConfigError
from corank.losses.base import LOSSES
from corank.models.settings.stage import StageSettings
from corank.training.feature_changes import Plain, plain_stage, schema_of, stage_settings, without_features
from corank.training.train_settings import DenseOptimiser

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
    """Whether the stage of a loss still has the label, and the vectors, that the loss needs."""
    for stage in stages:
        if loss.get("stage") == stage.name:
            return loss.get("label") in [None, *stage.labels] and (
                {"in_batch": stage.orders_by_product, "mimic": stage.generates}.get(loss["kind"], True)
            )
    return True
