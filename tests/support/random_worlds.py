"""Random feature sets over random tables, packed for real, with models of random weights."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from hypothesis import strategies as st

from corank.analysis.logged_request import logged_request
from corank.bundle.manifest import FORMAT, BundleManifest, write
from corank.core.calibration import Platt
from corank.data.dataset import PackedDataset, prior_folder
from corank.data.pack import pack
from corank.evaluation.stage_order import Calibrators
from corank.models.joint import JointModel
from corank.serving.funnel.funnel import Funnel
from corank.training.config import Config
from corank.training.export import export, newest
from corank.training.run import Run, packed_folder, untrained

HOUR = 3_600_000
DAY = 24 * HOUR
USERS, ITEMS, REQUESTS = 10, 16, 36
SPLIT = {"valid": "1970-01-03", "test": "1970-01-04"}
LEVELS = ["retrieved", "ranked", "exposed"]

Drawn = dict[str, Any]

dims = st.sampled_from([3, 8])
kinds = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("id"), "dim": dims, "min_count": st.sampled_from([1, 2]), "text": st.booleans()},
        optional={"hash": st.just(5)},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("ids"),
            "dim": dims,
            "pool": st.sampled_from(["mean", "sum"]),
            "last": st.sampled_from([1, 2, 50]),
            "text": st.booleans(),
        },
        optional={"hash": st.just(5), "separator": st.just(",")},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("number"),
            "scale": st.sampled_from(["none", "standard", "log", "quantile"]),
            "whole": st.booleans(),
        }
    ),
    st.fixed_dictionaries({"kind": st.just("bucket"), "buckets": st.sampled_from([1, 2, 6]), "dim": dims}),
)
histories = st.fixed_dictionaries(
    {"pool": st.sampled_from(["mean", "sum"]), "last": st.sampled_from([1, 3, 50])},
    optional={
        "event": st.sampled_from(["click", "buy"]),
        "lag": st.sampled_from(["1h", "1d"]),
        "every": st.sampled_from(["1h", "1d"]),
        "half_life": st.sampled_from(["6h", "2d"]),
    },
)
stage = {"activation": st.sampled_from(["relu", "gelu"]), "normalisation": st.sampled_from(["none", "layer"])}
NARROW = {"query": [5, 4], "item": [4]}
tables = st.sampled_from([{}, {"embeddings": "own"}, {"table_gradient": False}])
drawn_worlds = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "text_ids": st.booleans(),
        "levels": st.booleans(),
        "item_id": st.fixed_dictionaries(
            {"dim": dims, "min_count": st.sampled_from([1, 3])}, optional={"hash": st.just(7)}
        ),
        "histories": st.lists(histories, max_size=2),
        "user": st.lists(kinds, max_size=3),
        "logged_user": st.lists(kinds, max_size=1),
        "context": st.lists(kinds, min_size=1, max_size=2),
        "item": st.lists(kinds, min_size=1, max_size=3),
        "cross": st.lists(kinds, max_size=2),
        "stage": st.fixed_dictionaries(stage),
        "narrow": st.booleans(),
        "prerank": tables,
        "middle": st.none()
        | st.just({"model": "towers"} | NARROW)
        | st.just({"model": "mlp", "hidden": [5]}),
        "middle_tables": tables,
        "score": st.booleans(),
        "derived": st.booleans(),
        "attributes": st.booleans(),
        "several_towers": st.booleans(),
        "din": st.none() | st.fixed_dictionaries({"hidden": st.just(5), "attributes": st.booleans()}),
        "dcn": st.sampled_from([None, {"layers": 2}, {"layers": 1, "rank": 3}]),
        "earlier": st.sampled_from([[], ["prerank.score"], ["prerank.place", "prerank.score"]]),
        "value": st.sampled_from(["click", "click * bid", "worth * buy - click ** 0.5"]),
        "shown": st.booleans(),
    }
)
"""What a world is drawn from: features by side, and how ids, histories and stages are made."""

RICH: Drawn = {
    "seed": 5,
    "text_ids": False,
    "levels": True,
    "item_id": {"dim": 8, "min_count": 3},
    "histories": [
        {"pool": "mean", "last": 50, "event": "click", "every": "1d"},
        {"pool": "sum", "last": 3, "lag": "1h"},
    ],
    "user": [
        {"kind": "number", "scale": "log", "whole": False},
        {"kind": "ids", "dim": 3, "pool": "mean", "last": 50, "text": True, "separator": ","},
        {"kind": "id", "dim": 8, "min_count": 1, "text": True},
    ],
    "logged_user": [{"kind": "bucket", "buckets": 6, "dim": 3}],
    "context": [{"kind": "id", "dim": 3, "min_count": 1, "text": True, "hash": 5}],
    "item": [
        {"kind": "ids", "dim": 3, "pool": "sum", "last": 2, "text": False},
        {"kind": "number", "scale": "quantile", "whole": True},
        {"kind": "id", "dim": 3, "min_count": 1, "text": True},
    ],
    "cross": [
        {"kind": "number", "scale": "standard", "whole": False},
        {"kind": "ids", "dim": 8, "pool": "mean", "last": 50, "text": True},
    ],
    "stage": {"activation": "relu", "normalisation": "layer"},
    "narrow": False,
    "prerank": {},
    "middle": None,
    "middle_tables": {},
    "score": False,
    "derived": False,
    "attributes": False,
    "several_towers": False,
    "din": None,
    "dcn": None,
    "earlier": [],
    "value": "click",
    "shown": False,
}
"""One that has something of every kind of column."""

DERIVED: Drawn = RICH | {
    "histories": [
        {"pool": "mean", "last": 50, "event": "click", "every": "1d", "half_life": "2d"},
        {"pool": "sum", "last": 3, "lag": "1h", "half_life": "6h"},
    ],
    "context": [*RICH["context"], {"kind": "number", "scale": "standard", "whole": False}],
    "derived": True,
    "attributes": True,
    "several_towers": True,
    "din": {"hidden": 5, "attributes": True},
    "dcn": {"layers": 2, "rank": 3},
    "earlier": ["prerank.place", "prerank.score"],
    "value": "click * bid",
    "shown": True,
}
"""The same with crosses, priors, attention, cross layers and all else that is made of columns."""

LONG: Drawn = RICH | {
    "prerank": {"embeddings": "own"},
    "middle": {"model": "mlp", "hidden": [5]},
    "middle_tables": {"embeddings": "own"},
    "score": True,
}
"""The same with three stages, three sets of tables, and production's scores."""


