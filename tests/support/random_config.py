"""The config of a random world: its features, crosses, priors and stages."""

from typing import Any

import numpy as np
from pydantic import TypeAdapter

from corank.features.feature_kind import Feature, FeatureKind
from tests.support.random_worlds import LEVELS, SPLIT, Drawn


def _features(drawn: Drawn) -> dict[str, Drawn]:
    item_id = drawn["item_id"]
    features: dict[str, Drawn] = {
        "user_id": {"side": "user", "kind": "id", "dim": 3},
        "item_id": {"side": "item", "kind": "id"} | item_id,
    }
    for n, history in enumerate(drawn["histories"]):
        features |= _history(n, history)
    for name, feature in columns_by_name(drawn).items():
        plain = {key: value for key, value in feature.items() if key not in ("text", "whole")}
        side = name.partition("_")[0]
        features[name] = {"side": "user" if side == "logged" else side} | plain
    if drawn["attributes"]:
        features |= _attributes(drawn, features)
    if drawn["derived"]:
        features |= _derived(drawn, features)
        features |= _operands_alone(drawn, features)
        features |= TIMES
    return _histories_alone(drawn, features) if drawn["alone"] else features


TIMES: dict[str, Drawn] = {
    "born": {"side": "item", "kind": "time"},
    "joined": {"side": "user", "kind": "time"},
    "since": {"side": "context", "kind": "time"},
    "age_by_day": {"kind": "age", "of": "born", "every": "1d"},
    "age_by_2_days": {"kind": "age", "of": "born", "every": "2d", "buckets": 3, "dim": 8},
    "age": {"kind": "age", "of": "born", "scale": "quantile"},
    "joined_ago": {"kind": "age", "of": "joined"},
    "ago": {"kind": "age", "of": "since", "buckets": 4, "dim": 3},
    "candidates": {"kind": "candidates"},
}
"""Times, of every type that a column may have, ages of them, and the number of candidates."""


def _operands_alone(drawn: Drawn, features: dict[str, Drawn]) -> dict[str, Drawn]:
    """Some of the columns that derived features read, which networks then do not."""
    rng = np.random.default_rng(drawn["seed"] + 2)
    shared = {f["of"].rpartition(".")[2] for f in features.values() if isinstance(f.get("of"), str)}
    operands = {o for f in features.values() for o in _operands(f)}
    return {
        name: _alone(f)
        for name, f in features.items()
        if name in columns_by_name(drawn) and name in operands - shared and rng.random() < 0.4
    }


def _alone(feature: Drawn) -> Drawn:
    """A feature that is no input, without what has no effect then."""
    for_networks = ("dim", "pool", "min_count", "hash", "scale", "project")
    kept = {
        k: v for k, v in feature.items() if k not in for_networks or (feature["kind"], k) == ("vector", "dim")
    }
    return kept | {"input": False}


def _histories_alone(drawn: Drawn, features: dict[str, Drawn]) -> dict[str, Drawn]:
    """Histories that no network reads, but attention and what is made of them; of an item id that is no input, too."""
    histories = {n for n, f in features.items() if f.get("of") == "item_id" and f["kind"] == "ids"}
    of_id = [f"{history}.item_id" for history in histories]
    kept = {n: f for n, f in features.items() if f.get("of") not in of_id}
    attends_to_id = drawn["din"] and not drawn["din"]["attributes"]
    every = bool(histories) and histories <= _read(drawn, kept)
    if drawn["alone"] == "id" and every and _attended(kept) and not attends_to_id:
        return {n: _alone(f) if n in histories | {"item_id"} else f for n, f in kept.items()}
    alone = histories & _read(drawn, features)
    return {n: _alone(f) if n in alone else f for n, f in features.items()}


def _read(drawn: Drawn, features: dict[str, Drawn]) -> set[str]:
    """What attention attends to, and all that some feature is made of."""
    names = {"history_0"} if drawn["din"] else set()
    for feature in features.values():
        of = feature.get("by", feature.get("of", []))
        named = of if isinstance(of, list) else [of]
        names |= {name.partition(".")[0] for name in [*named, feature.get("parallel_to", "")]}
    return names


def _attended(features: dict[str, Drawn]) -> list[str]:
    """Features of an item, other than its id, that attention may read."""
    kinds = ("id", "ids", "bucket", "vector")
    return [
        n
        for n, f in features.items()
        if f.get("side") == "item" and f["kind"] in kinds and f.get("input", True) and n != "item_id"
    ]


def _operands(feature: Drawn) -> list[str]:
    listed = feature.get("by", feature.get("of", []))
    return [operand.rpartition(".")[2] for operand in listed] if isinstance(listed, list) else []


