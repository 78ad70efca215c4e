"""A bundle ready to rank: requests through the stages, in process, without torch.

A stage with a deadline runs under a timer, and is skipped if recent runs took longer than what is left.

Letters: R requests · n candidates of all of them.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import copy
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl

from corank.bundle.bundle import Bundle
from corank.bundle.content import (
    ItemGraphs,
    check_changed_items,
    read_items,
    read_snapshots,
    read_tables,
    store_parts,
)
from corank.bundle.graph_files import RUNTIME_ERRORS
from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.bundle.retrieval import Retrieval
from corank.bundle.signatures import TrustedKeys
from corank.bundle.stage_facts import StageFacts
from corank.core.calibration import Platt
from corank.core.errors import BundleError, DataError, PluginError, RequestError
from corank.core.inclusion import soften
from corank.core.objects import PathOrUrl, is_url, parse_location, require_local
from corank.core.ordering import soft_ranks, stage_value
from corank.core.panics import panics_as_errors
from corank.core.ragged import Rows
from corank.core.registry import MISSING_PLUGIN, Registry, plugin_hint
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats, Longs, Numbers
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.features.schema import Schema
from corank.funnel.deadlines import LatencyTracker, timer_of
from corank.funnel.exploration import Draw, DrawnPage
from corank.funnel.page_stage import PageStage
from corank.funnel.query_encoder import join_arrays
from corank.funnel.ranking import Ranking
from corank.funnel.request import Request
from corank.funnel.request_encoder import EncodedBatch, RequestEncoder
from corank.funnel.request_reader import RequestReader
from corank.funnel.stage_scorer import (
    SCORERS,
    Candidates,
    ScorerInputs,
    Shared,
    StageScorer,
    open_query_vectors,
)


class Predicted(NamedTuple):
    """What the stages make of n candidates, those of one request after those of another."""

    ids: Sequence[Any]
    """Of the candidates that are known: (n)."""
    outputs: dict[str, Numbers]
    """(n,) by `logit.STAGE.LABEL`, `probability.STAGE.LABEL`, which is calibrated, and `value.STAGE`."""
    columns: dict[str, Floats]
    """(n,) by those of the data's `columns` that some value names."""


AT_ONCE = 16
"""Requests that are run through the stages together, at most: queries times vectors grow with the square."""


