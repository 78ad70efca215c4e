import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.core import hash_index
from corank.core.hash_index import FEW, MANY, DirectIndex, HashIndex, Keys, build_index

WHOLE = st.integers(-(2**63), 2**63 - 1)


@given(st.sets(WHOLE, max_size=200), st.lists(WHOLE, max_size=50))
def test_every_key_is_where_it_is_and_nothing_else_is_anywhere(keys: set[int], others: list[int]) -> None:
    sorted_keys = np.array(sorted(keys), dtype=np.int64)
    wanted = [*sorted_keys.tolist(), *others]
    positions = HashIndex.build(sorted_keys).find(np.array(wanted, dtype=np.int64))
    place = {key: n for n, key in enumerate(sorted_keys.tolist())}
    assert positions.tolist() == [place.get(key, -1) for key in wanted]


@given(
    st.sets(st.integers(0, 60), min_size=20), st.sampled_from([-(2**63), -7, 0, 2**63 - 61]), st.lists(WHOLE)
)
def test_dense_keys_are_looked_up_directly(keys: set[int], first: int, others: list[int]) -> None:
    sorted_keys = np.array(sorted(first + key for key in keys), dtype=np.int64)
    wanted = [*sorted_keys.tolist(), first, first + 60, *others]
    index = build_index(sorted_keys)
    assert isinstance(index, DirectIndex)
    assert (
        index.find(np.array(wanted)).tolist() == HashIndex.build(sorted_keys).find(np.array(wanted)).tolist()
    )


def test_keys_that_begin_at_one_slot() -> None:
    """Multiples of 2^40 differ in bits that the hash of a small table loses: long runs of collisions."""
    keys = np.arange(-500, 500) << 40
    lookup = HashIndex.build(keys)
    assert lookup.find(keys).tolist() == list(range(1000))
    assert (lookup.find(keys + 1) == -1).all()


@pytest.mark.parametrize("count", [1, 1000, MANY + 1])
def test_texts_are_found_among_few_and_many(count: int) -> None:
    texts = [f"item-{n:09d}" for n in range(0, 2 * count, 2)]
    keys = Keys(pl.Series(texts))
    wanted = [texts[0], None, "", "item-000000001", texts[-1], "zzz"]
    assert keys.find(pl.Series(wanted)).tolist() == [0, -1, -1, -1, count - 1, -1]
    assert keys.find(pl.Series(texts[:FEW])).tolist() == list(range(min(count, FEW)))
    assert keys.find(pl.Series(texts)).tolist() == list(range(count))


def test_a_text_whose_hash_is_another_s_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_index, "MANY", 0)
    monkeypatch.setattr(hash_index, "_hash_texts", lambda values: np.zeros(len(values), dtype=np.int64))
    texts = ["a", "b", "c"]
    assert Keys(pl.Series(texts)).find(pl.Series(["c", "x", None, "b", "a"])).tolist() == [2, -1, -1, 1, 0]