@dataclass(frozen=True)
class Case:
    """A packed world and a model of random weights; nothing was trained."""

    base: Path
    config: Config
    packed: PackedDataset
    model: JointModel
    calibrators: Calibrators
    items: pl.DataFrame

    @classmethod
    def of(cls, base: Path, drawn: Drawn) -> "Case":
        rng = np.random.default_rng(drawn["seed"])
        items = _write_tables(base, drawn, rng)
        config = Config.model_validate(_config(drawn))
        packed = pack(config.data, config.declared, base, packed_folder(config, base))
        model = random_model(config, packed, drawn["seed"])
        calibrators = {
            s.name: {label: Platt(float(rng.uniform(0.3, 2)), float(rng.normal())) for label in s.labels}
            for s in config.stages
        }
        return cls(base, config, packed, model, calibrators, items)

    @property
    def run(self) -> Run:
        return Run(self.base / "run", self.config, self.base)

    @cached_property
    def funnel(self) -> Funnel:
        """Exported once, and opened from the disk."""
        export(self.base / "bundle", self.config, self.packed, self.model, self.calibrators)
        return Funnel.open(self.base / "bundle")

    @property
    def since(self) -> int:
        """From when on the bundle's snapshots of priors are those that requests are packed with."""
        return max([0, *self.funnel.manifest.priors.values()])

    def request(self, split: str, number: int) -> dict[str, Any]:
        """A logged request, by way of JSON."""
        request: dict[str, Any] = json.loads(json.dumps(logged_request(self.run, split, number)))
        return request


