from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from corank.core.errors import ConfigError
from corank.core.settings import Settings, validate
from corank.features.encoding import RowFeatures
from corank.features.feature_kind import Feature
from corank.features.kinds.ids import IdsFeature
from corank.features.schema import Placement, Schema
from corank.training.config.config import Config

Plain = dict[str, dict[str, Any]]

COLUMNS: Plain = {
    "user": {"side": "user", "kind": "id"},
    "age": {"side": "user", "kind": "bucket"},
    "likes": {"side": "user", "kind": "ids"},
    "clicked": {"side": "user", "kind": "ids", "of": "item", "event": "click", "half_life": "7d"},
    "brands": {"side": "user", "kind": "ids", "of": "clicked.brand", "dim": 4},
    "tab": {"side": "context", "kind": "id"},
    "budget": {"side": "context", "kind": "number"},
    "item": {"side": "item", "kind": "id"},
    "brand": {"side": "item", "kind": "id", "dim": 4, "column": "brand_id"},
    "tags": {"side": "item", "kind": "ids"},
    "price": {"side": "item", "kind": "number"},
    "position": {"side": "cross", "kind": "number"},
}


class Declared(Settings):
    features: dict[str, Feature]


def schema(more: Plain | None = None) -> Schema:
    return Schema(TypeAdapter(dict[str, Feature]).validate_python(COLUMNS | (more or {})))


def refused(name: str, feature: dict[str, Any]) -> str:
    """What the config says of a feature, or of a schema that has it."""
    with pytest.raises(ConfigError) as error:
        Schema(validate(Declared, {"features": COLUMNS | {name: feature}}, "x.yaml").features)
    return str(error.value).removeprefix("x.yaml: ")


DERIVED: Plain = {
    "user_age": {"kind": "pair", "of": ["user", "age"]},
    "user_tab": {"kind": "pair", "of": ["user", "tab"]},
    "brand_item": {"kind": "pair", "of": ["brand", "item"]},
    "tab_brand": {"kind": "pair", "of": ["tab", "brand"]},
    "spare": {"kind": "product", "of": ["age", "budget"]},
    "steep": {"kind": "ratio", "of": ["price", "budget"]},
    "liked": {"kind": "contains", "of": ["likes", "tags"]},
    "again": {"kind": "contains", "of": ["clicked", "item"]},
    "brand_seen": {"kind": "count", "of": ["clicked.brand", "brand"], "buckets": 4},
    "item_rate": {"kind": "prior", "by": ["item"], "label": "click"},
    "user_rate": {"kind": "prior", "by": ["user"]},
    "tab_rate": {"kind": "prior", "by": ["user", "tab"], "label": "click", "buckets": 8},
    "rate": {"kind": "prior", "by": ["user", "tab", "brand"]},
}


def test_derived_features_are_of_the_side_of_their_operands() -> None:
    made = schema(DERIVED)
    assert {name: made.side(name) for name in DERIVED} == {
        "user_age": "user",
        "user_tab": "context",
        "brand_item": "item",
        "tab_brand": "cross",
        "spare": "context",
        "steep": "cross",
        "liked": "cross",
        "again": "cross",
        "brand_seen": "cross",
        "item_rate": "item",
        "user_rate": "user",
        "tab_rate": "context",
        "rate": "cross",
    }
    assert made.side("age") == "user" and made.side("position") == "cross"
    assert list(made.derived("query")) == ["user_age", "user_tab", "spare", "user_rate", "tab_rate"]
    assert list(made.priors()) == ["item_rate", "user_rate", "tab_rate", "rate"]
    assert list(made.priors("snapshot")) == ["item_rate"] and not made.priors("item")
    assert made.placement("item_rate") == "snapshot" and made.placement("user_rate") == "query"


