"""Layers name the inputs that they read and the outputs that they give."""

import pytest

from corank.models.named_axes import read_axes
from tests.support.random_worlds import DERIVED, LISTED, Drawn
from tests.support.shared import shared_case


@pytest.mark.parametrize("drawn", [DERIVED, LISTED])
def test_every_named_axis_has_a_name_of_its_own_for_each_index(drawn: Drawn) -> None:
    model = shared_case(drawn).model
    for name, network in model.networks.items():
        weights, named_axes = network.state_dict(), read_axes(network)
        assert named_axes, name
        for weight, axes in named_axes.items():
            for size, names in zip(weights[weight].shape, axes, strict=True):
                assert names is None or len(names) == len(set(names)) == size, (name, weight, names)
                assert names is None or all(names)