OWN_KEYS = {"source", "table", "beside", "separator"}
"""Of a drawn history, what is no setting."""


def _history(n: int, drawn: Drawn) -> dict[str, Drawn]:
    """A history, whose dimension is that of the item's id, and an attribute of its events."""
    source = drawn.get("source")
    settings = {"side": "user", "kind": "ids", "of": "item_id"}
    settings |= {key: value for key, value in drawn.items() if key not in OWN_KEYS}
    if source == "events":
        settings["events"] = f"past_{n}"
    elif source:
        settings |= {"column": f"seen_{n}"} | ({"times": f"when_{n}"} if source == "timed" else {})
        settings |= {"separator": drawn["separator"]} if drawn["separator"] else {}
    beside = {"side": "user", "kind": "ids", "parallel_to": f"history_{n}", "column": f"dwell_{n}", "dim": 3}
    histories = {f"history_{n}": settings} | ({f"beside_{n}": beside} if drawn.get("beside") else {})
    return histories | (_values(n, drawn) if source == "events" else {})


def _values(n: int, drawn: Drawn) -> dict[str, Drawn]:
    """Histories of values of a table's events other than the item: of texts, and of whole numbers."""
    cut = {key: value for key, value in drawn.items() if key in ("last", "lag", "every", "half_life", "pool")}
    shared = {"side": "user", "kind": "ids", "events": f"past_{n}"} | cut
    return {
        f"did_{n}": shared | {"column": "did", "dim": 3, "min_count": 2},
        f"dwelt_{n}": shared | {"column": f"dwell_{n}", "dim": 2, "hash": 5},
    }


def _matches(features: dict[str, Drawn]) -> list[str]:
    """The features that look for what one side has in what the other lists, rates by both, and ranks of candidates."""

    def of_item(operand: str) -> bool:
        return bool(features[operand.partition(".")[0]]["side"] == "item")

    return [
        name
        for name, feature in features.items()
        if feature["kind"] in ("within", "share")
        or (feature["kind"] in ("count", "contains", "since") and len(set(map(of_item, feature["of"]))) == 2)
        or (feature["kind"] == "prior" and len(set(map(of_item, feature["by"]))) == 2)
    ]


def _attributes(drawn: Drawn, features: dict[str, Drawn]) -> dict[str, Drawn]:
    """An attribute of each history's items for every item feature that can be one."""
    items = [n for n, f in features.items() if f["side"] == "item" and f["kind"] in ("id", "ids")]
    return {
        f"history_{n}_{item}": {
            "side": "user",
            "kind": "ids",
            "of": f"history_{n}.{item}",
            "pool": ("mean", "sum")[n % 2],
        }
        for n in range(len(drawn["histories"]))
        for item in items
    }


def shape(n: int) -> Drawn:
    """One of the shapes that a derived number may have."""
    shapes: list[Drawn] = [{"scale": "none"}, {"scale": "quantile"}, {"buckets": 3, "dim": 8}, {}]
    return shapes[n % len(shapes)]