def test_placed_features_are_embedded_numbers_or_lists() -> None:
    made = schema(DERIVED)
    assert made.row_features("query") == RowFeatures(
        ids=("user", "age", "tab", "user_age", "user_tab", "tab_rate"),
        lists=("likes", "clicked", "brands"),
        numbers=("budget", "spare", "user_rate"),
        widths=(1, 1, 1),
    )
    assert made.row_features("item") == RowFeatures(
        ids=("item", "brand", "brand_item"), lists=("tags",), numbers=("price",), widths=(1,)
    )
    assert list(made.row_features("item")) == ["item", "brand", "brand_item", "price", "tags"]
    assert made.row_features("snapshot") == RowFeatures((), (), ("item_rate",), (1,))
    assert list(made.record_features) == ["item", "brand", "brand_item", "price", "item_rate", "tags"]
    assert made.row_features("cross") == RowFeatures(
        ids=("tab_brand", "brand_seen"),
        lists=(),
        numbers=("position", "steep", "liked", "again", "rate"),
        widths=(1,) * 5,
    )
    assert {name for name, feature in made.features.items() if feature.storage != "number"} == set(
        made.embedded()
    )


def test_histories_share_the_tables_of_their_items() -> None:
    made = schema(DERIVED)
    tables = {name: made.table_of(name) for name in ("clicked", "brands", "likes", "brand_seen", "brand")}
    assert tables == {
        "clicked": "item",
        "brands": "brand",
        "likes": "likes",
        "brand_seen": "brand_seen",
        "brand": "brand",
    }
    assert list(made.histories()) == ["clicked"]
    assert made.attributes() == {"brands": ("clicked", "brand")}
    assert made.history_operands() == ["clicked", "clicked.brand"]
    assert [made.of_items(name) for name in ("clicked", "clicked.tags", "likes", "brand")] == [
        "item",
        "tags",
        None,
        None,
    ]
    assert "clicked" not in made.columns() and "brands" not in made.columns("query")
    assert list(made.columns("item")) == ["item", "brand", "tags", "price"]
    assert [made.column(name) for name in ("brand", "item", "rate")] == ["brand_id", "item", "rate"]


def test_what_a_feature_is_unless_it_says_otherwise() -> None:
    made = schema(DERIVED).features
    rate, seen, spare = made["item_rate"], made["brand_seen"], made["spare"]
    assert rate.model_dump() == {
        "kind": "prior",
        "by": ["item"],
        "label": "click",
        "events": None,
        "every": "1d",
        "lag": "0d",
        "window": None,
        "half_life": None,
        "smoothing": 10,
        "scale": None,
        "buckets": None,
        "dim": 16,
    }
    assert [getattr(feature, "scaling", None) for feature in (rate, seen, spare)] == [
        "standard",
        "log",
        "standard",
    ]
    clicked = made["clicked"]
    assert isinstance(clicked, IdsFeature) and clicked.half_life == timedelta(days=7)
    assert clicked.attribute is None and clicked.last == 50


HISTORY = {"side": "user", "kind": "ids", "of": "item"}
ATTRIBUTE = {"side": "user", "kind": "ids", "of": "clicked.brand", "dim": 4}
PAIR = {"kind": "pair", "of": ["user", "tab"]}
PRIOR = {"kind": "prior", "by": ["item"]}
OWN = {"event": "click", "lag": "1h", "every": "1d", "half_life": "1d"}
TIMED = {key: OWN[key] for key in ("lag", "every", "half_life")}
SOURCES = {"times": "when", "events": "clicks"}
ENCODING = {"hash": 9, "min_count": 2}
LISTED = {"column": "seen", "times": "when"}
BESIDE = {"side": "user", "kind": "ids", "parallel_to": "clicked"}
OF_A_USER = ": a history belongs to the user; write `side: user` in place of "
GRID = ": every must be above 0s, and whole days where it is more than one"
ITS_HISTORY = ": the events are those of the history 'clicked'; drop it here"

