import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corank.core.hash_index import HashIndex

WHOLE = st.integers(-(2**63), 2**63 - 1)


@given(st.sets(WHOLE, max_size=200), st.lists(WHOLE, max_size=50))
def test_every_key_is_where_it_is_and_nothing_else_is_anywhere(keys: set[int], others: list[int]) -> None:
    held = np.array(sorted(keys), dtype=np.int64)
    wanted = [*held.tolist(), *others]
    found = HashIndex.build(held).find(np.array(wanted, dtype=np.int64))
    place = {key: n for n, key in enumerate(held.tolist())}
    assert found.tolist() == [place.get(key, -1) for key in wanted]


def test_keys_that_begin_at_one_slot() -> None:
    """Multiples of 2^40 differ in bits that the hash of a small table loses: long runs of collisions."""
    keys = np.arange(-500, 500) << 40
    lookup = HashIndex.build(keys)
    assert lookup.find(keys).tolist() == list(range(1000))
    assert (lookup.find(keys + 1) == -1).all()


def test_of_nothing() -> None:
    assert HashIndex.build(np.empty(0, dtype=np.int64)).find(np.array([0, 7])).tolist() == [-1, -1]
