"""Served requests → rows of the log, a row per candidate, in pieces of bounded size.

A request waits as a few bytes until it is written.

Letters: R requests · C candidates of all of them · n ranked candidates of one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corank.core.time import DAY, MILLISECOND, format_time, now_ms
from corank.core.types import Longs
from corank.funnel.ranking import Ranking
from corank_serve.log.log_format import ANSWERED, REQUEST, SERVED, TEXT, LogFormat, UnfitValueError

OVERHEAD = 768
"""Bytes of a pending request besides its contents, about."""


Served = dict[str, Any]
"""A served request as it waits: the columns `ANSWERED`; `request` as JSON, with its time and its candidates, which it
may have left to the service; `unknown`, the ids of the candidates that were left out, as JSON; `levels`, the index of
the level that each candidate reached, uint8: (n,); by stage its `scores`, float64, NaN where it scored nothing: (n,);
and its `propensities`, if its page was drawn: float64, (n,)."""


def encode_served(one: Ranking) -> Served:
    """Encode a request that was ranked. Raises TypeError, ValueError or OverflowError for what JSON cannot hold."""
    fields = msgspec.structs.asdict(one.request)
    del fields["retrieve"], fields["where"], fields["fields"]
    candidates = one.candidates if one.request.candidates is None else one.request.candidates
    fields |= {"time": one.time, "candidates": [*candidates]}
    return {name: getattr(one, name) for name in ANSWERED} | {
        "request": msgspec.json.encode(fields),
        "unknown": msgspec.json.encode(one.unknown),
        "levels": find_level_codes(one).tobytes(),
        "scores": [one.scores(stage.name).tobytes() for stage in one.manifest.stages],
        "propensities": b"" if one.drawn is None else one.drawn.propensity.tobytes(),
    }


def count_bytes(served: Served) -> int:
    """Bytes of a served request in memory, about."""
    contents = (
        *(served["request"], served["unknown"], served["levels"]),
        *(served["propensities"], *served["scores"]),
    )
    return OVERHEAD + sum(map(len, contents))


def find_level_codes(one: Ranking) -> NDArray[np.uint8]:
    """Find the index of the level that each candidate reached: (n,).

    Exposure is not among them, since the service cannot see it.
    """
    levels = one.manifest.data.levels
    codes = np.zeros(len(one.candidates), dtype=np.int64)
    for n, stage in enumerate(one.manifest.stages[: len(one.cuts)]):
        cut = one.cuts[n]
        level = levels.index(stage.cuts[-1]) if stage.cuts else n
        codes[cut.alive] = level
        codes[cut.alive[cut.kept]] = level + 1
    if one.drawn is not None:
        codes[one.drawn.shown] = len(levels)
    return np.minimum(codes, max(len(levels) - 2, 0)).astype(np.uint8)


ROWS, BYTES = 4096, 4 * 2**20
"""Requests are converted together up to so many rows, or so many bytes of their columns repeated on each row."""
LARGEST_BYTES = 64 * 2**20
"""A request whose columns, repeated on each of its rows, take more is set aside."""
FIRST = -62_135_596_800_000
"""The year 1, ms since 1970 UTC."""

_NOTHING: dict[str, Any] = {}

Reject = Callable[[Served, str], None]
"""Receives a request that has no rows, and why."""


@dataclass(frozen=True)
class _Decoded:
    """A served request, decoded."""

    served: Served
    time: int
    columns: dict[str, Any]
    """Of the user and the context."""
    ids: list[Any]
    rows: list[dict[str, Any]]
    """The columns given with each ranked candidate: (n,), or empty if there are none."""
    bytes: int
    """Size of the columns, repeated on each row."""

    @classmethod
    def of(cls, served: Served, form: LogFormat) -> "_Decoded":
        """Decode. Raises UnfitValueError for a request that cannot have rows."""
        fields: dict[str, Any] = msgspec.json.decode(served["request"])
        unknown = set(msgspec.json.decode(served["unknown"]))
        candidates = fields["candidates"]
        if unknown or dict in set(map(type, candidates)):
            rows = [one if isinstance(one, dict) else {"id": one} for one in candidates]
            rows = [one for one in rows if one["id"] not in unknown]
            ids = [one["id"] for one in rows]
        else:
            ids, rows = candidates, []
        if not ids:
            raise UnfitValueError("no candidate is known, so there is no row")
        time, latest = fields["time"], now_ms() + DAY // MILLISECOND
        if not FIRST <= time <= latest:
            raise UnfitValueError(f"time: {time} ms is not between the year 1 and {format_time(latest)}")
        query = {form.user if name == "id" else name: value for name, value in fields["user"].items()}
        query |= fields["context"]
        columns = {name: query.get(name) for name in form.request}
        size = sum(_size(value) for value in columns.values()) * len(ids)
        if size > LARGEST_BYTES:
            raise UnfitValueError(
                f"its columns, on each of {len(ids):,} rows, take {size / 2**20:,.0f} MiB; "
                f"{LARGEST_BYTES >> 20} are logged at most"
            )
        return cls(served, time, columns, ids, rows, size)


def _size(value: Any) -> int:
    """Bytes that a value takes in a column, about."""
    if isinstance(value, list):
        return 8 + sum(map(_size, value))
    return len(value) if isinstance(value, str) else 8


def make_rows(form: LogFormat, requests: Sequence[Served], reject: Reject) -> Iterator[pa.Table]:
    """Convert requests to rows, in order, a table of at most some MiB after another.

    A request that does not fit is handed to `reject`, with the reason; the others are not touched by it.
    """
    batch: list[_Decoded] = []
    for served in requests:
        try:
            batch.append(_Decoded.of(served, form))
        except UnfitValueError as error:
            reject(served, str(error))
        if sum(len(one.ids) for one in batch) >= ROWS or sum(one.bytes for one in batch) >= BYTES:
            yield from _build(form, batch, reject)
            batch = []
    if batch:
        yield from _build(form, batch, reject)


def _build(form: LogFormat, batch: list[_Decoded], reject: Reject) -> Iterator[pa.Table]:
    """Build the rows of a batch; if a value does not fit, halve it until the request is found."""
    try:
        request, candidate = _request_columns(form, batch), _candidate_columns(form, batch)
    except UnfitValueError as error:
        if len(batch) == 1:
            reject(batch[0].served, str(error))
            return
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            yield from _build(form, half, reject)
        return
    lengths = [len(one.ids) for one in batch]
    request_of: Longs = np.repeat(np.arange(len(batch)), lengths)
    first = np.diff(request_of, prepend=-1) > 0
    step = max(1, int(BYTES / max(1, sum(one.bytes for one in batch) / len(request_of))))
    for a in range(0, len(request_of), min(step, ROWS)):
        rows = slice(a, a + min(step, ROWS))
        index = pa.array(request_of[rows], pa.int32())
        columns = {name: _repeat(values, index) for name, values in request.items()}
        columns[REQUEST] = request[REQUEST].take(pa.array(request_of[rows], mask=~first[rows]))
        columns |= {name: values[rows] for name, values in candidate.items()}
        yield pa.table({name: columns[name] for name in form.schema.names})


def _repeat(values: pa.Array, index: pa.Array) -> pa.Array:
    """Repeat the values of requests on the rows of their candidates; texts are referred to, not copied."""
    if pa.types.is_large_string(values.type):
        coded = values.dictionary_encode()
        return pa.DictionaryArray.from_arrays(coded.indices.take(index), coded.dictionary)
    return values.take(index)


def _request_columns(form: LogFormat, batch: list[_Decoded]) -> dict[str, pa.Array]:
    """The columns that are the same for all candidates of a request: (R,). Raises UnfitValueError."""
    columns = {
        name: column.to_array(name, [one.columns[name] for one in batch])
        for name, column in form.request.items()
    }
    columns[form.time] = pa.array([one.time for one in batch], form.schema.field(form.time).type)
    columns[REQUEST] = pa.array([one.served["request"].decode() for one in batch], TEXT)
    for name in ANSWERED:
        columns[name] = pa.array([one.served[name] for one in batch], form.schema.field(name).type)
    columns |= dict.fromkeys(form.generated, columns[SERVED])
    return columns


def _candidate_columns(form: LogFormat, batch: list[_Decoded]) -> dict[str, pa.Array]:
    """The columns that differ between the candidates of a request: (C,). Raises UnfitValueError."""
    rows = [row for one in batch for row in one.rows or [_NOTHING] * len(one.ids)]
    columns = {
        name: column.to_array(name, [row.get(name) for row in rows])
        for name, column in form.candidate.items()
    }
    ids = [id_ for one in batch for id_ in one.ids]
    columns[form.item] = pa.array(ids, form.schema.field(form.item).type)
    levels = np.frombuffer(b"".join(one.served["levels"] for one in batch), dtype=np.uint8)
    columns[form.level] = pa.DictionaryArray.from_arrays(
        pa.array(levels.astype(np.int32)), pa.array(form.levels, TEXT)
    )
    drawn = [one.served["propensities"] or np.full(len(one.ids), np.nan).tobytes() for one in batch]
    propensity = np.frombuffer(b"".join(drawn))
    columns[form.propensity] = pa.array(propensity, mask=np.isnan(propensity))
    for n, stage in enumerate(form.stages):
        scores = np.frombuffer(b"".join(one.served["scores"][n] for one in batch))
        columns[f"score_{stage}"] = pa.array(scores, mask=np.isnan(scores))
    return columns
