"""An encoded request: what its stages read.

Letters: n candidates · L events of a history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corank.bundle.item_layers import LayeredItems
from corank.core.ragged import Rows
from corank.core.types import Floats, Longs
from corank.features.encoding import Encoded
from corank.features.operands import Operands
from corank.serving.funnel.checks.request_warnings import RequestWarning


@dataclass(frozen=True)
class EncodedRequest:
    """A request as the stages read it; its candidates are those known or described, in the order given."""

    ids: Sequence[Any]
    query: Rows
    """The query's row: (1)."""
    items: LayeredItems
    """The catalogue, and the items that the request describes."""
    positions: Longs
    """Positions of the candidates in `items`: (n,)."""
    histories: dict[str, Rows]
    """By history that a stage attends to, the rows of its items, the newest last: (L)."""
    ages: dict[str, Floats]
    """By history of whose events a stage reads the ages, these, as `log_ages` says them: (L,)."""
    given: dict[str, Floats]
    """Numeric `columns` of the data that came with the candidates, by name: (n,)."""
    unknown: list[Any]
    """Ids of candidates that are left out: neither known nor described."""
    missing: list[str]
    """Columns that the request lacks."""
    clipped: Mapping[str, int]
    """By `SIDE.COLUMN`, how many numbers lie outside the range of training; they are clipped to it."""
    crosses: dict[str, Encoded]
    """Crosses that came with the candidates, and those that compare all candidates, by feature: (n)."""
    operands: Operands
    """Operands of the query: (1)."""
    time: int
    """Time of the request, ms since 1970 UTC."""
    warnings: list[RequestWarning]

    def column(self, name: str, alive: Longs) -> Floats:
        """One of the data's `columns`, of the candidates `alive`."""
        return (
            self.given[name][alive] if name in self.given else self.items.column(name, self.positions[alive])
        )
