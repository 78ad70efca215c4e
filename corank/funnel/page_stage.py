"""The last stage of a bundle that fills a page: what it reads of the candidates that are left, and what it made.

Letters: a candidates that the stage before keeps.
"""

from typing import Any, NamedTuple

import numpy as np

from corank.bundle.item_layers import LayeredItems
from corank.core.page import Page, PageCandidates, PageSettings, explain_page, fill_page
from corank.core.types import Longs, Numbers
from corank.features.page_columns import read_page_candidates
from corank.features.schema import Schema
from corank.funnel.exploration import Fill


class FilledPage(NamedTuple):
    """The page of one request."""

    settings: PageSettings
    alive: Longs
    """The candidates of the request that it was filled from, by value: (a,)."""
    candidates: PageCandidates
    """What it read of them: (a)."""
    page: Page

    @property
    def shown(self) -> tuple[Longs, Numbers]:
        """The candidates of the request that are on the page, slot by slot, and their values."""
        return self.alive.take(self.page.slots), self.candidates.value.take(self.page.slots)

    def trace(self) -> dict[int, dict[str, Any]]:
        """By candidate of the request its value and rank, and what kept it from the place that its value gives it.

        `rank` is the slot, and of others their order behind the page. `moved` has the slot that a lower value took, and
        the `rule`, the most similar `neighbour` on the page, as a candidate, or None for rules of later slots.
        """
        on_page, value = self.page.slots.tolist(), self.candidates.value.tolist()
        rest = sorted(set(range(len(value))) - set(on_page))
        moved = explain_page(self.settings, self.candidates, self.page)
        broken: dict[int, list[str]] = {}
        for slot, rule in self.page.broken:
            broken.setdefault(on_page[slot], []).append(str(self.settings.rules[rule]))
        entries = {}
        for rank, n in enumerate([*on_page, *rest], 1):
            entry: dict[str, Any] = {"score": value[n], "rank": rank}
            if n in moved:
                passed = moved[n]
                entry["moved"] = {
                    "slot": passed.slot + 1,
                    "rule": None if passed.rule is None else str(self.settings.rules[passed.rule]),
                    "neighbour": None if passed.neighbour is None else int(self.alive[passed.neighbour]),
                }
            if n in broken:
                entry["broken"] = broken[n]
            entries[int(self.alive[n])] = entry
        return entries


class PageStage:
    """Fills the pages of one bundle. Safe to share between threads."""

    def __init__(self, settings: PageSettings, schema: Schema) -> None:
        self.settings = settings
        self._by_value = settings.by_value()
        self._names = frozenset(settings.features)
        by = None if settings.item_part else settings.by
        vectors = schema.record_features.vectors
        self._vectors = vectors.index(by) if by is not None and by in vectors else None

    def fill(
        self, items: LayeredItems, positions: Longs, alive: Longs, value: Numbers, slots: int
    ) -> FilledPage:
        """Fill a page.

        Args:
            items: the catalogue.
            positions: of the candidates in it: (a,).
            alive: the candidates, counted from the first of the request, the best value first: (a,).
            value: theirs, of the last stage that finished: (a,).
            slots: how many candidates it takes.
        """
        vectors: Numbers | None = None
        if self.settings.item_part is not None:
            vectors = items.part(self.settings.item_part, positions)
        elif self._vectors is not None:
            vectors = items.rows(positions).vectors[self._vectors].dense()
        operands = items.operands(positions, self._names)
        candidates = read_page_candidates(self.settings, value, operands, vectors)
        return FilledPage(self.settings, alive, candidates, fill_page(self.settings, candidates, slots))

    def fill_by_value(self, items: LayeredItems, positions: Longs, among: Longs) -> Fill:
        """What fills pages of some candidates under the rules, by values alone.

        Args:
            items: the catalogue.
            positions: of the candidates in it: (a,).
            among: which of them.
        """
        operands = items.operands(positions.take(among), frozenset(self._by_value.features))
        read = read_page_candidates(self._by_value, np.zeros(len(among)), operands, None)
        return lambda value, slots: fill_page(self._by_value, read._replace(value=value), slots)