UNSOUND: list[tuple[dict[str, Any], str]] = [
    *((HISTORY | {"every": every}, GRID) for every in ("0s", "25h", "36h")),
    *((PRIOR | {"every": every}, GRID) for every in ("0d", "25h", "36h")),
    (HISTORY | {"half_life": "0m"}, ": half_life must be above 0s"),
    *(({"side": "user", "kind": "ids", key: value},
       f": {key}: a setting of histories; write `of: <item id feature>` or `events: <table>`, or drop it")
      for key, value in (OWN | {"times": "when"}).items()),
    (HISTORY | {"side": "context"}, f"{OF_A_USER}`context`"),
    (ATTRIBUTE | {"side": "item"}, f"{OF_A_USER}`item`"),
    *((history | {key: value},
       f": a history is encoded by the feature it is `of`; drop {key}")
      for history in (HISTORY, ATTRIBUTE, HISTORY | LISTED) for key, value in ENCODING.items()),
    *((ATTRIBUTE | {key: value}, f": {key}{ITS_HISTORY}")
      for key, value in (OWN | SOURCES | {"last": 9, "column": "x", "separator": ","}).items()),
    *((HISTORY | {key: value}, f": {key}: a setting of list columns; name one as `column`, or drop it")
      for key, value in (("times", "when"), ("separator", ","))),
    *((HISTORY | {"column": "seen", key: value},
       f": {key}: the times of the events of column 'seen' are needed; name the column that lists them as `times`, "
       "or drop it") for key, value in TIMED.items()),
    *((HISTORY | LISTED | {key: value}, f": {key}: the events are those that column 'seen' lists; drop it")
      for key, value in (("event", "click"), ("events", "clicks"))),
    (HISTORY | {"events": "clicks", "event": "click"},
     ": event: every row of the events 'clicks' is an event; drop it"),
    (BESIDE | {"of": "item"}, ": a list is `of` the items of a history or `parallel_to` its events; drop one of both"),
    (BESIDE | {"last": 9}, ": last: that of the history 'clicked' holds here, too; drop it"),
    (BESIDE | {"side": "context"}, f"{OF_A_USER}`context`"),
    *((feature | {"buckets": 4, "scale": "log"},
       ": buckets embed the number and scale leaves it one; write one of them")
      for feature in (DERIVED["brand_seen"], DERIVED["spare"], DERIVED["steep"], PRIOR)),
    (PAIR | {"scale": "log"}, ": unknown key 'scale'; known keys: "
     "count_half_life, dim, hash, keep_days, kind, max_rows, min_count, of"),
    (PAIR | {"hsh": 3}, ": unknown key 'hsh'; did you mean 'hash'?"),
    (PAIR | {"side": "user"}, ": unknown key 'side'; known keys: "
     "count_half_life, dim, hash, keep_days, kind, max_rows, min_count, of"),
    (PAIR | {"of": ["user"]}, ".of: List should have at least 2 items after validation, not 1; "
     "received ['user']"),
    (PAIR | {"of": ["user", "tab", "item"]}, ".of: List should have at most 2 items after validation, not 3; "
     "received ['user', 'tab', 'item']"),
    (PRIOR | {"by": []}, ".by: List should have at least 1 item after validation, not 0; received []"),
    ({"kind": "prior"}, ".by: required, but not given"),
    ({"kind": "id"}, ".side: required, but not given"),
    *((PRIOR | {"window": window}, ": window must be a multiple of every (1d), so that whole periods count")
      for window in ("6h", "36h", "0d")),
    (PRIOR | {"smoothing": "auto"}, ": smoothing is of a rate; name its label, or drop smoothing"),
    (PRIOR | {"half_life": "0s"}, ": half_life must be above 0s"),
    (PRIOR | {"window": "7d", "half_life": "1d"},
     ": window and half_life both say how the past is forgotten; write one of them"),
    (HISTORY | {"input": False, "pool": "sum"},
     ": pool has no effect with input: false, as no network reads it; drop it"),
    *((of | {"side": "user", "kind": "ids", "input": False},
       ": only networks read what belongs to the events of a history; drop input: false")
      for of in ({"of": "clicked.brand"}, {"parallel_to": "clicked"})),
    ({"side": "item", "kind": "time", "input": True},
     ": no network reads a time; derive a feature of kind age from it"),
    *(({"side": "item", "kind": kind, "input": False, key: value},
       f": {key} has no effect with input: false, as no network reads it; drop it")
      for kind, key, value in (("id", "dim", 8), ("id", "min_count", 2), ("id", "hash", 9), ("ids", "dim", 8),
                               ("ids", "pool", "sum"), ("ids", "hash", 9), ("number", "scale", "log"),
                               ("bucket", "dim", 8))),
    *((PRIOR | {"smoothing": odd}, f".smoothing: expected a number above 0, or auto; received {odd!r}")
      for odd in (0, -1, True, "some", float("inf"), float("nan"), None)),
    (PRIOR | {"every": "1w"}, ".every: expected a duration such as 30m, 1h or 3d; received '1w'"),
]  # fmt: skip