def bare_funnel(packed: PackedDataset, path: Path) -> Funnel:
    """A funnel that encodes requests as a bundle of `packed` does, but has no stages: quickly made."""
    priors = packed.priors.as_of(packed.schema.priors(), packed.manifest.last)
    manifest = BundleManifest(
        format=FORMAT,
        name="bare",
        model_version="0" * 16,
        items_seq=1,
        content="",
        data=packed.data,
        features=packed.manifest.features,
        stages=[],
        sources=packed.manifest.sources,
        priors=dict(priors.cut or {}),
        items_at=packed.manifest.items_at,
        item_columns=packed.manifest.item_columns,
        parts={},
    )

    def fill(folder: Path) -> None:
        packed.encoders.save(folder / "encoders")
        newest(packed).renewed(packed.encoders, priors).save(folder / "items")
        for n, rates in enumerate(priors.rates.values()):
            rates.save(prior_folder(folder, n))

    return Funnel(write(path, manifest, fill))


def random_model(config: Config, packed: PackedDataset, seed: int) -> JointModel:
    """Weights of the size of a trained model's; embeddings and biases far from the zeros they begin at."""
    torch.manual_seed(seed % 2**31)
    model = untrained(config, packed).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("tables."):
                parameter.normal_()
            elif parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(2)
    return model


def _features(drawn: Drawn) -> dict[str, Drawn]:
    item_id = drawn["item_id"]
    features: dict[str, Drawn] = {
        "user_id": {"side": "user", "kind": "id", "dim": 3},
        "item_id": {"side": "item", "kind": "id"} | item_id,
    }
    for n, history in enumerate(drawn["histories"]):
        shared = {"side": "user", "kind": "ids", "of": "item_id", "dim": item_id["dim"]}
        features[f"history_{n}"] = shared | history
    for name, feature in _columns(drawn).items():
        plain = {key: value for key, value in feature.items() if key not in ("text", "whole")}
        side = name.partition("_")[0]
        features[name] = {"side": "user" if side == "logged" else side} | plain
    if drawn["attributes"]:
        features |= _attributes(drawn, features)
    if drawn["derived"]:
        features |= _derived(drawn, features)
    return features


def _attributes(drawn: Drawn, features: dict[str, Drawn]) -> dict[str, Drawn]:
    """An attribute of each history's items for every item feature that can be one."""
    items = [n for n, f in features.items() if f["side"] == "item" and f["kind"] in ("id", "ids")]
    return {
        f"history_{n}_{item}": {
            "side": "user",
            "kind": "ids",
            "of": f"history_{n}.{item}",
            "dim": features[item]["dim"],
            "pool": ("mean", "sum")[n % 2],
        }
        for n in range(len(drawn["histories"]))
        for item in items
    }


