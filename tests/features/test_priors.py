from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.core.time import NEVER, to_ms
from corank.core.types import Hashes, Longs
from corank.data.packing.prior_counts import CountKeys
from corank.data.packing.workspace import find_pieces, write_piece
from corank.features.encoding import mix_hashes
from corank.features.feature_kind import Feature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.prior import PriorFeature
from corank.features.log_schema import LEVEL, ROW, TIME, WEIGHT, DataSettings
from corank.features.operands import OperandRows, Operands
from corank.features.priors import ALL_TIME, Memory, PriorCounts
from corank.features.schema import Schema
from tests.support.configs import data_settings

HOUR = 3_600_000
DAY = 24 * HOUR
KINDS = {"key": pl.UInt64, "period": pl.Int64, "shown": pl.Float64, "positive": pl.Float64, "row": pl.Int64}
Row = tuple[int, int, float, float]

RATE = PriorFeature(kind="prior", by=["item"], label="click", smoothing=4)


def frame(rows: list[Row], first: int = 0) -> pl.DataFrame:
    numbered = [(*row, first + n) for n, row in enumerate(rows)]
    return pl.DataFrame(numbered, schema=KINDS, orient="row")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces")


def rates(folder: Path, *pieces: list[Row], ranges: int = 1, memory: Memory = ALL_TIME) -> PriorCounts:
    """Counts of pieces, in several ranges of keys."""
    first, spill = 0, folder / uuid4().hex
    for n, rows in enumerate(pieces):
        piece = frame(rows, first).filter(pl.col("key") != 0).sort("key")
        write_piece(spill, "prior", f"{n:05d}", piece)
        first += len(rows)
    count = CountKeys(find_pieces(spill, "prior", len(pieces)), ranges, spill / "counts", memory)
    for n in reversed(range(ranges)):
        count(n)
    count.join(spill / "joined")
    return PriorCounts.load(spill / "joined")


def plain(found: PriorCounts) -> dict[str, list[float]]:
    parts = {
        f"{n}.{k}": v for n, c in (("each", found.counts), ("all", found.all)) for k, v in vars(c).items()
    }
    return {name: array.tolist() for name, array in ({"keys": found.keys} | parts).items()}


def hashed(keys: list[int]) -> Hashes:
    return np.array(keys, dtype=np.uint64)


def longs(values: list[int]) -> Longs:
    return np.array(values, dtype=np.int64)


def values(found: PriorCounts, feature: PriorFeature, keys: list[int], cut: int) -> list[float]:
    known: list[float] = found.values(feature, hashed(keys), np.full(len(keys), cut)).tolist()
    return known


# Whatever the rows

keys = st.integers(0, 4) | st.sampled_from([2**63, 2**64 - 1])
row = st.tuples(keys, st.integers(-5, 15), st.integers(1, 3), st.booleans()).map(
    lambda r: (r[0], r[1], float(r[2]), float(r[2] * r[3]))
)
row_lists = st.lists(row, max_size=30)
cuts = st.integers(-6, 17)


TICK = timedelta(milliseconds=1)
WINDOW = RATE.model_copy(update={"every": TICK, "window": 4 * TICK})
FADING = RATE.model_copy(update={"every": TICK, "half_life": 3 * TICK})
MEMORIES = [RATE.model_copy(update={"every": TICK}), WINDOW, FADING]
"""Priors that forget nothing, all at once, and slowly. A period is a millisecond."""
memories = st.sampled_from(MEMORIES)


def remembered(feature: PriorFeature, period: int, cut: int) -> float:
    """The weight of a candidate of a period at a cut."""
    if period >= cut or (feature.window and period < cut - feature.window / TICK):
        return 0
    return 2 ** (-(cut - period - 1) / (feature.half_life / TICK)) if feature.half_life else 1


@pytest.mark.slow
@settings(deadline=None)  # files are flushed
@given(row_lists, st.lists(st.tuples(keys, cuts), min_size=1), memories)
def test_values_are_those_of_a_loop(
    folder: Path, rows: list[Row], asked: list[tuple[int, int]], feature: PriorFeature
) -> None:
    counts, expected, often = rates(folder, rows, memory=feature.memory), [], []
    for key, cut in asked:
        past = [(r[0], *(w * remembered(feature, r[1], cut) for w in r[2:])) for r in rows if r[0]]
        shown, positive = (sum(r[n] for r in past if r[0] == key) for n in (1, 2))
        of_all = sum(r[1] for r in past)
        usual = sum(r[2] for r in past) / of_all if of_all else np.nan
        expected.append((positive + 4 * usual) / (shown + 4) if key else np.nan)
        often.append(np.log1p(shown) if key else np.nan)
    known, at = hashed([key for key, _ in asked]), longs([cut for _, cut in asked])
    far = 1e-12 if feature.half_life else 0
    np.testing.assert_allclose(counts.values(feature, known, at), expected, far)
    np.testing.assert_allclose(counts.values(without_label(feature), known, at), often, far)


def without_label(feature: PriorFeature) -> PriorFeature:
    return feature.model_copy(update={"label": None})


ASKED = [1, 2, 3, 4, 2**63, 2**64 - 1, 77]