@pytest.mark.parametrize(("feature", "message"), UNSOUND)
def test_a_feature_that_contradicts_itself_is_refused(feature: dict[str, Any], message: str) -> None:
    assert refused("odd", feature) == f"features.odd{message}"


@pytest.mark.parametrize("every", ["1s", "7h", "24h", "48h", "3d"])
def test_a_grid_is_of_parts_of_a_day_or_of_whole_days(every: str) -> None:
    made = schema({"odd": PRIOR | {"every": every}, "history": HISTORY | {"every": every}})
    assert made.priors()["odd"].every == made.histories()["history"].every


OF_COLUMNS = "is itself made of others; name features of columns"
LOGGED = "is logged with the pair, and unknown where the pair was not; name user, context and item features"
IDS = "of features of kind id or bucket"
LISTS = "of a list or history, then an id or a list"
NUMBERS = "of two features of kind number or bucket"

TOGETHER: list[tuple[dict[str, Any], str]] = [
    (HISTORY | {"of": "nobody"}, "of: must name an item id feature (item, brand); received 'nobody'"),
    (HISTORY | {"of": "user"}, "of: must name an item id feature (item, brand); received 'user'"),
    (HISTORY | {"of": "tags"}, "of: must name an item id feature (item, brand); received 'tags'"),
    (HISTORY | {"of": ""}, "of: must name an item id feature (item, brand); received ''"),
    (HISTORY | {"dim": 8}, "dim: a history shares the table of 'item', whose dim is 16; received 8"),
    (ATTRIBUTE | {"dim": 8}, "dim: a history shares the table of 'brand', whose dim is 4; received 8"),
    (ATTRIBUTE | {"of": "likes.brand"}, "of: 'likes.brand' is an attribute of a history, but 'likes' is none of items; "
     "histories are clicked"),
    (ATTRIBUTE | {"of": "clicked."}, "of: no feature '' is declared under features"),
    (ATTRIBUTE | {"of": "clicked.nothing"}, "of: no feature 'nothing' is declared under features"),
    (ATTRIBUTE | {"of": "clicked.tab"}, "of: 'clicked.tab' must be an item feature of kind id, ids or vector; "
     "'tab' is a context feature of kind id"),
    (ATTRIBUTE | {"of": "clicked.position"}, f"of: 'position' {LOGGED}"),
    (ATTRIBUTE | {"of": "clicked.brands"}, f"of: 'brands' {OF_COLUMNS}"),
    (PRIOR | {"by": ["item", "tab", "item"]}, "by: names one feature twice; received item, tab, item"),
    (PAIR | {"of": ["user", "user"]}, "of: names one feature twice; received user, user"),
    (PAIR | {"of": ["user", "nobody"]}, "of: no feature 'nobody' is declared under features"),
    (PAIR | {"of": ["user", "odd"]}, f"of: 'odd' {OF_COLUMNS}"),
    (DERIVED["liked"] | {"of": ["brands", "brand"]}, f"of: 'brands' {OF_COLUMNS}"),
    (DERIVED["spare"] | {"of": ["budget", "position"]}, f"of: 'position' {LOGGED}"),
    (DERIVED["liked"] | {"of": ["user.brand", "brand"]}, "of: 'user.brand' is an attribute of a history, but "
     "'user' is none of items; histories are clicked"),
    (PAIR | {"of": ["user", "budget"]}, f"of: a pair is {IDS}; 'budget' is neither"),
    (PAIR | {"of": ["clicked", "item"]}, f"of: a pair is {IDS}; 'clicked' is neither"),
    (PRIOR | {"by": ["user", "clicked.brand"]}, f"by: a prior is {IDS}; 'clicked.brand' is neither"),
    (PRIOR | {"by": ["tags"]}, f"by: a prior is {IDS}; 'tags' is neither"),
    (DERIVED["liked"] | {"of": ["brand", "likes"]}, f"of: a contains is {LISTS}; 'brand' is neither"),
    (DERIVED["liked"] | {"of": ["likes", "price"]}, f"of: a contains is {LISTS}; 'price' is neither"),
    ({"kind": "count", "of": ["likes", "age"]}, f"of: a count is {LISTS}; 'age' is neither"),
    ({"kind": "count", "of": ["age", "likes"]}, f"of: a count is {LISTS}; 'age' is neither"),
    (DERIVED["spare"] | {"of": ["budget", "item"]}, f"of: a product is {NUMBERS}; 'item' is neither"),
    (DERIVED["steep"] | {"of": ["tags", "price"]}, f"of: a ratio is {NUMBERS}; 'tags' is neither"),
]  # fmt: skip


