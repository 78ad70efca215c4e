"""What packed data know of the time before a bundle's snapshots, by which older requests are predicted."""

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from corank.bundle.item_layers import ItemLayer
from corank.bundle.item_records import ItemRecords
from corank.core.time import NEVER, floor_times
from corank.data.dataset import PackedDataset
from corank.features.priors import PriorSnapshots
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request


@dataclass(frozen=True)
class PackedPast:
    """Priors, ages and items at the time of any request, of the packed data that a bundle was exported from."""

    funnel: Funnel
    """Of the bundle."""
    packed: PackedDataset

    def funnel_at(self, request: Request) -> Funnel:
        """The funnel at the time of a request: the bundle's own from its snapshots on. Raises RequestError."""
        time = request.time_ms
        if time >= self._end:
            return self.funnel
        versions = self.packed.item_versions
        index = versions.ids.find(self._named_items(request))
        index = np.unique(index[index >= 0])
        rows = versions.find_at(index, np.full(len(index), time))
        priors = self._priors(time)
        records = ItemRecords.of_packed(self.packed, priors, versions.ids.values.gather(index), rows)
        layer = ItemLayer(records, self.funnel.scorer.parts(records.rows))
        other, encoder = copy(self.funnel), self.funnel.request_encoder
        other.request_encoder = encoder.with_priors(priors).with_items(encoder.items.with_layer(layer))
        return other

    @cached_property
    def _end(self) -> int:
        """Before it some snapshot or item was another, ms UTC."""
        changed = self.packed.item_keys["valid_from"].to_numpy().max(initial=NEVER)
        return max([int(changed), *self.funnel.manifest.priors.values()])

    def _priors(self, time: int) -> PriorSnapshots:
        """The snapshots that are known at a time, those of the bundle at most."""
        priors, last = self.packed.priors, self.funnel.manifest.priors
        cuts = {
            name: min(int(floor_times(np.array([time]), every, priors.timezone)[0]), last[name])
            for name, every in self.packed.schema.snapshots().items()
        }
        return replace(priors, cut=cuts)

    def _named_items(self, request: Request) -> pl.Series:
        """The ids of a request's candidates and of the events of its histories."""
        ids: list[Any] = [one["id"] if isinstance(one, dict) else one for one in request.candidates or []]
        for history in self.funnel.request_encoder.read_query(request).histories.values():
            if (wanted := history.wanted) is not None:
                ids += wanted.ids if wanted.numbers is None else wanted.numbers.tolist()
        return pl.Series(ids, dtype=self.packed.item_versions.ids.values.dtype)