def _derived(drawn: Drawn, features: dict[str, Drawn]) -> dict[str, Drawn]:
    """Crosses and priors of every kind, of operands of either side and both, as the columns allow."""
    rng = np.random.default_rng(drawn["seed"] + 1)
    columns = columns_by_name(drawn) | {
        "item_id": {"text": drawn["text_ids"]},
        "user_id": {"text": drawn["text_ids"]},
    }
    histories = [f"history_{n}" for n in range(len(drawn["histories"]))]

    def some(side: str, *kinds: str) -> list[str]:
        sides, past = ("user", "context") if side == "query" else (side,), {"of", "parallel_to"}
        return [
            n for n, f in features.items() if f["side"] in sides and f["kind"] in kinds and past.isdisjoint(f)
        ]

    keys = {side: some(side, "id", "bucket") for side in ("query", "item")}
    numbers = {side: some(side, "number", "bucket") for side in ("query", "item")}
    made: list[Drawn] = []
    for one, other in (("query", "query"), ("query", "item"), ("item", "item")):
        first, second = rng.choice(keys[one]), rng.choice(keys[other][::-1])
        if first != second:
            made.append({"kind": "pair", "of": [first, second], "dim": 3, "min_count": 2})
            made.append({"kind": "pair", "of": [second, first], "dim": 8, "hash": 5})
        if numbers[one] and numbers[other]:
            first, second = rng.choice(numbers[one]), rng.choice(numbers[other][::-1])
            if first != second:
                made.append({"kind": "product", "of": [first, second]} | shape(len(made)))
                made.append({"kind": "ratio", "of": [first, second]} | shape(len(made)))
    lists = some("query", "ids") + some("item", "ids") + histories
    lists += [f"{h}.{n}" for h in histories for n in some("item", "id", "ids")]
    lists += (beside := [n for n in features if n.startswith("beside_")])
    texts = {n: bool(drawn["histories"][int(n[7:])].get("separator")) for n in beside}
    texts |= {n: n.startswith("did_") for n in features if n.startswith(("did_", "dwelt_"))}
    columns |= {n: {"text": text} for n, text in texts.items()}
    for one in lists:
        items = columns.get(one.rpartition(".")[2], columns["item_id"])
        for other in some("query", "id", "ids") + some("item", "id", "ids"):
            alike = (columns[other]["text"] or "separator" in columns[other]) == (
                items["text"] or "separator" in items
            )
            if alike and one != other and rng.random() < 0.5:
                made.append({"kind": "contains", "of": [one, other]})
                made.append({"kind": "count", "of": [one, other]} | shape(len(made) // 2))
                if measure := _measure(drawn, one, len(made)):
                    since = {"kind": "since", "of": [one, other], "measure": measure}
                    made.append(since | shape(len(made) // 3))
    made += [cosine | shape(n) for n, cosine in enumerate(_cosines(features, histories, drawn["seed"] + 3))]
    _add_priors(made, drawn, keys, rng)
    compared = numbers["item"] + some("cross", "number", "bucket") + ["age_by_day", "age"]
    compared += [f"derived_{n}" for n, f in enumerate(made) if _differs(f, features)][::3]
    for n, number in enumerate(compared):
        made.append({"kind": "within", "of": number} | shape(n + 1))
        made.append({"kind": "within", "of": number, "measure": "ratio"} | shape(n + 2))
    made += [{"kind": "share", "of": number} | shape(n) for n, number in enumerate(compared[:2])]
    return {f"derived_{n}": {key: _plain(value) for key, value in f.items()} for n, f in enumerate(made)}


def _measure(drawn: Drawn, listed: str, n: int) -> str | None:
    """How the age of a list's events is measured, if it is of a history."""
    kind, _, number = listed.partition(".")[0].partition("_")
    if kind not in ("history", "beside", "did", "dwelt"):
        return None
    timed = drawn["histories"][int(number)].get("source") != "lists"
    return ("time", "events")[n % 2] if timed else "events"


def _differs(feature: Drawn, features: dict[str, Drawn]) -> bool:
    """Whether it is a number that differs between candidates."""
    named: list[str] = feature.get("by") or feature.get("of") or []
    of_item = any(features[name.partition(".")[0]]["side"] == "item" for name in named)
    return of_item and feature["kind"] not in ("pair", "contains")


def _add_priors(
    made: list[Drawn], drawn: Drawn, keys: dict[str, list[str]], rng: np.random.Generator
) -> None:
    """Add priors of the log and of the counted events, by keys of every side."""
    for one, other in (("query", "query"), ("query", "item"), ("item", "item")):
        by = list(dict.fromkeys([str(rng.choice(keys[one])), str(rng.choice(keys[other]))]))
        for label in ("click", "buy", None):
            late = [{}, {"lag": "5h"}, {"every": "2d"}][len(made) % 3]
            smoothing = "auto" if label == "click" else 3
            late |= [{}, {"window": "2d"}, {"half_life": "10h"}][len(made) // 3 % 3]
            made.append(
                {"kind": "prior", "by": by, "label": label, "smoothing": smoothing} | late | shape(len(made))
            )
    if drawn.get("counted"):
        of_users = [n for n in keys["query"] if n.startswith("user_")]
        for some_keys, others in (
            (of_users, of_users),
            (of_users, keys["item"]),
            (keys["item"], keys["item"]),
        ):
            by = list(dict.fromkeys([str(some_keys[0]), str(rng.choice(others))]))
            late = [{"every": "1d", "lag": "5h"}, {"every": "2d"}, {"every": "1d", "window": "2d"}][
                len(made) % 3
            ]
            made.append({"kind": "prior", "by": by, "events": "counted"} | late | shape(len(made)))


def _cosines(features: dict[str, Drawn], histories: list[str], seed: int) -> list[Drawn]:
    """Cosines of vectors of one dimension, but of those that are logged with the pair; of histories' means, too."""
    rng = np.random.default_rng(seed)
    dims = {n: f["dim"] for n, f in features.items() if f["kind"] == "vector" and f["side"] != "cross"}
    dims |= {f"{h}.{n}": dims[n] for h in histories for n in list(dims) if features[n]["side"] == "item"}
    return [
        {"kind": "cosine", "of": [one, other]}
        for one in dims
        for other in dims
        if one != other and dims[one] == dims[other] and rng.random() < 0.5
    ]


def _plain(value: Any) -> Any:
    return [str(v) for v in value] if isinstance(value, list) else value


def columns_by_name(drawn: Drawn) -> dict[str, Drawn]:
    sides = {"user": "user", "logged": "logged_user", "context": "context", "item": "item", "cross": "cross"}
    return {f"{s}_{n}": feature for s, key in sides.items() for n, feature in enumerate(drawn[key])}


def _is_number(feature: Drawn) -> bool:
    adapter: TypeAdapter[FeatureKind] = TypeAdapter(Feature)
    return adapter.validate_python(feature).storage == "number"


def _data(drawn: Drawn) -> Drawn:
    """The settings of the tables."""
    return (
        {
            "log": "log.parquet",
            "items": "items.parquet",
            "users": "users.parquet",
            "events": {
                f"past_{n}": {"table": f"past_{n}.parquet", "user": "who", "item": "what", "time": "at"}
                for n, history in enumerate(drawn["histories"])
                if history.get("source") == "events"
            }
            | (
                {"counted": {"table": "counted.parquet", "user": "who", "item": "what", "time": "at"}}
                if drawn["derived"] and drawn.get("counted")
                else {}
            ),
            "request": ["request"],
            "user": "user_id",
            "item": "item_id",
            "time": "time",
            "columns": ["bid", "worth"],
            "labels": {
                "click": {"column": "click"},
                "buy": {"column": "buy"}
                | ({"given": "click", "matures_after": "3h"} if drawn["shown"] else {}),
            },
            "split": SPLIT,
        }
        | ({"position": "position"} if drawn["shown"] else {})
        | ({"level": "level", "levels": LEVELS} if drawn["levels"] else {})
        | ({"scores": {"served": {"column": "score", "scale": "probability"}}} if drawn["score"] else {})
    )


def world_config(drawn: Drawn) -> Drawn:
    features = _features(drawn)
    inputs = {name: f for name, f in features.items() if f.get("input", f["kind"] != "time")}
    some = {}
    if drawn["narrow"]:  # the towers see some features only
        some = {
            "query_features": [n for n, f in inputs.items() if f.get("side") in ("user", "context")][::2],
            "item_features": [n for n, f in inputs.items() if f.get("side") == "item"][::-2],
        }
    towers = {"name": "prerank", "model": "towers", "keep": 4, "query": [8, 4], "item": [6, 4]} | some
    if drawn["several_towers"]:
        query = [n for n, f in inputs.items() if f.get("side") in ("user", "context")]
        towers |= {
            "query_towers": {
                "one": {"features": query[::2]},
                "other": {"features": query[-1:], "widths": [4]},
            }
        }
        towers.pop("query_features", None)
    matches = {"matches": _matches(features)} if drawn.get("matches") else {}
    stages = [towers | drawn["structure"] | drawn["prerank"] | matches]
    if drawn["middle"]:
        met = matches if str(drawn["middle"].get("model")).startswith("towers") else {}
        stages.append({"name": "middle", "keep": 3} | drawn["middle"] | drawn["middle_tables"] | met)
    rank = {"name": "rank", "model": "mlp", "keep": 2, "hidden": [8, 6], "labels": ["click", "buy"]}
    rank |= {"value": drawn["value"], "dcn": drawn["dcn"], "from_stages": drawn["earlier"]}
    if drawn["din"] and drawn["histories"]:
        beside = [n for n in features if n == "beside_0"]
        attended: Drawn = {
            "history": "history_0",
            "hidden": drawn["din"]["hidden"],
            "attributes": _attended(features) + beside if drawn["din"]["attributes"] else [],
        }
        history = drawn["histories"][0]
        if "encoder" in drawn["din"] and history["last"] > 1:
            attended["encoder"] = drawn["din"]["encoder"] | {"ages": history.get("source") != "lists"}
        rank["din"] = attended
    pages = [{"name": "page", "model": "page"} | drawn["page"]] if drawn.get("page") else []
    numeric = any(map(_is_number, inputs.values()))
    stages.append(rank | {key: value for key, value in drawn["rank"].items() if key != "numbers" or numeric})
    return {
        "name": "random",
        "data": _data(drawn),
        "features": features,
        "stages": [*(stage | drawn["stage"] for stage in stages), *pages],
        "losses": [
            *({"kind": "click", "stage": stage["name"]} for stage in stages),
            *({"kind": "mimic", "stage": stage["name"]} for stage in stages if "generated" in stage),
        ],
    }