class Funnel:
    """Ranks requests by one model version. Safe to share between threads once opened.

    Example:
        >>> funnel = corank.Funnel.open("bundle")
        >>> answer = funnel.rank({"user": {"id": 7}, "candidates": [3, 11, 24]})
        >>> len(answer["items"]) <= 3, sorted(answer["items"][0])
        (True, ['id', 'score'])
    """

    def __init__(self, bundle: Bundle) -> None:
        """Load a bundle's encoders, items, graphs and tables. Raises BundleError."""
        self.manifest: BundleManifest = bundle.manifest
        folder, schema = bundle.folder, bundle.manifest.declared
        stages = self.manifest.stages
        self.schema: Schema = schema
        self._latencies = {stage.name: LatencyTracker() for stage in stages}
        self._timer = timer_of(os.getpid()) if any(stage.deadline_ms for stage in stages) else None
        self._quotas = {stage.name: stage.keep for stage in stages}
        self._page: PageStage | None = None
        if (page := self.manifest.page) is not None:
            self._quotas[page.name] = page.keep
            self._page = PageStage(page, schema)
        try:
            encoders = Encoders.load(folder / "encoders", schema)
            self.scorer = Scorer(folder, self.manifest, Layout(schema, encoders.sizes))
            self._at_once = 1 if self.scorer.one_request else AT_ONCE
            items = LayeredItems((read_items(folder, self.manifest, encoders),))
            settings = self.manifest.retrieval
            self.retrieval = None if settings is None else Retrieval(settings, items)
            self.retrieved = self.retrieval.settings.keep if self.retrieval else 0
            """Candidates of a request that brings none, and names no number."""
            self.reader = RequestReader(self.manifest, encoders, items.text, self.retrieval is not None)
            self.request_encoder = RequestEncoder(
                self.manifest,
                encoders,
                items,
                read_snapshots(folder, self.manifest),
                self.scorer.named,
                self.scorer.parts,
                self.retrieved,
            )
        except DataError as error:
            raise BundleError(f"{error}; export the bundle again") from None

    @classmethod
    def open(
        cls, source: PathOrUrl, trust: Sequence[PathOrUrl] = (), cache: PathOrUrl | None = None
    ) -> "Funnel":
        """Open a bundle, or the live version of a store.

        Args:
            source: the bundle's folder, or its URL in object storage as text; or the address of a store, such as
                `lmdb:/srv/shop`: what is live there, or, if that cannot be read, what was live last by `cache`. Later
                changes of the store are not seen: `corank.serve` follows them.
            trust: public ed25519 keys, PEM files, one of which must have signed the bundle; none: it need not be
                signed.
            cache: the folder for bundles of a store; `~/.cache/corank` unless given.

        Raises:
            BundleError: the bundle is truncated, altered or of mixed versions.
            StoreError: the store cannot be read.
            TrustError: no trusted key signed it, and `cache` has no version of the store that one did.
        """
        keys = TrustedKeys.load([require_local(key) for key in trust])
        if isinstance(source, str) and ":" in source:
            folder = None if cache is None else require_local(cache)
            for open_address in SOURCES.parts().values():
                if (funnel := open_address(source, keys, folder)) is not None:
                    return funnel
            if not is_url(source) and not Path(source).exists():
                raise BundleError(f"{source}: neither a bundle nor an address that is known{MISSING_PLUGIN}")
        return cls(Bundle.open(parse_location(source), trust=keys))

    def with_changes(
        self, items_seq: int, items_id: str, newer: ItemLayer | None = None, gone: pl.Series | None = None
    ) -> Self:
        """Return the funnel after a change of items; this one stays as it is.

        Args:
            items_seq: number of the change.
            items_id: its id.
            newer: items that were added or changed; none if None.
            gone: ids of items that were removed, others than those; none if None.
        """
        if newer is not None:
            check_changed_items(newer, self.manifest, self.request_encoder.encoders)
        is_same = newer is None and gone is None
        other = copy(self) if is_same else self.with_items(self.request_encoder.items.with_items(newer, gone))
        other.manifest = self.manifest.model_copy(update={"items_seq": items_seq, "items_id": items_id})
        return other

    def with_items(self, items: LayeredItems) -> Self:
        """Return the funnel with another catalogue; this one stays as it is."""
        other = copy(self)
        other.request_encoder = self.request_encoder.with_items(items)
        other.retrieval = self.retrieval and self.retrieval.with_items(items)
        return other

    def rank(self, request: Request | Mapping[str, Any]) -> dict[str, Any]:
        """Rank the candidates of a request.

        Each stage orders by its `value`, a formula of calibrated probabilities, ties in the order given.

        Args:
            request: a `corank.Request`, or a mapping of its fields, as a body of the service has them.

        Returns:
            The answer: what the last stage keeps, best first, with scores; the trace of all candidates if the
            request asks for it.

        Raises RequestError.
        """
        return self.run(_parse(request)).to_answer()

    def rank_many(self, requests: Sequence[Request | Mapping[str, Any]]) -> list[dict[str, Any] | Exception]:
        """Rank the candidates of several requests at once, in less time than one after the other.

        Args:
            requests: each as `rank` takes it.

        Returns:
            For each the answer that `rank` gives, or the error that it raises. Neither depends on the other requests:
            orders and cuts are the same, and scores to the last digits.
        """
        asked = [_parse_or_refuse(request) for request in requests]
        errors = iter(self.run_many([one for one in asked if isinstance(one, Ranking)]))
        return [next(errors) or one.to_answer() if isinstance(one, Ranking) else one for one in asked]

    def prepare(self, request: Request) -> Ranking:
        """Encode the query of a request whose candidates are not known yet, for `run_many`. Raises RequestError.

        The whole request is then to be set. Its query is encoded anew if another funnel ranks it, or other items are
        live by then.
        """
        self._quotas_of(request)
        one = Ranking(request)
        self.reader.read_query(one)
        self.request_encoder.encode_ahead(one)
        return one

    def run(self, request: Request, arrived: float | None = None, draw: Draw | None = None) -> Ranking:
        """Run a request through the stages. If a stage misses its deadline, the order of the one before it stands.

        Args:
            request: to rank.
            arrived: when it arrived, by `time.perf_counter`; now if None.
            draw: how its page is drawn; None for the page as it is ranked.

        Raises RequestError.
        """
        ranking = Ranking(request, time.perf_counter() if arrived is None else arrived, draw=draw)
        self._read(ranking)
        self._run([ranking])
        return ranking

    def run_many(self, rankings: Sequence[Ranking], bounded: bool = False) -> list[Exception | None]:
        """Run requests through the stages, all at once.

        Args:
            rankings: of the requests; they receive what becomes of them.
            bounded: whether a request is refused that asks a stage to keep more than the bundle does, which takes
                more time.

        Returns the error that `run` raises of each; None if it was ranked.
        """
        errors: list[Exception | None] = [None] * len(rankings)
        pending: list[int] = []
        for n, one in enumerate(rankings):
            try:
                self._read(one, bounded)
                pending.append(n)
            except Exception as error:
                errors[n] = error
        for first in range(0, len(pending), self._at_once):
            together = pending[first : first + self._at_once]
            try:
                self._run([rankings[n] for n in together])
            except Exception as error:
                # of one of them: each alone tells of which, and keeps it from the others
                for n in together:
                    rankings[n].prepared_by = None  # to be read anew
                    (errors[n],) = [error] if len(together) == 1 else self.run_many([rankings[n]], bounded)
        return errors

    def _read(self, one: Ranking, bounded: bool = False) -> None:
        """Read a request as far as it is its own. Raises RequestError."""
        quotas = self._quotas_of(one.request, bounded)
        with panics_as_errors():
            self.reader.read(one, query=one.prepared_by is not self.request_encoder)
        one.begin(self.manifest, quotas)

    def _run(self, rankings: Sequence[Ranking]) -> None:
        """Run R requests that were read through the stages. Raises what ranking one of them raises."""
        with panics_as_errors():
            batch = self.request_encoder.encode(rankings, self._retriever)
            encoded_at = time.perf_counter()
            for one in rankings:
                one.seconds["receive"] = encoded_at - one.began
            alive: dict[int, Longs] = {r: np.arange(len(one.candidates)) for r, one in enumerate(rankings)}
            shared: Shared = {}
            for stage in self.manifest.stages:
                since = time.perf_counter()
                scores = self._score(stage, batch, alive, shared, rankings)
                if not alive:
                    break
                seconds, begin = time.perf_counter() - since, 0
                for r, candidates in alive.items():
                    score, begin = scores[begin : begin + len(candidates)], begin + len(candidates)
                    rankings[r].seconds[stage.name] = seconds
                    alive[r] = rankings[r].cut(stage, candidates, score)
            for r, one in enumerate(rankings):
                if one.draw is not None:
                    self._draw_page(one.draw, one, batch, batch.start[r])
                elif self._page is not None:
                    self._fill_page(self._page, one, batch, batch.start[r])

    def _fill_page(self, page: PageStage, one: Ranking, batch: EncodedBatch, start: int) -> None:
        """Fill a request's page from what the last stage that finished keeps, and would leave to the page."""
        since, name = time.perf_counter(), page.settings.name
        alive, value = one.kept_by(self.manifest.stages[-1].name)
        positions = batch.positions.take(alive + start)
        one.page = page.fill(batch.items, positions, alive, value, one.quotas[name])
        one.seconds[name] = time.perf_counter() - since

    def _draw_page(self, draw: Draw, one: Ranking, batch: EncodedBatch, start: int) -> None:
        """Draw a request's page, which keeps the rules of the page if the bundle has one."""
        since, last, page = time.perf_counter(), one.cuts[-1], self._page
        alive, logits = np.arange(len(one.candidates)), np.zeros(len(one.candidates))
        if draw.temperature is not None:
            alive, logits = last.alive, soften(last.score.astype(np.float64), draw.temperature)
        name = self.manifest.stages[-1].name if page is None else page.settings.name
        positions, fill_of = batch.positions.take(alive + start), None
        if page is not None and page.settings.rules:
            fill_of = partial(page.fill_by_value, batch.items, positions)
        shown, chance = draw.choose(logits, one.quotas[name], fill_of)
        propensity = np.full(len(one.candidates), np.nan)
        propensity[alive] = chance
        one.drawn = DrawnPage(alive.take(shown), propensity)
        one.seconds["explore"] = time.perf_counter() - since

    def _retriever(self, request: Request, query: Rows, r: int) -> Longs:
        """Retrieve the candidates of a request, the r-th of some queries."""
        assert self.retrieval is not None
        settings, where = self.retrieval.settings, self.request_encoder.filters.encode(request)
        (vector,) = self.scorer.query_vectors(settings.stage, query.take(np.array([r])))
        return self.retrieval.search(vector, request.retrieve or settings.keep, where)

    def _score(
        self,
        stage: StageFacts,
        batch: EncodedBatch,
        alive: dict[int, Longs],
        shared: Shared,
        rankings: Sequence[Ranking],
    ) -> Numbers:
        """The values by which a stage orders the candidates of requests, by the request: (n,).

        A request that the stage skips, is late for, or fails for, if it is the only one, falls back.

        Args:
            stage: its facts.
            batch: the requests.
            alive: the candidates of each request, counted from its first; requests that fall back are removed.
            shared: what the stages share.
            rankings: of all requests.

        Raises what the stage raises, if there is no earlier order, or it may be of one request of several alone.
        """
        timer, latency, due = None, self._latencies[stage.name], dict[int, float]()
        if stage.deadline_ms is not None:
            timer, now = self._timer, time.perf_counter()
            due = {r: rankings[r].began + stage.deadline_ms / 1000 for r in alive}
        for r, moment in due.items():
            if now + latency.p99 > moment:
                latency.record_skip()
                rankings[r].fall_back(stage, "skipped")
                del alive[r]
        while alive:
            since = time.perf_counter()
            try:
                with nullcontext() if timer is None else timer.until(min(due[r] for r in alive)) as options:
                    among_all = [of if r == 0 else batch.start[r] + of for r, of in alive.items()]
                    candidates = Candidates(batch, join_arrays(among_all), shared, options)
                    return self.scorer.evaluate(stage, candidates)[1]
            except RUNTIME_ERRORS:
                is_late, now = options is not None and options.terminate, time.perf_counter()
                lost = [r for r in alive if not is_late or due[r] <= now]
                if not all(rankings[r].cuts for r in lost) or (not is_late and len(lost) > 1):
                    raise
                for r in lost:
                    rankings[r].fall_back(stage, "late" if is_late else "failed")
                    del alive[r]
            finally:
                if timer is not None:
                    latency.record(time.perf_counter() - since)
        return np.empty(0)

    def describe_item(self, item: str) -> dict[str, Any] | None:
        """Describe an item by readable values.

        Args:
            item: its id as text.

        Returns:
            `id`; `newer`, whether it was added or changed since the bundle was exported; `features`, decoded, by name;
            `columns` by name. None if the item is unknown.
        """
        items, placed = self.request_encoder.items, self.schema.record_features
        records = items.layers[0].records
        try:
            key = pl.Series([item]).cast(records.ids.values.dtype)
        except pl.exceptions.PolarsError:
            return None
        position = items.find(key)
        if position[0] < 0:
            return None
        row = items.rows(position)
        features: dict[str, Any] = {
            name: self._decode(name, int(row.ids[0, k])) for k, name in enumerate(placed.ids)
        }
        for name, lists in zip(placed.lists, row.lists, strict=True):
            features[name] = [self._decode(name, code) for code in lists.flat().tolist()]
        features |= {name: self._decode(name, row.numbers[0, at]) for name, at in placed.numbers_at.items()}
        for name, vectors in zip(placed.vectors, row.vectors, strict=True):
            features[name] = self._decode(name, vectors.dense()[0]) if vectors.row[0] >= 0 else None
        columns = {name: float(items.column(name, position)[0]) for name in records.columns}
        newer = bool(position[0] >= items.bounds[1])
        return {"id": key[0], "newer": newer, "features": features, "columns": columns}

    def _decode(self, name: str, encoded: Any) -> Any:
        fitted = self.request_encoder.encoders.fitted.get(self.schema.table_of(name))
        return self.schema.features[name].decode(fitted, encoded)

    def warm(self, request: Request) -> None:
        """Run a request to fill caches; a RequestError is ignored, and its latency is not recorded."""
        with suppress(RequestError):
            self.run(request)
        self._latencies = {name: LatencyTracker() for name in self._latencies}

    def encode(self, *requests: Request) -> EncodedBatch:
        """Encode requests, with retrieved candidates for those that bring none. Raises RequestError."""
        rankings = [Ranking(request) for request in requests]
        for one in rankings:
            self.reader.read(one)
        return self.request_encoder.encode(rankings, self._retriever)

    def _uncut(self, batch: EncodedBatch) -> Iterator[tuple[StageFacts, dict[str, Floats], Numbers]]:
        """Every stage's logits by label, and values, of all candidates."""
        shared: Shared = {}
        for stage in self.manifest.stages:
            candidates = Candidates(batch, batch.everyone, shared)
            logits, value = self.scorer.evaluate(stage, candidates)
            yield stage, dict(zip(stage.labels, logits.T, strict=True)), value

    def logits(self, request: Request) -> dict[str, dict[str, Floats]]:
        """Compute every stage's logits of all candidates, uncut: stage → label → (n,). Raises RequestError."""
        return {stage.name: logits for stage, logits, _ in self._uncut(self.encode(request))}

    def predict(self, request: Request) -> Predicted:
        """Compute what every stage makes of all candidates of a request. Raises RequestError."""
        return self.predict_many([request])

    def predict_many(self, requests: Sequence[Request]) -> Predicted:
        """Compute what every stage makes of all candidates of requests, uncut. Deadlines are not kept.

        Raises RequestError, which may be of any of them.
        """
        batch = self.encode(*requests)
        outputs: dict[str, Numbers] = {}
        for stage, logits, value in self._uncut(batch):
            calibrators = self.scorer.calibrators[stage.name]
            for label, values in logits.items():
                outputs[f"logit.{stage.name}.{label}"] = values
                outputs[f"probability.{stage.name}.{label}"] = calibrators[label].apply(values)
            outputs[f"value.{stage.name}"] = value
        named = [name for name in self.manifest.data.columns if name in self.scorer.named]
        ids = [id_ for one in batch.requests for id_ in one.candidates]
        return Predicted(ids, outputs, {name: batch.column(name, batch.everyone) for name in named})

    def _quotas_of(self, request: Request, bounded: bool = False) -> dict[str, int]:
        """How many candidates each stage keeps, which may be `bounded` by the bundle. Raises RequestError."""
        quotas = self._quotas
        if not request.keep:
            return quotas
        for name, keep in request.keep.items():
            if name not in quotas:
                raise RequestError(f"keep: no stage '{name}'; the bundle's stages are {', '.join(quotas)}")
            if bounded and keep > quotas[name]:
                raise RequestError(
                    f"keep.{name}: expected {quotas[name]} or less, as the bundle says; received {keep}"
                )
        return quotas | dict(request.keep)


