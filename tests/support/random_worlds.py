"""What random worlds are drawn from, and three worlds that are fixed."""

from typing import Any

from hypothesis import strategies as st

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
    st.fixed_dictionaries(
        {"kind": st.just("vector"), "dim": dims, "normalise": st.booleans()}, optional={"project": st.just(2)}
    ),
)

TIMED = {
    "lag": st.sampled_from(["1h", "1d"]),
    "every": st.sampled_from(["1h", "1d"]),
    "half_life": st.sampled_from(["6h", "2d"]),
}
SHAPE = {
    "pool": st.sampled_from(["mean", "sum"]),
    "last": st.sampled_from([1, 3, 50]),
    "beside": st.booleans(),
}
listed = st.one_of(
    st.fixed_dictionaries(SHAPE | {"source": st.just("lists"), "table": st.sampled_from(["log", "users"]),
                                   "separator": st.sampled_from([None, " "])}),
    st.fixed_dictionaries(SHAPE | {"source": st.just("timed"), "table": st.sampled_from(["log", "users"]),
                                   "separator": st.sampled_from([None, " "])}, optional=TIMED),
    st.fixed_dictionaries(SHAPE | {"source": st.just("events")}, optional=TIMED),
)  # fmt: skip
"""Histories of lists of ids, of lists with times, and of a table of events; `beside`: with an attribute of events."""
derived_histories = st.fixed_dictionaries(
    {"pool": st.sampled_from(["mean", "sum"]), "last": st.sampled_from([1, 3, 50])},
    optional={"event": st.sampled_from(["click", "buy"])} | TIMED,
)
histories = st.one_of(derived_histories, listed)

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
        "counted": st.booleans(),
        "attributes": st.booleans(),
        "alone": st.sampled_from([None, "histories", "id"]),
        "several_towers": st.booleans(),
        "matches": st.booleans(),
        "structure": st.sampled_from([{}, {"bias": False}]),
        "din": st.none() | st.fixed_dictionaries({"hidden": st.just(5), "attributes": st.booleans()}),
        "dcn": st.sampled_from([None, {"layers": 2}, {"layers": 1, "rank": 3}]),
        "rank": st.just({}),
        "earlier": st.sampled_from([[], ["prerank.score"], ["prerank.rank", "prerank.score"]]),
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
        {"kind": "vector", "dim": 8, "normalise": False},
    ],
    "logged_user": [{"kind": "bucket", "buckets": 6, "dim": 3}],
    "context": [
        {"kind": "id", "dim": 3, "min_count": 1, "text": True, "hash": 5},
        {"kind": "vector", "dim": 3, "normalise": True, "project": 1},
    ],
    "item": [
        {"kind": "ids", "dim": 3, "pool": "sum", "last": 2, "text": False},
        {"kind": "number", "scale": "quantile", "whole": True},
        {"kind": "id", "dim": 3, "min_count": 1, "text": True},
        {"kind": "vector", "dim": 8, "normalise": True, "project": 2},
        {"kind": "vector", "dim": 3, "normalise": False},
    ],
    "cross": [
        {"kind": "number", "scale": "standard", "whole": False},
        {"kind": "ids", "dim": 8, "pool": "mean", "last": 50, "text": True},
        {"kind": "vector", "dim": 3, "normalise": True},
    ],
    "stage": {"activation": "relu", "normalisation": "layer"},
    "narrow": False,
    "prerank": {},
    "middle": None,
    "middle_tables": {},
    "score": False,
    "derived": False,
    "attributes": False,
    "alone": None,
    "several_towers": False,
    "structure": {},
    "din": None,
    "dcn": None,
    "rank": {},
    "earlier": [],
    "value": "click",
    "shown": False,
}
"""One that has something of every kind of column."""

DERIVED: Drawn = RICH | {
    "histories": [
        {"pool": "mean", "last": 50, "event": "click", "every": "1d"},
        {"pool": "sum", "last": 3, "lag": "1h", "half_life": "6h"},
    ],
    "context": [*RICH["context"], {"kind": "number", "scale": "standard", "whole": False}],
    "derived": True,
    "attributes": True,
    "several_towers": True,
    "din": {"hidden": 5, "attributes": True},
    "dcn": {"layers": 2, "rank": 3},
    "earlier": ["prerank.rank", "prerank.score"],
    "value": "click * bid",
    "shown": True,
}
"""The same with crosses, priors, attention, cross layers and all else that is made of columns.

The first history has times in requests for the ages of its events alone."""

LISTED: Drawn = DERIVED | {
    "histories": [
        {"pool": "mean", "last": 3, "source": "timed", "table": "log", "separator": None, "beside": True,
         "lag": "1h", "half_life": "2d"},
        {"pool": "sum", "last": 50, "source": "events", "beside": True, "half_life": "6h"},
        {"pool": "mean", "last": 2, "source": "lists", "table": "users", "separator": " ", "beside": True},
    ],
}  # fmt: skip
"""The same with histories of lists and of a table of events."""

ALONE: Drawn = LISTED | {"alone": "id"}
"""The same with histories that no network reads, of an item id that is no input."""

LONG: Drawn = RICH | {
    "prerank": {"embeddings": "own"},
    "middle": {"model": "mlp", "hidden": [5]},
    "middle_tables": {"embeddings": "own"},
    "score": True,
}
"""The same with three stages, three sets of tables, and production's scores."""

PAGED: Drawn = RICH | {
    "prerank": {"keep": 9},
    "rank": {"keep": 8},
    "page": {
        "keep": 4,
        "method": "dpp",
        "by": "prerank.vector",
        "rules": [
            {"at_most": 1, "of": "item_2", "within": 2},
            {"at_most": 2, "of": "item_0"},
            {"at_least": 1, "of": "item_1", "within": 3},
        ],
    },
}
"""The same with a page behind the ranker, of rules of an id, of lists and of a number."""