@pytest.mark.parametrize(("feature", "message"), TOGETHER)
def test_a_feature_that_others_contradict_is_refused(feature: dict[str, Any], message: str) -> None:
    assert refused("odd", feature) == f"features.odd.{message}"


@pytest.mark.parametrize("kind", [{"kind": "id", "input": False}, {"kind": "time"}])
def test_what_nothing_reads_is_refused(kind: dict[str, Any]) -> None:
    said = "features.odd: no network reads it, and no derived feature does; drop it, or input: false"
    assert refused("odd", {"side": "item"} | kind) == said


BORN: Plain = {"born": {"side": "item", "kind": "time"}, "since": {"side": "context", "kind": "time"}}


def test_an_age_is_where_it_is_known() -> None:
    ages: Plain = {
        "stepwise": {"kind": "age", "of": "born", "every": "1h"},
        "exact": {"kind": "age", "of": "born"},
        "waited": {"kind": "age", "of": "since"},
        "candidates": {"kind": "candidates", "buckets": 8},
    }
    made = schema(BORN | ages | {"ctr": PRIOR | {"every": "2d"}})
    assert [made.side(name) for name in ages] == ["item", "cross", "context", "context"]
    assert made.snapshots() == {"stepwise": timedelta(hours=1), "ctr": timedelta(days=2)}
    assert "born" not in made.row_features("item") and "stepwise" in made.row_features("snapshot").numbers
    assert made.row_features("query").ids[-1] == "candidates"


