"""The query of a request, encoded before its candidates are known, and the items that a request names."""

from collections.abc import Mapping
from dataclasses import dataclass

from corank.bundle.item_layers import LayeredItems
from corank.core.ragged import Rows
from corank.core.types import Longs
from corank.features.operands import Operands
from corank.serving.funnel.query.query_encoder import QueryPart
from corank.serving.funnel.query.wanted_items import WantedItems, find_items


@dataclass(frozen=True)
class QueryAhead:
    """The query of a request. The encoder that made it can use it, and no other: not that of other items."""

    encoder: object
    part: QueryPart
    events: Mapping[str, Longs]
    """Positions of the items of histories that are looked up, by history."""
    encoded: tuple[Rows, Operands] | None
    """The query's row and operands; None if a feature needs the number of candidates."""


def look_up_events(
    items: LayeredItems, part: QueryPart, *others: WantedItems
) -> tuple[Mapping[str, Longs], list[Longs]]:
    """Look up the items of histories, and of other lists with them: positions by history, and by list."""
    wanted = {name: history.wanted for name, history in part.histories.items() if history.wanted is not None}
    positions = find_items(items, [*wanted.values(), *others])
    return dict(zip(wanted, positions, strict=False)), positions[len(wanted) :]
