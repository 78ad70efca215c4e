"""Arms of `selection_bias`: stages, losses and rates of each, and how it is trained in a world."""

from typing import Any

from benchmarks.quality.arena import Arena, Loss
from corank.models.joint import JointModel

KEEP, TOP = 50, 10
ALL = ["retrieved", "preranked", "ranked", "exposed"]
TOWERS = {"name": "prerank", "model": "towers", "keep": KEEP, "query": [128, 64, 32], "item": [128, 64, 32]}
OWN = TOWERS | {"embeddings": "own"}
RANKER = {"name": "rank", "model": "mlp", "keep": TOP}
TEACHER = {"name": "teacher", "scores": ["production", "production_prerank"]}
RANKER_CLICKS = {"kind": "click", "stage": "rank"}
TEACHER_CLICKS = {"kind": "click", "stage": "teacher"}
CLICKS = {"kind": "click", "stage": "prerank"}
EVERY: Loss = {"per_request": None}
ORDER_WEIGHTS = (0.0, 0.03)
NEGATIVE_WEIGHTS = (0.0, 0.3, 1.0)
DENSE: Loss = {"table": {"lr": 1.0}, "prerank": {"lr": 0.003}}
"""Rates for a target that every candidate has; clicks are learnt at the default ones."""
DENSE_EPOCHS = 16
LEFT_OUT = {"weak": 0.7, "medium": 0.7, "strong": 0.4, "hidden": 0.7}
"""For which share of rows the item's id is left out."""
BRIEFER_EPOCHS = 8


def shrunk(preset: str) -> Loss:
    """Make an item's vector a sum of what its features say, the id's part shrunk."""
    return {"item": [32], "feature_dropout": {"item_id": LEFT_OUT[preset]}}


def settings(epochs: int, stop: str | None = None, **more: Any) -> Loss:
    early = {"early_stop": {"metric": f"{stop}.click.auc", "patience": 1}} if stop else {}
    return {"epochs": epochs, "requests": 32, "average": 0.99} | early | more


def distill(teacher: str, on: list[str], weight: float = 1.0) -> Loss:
    common = {"kind": "distill", "student": "prerank", "teacher": teacher, "on": on, "weight": weight}
    return common | {"per_request": 50, "warm_up": 0 if teacher in ("truth", "production") else 50}


def order(weight: float) -> list[Loss]:
    """Deeper levels over shallower ones."""
    loss = {"kind": "levels", "stage": "prerank", "form": "ranknet", "per_request": 30, "weight": weight}
    return [loss] if weight else []


def negatives(weight: float) -> list[Loss]:
    loss = {
        "kind": "unexposed",
        "stage": "prerank",
        "from": ["retrieved"],
        "per_request": 30,
        "weight": weight,
    }
    return [loss] if weight else []


def alone(arena: Arena, towers: Loss) -> JointModel:
    return arena.trained("alone", [towers], [CLICKS], settings(4, "prerank"))


def joint(arena: Arena, weight: float) -> JointModel:
    losses = [RANKER_CLICKS, TEACHER_CLICKS, distill("teacher", ALL), *order(weight)]
    return arena.trained("joint", [OWN, RANKER], losses, settings(3, "prerank"), [TEACHER])


def taught(arena: Arena, towers: Loss, epochs: int, per_request: int | None, rates: Loss) -> JointModel:
    """Teacher, ranker and pre-ranker one after another, each with tables of its own: no early stopping."""
    of_all = distill("teacher", ALL) | {"per_request": per_request, "warm_up": 0}
    prerank = rates.get("prerank", {}) | {"epochs": epochs}
    train = settings(1, mode="separate", **rates | {"prerank": prerank})
    teachers = [TEACHER | {"embeddings": "own"}]
    return arena.trained("taught", [towers, RANKER], [RANKER_CLICKS, TEACHER_CLICKS, of_all], train, teachers)


def with_negatives(arena: Arena, weight: float, frozen: bool = False) -> JointModel:
    taught = distill("rank", ["preranked", "ranked", "exposed"])
    losses = [RANKER_CLICKS, CLICKS, taught, *negatives(weight)]
    train = settings(2, mode="separate") if frozen else settings(3, "prerank")
    return arena.trained("negatives", [OWN, RANKER], losses, train)


def imitate(arena: Arena, towers: Loss, epochs: int) -> JointModel:
    losses = [distill(score, ALL) | EVERY for score in TEACHER["scores"]]
    return arena.trained("imitate", [towers], losses, settings(epochs, **DENSE))


def oracle(arena: Arena, epochs: int, rates: Loss) -> JointModel:
    losses = [distill("truth", ALL) | EVERY]
    return arena.trained("oracle", [TOWERS], losses, settings(epochs, **rates))
