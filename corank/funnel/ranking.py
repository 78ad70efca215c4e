"""What becomes of one request: how it was encoded, what each stage cut and by which score, times, and the answer.

Letters: n candidates · a of them alive · L events of a history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import StageFacts
from corank.core.ordering import top_k
from corank.core.ragged import Rows
from corank.core.types import Floats, Hashes, Ints, Longs, Numbers
from corank.features.operands import Operands
from corank.funnel.exploration import Draw, DrawnPage
from corank.funnel.page_stage import FilledPage
from corank.funnel.request import DEFAULT_FIELDS, RankAnswer, Request, select_ids


class EncodedValue(msgspec.Struct, frozen=True, gc=False):
    """A value of one feature, encoded, and what derived features take of it.

    Tens of thousands are cached. The collector of cycles would visit each of them, for 100 ms: they are not part of
    one, and are not its.
    """

    row: Any
    """What the row holds of it: a code, the numbers of its columns (width,), or a list or a vector of 1 row."""
    key: int | None
    """Its hash; None, as the other two, if none is taken."""
    hashes: Any
    """Those of a list: a `Ragged` of 1 row."""
    number: float | None


RequestWarning = tuple[Literal["future", "order", "filter"], str]
"""What may be wrong with a request: by what it is counted, and a text, which names the field."""
WantedItems = tuple[str, Sequence[Any] | Longs]
"""Items that a request names, to be looked up: its field, for errors, and their ids, as an array if those are known to
be whole numbers."""


class RequestHistory(NamedTuple):
    """One history of a request."""

    codes: Ints
    """Codes of its item ids: (L,)."""
    wanted: WantedItems
    """Its items; none unless anything reads their records."""
    keys: Hashes
    """Hashes of its item ids: (L,), if some cross compares them; else (0,)."""
    weight: Floats | None
    """Weights of its events: (L,); None if all weigh the same."""
    ages: Floats | None
    """Ages of its events, as `log_ages` says them: (L,); None if nobody reads them."""
    warnings: list[RequestWarning]
    attributes: Mapping[str, Ints]
    """By feature that is `parallel_to` it, the code of each event: (L,)."""
    attribute_keys: Mapping[str, Hashes]
    """By those of them that derived features take, the hash of each event's value: (L,)."""
    age: Longs
    """Ms from each event to the request: (L,); (0,) if the times are not known."""


class StageCut(NamedTuple):
    """The candidates that a stage scored and kept."""

    stage: str
    alive: Longs
    """The candidates that it scored: (a,)."""
    score: Numbers
    """Their scores: (a,)."""
    kept: Longs
    """Positions in `alive` of those that it keeps, best first, ties in the order given."""


