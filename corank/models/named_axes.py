"""Names of what weights read and give: the columns of dense inputs by feature, and outputs by label.

A layer says so when it is built. Then its weights can be taken over into a network of other inputs, column by column;
those of a layer that says nothing only as a whole.

Example:
    self.first = name_axes(nn.Linear(layout.width("item"), 8), weight=(None, name_inputs(layout, "item")))
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from torch import nn

from corank.features.encoding import Placement
from corank.features.input_layout import Layout, event_groups

AxisNames = tuple[str, ...]
"""A name for each index of an axis, such as `city[3]`."""
Axes = tuple[AxisNames | None, ...]
"""The names of each axis of a weight; None where the indices are interchangeable, as those of hidden units."""
_KEY = "axis_names"

M = TypeVar("M", bound=nn.Module)


def name_inputs(layout: Layout, placement: Placement, columns: Iterable[int] | None = None) -> AxisNames:
    """Name the columns of a placement's dense input: all, or some in their order."""
    names = [""] * layout.width(placement)
    for feature in layout.schema.row_features(placement):
        settings = layout.schema.features[feature]
        form = settings.storage if settings.vector.projection is None else "projected"
        for n, column in enumerate(layout.columns(placement, [feature]).tolist()):
            names[column] = f"{feature}[{form} {n}]"
    return tuple(names if columns is None else (names[column] for column in columns))


def name_axes(module: M, **axes: Axes) -> M:
    """Say what a module's own weights read and give.

    Args:
        module: such as a linear layer, whose `weight` is (outputs, inputs).
        axes: by the weight's name the names of its axes.

    Returns the module.
    """
    vars(module)[_KEY] = axes
    return module


def read_axes(network: nn.Module) -> dict[str, Axes]:
    """Find the names that the layers of a network were given, by the weight's name in the network."""
    return {
        f"{path}.{weight}" if path else weight: axes
        for path, module in network.named_modules()
        for weight, axes in vars(module).get(_KEY, {}).items()
    }


def number(text: str, count: int) -> AxisNames:
    """Name outputs or inputs that only their number distinguishes."""
    return tuple(f"{text}[{n}]" for n in range(count))


def join(parts: Sequence[AxisNames]) -> AxisNames:
    """Put the names of inputs that are read side by side together."""
    return tuple(name for part in parts for name in part)


def name_event_columns(layout: Layout, history: str, features: Collection[str]) -> AxisNames:
    """Name the columns that attention reads of events alone, as `event_columns` orders them."""
    groups = event_groups(layout, history, features)
    beside = layout.schema.parallels_of(history)
    read = [(beside[index], group.dim) for group in groups for index in group.ids.tolist() if index < 0]
    return join([number(f"{name} of {history}", dim) for name, dim in read])
