"""Changes to what the first stage learns from: other samples and losses. Each takes plain values, as other changes."""

from corank.analysis.study.config_changes import main_label, with_losses
from corank.training.feature_changes import Plain

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
