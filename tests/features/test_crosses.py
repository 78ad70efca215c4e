import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from corank.core.ragged import Ragged
from corank.core.time import DAY as STEP
from corank.core.time import MILLISECOND, NEVER
from corank.core.types import Hashes
from corank.features.encoders import Encoders
from corank.features.encoding import hash_values, mix_hashes
from corank.features.feature_kind import Feature
from corank.features.history_events import HistoryNeeds
from corank.features.history_operands import gather_event_ages, gather_history_operands
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PointInTime, PriorSnapshots
from corank.features.scale import Bucket
from corank.features.schema import Schema

DAY = STEP // MILLISECOND
SCHEMA = Schema(
    TypeAdapter(dict[str, Feature]).validate_python(
        {
            "user": {"side": "user", "kind": "id"},
            "age": {"side": "user", "kind": "bucket"},
            "likes": {"side": "user", "kind": "ids", "last": 3},
            "seen": {"side": "user", "kind": "ids", "of": "item"},
            "tab": {"side": "context", "kind": "id"},
            "budget": {"side": "context", "kind": "number"},
            "item": {"side": "item", "kind": "id"},
            "brand": {"side": "item", "kind": "id"},
            "tags": {"side": "item", "kind": "ids", "separator": ","},
            "price": {"side": "item", "kind": "number"},
            "stock": {"side": "item", "kind": "number"},
            "user_tab": {"kind": "pair", "of": ["user", "tab"]},
            "user_brand": {"kind": "pair", "of": ["user", "brand"]},
            "brand_user": {"kind": "pair", "of": ["brand", "user"]},
            "age_brand": {"kind": "pair", "of": ["age", "brand"]},
            "age_budget": {"kind": "product", "of": ["age", "budget"]},
            "likes_tab": {"kind": "contains", "of": ["likes", "tab"]},
            "likes_brand": {"kind": "count", "of": ["likes", "brand"]},
            "likes_any": {"kind": "contains", "of": ["likes", "tags"]},
            "likes_tags": {"kind": "count", "of": ["likes", "tags"]},
            "tags_tab": {"kind": "count", "of": ["tags", "tab"]},
            "item_seen": {"kind": "contains", "of": ["seen", "item"]},
            "brand_seen": {"kind": "count", "of": ["seen.brand", "brand"]},
            "tags_seen": {"kind": "count", "of": ["seen.tags", "tags"]},
            "item_since": {"kind": "since", "of": ["seen", "item"]},
            "tags_since": {"kind": "since", "of": ["seen.tags", "tags"]},
            "tags_newer": {"kind": "since", "of": ["seen.tags", "tags"], "measure": "events"},
            "spare": {"kind": "ratio", "of": ["budget", "price"]},
            "worth": {"kind": "product", "of": ["price", "stock"]},
            "each": {"kind": "ratio", "of": ["price", "stock"]},
        }
    )
)


def of(values: list[int]) -> Hashes:
    return np.array(values, dtype=np.uint64)


def lists(rows: list[list[int]]) -> Ragged:
    return Ragged.from_lengths(
        np.array([len(row) for row in rows], np.int32), of([v for row in rows for v in row])
    )


def spelt(ragged: Ragged) -> list[list[int]]:
    return [ragged.take(np.array([n])).flat().tolist() for n in range(len(ragged.length))]


def made(name: str, sides: OperandRows) -> list[float]:
    when = PointInTime(name, np.full(sides.count, NEVER), PriorSnapshots({}, "UTC"))
    numbers: list[float] = SCHEMA.derived()[name].derive(sides, when).tolist()
    return numbers


