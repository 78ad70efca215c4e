"""Values of items that are spread over layers, against each layer's own."""

import numpy as np

from tests.support.random_worlds import RICH
from tests.support.shared import shared_case


def test_what_is_taken_of_layers_is_what_each_holds() -> None:
    items, rng = shared_case(RICH).funnel.request_encoder.items, np.random.default_rng(0)
    (first,) = items.layers
    for size in (5, 9):
        chosen = rng.choice(len(first.records.ids), size, replace=False)
        items = items.with_layer(first.without(first.records.ids.values.gather(chosen)))
    for positions in (
        rng.permutation(items.bounds[-1]),
        rng.integers(items.bounds[2], items.bounds[3], 7),
        rng.integers(0, items.bounds[1], 7),
        np.empty(0, dtype=np.int64),
    ):
        for name in first.parts:
            every = np.concatenate([layer.parts[name].decode() for layer in items.layers])
            assert (items.part(name, positions) == every[positions]).all()
        for name in first.records.columns:
            every = np.concatenate([layer.records.columns[name] for layer in items.layers])
            np.testing.assert_array_equal(items.column(name, positions), every[positions])
        ids = np.concatenate([layer.records.rows.ids for layer in items.layers])
        assert (items.rows(positions).ids == ids[positions]).all()
        assert items.rows(positions).lists[0].length.sum() == sum(
            int(items.rows(np.array([position])).lists[0].length[0]) for position in positions
        )
