from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from corank.core.errors import ConfigError
from corank.core.settings import Settings, validate
from corank.features.encoding import Placement
from corank.features.feature_kind import Feature
from corank.features.schema import Schema
from corank.training.config.config import Config
from tests.support.configs import small_config

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


HISTORY = {"side": "user", "kind": "ids", "of": "item"}
ATTRIBUTE = {"side": "user", "kind": "ids", "of": "clicked.brand", "dim": 4}
PAIR = {"kind": "pair", "of": ["user", "tab"]}
PRIOR = {"kind": "prior", "by": ["item"]}
OWN = {"event": "click", "lag": "1h", "every": "1d", "half_life": "1d"}
TIMED = {key: OWN[key] for key in ("lag", "every", "half_life")}
BESIDE = {"side": "user", "kind": "ids", "parallel_to": "clicked"}
OF_A_USER = ": a history belongs to the user; write `side: user` in place of "
GRID = ": every must be above 0s, and whole days where it is more than one"

UNSOUND: list[tuple[dict[str, Any], str]] = [
    *((PRIOR | {"every": every}, GRID) for every in ("0d", "25h", "36h")),
    *(({"side": "user", "kind": "ids", key: value},
       f": {key}: a setting of histories; write `of: <item id feature>` or `events: <table>`, or drop it")
      for key, value in (OWN | {"times": "when"}).items()),
    (HISTORY | {"side": "context"}, f"{OF_A_USER}`context`"),
    *((HISTORY | {"column": "seen", key: value},
       f": {key}: the times of the events of column 'seen' are needed; name the column that lists them as `times`, "
       "or drop it") for key, value in TIMED.items()),
    (BESIDE | {"of": "item"}, ": a list is `of` the items of a history or `parallel_to` its events; drop one"),
    *((feature | {"buckets": 4, "scale": "log"},
       ": buckets embed the number and scale leaves it one; write one of them")
      for feature in (DERIVED["brand_seen"], DERIVED["spare"], DERIVED["steep"], PRIOR)),
    (PAIR | {"hsh": 3}, ": unknown key 'hsh'; did you mean 'hash'?"),
    *((PRIOR | {"window": window}, ": window must be a multiple of every (1d), so that whole periods count")
      for window in ("6h", "36h", "0d")),
    (PRIOR | {"window": "7d", "half_life": "1d"},
     ": window and half_life both say how the past is forgotten; write one of them"),
    ({"side": "item", "kind": "time", "input": True},
     ": no network reads a time; derive a feature of kind age from it"),
]  # fmt: skip


@pytest.mark.parametrize(("feature", "message"), UNSOUND)
def test_a_feature_that_contradicts_itself_is_refused(feature: dict[str, Any], message: str) -> None:
    assert refused("odd", feature) == f"features.odd{message}"


LOGGED = "is of a logged pair; name user, context and item features"
IDS = "of features of kind id or bucket"
LISTS = "of a list or history, then an id or a list"

TOGETHER: list[tuple[dict[str, Any], str]] = [
    (HISTORY | {"of": "nobody"}, "of: must name an item id feature (item, brand); received 'nobody'"),
    (HISTORY | {"dim": 8}, "dim: a history shares the table of 'item', whose dim is 16; received 8"),
    (ATTRIBUTE | {"of": "likes.brand"}, "of: 'likes.brand' is an attribute of a history, but 'likes' is none of items; "
     "histories are clicked"),
    (PAIR | {"of": ["user", "user"]}, "of: names one feature twice; received user, user"),
    (DERIVED["spare"] | {"of": ["budget", "position"]}, f"of: 'position' {LOGGED}"),
    (PAIR | {"of": ["clicked", "item"]}, f"of: a pair is {IDS}; 'clicked' is neither"),
    (DERIVED["liked"] | {"of": ["likes", "price"]}, f"of: a contains is {LISTS}; 'price' is neither"),
]  # fmt: skip


@pytest.mark.parametrize(("feature", "message"), TOGETHER)
def test_a_feature_that_others_contradict_is_refused(feature: dict[str, Any], message: str) -> None:
    assert refused("odd", feature) == f"features.odd.{message}"


def test_what_nothing_reads_is_refused() -> None:
    said = "features.odd: nothing reads it; drop it, or input: false"
    assert refused("odd", {"side": "item", "kind": "id", "input": False}) == said


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


def test_a_name_has_no_dot() -> None:
    assert refused("a.b", {"side": "user", "kind": "id"}) == (
        "features.a.b: a name has no dot: that is for `HISTORY.FEATURE`"
    )


REASONS = {
    "query": "at serving time the query tower runs once a request and does not know the item",
    "item": "item vectors are computed ahead of any request and do not know the query",
}


@pytest.mark.parametrize(
    ("name", "tower", "found"),
    [
        ("item", "query", "an item"),
        ("clicked", "item", "a query"),
    ],
)
def test_a_tower_knows_its_own_side_alone(name: str, tower: Placement, found: str) -> None:
    with pytest.raises(ConfigError) as error:
        schema(DERIVED).check_tower(["user_tab" if tower == "query" else "item", name], tower, "key")
    assert str(error.value) == (
        f"key: '{name}' is {found} feature and cannot enter the {tower} tower: {REASONS[tower]}; "
        "leave it to a ranker stage"
    )


def config(**more: dict[str, Any]) -> Config:
    return validate(Config, small_config(COLUMNS | more), "x.yaml")


def test_a_config_knows_the_labels_that_its_features_name() -> None:
    assert list(config(**DERIVED).declared.priors()) == ["item_rate", "user_rate", "tab_rate", "rate"]
    with pytest.raises(ConfigError) as error:
        config(odd=PRIOR | {"label": "order"})
    assert str(error.value) == "x.yaml: features.odd.label: no label 'order'; data.labels are click"
    with pytest.raises(ConfigError) as error:
        config(odd=HISTORY | {"event": "order"})
    assert str(error.value) == "x.yaml: features.odd.event: no label 'order'; data.labels are click"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            ["second", "price"],
            ["first", "price"],
            "features.first: is made of itself (first → second → first)",
        ),
        (["first", "price"], ["price", "age"], "features.first: is made of itself (first → first)"),
        (
            ["strange", "price"],
            ["price", "age"],
            "features.first: no feature 'strange' is declared under features",
        ),
    ],
)
def test_a_side_that_depends_on_itself_or_on_nothing_is_refused(
    first: list[str], second: list[str], message: str
) -> None:
    """Asked for by a feature before them, whose check needs their sides."""
    earlier = {"rank": {"kind": "within", "of": "first"}}
    with pytest.raises(ConfigError) as error:
        schema(earlier | {"first": {"kind": "ratio", "of": first}, "second": {"kind": "ratio", "of": second}})
    assert str(error.value).startswith(message)
