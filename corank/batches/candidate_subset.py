"""Some candidates of a batch, with the indices by which a network brings rows of queries, items and events to them.

Letters: R requests · C candidates of the batch, C' rounded up · K of them that are chosen, K' rounded up.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from corank.batches.batch import AttendedEvents, Batch, Csr
from corank.batches.sums import padded
from corank.features.input_layout import Attended


@dataclass(frozen=True)
class CandidateSubset:
    """Indices as those of a `Batch`, of K candidates; rows of queries, items and events are those of the batch."""

    index: Tensor
    """The candidates, ascending: (K,) int32."""
    rows: Csr
    """For each row of the batch's candidates, C' of them, the one of the chosen, if it is."""
    draws: Tensor
    """Those of the batch's requests: (R,)."""
    request_of: Tensor  # (K,) int32
    requests: Csr
    item_of: Tensor  # (K,) int32
    items: Csr
    pairs: Csr
    """For each one the rows of its request and its item, as in a batch; K' of them."""
    histories: dict[Attended, AttendedEvents]
    earliest: None = None
    """The first candidate of an item may not be among them."""

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, batch: Batch, chosen: Tensor) -> Self:
        """Choose candidates: (C,) bool."""
        number = _before(chosen)
        index = torch.nonzero(chosen).squeeze(1).int()
        request_of, item_of = (x.index_select(0, index) for x in (batch.request_of, batch.item_of))
        stacked = torch.stack((request_of, item_of + len(batch.numbers["query"])), 1)
        ends = torch.arange(0, 2 * padded(len(index)) + 1, 2, dtype=torch.int32, device=index.device)
        filled = torch.cat((number, number[-1:].expand(padded(len(batch)) - len(batch))))
        return cls(
            index=index,
            rows=Csr(torch.arange(len(index), dtype=torch.int32, device=index.device), filled, None),
            draws=batch.draws,
            request_of=request_of,
            requests=_choose(batch.requests, chosen, number),
            item_of=item_of,
            items=_choose(batch.items, chosen, number),
            pairs=Csr(stacked.flatten(), ends.clamp_max(2 * len(index)), None),
            histories={
                name: _choose_events(events, chosen, number, index)
                for name, events in batch.histories.items()
            },
        )


def _before(chosen: Tensor) -> Tensor:
    """How many are chosen before each position, and in all: (N,) → (N + 1,) int32."""
    return torch.nn.functional.pad(chosen.cumsum(0, dtype=torch.int32), (1, 0))


def _choose(sums: Csr, chosen: Tensor, number: Tensor) -> Csr:
    """Sums of the chosen rows alone, renumbered; as many sums as before.

    Args:
        sums: of rows, each once and without weights.
        chosen: which rows: (N,) bool.
        number: `_before(chosen)`.
    """
    assert sums.start is not None
    kept = chosen.index_select(0, sums.row)
    row = number.index_select(0, sums.row[kept])
    return Csr(row, _before(kept).index_select(0, sums.start), None)


def _choose_events(past: AttendedEvents, chosen: Tensor, number: Tensor, index: Tensor) -> AttendedEvents:
    """The pairs of events and chosen candidates."""
    assert past.candidates.start is not None
    kept = chosen.index_select(0, past.candidate)
    pair = _before(kept)
    starts = pair.index_select(0, past.candidates.start)
    return replace(
        past,
        candidate=number.index_select(0, past.candidate[kept]),
        slot=past.slot[kept],
        candidates=Csr(
            torch.arange(int(pair[-1]), dtype=torch.int32, device=index.device),
            torch.cat((starts.index_select(0, index), starts[-1:])),
            None,
        ),
        slots=_choose(past.slots, kept, pair),
    )