@pytest.mark.slow
@settings(deadline=None)  # files are flushed
@given(row_lists, st.tuples(cuts, cuts, cuts).map(sorted), memories)
def test_a_snapshot_brought_forward_is_that_of_all_counted_at_once(
    folder: Path, rows: list[Row], of: list[int], feature: PriorFeature
) -> None:
    first, second, third = of
    memory = feature.memory
    counts, log = rates(folder, rows, memory=memory), frame(rows)
    forward = counts.as_of(first, memory).extend(log, first, second, memory)
    forward = forward.extend(log, second, third, memory)
    assert plain(forward) == plain(counts.as_of(third, memory))
    np.testing.assert_array_equal(
        values(forward, feature, ASKED, third), values(counts, feature, ASKED, third)
    )


def test_no_past_is_too_far_to_forget(folder: Path) -> None:
    """Sums of a log of many years, by the minute, overflow nowhere."""
    end, minute = 2_000_000_000_000, 60_000
    rows: list[Row] = [(5, end - n * 700 * DAY, 1.0, 1.0) for n in range(20)] + [(9, 0, 1.0, 0.0)]
    fading = FADING.model_copy(update={"every": timedelta(minutes=1), "half_life": timedelta(minutes=2)})
    counts = rates(folder, rows, memory=fading.memory)
    assert values(counts, fading, [5, 9], end + minute) == [(1 + 4 * 1) / (1 + 4), (0 + 4 * 1) / (0 + 4)]
    assert values(counts, fading, [5], end + 3 * minute) == [(0.5 + 4) / (0.5 + 4)]
    assert np.isnan(values(counts, fading, [5, 9], NEVER)).all()
    window = WINDOW.model_copy(update={"every": timedelta(minutes=1), "window": timedelta(minutes=2)})
    recent = rates(folder, rows, memory=window.memory)
    assert values(recent, without_label(window), [5, 9], end + minute) == [np.log(2), 0]
    assert values(recent, without_label(window), [5], end + 3 * minute) == [0]
    assert np.isnan(values(recent, window, [5], end + 3 * minute)).all()  # no recent counts
    assert np.isnan(values(recent, window, [5, 9], NEVER)).all()


def test_a_window_of_days_holds_so_many_when_clocks_change(folder: Path) -> None:
    zone, day = "Europe/Berlin", timedelta(days=1)
    feature = PriorFeature(kind="prior", by=["item"], every=day, window=3 * day)
    for first in (datetime(2026, 3, 25), datetime(2026, 10, 21)):  # the clock changes on the 29th, the 25th
        midnights = [to_ms((first + n * day).replace(tzinfo=ZoneInfo(zone))) for n in range(9)]
        counts = rates(folder, [(5, at, 1, 0) for at in midnights], memory=feature.memory)
        for at in midnights[3:]:
            assert values(counts, feature, [5], at) == [np.log(4)]


# From candidates to counts

FEATURES: dict[str, Feature] = {
    "user": IdFeature(side="user", kind="id"),
    "item": IdFeature(side="item", kind="id"),
    "rate": PriorFeature(kind="prior", by=["user", "item"], label="order", every=timedelta(hours=6)),
}


def data(**changes: Any) -> DataSettings:
    order = {"column": "order", "matures_after": "2h"}
    return data_settings(labels={"click": {"column": "click"}, "order": order}, **changes)


def test_a_candidate_is_counted_once_its_label_is_mature() -> None:
    log = pl.DataFrame(
        {
            TIME: [0, 4 * HOUR - 1, 4 * HOUR, 5 * HOUR, 6 * HOUR],
            ROW: [3, 5, 7, 8, 9],
            WEIGHT: [1, 2, 0.5, 1, 1],
            LEVEL: [3, 3, 3, 2, 3],
        },
        schema_overrides={WEIGHT: pl.Float32, LEVEL: pl.UInt8},
    )
    labels = {"click": np.ones(5, np.int8), "order": np.array([1, 0, 1, -1, -1], np.int8)}
    query = Operands(5, {"user": hashed([1, 1, 1, 1, 2])}, {}, {})
    item = Operands(2, {"item": hashed([7, 0])}, {}, {})
    sides = OperandRows.pairs(
        Schema(FEATURES).operand_placements, query, item, np.arange(5), np.array([0, 1, 0, 0, 0])
    )
    feature = FEATURES["rate"]
    assert isinstance(feature, PriorFeature)
    both = int(mix_hashes([hashed([1]), hashed([7])])[0])
    assert feature.keys(sides)[:3].tolist() == [both, 0, both]

    weighted = feature.count(log, data(weight="w", level="level"), labels, sides)
    expected = [(both, 0, 1, 1, 3), (0, 0, 2, 0, 5), (both, 6 * HOUR, 0.5, 0.5, 7)]
    assert weighted.rows() == expected and weighted.schema == KINDS
    later = feature.model_copy(update={"lag": timedelta(hours=4)})
    late = later.count(log, data(level="level"), labels, sides)
    assert late["period"].to_list() == [6 * HOUR, 6 * HOUR, 6 * HOUR]
    assert late.select("shown", "positive").rows() == [(1, 1), (1, 0), (1, 1)]
    shown = feature.model_copy(update={"label": None, "every": timedelta(hours=1)})
    often = shown.count(log, data(level="level"), labels, sides)
    assert often["row"].to_list() == [3, 5, 7, 9]  # all that were exposed, at once, and none positive
    assert often["period"].to_list() == [0, 3 * HOUR, 4 * HOUR, 6 * HOUR]
    assert often["positive"].to_list() == [0] * 4