@pytest.mark.parametrize(
    ("age", "message"),
    [
        ({"of": "price"}, ".of: a age is of a feature of kind time; 'price' is neither"),
        ({"of": "nobody"}, ".of: no feature 'nobody' is declared under features"),
        ({"of": "born", "every": "25h"}, GRID),
        ({"of": "since", "every": "1h"}, ".every: has no effect, as 'since' is of the request, whose time is "
         "known; drop it"),
        ({"of": "born", "scale": "log", "buckets": 3},
         ": buckets embed the number and scale leaves it one; write one of them"),
    ],
)  # fmt: skip
def test_an_age_is_of_a_time(age: dict[str, Any], message: str) -> None:
    reads: Plain = {n: {"kind": "age", "of": n} for n in BORN}
    with pytest.raises(ConfigError) as error:
        validated = validate(
            Declared, {"features": COLUMNS | BORN | {f"{n}_ago": f for n, f in reads.items()}}, "x.yaml"
        )
        more = validate(Declared, {"features": {"odd": {"kind": "age"} | age}}, "x.yaml").features
        Schema(validated.features | more)
    assert str(error.value).removeprefix("x.yaml: ") == f"features.odd{message}"


@pytest.mark.parametrize("operand", ["born", "since"])
def test_a_time_is_the_operand_of_ages_alone(operand: str) -> None:
    with pytest.raises(
        ConfigError, match=f"a prior is of features of kind id or bucket; '{operand}' is neither"
    ):
        schema(BORN | {"odd": {"kind": "prior", "by": [operand]}})
    with pytest.raises(ConfigError, match="a product is of two features of kind number or bucket"):
        schema(BORN | {"odd": {"kind": "product", "of": [operand, "price"]}})


def test_an_attribute_of_items_is_embedded() -> None:
    said = refused("odd", ATTRIBUTE | {"of": "clicked.price"})
    assert said.startswith(
        "features.odd.of: 'clicked.price' must be an item feature of kind id, ids or vector; 'price' is "
    )


def test_a_name_has_no_dot() -> None:
    assert refused("a.b", {"side": "user", "kind": "id"}) == (
        "features.a.b: a name must not contain a dot, which is reserved for `HISTORY.FEATURE`"
    )


def test_what_there_is_none_of_is_said() -> None:
    lone = TypeAdapter(dict[str, Feature]).validate_python({"seen": HISTORY})
    with pytest.raises(ConfigError, match=r"must name an item id feature \(none declared\); received 'item'"):
        Schema(lone)
    few = {name: COLUMNS[name] for name in ("likes", "brand")} | {"odd": DERIVED["brand_seen"]}
    with pytest.raises(ConfigError, match="but 'clicked' is none of items; histories are not declared"):
        Schema(TypeAdapter(dict[str, Feature]).validate_python(few))


REASONS = {
    "query": "at serving time the query tower runs once a request and does not know the item",
    "item": "item vectors are computed ahead of any request and do not know the query",
}


@pytest.mark.parametrize(
    ("name", "tower", "found"),
    [
        ("item", "query", "an item"),
        ("item_rate", "query", "an item"),
        ("brand_seen", "query", "a cross"),
        ("position", "query", "a cross"),
        ("clicked", "item", "a query"),
        ("user_tab", "item", "a query"),
        ("rate", "item", "a cross"),
    ],
)
def test_a_tower_knows_its_own_side_alone(name: str, tower: Placement, found: str) -> None:
    with pytest.raises(ConfigError) as error:
        schema(DERIVED).check_tower(["user_tab" if tower == "query" else "item", name], tower, "key")
    assert str(error.value) == (
        f"key: '{name}' is {found} feature and cannot enter the {tower} tower: {REASONS[tower]}; "
        "leave it to a ranker stage"
    )


def test_a_tower_may_see_what_is_derived_of_its_side() -> None:
    made = schema(DERIVED)
    made.check_tower(made.row_features("query"), "query", "key")
    made.check_tower(made.row_features("item"), "item", "key")
    with pytest.raises(ConfigError, match="key: no feature 'nobody' is declared under features"):
        made.check_tower(["nobody"], "query", "key")