QUERY = Operands(
    3,
    {"user": of([10, 20, 0]), "tab": of([7, 8, 9]), "age": of([4, 0, 5])},
    {"likes": lists([[7, 1, 7], [], [3, 9]]), "seen.brand": lists([[1, 2, 1], [0, 0], []])},
    {"budget": np.array([12.0, np.nan, 5.0]), "age": np.array([30.0, 40.0, np.nan])},
)
ITEM = Operands(
    4,
    {"brand": of([1, 2, 0, 7])},
    {"tags": lists([[7, 1], [9], [], [7, 7, 0, 8]])},
    {"price": np.array([4.0, 0.0, np.nan, -2.0]), "stock": np.array([2.0, 3.0, 1.0, np.nan])},
)
REQUEST_OF, ITEM_OF = np.array([0, 0, 1, 2, 0]), np.array([0, 1, 0, 2, 3])
PAIRS = OperandRows.pairs(SCHEMA.operand_placements, QUERY, ITEM, REQUEST_OF, ITEM_OF)
ALONE = (
    OperandRows.alone(SCHEMA.operand_placements, "query", QUERY),
    OperandRows.alone(SCHEMA.operand_placements, "item", ITEM),
)


def same(found: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(found, expected)


def test_pairs_by_hand() -> None:
    same(made("likes_brand", PAIRS), [1, 0, 0, 0, 2])
    same(made("likes_tags", PAIRS), [3, 0, 0, 0, 4])  # each of the tags counts, one that is there twice too
    same(made("likes_any", PAIRS), [1, 0, 0, 0, 1])
    same(made("tags_tab", PAIRS), [1, 0, 0, 0, 2])
    same(made("brand_seen", PAIRS), [2, 1, 0, 0, 0])  # two items of no brand are not of the same
    same(made("spare", PAIRS), [3, np.nan, np.nan, np.nan, -6])  # a price of 0, no budget, no price


def test_pair_is_of_both_values_in_their_order() -> None:
    hashes = made("user_brand", PAIRS)
    assert hashes == mix_hashes([of([10, 10, 20, 0, 10]), of([1, 2, 1, 0, 7])]).tolist()
    assert hashes[3] == 0 and len(set(hashes)) == 5
    assert made("brand_user", PAIRS)[3] == 0 and not {*made("brand_user", PAIRS)} & {*hashes} - {0}
    missing = [value == 0 for value in made("age_brand", PAIRS)]
    assert missing == [False, False, True, True, False]  # no age of the one, no brand of the other
    assert [value == 0 for value in made("user_tab", ALONE[0])] == [False, False, True]


values = st.lists(st.integers(0, 4), max_size=6)
rows = st.lists(values, min_size=1, max_size=5)


@given(rows, rows, st.data())
def test_count_is_that_of_a_loop(held: list[list[int]], wanted: list[list[int]], data: st.DataObject) -> None:
    pair = st.tuples(st.integers(0, len(held) - 1), st.integers(0, len(wanted) - 1))
    pairs = data.draw(st.lists(pair, max_size=12))
    request_of, item_of = (np.array([p[n] for p in pairs], dtype=np.int64) for n in (0, 1))
    brand = [some[0] if some else 0 for some in wanted]
    query = Operands(len(held), {}, {"likes": lists(held)}, {})
    item = Operands(len(wanted), {"brand": of(brand)}, {"tags": lists(wanted)}, {})
    sides = OperandRows.pairs(SCHEMA.operand_placements, query, item, request_of, item_of)
    one = [held[r].count(brand[i]) if brand[i] else 0 for r, i in pairs]
    each = [sum(held[r].count(value) for value in wanted[i] if value) for r, i in pairs]
    assert made("likes_brand", sides) == one
    assert made("likes_tags", sides) == each
    assert made("likes_any", sides) == [float(count > 0) for count in each]


# Histories


events = st.lists(st.tuples(st.integers(-1, 3), st.integers(-2, 9)), max_size=5)


@given(st.lists(events, min_size=1, max_size=4), st.lists(values, min_size=4, max_size=4), st.data())
def test_since_is_that_of_a_loop(
    past: list[list[tuple[int, int]]], tags: list[list[int]], data: st.DataObject
) -> None:
    """Users have events of an item, −1 for one that no table knows, each so many days before the request."""
    pairs = data.draw(st.lists(st.tuples(st.integers(0, len(past) - 1), st.integers(0, 3)), max_size=12))
    request_of, item_of = (np.array([p[n] for p in pairs], dtype=np.int64) for n in (0, 1))
    items = Operands(4, {"item": of([11, 12, 13, 14])}, {"tags": lists(tags)}, {})
    length = np.array([len(some) for some in past], dtype=np.int32)
    rows = np.array([item for some in past for item, _ in some], dtype=np.int64)
    ages = np.array([days * DAY for some in past for _, days in some], dtype=np.int64)
    listed, needs = {"seen": Ragged.from_lengths(length, rows)}, HistoryNeeds.of(SCHEMA)
    aged = gather_event_ages(needs.aged, {"seen": length}, {"seen": ages}, listed, items)
    histories = gather_history_operands(SCHEMA, listed, items, ["seen", "seen.tags"])
    query = Operands(len(past), {}, {}, {}).with_lists(histories).with_ages(aged)
    sides = OperandRows.pairs(SCHEMA.operand_placements, query, items, request_of, item_of)

    def shared(r: int, i: int) -> list[tuple[int, int]]:
        """The days of the user's events that share a tag with the item, and how many events are newer."""
        return [
            (max(days, 0), len(past[r]) - 1 - n)
            for n, (row, days) in enumerate(past[r])
            if row >= 0 and {*tags[row]} & {*tags[i]} - {0}
        ]

    seen = [[max(days, 0) for row, days in past[r] if row == i] for r, i in pairs]
    same(made("item_since", sides), [min(found, default=np.nan) for found in seen])
    each = [shared(r, i) for r, i in pairs]
    for n, name in enumerate(("tags_since", "tags_newer")):
        same(made(name, sides), [min((age[n] for age in found), default=np.nan) for found in each])


# Operands


def operands() -> Operands:
    frame = {
        "user": pl.Series([5, None, 5]),
        "tab": pl.Series(["x", "y", None]),
        "age": pl.Series([None, 1, 9]),
        "likes": pl.Series([["a", None, "b", "a", "c"], None, []]),
        "budget": pl.Series([1, None, 3]),
    }
    encoders = Encoders(SCHEMA, {"age": Bucket(np.array([5.0]))})
    return encoders.operands(SCHEMA.operand_names("query"), frame.__getitem__, 3)


def test_operands_are_hashes_and_numbers_of_raw_values() -> None:
    query = operands()
    user, tab, age = (query.keys[name].tolist() for name in ("user", "tab", "age"))
    assert user[0] == user[2] == hash_values(pl.Series([5]), "")[0] and user[1] == 0
    assert tab == hash_values(pl.Series(["x", "y", None]), "").tolist() and tab[2] == 0
    assert age[0] == 0 and age[1] != age[2]  # of the bucket's code, not the number
    assert spelt(query.lists["likes"]) == [hash_values(pl.Series(["a", "b", "a"]), "").tolist(), [], []]
    same(query.numbers["age"].tolist(), [np.nan, 1, 9])
    same(query.numbers["budget"].tolist(), [1, np.nan, 3])


# Hashes


def test_hashes_are_of_values_whatever_their_type_of_number() -> None:
    whole = hash_values(pl.Series([5, 0, 1]), "x").tolist()
    for kind in (pl.UInt8(), pl.Int32(), pl.Float64()):
        assert hash_values(pl.Series([5, 0, 1], dtype=kind), "x").tolist() == whole
    assert hash_values(pl.Series([False, True]), "x").tolist() == whole[1:]
    assert not {*hash_values(pl.Series(["5", "0", "1", "", "1.0"]), "x").tolist()} & {*whole, 0}
    assert hash_values(pl.Series(["a"], dtype=pl.Categorical()), "x") == hash_values(pl.Series(["a"]), "x")


hashed = st.integers(0, 2**64 - 1) | st.integers(0, 3)


@given(st.lists(st.tuples(hashed, hashed, hashed), min_size=1))
def test_mixed_is_that_of_whole_numbers(rows: list[tuple[int, int, int]]) -> None:
    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    columns = [of(list(column)) for column in zip(*rows, strict=True)]
    expected = [mix(mix(mix(a) ^ b) ^ c) if a and b and c else 0 for a, b, c in rows]
    assert mix_hashes(columns).tolist() == expected
    assert mix_hashes(columns[:1]).tolist() == [a for a, _, _ in rows]
    assert [column.tolist() for column in columns] == [list(c) for c in zip(*rows, strict=True)]