def _derived(drawn: Drawn, features: dict[str, Drawn]) -> dict[str, Drawn]:
    """Crosses and priors of every kind, of operands of either side and both, as the columns allow."""
    rng = np.random.default_rng(drawn["seed"] + 1)
    columns = _columns(drawn) | {
        "item_id": {"text": drawn["text_ids"]},
        "user_id": {"text": drawn["text_ids"]},
    }
    histories = [f"history_{n}" for n in range(len(drawn["histories"]))]

    def some(side: str, *kinds: str) -> list[str]:
        sides = ("user", "context") if side == "query" else (side,)
        return [n for n, f in features.items() if f["side"] in sides and f["kind"] in kinds and "of" not in f]

    def shape(n: int) -> Drawn:
        shapes: list[Drawn] = [{"scale": "none"}, {"scale": "quantile"}, {"buckets": 3, "dim": 8}, {}]
        return shapes[n % len(shapes)]

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
    for one in lists:
        items = columns.get(one.rpartition(".")[2], columns["item_id"])
        for other in some("query", "id", "ids") + some("item", "id", "ids"):
            alike = (columns[other]["text"] or "separator" in columns[other]) == (
                items["text"] or "separator" in items
            )
            if alike and one != other and rng.random() < 0.5:
                made.append({"kind": "contains", "of": [one, other]})
                made.append({"kind": "count", "of": [one, other]} | shape(len(made)))
    for one, other in (("query", "query"), ("query", "item"), ("item", "item")):
        by = list(dict.fromkeys([str(rng.choice(keys[one])), str(rng.choice(keys[other]))]))
        for label in ("click", "buy", None):
            late = [{}, {"lag": "5h"}, {"every": "2d"}][len(made) % 3]
            made.append({"kind": "prior", "by": by, "label": label, "smoothing": 3} | late | shape(len(made)))
    return {f"derived_{n}": {key: _plain(value) for key, value in f.items()} for n, f in enumerate(made)}


def _plain(value: Any) -> Any:
    return [str(v) for v in value] if isinstance(value, list) else value


def _columns(drawn: Drawn) -> dict[str, Drawn]:
    sides = {"user": "user", "logged": "logged_user", "context": "context", "item": "item", "cross": "cross"}
    return {f"{s}_{n}": feature for s, key in sides.items() for n, feature in enumerate(drawn[key])}