def config(**more: dict[str, Any]) -> Config:
    data = {
        "log": "log.parquet",
        "request": ["request"],
        "user": "user",
        "item": "item",
        "time": "time",
        "labels": {"click": {"column": "click"}},
        "split": {"valid": "1970-01-03", "test": "1970-01-04"},
    }
    stages = [{"name": "prerank", "model": "towers", "keep": 9}]
    losses = [{"kind": "click", "stage": "prerank"}]
    plain = {"name": "x", "data": data, "features": COLUMNS | more, "stages": stages, "losses": losses}
    return validate(Config, plain, "x.yaml")


def test_a_config_knows_the_labels_that_its_features_name() -> None:
    assert list(config(**DERIVED).declared.priors()) == ["item_rate", "user_rate", "tab_rate", "rate"]
    with pytest.raises(ConfigError) as error:
        config(odd=PRIOR | {"label": "order"})
    assert str(error.value) == "x.yaml: features.odd.label: no label 'order'; data.labels are click"
    with pytest.raises(ConfigError) as error:
        config(odd=HISTORY | {"event": "order"})
    assert str(error.value) == "x.yaml: features.odd.event: no label 'order'; data.labels are click"


def test_a_duration_is_one_that_can_be_counted() -> None:
    assert refused("odd", HISTORY | {"lag": "99999999999d"}).startswith("features.odd.lag: ")


ALONE: Plain = {
    "brand": COLUMNS["brand"] | {"input": False, "dim": 16},
    "age": {"side": "user", "kind": "bucket", "input": False},
    "budget": {"side": "context", "kind": "number", "input": False},
    "tags": {"side": "item", "kind": "ids", "input": False},
}
"""Columns that derived features read and networks do not."""


def test_an_operand_that_is_no_input_enters_no_network_and_has_no_table() -> None:
    reading = {n: DERIVED[n] for n in ("user_age", "spare", "liked", "tab_brand")}
    made = Schema(TypeAdapter(dict[str, Feature]).validate_python(_without_brands() | ALONE | reading))
    assert not set(ALONE) & {*made.inputs(), *made.embedded()}
    assert not set(ALONE) & {name for side in ("query", "item", "cross") for name in made.row_features(side)}
    assert set(ALONE) <= set(made.columns()) and made.side("brand") == "item"
    assert made.unread() == []
    assert made.unread(["tab_brand", "spare"]) == ["budget", "brand"]


def _without_brands() -> Plain:
    return {name: feature for name, feature in COLUMNS.items() if name != "brands"}


@pytest.mark.parametrize(
    "history",
    [HISTORY | {"of": "thing"}, ATTRIBUTE | {"of": "clicked.thing", "dim": 16}],
)
def test_a_history_has_no_table_of_what_is_no_input(history: Plain) -> None:
    thing = {"side": "item", "kind": "id", "input": False}
    with pytest.raises(ConfigError) as error:
        schema({"thing": thing, "of": {"kind": "pair", "of": ["thing", "tab"]}, "odd": history})
    said = {
        "thing": "features.odd.of: shares the table of 'thing', which is no input and has none; drop "
        "features.thing.input: false, or write input: false for 'odd', too: then networks read but what is made of it",
        "clicked.thing": "features.odd.of: shares the table of 'thing', which is no input and has none; "
        "drop features.thing.input: false",
    }
    assert str(error.value) == said[str(history["of"])]


def test_a_filter_alone_is_a_use() -> None:
    made = schema({"shop": {"side": "item", "kind": "id", "input": False, "filter": True}})
    assert made.filters() == ["shop"] and "shop" not in made.row_features("item").ids


def test_no_tower_is_given_what_is_no_input() -> None:
    made = schema({"tab": COLUMNS["tab"] | {"input": False}, "user_tab": DERIVED["user_tab"]})
    with pytest.raises(ConfigError) as error:
        made.check_tower(["tab"], "query", "stages.prerank.query_features")
    assert str(error.value) == (
        "stages.prerank.query_features: 'tab' is no input (features.tab.input: false); drop one of both"
    )