class Scorer:
    """The stages of one model version. Safe to share between threads."""

    def __init__(self, folder: Path, manifest: BundleManifest, layout: Layout) -> None:
        """Open the graphs and tables of a bundle's content. Raises BundleError, DataError."""
        self.folder, self.layout = folder, layout
        self.tables = read_tables(folder, manifest, layout)
        self.stages: dict[str, StageScorer] = {}
        self._manifest, self._columns = manifest, manifest.data.columns
        self._inputs: dict[str, ScorerInputs] = {}
        self._queries: dict[str, Callable[[Rows, Shared], Floats]] = {}
        for stage in manifest.stages:
            inputs = ScorerInputs(stage, folder, layout, self.tables[stage.tables], self._columns)
            try:
                self.stages[stage.name] = SCORERS.find(stage.scorer)(inputs)
            except PluginError as error:
                hint = plugin_hint(manifest.plugins) or "export the bundle again"
                raise BundleError(f"{folder}: stage '{stage.name}': {error}; {hint}") from None
            self._inputs[stage.name] = inputs
            if stage.orders_by_product:
                self._queries[stage.name] = open_query_vectors(inputs)
        self._items = ItemGraphs(folder, manifest.stages, layout, self.tables, threads=1)
        self.calibrators = {
            stage.name: {label: Platt(c.slope, c.intercept) for label, c in stage.calibrators.items()}
            for stage in manifest.stages
        }
        self._seen = {f"{name}.{what}" for stage in manifest.stages for name, what in stage.from_stages}

    def parts(self, rows: Rows) -> dict[str, StoredMatrix]:
        """What stages keep of the records of items: (N, d) by `STAGE.PART`. Raises DataError."""
        return store_parts(self._items.compute(rows), self._manifest.stages)

    def query_vectors(self, stage: str, rows: Rows) -> Floats:
        """The vectors of queries, of a stage that orders by product: (R, d)."""
        return self._queries[stage](rows, {})

    @property
    def one_request(self) -> bool:
        """Whether some stage can score the candidates of one request at a time alone."""
        return any(scorer.one_request for scorer in self.stages.values())

    @property
    def named(self) -> set[str]:
        """The labels and columns that the values of stages name."""
        return {name for inputs in self._inputs.values() for name in inputs.value.names}

    def evaluate(self, stage: StageFacts, candidates: Candidates) -> tuple[Floats, Numbers]:
        """Score candidates; what later stages see of it goes into what the stages share.

        Returns:
            The logits, (n, labels), and the values that the stage orders by, (n,).

        Raises RequestError if a value is not finite.
        """
        logits: Floats = np.empty((0, len(stage.labels)), dtype=np.float32)
        value: Numbers | None = np.empty(0)
        if len(candidates.alive):
            logits, value = self.stages[stage.name].evaluate(candidates)
        if value is None:
            formula = self._inputs[stage.name].value
            columns = {
                name: candidates.batch.column(name, candidates.alive)
                for name in formula.names
                if name in self._columns
            }
            by_label = dict(zip(stage.labels, logits.T, strict=True))
            value = stage_value(formula, by_label, self.calibrators[stage.name], columns)
        if self._seen:
            self._share(stage, logits[:, stage.labels.index(stage.main)], candidates)
        # a sum of squares is faster than a plain sum; as it may overflow, each value is checked then
        if not math.isfinite(np.dot(value, value)):
            _refuse_odd(stage, value, candidates)
        return logits, value

    def _share(self, stage: StageFacts, logits: Floats, candidates: Candidates) -> None:
        """Keep what later stages see of a stage."""
        shared, alive = candidates.shared, candidates.alive
        if f"{stage.name}.score" in self._seen:
            shared[f"{stage.name}.score"] = np.full(len(candidates.batch.positions), np.nan, dtype=np.float32)
            shared[f"{stage.name}.score"][alive] = logits
        if f"{stage.name}.rank" in self._seen:  # of the first stage, which scores all candidates
            bounds, ranks = candidates.bounds.tolist(), np.empty(len(alive), dtype=np.float32)
            for a, b in pairwise(bounds):  # each request's by themselves, to the last bit
                ranks[a:b] = soft_ranks(logits[a:b], np.array([0, b - a]))
            shared[f"{stage.name}.rank"] = np.full(len(candidates.batch.positions), np.nan, dtype=np.float32)
            shared[f"{stage.name}.rank"][alive] = ranks


def _refuse_odd(stage: StageFacts, value: Numbers, candidates: Candidates) -> None:
    """Raise RequestError if a value by which a stage orders is not finite."""
    odd = np.flatnonzero(~np.isfinite(value))
    if len(odd):
        batch, at = candidates.batch, int(candidates.alive[odd[0]])
        r = int(batch.request_of[at])
        raise RequestError(
            f"stage '{stage.name}': the value of {batch.requests[r].candidates[at - batch.start[r]]!r} is "
            f"{value[odd[0]]}; look for extreme numbers in the request"
        )


OpenAddress = Callable[[str, TrustedKeys | None, Path | None], Funnel | None]
"""An address, the keys that must have signed what is there, and a folder for bundles → the funnel; None for an address
of another sort."""
SOURCES = Registry[OpenAddress]("source", "corank.sources", __name__)
"""What opens addresses other than those of bundles; stores register there."""


def _parse_or_refuse(request: Request | Mapping[str, Any]) -> Ranking | RequestError:
    try:
        return Ranking(_parse(request))
    except RequestError as error:
        return error


def _parse(request: Request | Mapping[str, Any]) -> Request:
    return request if isinstance(request, Request) else Request.parse(dict(request))