def _config(drawn: Drawn) -> Drawn:
    features = _features(drawn)
    some = {}
    if drawn["narrow"]:  # the towers see some features only
        some = {
            "query_features": [n for n, f in features.items() if f.get("side") in ("user", "context")][::2],
            "item_features": [n for n, f in features.items() if f.get("side") == "item"][::-2],
        }
    towers = {"name": "prerank", "model": "towers", "keep": 4, "query": [8, 4], "item": [6, 4]} | some
    if drawn["several_towers"]:
        query = [n for n, f in features.items() if f.get("side") in ("user", "context")]
        towers |= {
            "query_towers": {
                "one": {"features": query[::2]},
                "other": {"features": query[-1:], "widths": [4]},
            }
        }
        towers.pop("query_features", None)
    stages = [towers | drawn["prerank"]]
    if drawn["middle"]:
        stages.append({"name": "middle", "keep": 3} | drawn["middle"] | drawn["middle_tables"])
    rank = {"name": "rank", "model": "mlp", "keep": 2, "hidden": [8, 6], "labels": ["click", "buy"]}
    rank |= {"value": drawn["value"], "dcn": drawn["dcn"], "from_stages": drawn["earlier"]}
    if drawn["din"] and drawn["histories"]:
        attended = [
            n
            for n, f in features.items()
            if f.get("side") == "item" and f["kind"] in ("id", "ids", "bucket") and n != "item_id"
        ]
        rank["din"] = {
            "history": "history_0",
            "hidden": drawn["din"]["hidden"],
            "attributes": attended if drawn["din"]["attributes"] else [],
        }
    stages.append(rank)
    return {
        "name": "random",
        "data": {
            "log": "log.parquet",
            "items": "items.parquet",
            "users": "users.parquet",
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
        | ({"scores": {"served": {"column": "score", "scale": "probability"}}} if drawn["score"] else {}),
        "features": features,
        "stages": [stage | drawn["stage"] for stage in stages],
        "losses": [{"kind": "click", "stage": stage["name"]} for stage in stages],
    }


def _write_tables(base: Path, drawn: Drawn, rng: np.random.Generator) -> pl.DataFrame:
    """Users 8 and 9 are in no table, items 12 to 14 in no training row, item 15 in no row of the log."""
    columns = _columns(drawn)

    def drawn_columns(side: str, late: np.ndarray) -> dict[str, pl.Series]:
        return {n: _values(f, late, rng) for n, f in columns.items() if n.startswith(side)}

    time = np.sort(rng.integers(0, 4 * DAY // HOUR, REQUESTS)) * HOUR  # some at once
    time[[0, -14, -1]] = 0, 2 * DAY, 4 * DAY - HOUR
    time.sort()
    sizes = rng.integers(1, 6, REQUESTS)
    each = np.repeat(np.arange(REQUESTS), sizes)
    late = time >= 3 * DAY
    user = rng.integers(0, 8 + 2 * late, REQUESTS)
    item = np.concatenate([rng.permutation(15 if late[r] else 12)[:n] for r, n in enumerate(sizes)])
    # numbered at random, so that the requests of the log are not in the order of time
    number = rng.permutation(REQUESTS)
    by_request = drawn_columns("context", late) | drawn_columns("logged", late)
    log = pl.DataFrame(
        {
            "request": number[each],
            "user_id": _ids("u", user, drawn)[each],
            "item_id": _ids("i", item, drawn),
            "time": time[each],
            "level": rng.choice(LEVELS, len(each), p=(0.2, 0.2, 0.6)),
            "click": rng.integers(0, 2, len(each)),
            "buy": pl.Series(rng.integers(0, 3, len(each))).replace(2, None),
            "score": pl.Series(np.arange(len(each)) % 3 / 2).replace(0.5, None),
            "bid": rng.random(len(each)),
            "position": pl.Series(rng.integers(0, 4, len(each))).replace(3, None),
        }
        | {name: values.gather(each) for name, values in by_request.items()}
        | drawn_columns("cross", late[each])
    )
    log.sample(fraction=1, shuffle=True, seed=drawn["seed"] % 1000).write_parquet(base / "log.parquet")
    items = pl.DataFrame(
        {"item_id": _ids("i", np.arange(ITEMS), drawn), "worth": rng.random(ITEMS)}
        | drawn_columns("item", np.arange(ITEMS) >= 12)
    )
    items.write_parquet(base / "items.parquet")
    # users 0 to 3 change twice, 2 and 3 hold from a time only
    who, since = np.repeat(np.arange(8), [3, 3, 2, 2, 1, 1, 1, 1]), [None, 1, 2] * 2 + [1, 3] * 2 + [None] * 4
    users = pl.DataFrame(
        {
            "user_id": _ids("u", who, drawn),
            "valid_from": pl.Series(since, dtype=pl.Int64) * DAY,
        }
        | drawn_columns("user", np.zeros(len(who), dtype=bool))
    )
    users.write_parquet(base / "users.parquet")
    return items


def _ids(letter: str, numbers: np.ndarray, drawn: Drawn) -> pl.Series:
    return pl.Series([f"{letter}{n}" for n in numbers] if drawn["text_ids"] else numbers)


def _values(feature: Drawn, late: np.ndarray, rng: np.random.Generator) -> pl.Series:
    """Values of a column, a fifth of them missing; `late` rows hold some that no training row does."""
    rows = len(late)
    missing = rng.random(rows) < 0.2
    missing[0] = False
    if feature["kind"] in ("number", "bucket"):
        numbers = rng.normal(0, 20, rows) * np.where(late, 3, 1)
        values: list[Any] = (numbers.round().astype(int) if feature.get("whole") else numbers).tolist()
    elif feature["kind"] == "id":
        values = [_word(rng.integers(0, 5 + 3 * far), feature) for far in late]
    else:
        lists = [rng.integers(0, 5 + 3 * far, rng.integers(0, 5)).tolist() for far in late]
        lists[0] = [1, 2]
        values = [[_word(v, feature) for v in some] for some in lists]
        if "separator" in feature:
            values = [" ,".join(map(str, some)) for some in values]
    return pl.Series([None if gone else value for value, gone in zip(values, missing, strict=True)])


def _word(value: int, feature: Drawn) -> Any:
    return f"w{value}" if feature["text"] else int(value)
