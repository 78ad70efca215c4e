"""The pages of a split: the function that serves requests fills them from packed data, and metrics of pages read them.

Letters: R requests · C candidates · a of them that reach a page · S shown · V values of a column, over all shown.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from corank.core.page import PageCandidates, PageSettings, fill_page
from corank.core.types import Doubles, Floats, Longs, Numbers
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.inputs import CascadeRows
from corank.evaluation.predictions import Predictions
from corank.features.page_columns import number_values, read_page_candidates
from corank.metrics.cascade import cascade_ranks
from corank.metrics.inputs import Inputs
from corank.metrics.pages import satiated

PartOf = Callable[[Longs], Floats]
"""The item part that similarity is of, of some candidates of a split: (a,) → (a, d)."""


@dataclass(frozen=True)
class SplitPages:
    """The pages of a split."""

    slot: Longs
    """The slot of each candidate, from 0; −1 where it is not shown: (C,)."""
    broken: Doubles
    """Slots of each request that break a rule: (R,)."""
    distance: Doubles
    """The mean of 1 − similarity of two on the page, NaN with fewer than two or without similarity: (R,)."""


def fill_pages(
    page: PageSettings,
    packed: PackedDataset,
    split: str,
    rows: CascadeRows,
    part: PartOf | None,
    most: int | None = None,
) -> SplitPages:
    """Fill the pages of a split's requests as serving does.

    Args:
        page: the settings.
        packed: the data.
        split: its name.
        rows: the candidates as the stages order them.
        part: gives the item part that similarity is of; None if it is of a feature, or there is none.
        most: fill pages of about so many requests alone, evenly over the split; the others show nothing.
    """
    requests = rows.predictions.requests
    count = len(requests.size)
    among = np.arange(0, count, 1 if most is None else max(1, count // most))
    quotas = [stage.keep for stage in rows.stages]
    rank = cascade_ranks(requests, rows.scores, quotas[:-1])
    ends = zip(requests.start[among].tolist(), requests.start[among + 1].tolist(), strict=True)
    # what the stages leave to the page, best first
    reached = [np.argsort(rank[first:end], kind="stable")[: min(quotas)] + first for first, end in ends]
    everyone = np.concatenate(reached)
    items = np.concatenate([shard.item for shard in packed.splits[split]])[everyone]
    operands = packed.item_operands.among(page.features)
    by = None if page.item_part else page.by
    vectors: Floats | None = None
    if page.item_part is not None:
        assert part is not None
        vectors = part(everyone)
    elif by in operands.vectors:
        vectors = operands.vectors[by].take(items).dense()
    operands = replace(operands, vectors={})  # which are read
    slot, end = np.full(len(rank), -1, dtype=np.int64), 0
    broken, distance = np.zeros(count), np.full(count, np.nan)
    for r, at in zip(among.tolist(), reached, strict=True):
        begin, end = end, end + len(at)
        own = None if vectors is None else vectors[begin:end]
        candidates = read_page_candidates(page, rows.last_value[at], operands.take(items[begin:end]), own)
        filled = fill_page(page, candidates)
        slot[at[filled.slots]] = np.arange(len(filled.slots))
        broken[r] = len({place for place, _ in filled.broken})
        distance[r] = _mean_distance(candidates, filled.slots)
    return SplitPages(slot, broken, distance)


def _mean_distance(candidates: PageCandidates, shown: Longs) -> float:
    if candidates.vectors is None or len(shown) < 2:
        return np.nan
    vectors = candidates.vectors[shown]
    alike = (np.square(vectors.sum(axis=0)).sum() - np.square(vectors).sum()) / (
        len(shown) * (len(shown) - 1)
    )
    return float(1 - alike)


def page_inputs(
    page: PageSettings,
    packed: PackedDataset,
    split: str,
    rows: CascadeRows,
    pages: SplitPages,
) -> Inputs:
    """What metrics of pages read; `corank.metrics.inputs` says what each is."""
    predictions, last = rows.predictions, rows.stages[-1]
    items = np.concatenate([shard.item for shard in packed.splits[split]])
    ordinals = packed.item_ordinals[items]
    inputs: dict[str, Any] = {
        "requests": predictions.requests,
        "k": page.keep,
        "slot": pages.slot,
        "listed": pages.slot >= 0,
        "value": rows.last_value,
        "truth": rows.truth
        if rows.truth is None
        else _page_truth(packed, items, rows.truth, predictions, pages),
        "clicked": predictions.labels[last.main] == 1,
        "exposed": predictions.exposed,
        "expected": rows.expected,
        "broken": pages.broken,
        "distance": None if np.isnan(pages.distance).all() else pages.distance,
        "item": ordinals,
        "catalogue": int(packed.item_ordinals.max(initial=-1)) + 1,
        "column": _column_values(page, packed, items),
    }
    return inputs if predictions.propensity is None else inputs | {"propensity": predictions.propensity}


def _page_truth(
    packed: PackedDataset, items: Longs, truth: Numbers, predictions: Predictions, pages: SplitPages
) -> Doubles:
    """The true value of each shown candidate, given what is above it on its page: (C,)."""
    law = packed.data.satiation
    if law is None:
        return truth.astype(np.float64)
    column = packed.schema.row_features("item").ids.index(law.of)
    category = packed.items.ids[:, column][items].astype(np.int64)
    return satiated(predictions.requests, truth, category, pages.slot, law.share)


def _column_values(page: PageSettings, packed: PackedDataset, items: Longs) -> tuple[Longs, Longs] | None:
    """The values of the first feature of values that the page names, numbered, and the candidate of each: (V,) each."""
    operands = packed.item_operands
    for name in page.features:
        if name in operands.keys:
            codes = number_values(operands.keys[name])[items]
            known = np.flatnonzero(codes >= 0)
            return codes[known], known
        if name in operands.lists:
            lists = operands.lists[name].take(items)
            return number_values(lists.flat()), np.repeat(np.arange(len(items)), lists.length)
    return None
