"""The arms of `ablation`: additions to the config of an imported KuaiRand-Pure, and each arm's reference."""

from collections.abc import Callable
from functools import partial
from typing import Any

import yaml

Plain = dict[str, Any]
KEYS = ("user_id", "video_id", "author_id")
HISTORIES = ("click_history", "long_view_history")
EVERY = {"frozen": "1d", "live": "1m"}


def prior(by: list[str], label: str | None, every: str) -> Plain:
    return {"kind": "prior", "by": by, "label": label, "every": every}


def rates(keys: list[list[str]], every: str) -> Plain:
    """Rates of clicks and long views by each key, and how often it was shown."""
    return {
        f"{'_'.join(by)}_{label or 'shown'}": prior(by, label, every)
        for by in keys
        for label in ("click", "long_view", None)
    }


def histories(config: Plain, every: str) -> None:
    """What the user clicked, and viewed long."""
    for name, event in zip(HISTORIES, ("click", "long_view"), strict=True):
        history = {"side": "user", "kind": "ids", "of": "video_id", "event": event, "every": every}
        config["features"][name] = history


def priors(config: Plain, every: str) -> None:
    """With rates of the user an embedding of the few rows that each has only remembers them (LOG.md)."""
    config["features"] |= rates([[key] for key in KEYS], every)
    config["features"]["user_id"]["min_count"] = 30


def user_context(config: Plain, every: str) -> None:
    """Where in the app a user clicks: the towers' crosses."""
    config["features"] |= rates([["user_id", "tab"], ["tab", "hour"]], every) | {
        "tab_hour": {"kind": "pair", "of": ["tab", "hour"], "min_count": 5},
        "tab_activity": {"kind": "pair", "of": ["tab", "user_active_degree"], "min_count": 5},
    }


def query_item(config: Plain, every: str) -> None:
    """What a video is where it is shown, and to whom: the ranker's alone."""
    config["features"] |= rates([["video_id", "tab"], ["author_id", "tab"]], every) | {
        "tab_type": {"kind": "pair", "of": ["tab", "video_type"], "min_count": 5},
        "author_clicked": {"kind": "count", "of": ["click_history.author_id", "author_id"]},
        "tags_clicked": {"kind": "count", "of": ["click_history.tag", "tag"]},
        "seen": {"kind": "contains", "of": ["click_history", "video_id"]},
    }


def din(config: Plain, every: str, **settings: Any) -> None:
    attended = {"history": "click_history", "attributes": ["author_id", "tag"]}
    config["stages"][1]["din"] = attended | settings


def dcn(config: Plain, every: str) -> None:
    config["stages"][1]["dcn"] = {"layers": 3, "rank": 16}


def labels(config: Plain, every: str) -> None:
    """A second head, of long views."""
    config["stages"][1]["labels"] = ["click", "long_view"]
    config["losses"].append({"kind": "click", "stage": "rank", "label": "long_view", "weight": 0.3})


def likes(config: Plain, every: str) -> None:
    """A third head, of likes: one of 60 rows has one."""
    config["data"]["labels"]["like"] = {"column": "is_like"}
    config["stages"][1]["labels"].append("like")
    config["losses"].append({"kind": "click", "stage": "rank", "label": "like", "weight": 0.3})


def option(**settings: Any) -> Callable[[Plain, str], None]:
    """A setting of the ranker."""

    def add(config: Plain, every: str) -> None:
        config["stages"][1] |= settings

    return add


def trees(config: Plain, every: str) -> None:
    """Boosted trees that teach the ranker."""
    lesson = {"kind": "distill", "teacher": "trees", "student": "rank", "on": ["exposed"]}
    config["tree_teachers"] = [{"name": "trees"}]
    config["losses"].append(lesson)


LAB = option(model="mlp_lab")
"""The stage model that has what follows."""
EVERYTHING = (histories, priors, user_context, query_item, din, dcn, labels)
ADDED: dict[str, tuple[Callable[[Plain, str], None], ...]] = {
    "base": (),
    "histories": (histories,),
    "priors": (priors,),
    "user_context": (user_context,),
    "query_item": (histories, query_item),
    "din": (histories, din),
    "encoder": (histories, partial(din, encoder={}), LAB),
    "encoder_ages": (histories, partial(din, encoder={"ages": True}), LAB),
    "dcn": (dcn,),
    "labels": (labels,),
    "all": EVERYTHING,
    "live": EVERYTHING,
    "bins": (*EVERYTHING, LAB, option(numbers={"kind": "piecewise"})),
    "embedded_bins": (*EVERYTHING, LAB, option(numbers={"kind": "piecewise", "dim": 8})),
    "waves": (*EVERYTHING, LAB, option(numbers={"kind": "periodic"})),
    "gates": (*EVERYTHING, LAB, option(gates={})),
    "members": (*EVERYTHING, LAB, option(members=8)),
    "trees": (*EVERYTHING, trees),
    "three_labels": (*EVERYTHING, likes),
    "mmoe": (*EVERYTHING, likes, LAB, option(experts={"shared": 4})),
    "cgc": (*EVERYTHING, likes, LAB, option(experts={"shared": 2, "own": 1})),
    "ple": (*EVERYTHING, likes, LAB, option(experts={"shared": 2, "own": 1, "levels": 2})),
}
OF_ALL = ("bins", "embedded_bins", "waves", "gates", "members", "trees", "three_labels")
WITHOUT = {"din": "histories", "query_item": "histories"} | dict.fromkeys(OF_ALL, "all")
WITHOUT |= dict.fromkeys(("encoder", "encoder_ages"), "din")
WITHOUT |= dict.fromkeys(("mmoe", "cgc", "ple"), "three_labels")
"""The arm that an arm is compared with; `base` unless named."""


def config_of(imported: Plain, arm: str) -> Plain:
    """The columns of the imported config, one label, and what the arm adds."""
    config: Plain = yaml.safe_load(yaml.safe_dump(imported))
    config["features"] = {
        name: feature
        for name, feature in config["features"].items()
        if "side" in feature and feature.get("of") is None
    }
    config["features"]["user_id"]["min_count"] = 2
    for stage in config["stages"]:
        stage |= {"labels": ["click"], "dcn": None, "din": None} if stage["model"] == "mlp" else {}
    config["losses"] = [loss for loss in config["losses"] if loss["label"] == "click"]
    for add in ADDED[arm]:
        add(config, EVERY["live" if arm == "live" else "frozen"])
    return config | {"name": arm}