@dataclass(slots=True, eq=False)
class Ranking:
    """A request from its turn to its answer and its line in the log.

    What is read of it and what the stages make of it is set by the funnel that ranks it, and set anew by the next one.
    Each field of `RankAnswer` is an attribute here, None where there is nothing to say.
    """

    request: Request
    began: float = field(default_factory=perf_counter)
    """When the request arrived, by `time.perf_counter`."""
    size: int = 0
    """Bytes of its body."""
    user: str | None = None
    """What is said of the user; None in process, where nobody is looked up."""
    x_request_id: str | None = None
    """What the client, or a proxy, calls it, by which logs of several services know it."""
    served_id: str | None = None
    """Of this time that it was served; None if it is not logged."""
    draw: Draw | None = None
    """How its page is to be drawn; None for the page as it is ranked."""
    done: float = 0.0
    """When it was answered, by `time.perf_counter`."""
    prepared_by: object | None = None
    """The encoder that read its query ahead of its candidates, and can use it; that of other items cannot."""
    events: Mapping[str, Longs] = field(init=False)
    """Of a query that was read ahead, the positions of the items of histories that are looked up, by history."""
    query: tuple[Rows, Operands] | None = field(init=False)
    """Of such a query, its row and operands; None if a feature needs the number of candidates."""
    time: int = field(init=False)
    """Of the request, ms since 1970 UTC."""
    values: Sequence[EncodedValue] = field(init=False)
    """Of the features of columns, in the order of the query's `RowEncoder.columns`."""
    histories: Mapping[str, RequestHistory] = field(init=False)
    missing: list[str] = field(init=False)
    """Columns that the request lacks."""
    clipped: dict[str, int] = field(init=False)
    """By `SIDE.COLUMN`, how many numbers lie outside the range of training; they are clipped to it."""
    candidates: Sequence[Any] = field(init=False)
    """Ids of the candidates that are known or described, in the order given."""
    numbers: Longs | None = field(init=False)
    """The ids given, if all are whole numbers."""
    columns: list[dict[str, Any]] = field(init=False)
    """The columns given with each candidate; empty if no candidate has any."""
    unknown: list[Any] = field(init=False)
    """Ids of candidates that are left out: neither known nor described."""
    found: list[RequestWarning] = field(init=False)
    """What may be wrong with the request."""
    manifest: BundleManifest = field(init=False)
    """Of the version that ranks it."""
    model_version: str = field(init=False)
    items_seq: int = field(init=False)
    """Number of the last change of items, and `items_id`, its id."""
    items_id: str = field(init=False)
    quotas: Mapping[str, int] = field(init=False)
    """By stage."""
    cuts: list[StageCut] = field(init=False)
    """Of the stages that finished, in order."""
    seconds: dict[str, float] = field(init=False)
    """Time of encoding, `receive`, and of each stage that finished, of all requests that were ranked together."""
    fallback: dict[str, str] | None = field(init=False)
    """The stage that did not finish, `stage`, and `why`: skipped, late or failed."""
    page: FilledPage | None = field(init=False)
    """The page, if the bundle has one."""
    drawn: DrawnPage | None = field(init=False)
    """The drawn page, if it is to be."""
    _answered: tuple[Longs, Numbers] | None = field(init=False)

    def begin(self, manifest: BundleManifest, quotas: Mapping[str, int]) -> None:
        """Begin to rank it by a version; what another made of it is forgotten."""
        self.manifest, self.quotas, self.model_version = manifest, quotas, manifest.model_version
        self.items_seq, self.items_id = manifest.items_seq, manifest.items_id
        self.cuts, self.seconds, self.fallback, self._answered = [], {}, None, None
        self.page = self.drawn = None

    def cut(self, stage: StageFacts, alive: Longs, score: Numbers) -> Longs:
        """Apply a stage's quota and `min_score` to the candidates that it scored.

        Returns:
            The candidates that it keeps, best first.
        """
        kept = top_k(score, self.quotas[stage.name])
        if stage.min_score is not None:
            kept = kept[score[kept] >= stage.min_score]
        self.cuts.append(StageCut(stage.name, alive, score, kept))
        return alive.take(kept)

    def fall_back(self, stage: StageFacts, why: str) -> None:
        """Record that a stage did not finish."""
        self.fallback = {"stage": stage.name, "why": why}

    @property
    def answered(self) -> tuple[Longs, Numbers]:
        """The candidates that the answer has, best first, and their scores: what the last stage keeps.

        If the last stage did not finish, it is as many in the order of the last stage that did. A page has its slots.
        One that was drawn has scores of the stage that scored all from which it was drawn.
        """
        if self._answered is None and self.drawn is not None:
            self._answered = self.drawn.shown, self.scores(self.stage).take(self.drawn.shown)
        if self._answered is None:
            last = self.manifest.stages[-1].name
            self._answered = self.page.shown if self.page is not None else self.kept_by(last)
        return self._answered

    def kept_by(self, stage: str) -> tuple[Longs, Numbers]:
        """What a stage keeps, best first, and the scores; as many of the last stage that finished, if it did not."""
        last = self.cuts[-1]
        kept = last.kept[: self.quotas[stage]]
        return last.alive.take(kept), last.score.take(kept)

    def scores(self, stage: str) -> Floats:
        """The scores of one stage, NaN for a candidate that it did not score: (n,)."""
        scores = np.full(len(self.candidates), np.nan)
        for cut in self.cuts:
            if cut.stage == stage:
                scores[cut.alive] = cut.score
        return scores

    def to_answer(self) -> dict[str, Any]:
        """The answer, of the fields that the request chooses: the items, and how they came about."""
        fields, chosen = self.request.fields, DEFAULT_FIELDS
        if fields is not None:
            chosen = frozenset([*fields, "items"] if "scores" in fields else fields)
        elif self.request.trace:
            chosen |= {"trace"} if self.user is None else {"trace", "microseconds"}
        return {
            name: value
            for name in RankAnswer.__struct_fields__
            if name in chosen and (value := getattr(self, name)) is not None
        }

    @property
    def stage(self) -> str:
        """Whose scores the answer has: those of the first stage, if its page was drawn from all candidates."""
        is_of_all = self.drawn is not None and self.draw is not None and self.draw.temperature is None
        return self.cuts[0 if is_of_all else -1].stage

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of the answer, best first, with the scores of all stages if the request chooses `scores`."""
        positions, values = self.answered
        ids = select_ids(self.candidates, positions)
        items: list[dict[str, Any]] = [
            {"id": id_, "score": score} for id_, score in zip(ids, values.tolist(), strict=True)
        ]
        if "scores" in (self.request.fields or ()):
            scores = {cut.stage: self.scores(cut.stage)[positions].tolist() for cut in self.cuts}
            for n, item in enumerate(items):
                item["scores"] = {stage: of[n] for stage, of in scores.items()}
        return items

    @property
    def ids(self) -> list[Any]:
        """The ids of those items."""
        return [*select_ids(self.candidates, self.answered[0])]

    @property
    def explored(self) -> str | None:
        """How the page was drawn."""
        return None if self.drawn is None else str(self.draw)

    @property
    def propensity(self) -> list[float] | None:
        """At what probability each item of the answer is on a drawn page."""
        return None if self.drawn is None else self.drawn.propensity.take(self.drawn.shown).tolist()

    @property
    def warnings(self) -> list[str] | None:
        """What may be wrong with the request."""
        return [text for _, text in self.found] or None

    @property
    def trace(self) -> list[dict[str, Any]]:
        """For every candidate its score and rank, from 1, at each stage it reached, and the stage that cut it."""
        trace: list[dict[str, Any]] = [{"id": id_, "stages": {}, "cut": None} for id_ in self.candidates]
        for cut in self.cuts:
            order = np.argsort(-cut.score, kind="stable")  # the kept ones come first
            for rank, (n, score) in enumerate(
                zip(cut.alive[order].tolist(), cut.score[order].tolist(), strict=True), 1
            ):
                trace[n]["stages"][cut.stage] = {"score": score, "rank": rank}
                trace[n]["cut"] = cut.stage if rank > len(cut.kept) else None
        if self.page is not None:
            self._trace_page(self.page, trace)
        return trace

    def _trace_page(self, filled: FilledPage, trace: list[dict[str, Any]]) -> None:
        """Add what the page made of the candidates that reached it."""
        name = filled.settings.name
        for n, entry in filled.trace().items():
            if "moved" in entry and entry["moved"]["neighbour"] is not None:
                entry["moved"]["neighbour"] = self.candidates[entry["moved"]["neighbour"]]
            trace[n]["stages"][name] = entry
            trace[n]["cut"] = name if entry["rank"] > len(filled.page.slots) else None

    @property
    def microseconds(self) -> dict[str, int]:
        """Time of each part."""
        return {name: round(s * 1e6) for name, s in self.seconds.items()}
