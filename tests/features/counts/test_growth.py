"""Vocabularies from one packing to the next: values admitted, kept in order, and evicted."""

import polars as pl

from corank.features.kinds.id import IdFeature
from corank.features.training_values import EarlierTally, choose_values, merge_tally

DAY = 86_400_000


def tally(rows: dict[str, tuple[float, int]]) -> pl.DataFrame:
    """Value → count, and the day when it was seen last."""
    counts, days = zip(*rows.values(), strict=True) if rows else ((), ())
    return pl.DataFrame(
        {"value": list(rows), "count": list(map(float, counts)), "seen": [d * DAY for d in days]}
    )


def grow(
    new: dict[str, tuple[float, int]], earlier: EarlierTally | None, until: int, **settings: object
) -> tuple[list[str], dict[str, float]]:
    """The vocabulary, and the counts that stay."""
    feature = IdFeature.model_validate({"side": "user"} | settings)
    merged = merge_tally(tally(new), until * DAY, True, feature, earlier)
    values = choose_values(merged, feature, earlier)
    return values.to_list(), dict(merged.select("value", "count").iter_rows())


def before(known: list[str], rows: dict[str, tuple[float, int]], until: int = 10) -> EarlierTally:
    return EarlierTally(tally(rows), pl.Series("value", known, dtype=pl.String), until * DAY)


def test_kept_values_keep_their_order_and_new_ones_follow_by_count_then_value() -> None:
    earlier = before(["b", "a"], {"a": (9, 9), "b": (1, 9)})
    values, counts = grow({"d": (3, 10), "c": (3, 10), "e": (4, 10), "a": (1, 10)}, earlier, 11)
    assert values == ["b", "a", "e", "c", "d"]
    assert counts == {"a": 10, "b": 1, "c": 3, "d": 3, "e": 4}


def test_counts_add_up_until_a_value_is_admitted() -> None:
    values, counts = grow({"a": (1, 10)}, before([], {"a": (1, 9)}), 11, min_count=3)
    assert (values, counts) == ([], {"a": 2})
    values, _ = grow({"a": (1, 11)}, before([], {"a": (2, 10)}, 11), 12, min_count=3)
    assert values == ["a"]


def test_values_not_seen_for_keep_days_go_with_their_counts() -> None:
    earlier = before(["a", "b", "c"], {"a": (9, 4), "b": (9, 5), "c": (9, 3)})
    values, counts = grow({"c": (1, 10)}, earlier, 11, keep_days=6)
    assert values == ["b", "c"]
    assert counts == {"b": 9, "c": 10}


def test_of_too_many_values_the_most_frequent_stay_and_of_equals_the_known_ones() -> None:
    earlier = before(["a", "b", "c"], {"a": (1, 9), "b": (3, 9), "c": (2, 9)})
    values, counts = grow({"d": (2, 10), "e": (9, 10)}, earlier, 11, max_rows=3)
    assert values == ["b", "c", "e"]
    assert len(counts) == 5
    assert grow({"d": (2, 10), "e": (9, 10), "f": (2, 10)}, None, 11, max_rows=2)[0] == ["e", "d"]


def test_earlier_counts_decay_and_faint_ones_are_forgotten() -> None:
    earlier = before(["a"], {"a": (0.1, 9), "b": (8, 9), "c": (0.2, 9)})
    values, counts = grow({"b": (1, 10)}, earlier, 12, count_half_life="1d", min_count=3)
    assert values == ["a", "b"]
    assert counts == {"a": 0.025, "b": 3}


def test_fixed_vocabularies_stay() -> None:
    earlier = before(["a", "b"], {"a": (5, 9), "b": (2, 1)})
    fixed = EarlierTally(earlier.tally, earlier.known, earlier.until, fixed=True)
    assert grow({"c": (9, 10)}, fixed, 11, keep_days=3)[0] == ["a", "b"]
