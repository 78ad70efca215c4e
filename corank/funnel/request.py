"""A request to rank: its type, bounds and checks, and the type of its answer."""

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Self

import msgspec
import polars as pl
from msgspec import Meta

from corank.core.errors import RequestError
from corank.core.settings import describe_unknown
from corank.core.time import moment_to_ms, now_ms
from corank.core.types import Longs


class RankedItem(msgspec.Struct, frozen=True):
    """An item of an answer."""

    id: int | str
    score: float
    scores: dict[str, float] = {}
    """By stage, if the request chose `scores`."""


class RankAnswer(msgspec.Struct, frozen=True):
    """The answer to a request; what the request did not choose is empty."""

    model_version: str = ""
    items_seq: int = 0
    items_id: str = ""
    stage: str = ""
    """Whose scores these are."""
    items: list[RankedItem] = []
    """What the last stage keeps, best first."""
    ids: list[int | str] = []
    """Of the items, without scores."""
    unknown: list[int | str] = []
    """Ids of candidates that are left out: neither known nor described."""
    missing: list[str] = []
    """Columns that the request lacks."""
    warnings: list[str] = []
    fallback: dict[str, str] | None = None
    """The stage that did not finish, `stage`, and `why`; None if all did."""
    trace: list[dict[str, Any]] = []
    """For every candidate its score and rank at each stage it reached, and the stage that cut it."""
    user: str = ""
    """Whether columns of the user were given, stored, new or unavailable."""
    microseconds: dict[str, int] = {}
    """By part of the ranking."""
    served_id: str | None = None
    """Of this request in the log; None if it is not logged."""
    explored: str | None = None
    """How the page was drawn, `uniform:SEED` or `softened@TEMPERATURE:SEED`; None if it was not."""
    propensity: list[float] = []
    """At what probability each of the items is on such a page, in their order."""


ANSWER_FIELDS = (*RankAnswer.__struct_fields__, "scores")
"""What a request may choose: the fields of an answer, and `scores`, those of all stages, with its items."""
DEFAULT_FIELDS = frozenset(ANSWER_FIELDS) - {"ids", "scores", "trace", "microseconds"}
"""Of a request that chooses none; `warnings` and `fallback` are there if there is something to say, `served_id` if the
request is logged, `explored` and `propensity` if its page was drawn."""
if TYPE_CHECKING:
    AnswerField = str
else:
    AnswerField = Literal[ANSWER_FIELDS]


MAX_CANDIDATES = 10_000
MAX_VALUES = 4096
MAX_EVENTS = 10_000
"""Events of a history, and values of any list: the time of a request grows with them."""
MAX_FILTER_VALUES = 1000
"""Values of a filter."""

Text = Annotated[str, Meta(max_length=4096)]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Scalar = Whole | float | Text | bool | None
Event = Scalar | dict[Text, Scalar]
"""An event of a history: an id, or an id and a time."""
Column = Scalar | Annotated[list[Event], Meta(max_length=MAX_EVENTS)]
Columns = dict[Text, Column]
"""Columns by name; values nest no deeper than a history's events."""

GivenCandidates = Annotated[list[Whole | Text | Columns], Meta(min_length=1, max_length=MAX_CANDIDATES)]
"""Ids, or objects with an `id` and columns."""
FilterValues = Annotated[list[Scalar], Meta(max_length=MAX_FILTER_VALUES)]


class NumberIds(Sequence[int]):
    """Item ids that came as an array, which is kept: 64-bit whole numbers. Few of them are ever read as such."""

    def __init__(self, numbers: Longs) -> None:
        """`numbers`: (n,)."""
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return self.numbers[index].tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers.tolist())


def select_ids(ids: Sequence[Any], index: Longs) -> Sequence[Any]:
    """Select some ids."""
    return NumberIds(ids.numbers.take(index)) if type(ids) is NumberIds else [ids[n] for n in index.tolist()]


class Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A request to rank candidates for a user.

    The bounds of the types hold for what is decoded from JSON, which is how the service reads a body. A request that
    is built in Python is checked for the types of its fields; values are checked when it is encoded.

    Example:
        >>> corank.Request(user={"id": 60, "history": [1209, 688]}, candidates=[1339, 1242]).candidates
        [1339, 1242]

    Raises RequestError if a field is of another type.
    """

    user: Annotated[dict[Text, Column], Meta(max_length=MAX_VALUES)]
    """`id`, and the user's columns; a history as a list of item ids, the newest last, each as it is or as
    `{"id": …, "time": …}` if the history has a `half_life`, a feature of kind `since` looks in it, or a stage reads the
    `ages` of its events."""
    context: Annotated[dict[Text, Column], Meta(max_length=MAX_VALUES)] = {}
    """The context's columns."""
    time: Whole | Text | None = None
    """Time of the request, as ISO 8601 (UTC unless it names a zone) or ms since 1970 UTC; now if None."""
    candidates: GivenCandidates | None = None
    """Item ids, or `{"id": …}` with the pair's logged columns and, for an unknown item, its item columns; the bundle
    retrieves candidates if None."""
    retrieve: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] | None = None
    """How many candidates to retrieve; as the bundle says if None."""
    where: Annotated[dict[Text, Scalar | FilterValues], Meta(max_length=64)] = {}
    """Filters of the retrieval: by column a value or a list of values."""
    keep: Annotated[dict[Text, Annotated[int, Meta(ge=1, le=2**31)]], Meta(max_length=64)] = {}
    """Quotas of this request, by stage."""
    trace: bool = False
    """Whether the answer has the trace of every candidate."""
    fields: Annotated[list[AnswerField], Meta(max_length=64)] | None = None
    """What the answer has; if None all but `ids` and `scores`, and `trace` and `microseconds` if `trace` is set."""

    def __post_init__(self) -> None:
        if self.fields is not None:
            if type(self.fields) is not list:
                raise RequestError(f"fields: expected a list of names; received {self.fields!r:.100}")
            for name in self.fields:
                if name not in ANSWER_FIELDS:
                    raise RequestError(f"fields: {describe_unknown(name, ANSWER_FIELDS, 'field')}")
        for field in ("user", "context", "where", "keep"):
            if type(getattr(self, field)) is not dict:
                raise RequestError(f"{field}: expected an object; received {getattr(self, field)!r}")
        if self.candidates is not None and (
            type(self.candidates) not in (list, NumberIds) or not len(self.candidates)
        ):
            raise RequestError(f"candidates: expected a list of one or more; received {self.candidates!r}")
        counts: list[tuple[str, Any]] = [(f"keep.{stage}", quota) for stage, quota in self.keep.items()]
        if self.retrieve is not None:
            counts.append(("retrieve", self.retrieve))
        for field, count in counts:
            if type(count) is not int or count < 1:
                raise RequestError(f"{field}: expected a whole number of 1 or more; received {count!r}")

    @property
    def time_ms(self) -> int:
        """Time of the request in ms since 1970 UTC. Raises RequestError."""
        return parse_time(self.time, "time") if self.time is not None else now_ms()

    def count_candidates(self, retrieved: int) -> int:
        """How many candidates it gives, or asks to retrieve; `retrieved` if it asks for no number."""
        return len(self.candidates) if self.candidates is not None else self.retrieve or retrieved

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON file. Raises RequestError, which names the file and the faulty field."""
        try:
            fields = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise RequestError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: not valid JSON: {error}") from None
        return cls.parse(fields, str(path))

    @classmethod
    def parse(cls, held: Any, source: str = "request") -> Self:
        """Build a request from parsed JSON.

        Args:
            held: an object with the fields of a request.
            source: for the error, such as the name of a file.

        Raises RequestError, which names the faulty field.
        """
        if not isinstance(held, dict):
            raise RequestError(f"{source}: expected an object with a `user`; received {held!r}")
        for key in held:
            if key not in cls.__struct_fields__:
                raise RequestError(f"{source}: {describe_unknown(key, cls.__struct_fields__)}")
        if "user" not in held:
            raise RequestError(f"{source}: user: required, but not given")
        try:
            return cls(**held)
        except RequestError as error:
            raise RequestError(f"{source}: {error}") from None


def parse_time(value: Any, where: str) -> int:
    """Convert ISO 8601 text or whole ms to ms since 1970 UTC. Raises RequestError, which names `where`."""
    if type(value) is int:
        return value
    try:
        return moment_to_ms(value)
    except (TypeError, ValueError):
        raise RequestError(
            f"{where}: expected ISO 8601, such as 2026-04-29T12:00:00+08:00, or whole ms since 1970; "
            f"received {value!r}"
        ) from None


def to_series(name: str, values: list[Any], where: str) -> pl.Series:
    """Convert JSON values to a column. Raises RequestError, which names `where`, for values of mixed types."""
    try:
        kinds = set(map(type, values))
        if list in kinds:
            values = _even_numbers(values)
        if float in kinds:
            # some JSON writers drop the .0 of whole floats: one float makes all numbers floats
            values = [float(value) if type(value) is int else value for value in values]
        column = pl.Series(name, values)
    except (TypeError, pl.exceptions.PolarsError, OverflowError, UnicodeEncodeError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{where}: '{name}' mixes types or is out of range: {reason}") from None
    dtype = column.dtype
    kind = dtype.inner if isinstance(dtype, pl.List) else dtype
    if isinstance(dtype, pl.List) and kind == pl.Int128:  # Arrow has no such numbers
        raise RequestError(f"{where}: '{name}' is out of range: {values!r:.100}")
    if isinstance(kind, pl.Struct):  # which polars cannot hand to Arrow if a key has a null character
        raise RequestError(
            f"{where}: '{name}': expected a value or a list of values; received {values!r:.100}"
        )
    return column


def _even_numbers(values: list[Any]) -> list[Any]:
    """Convert the whole numbers within lists to floats if any number is one."""
    if not any(float in set(map(type, value)) for value in values if type(value) is list):
        return values
    return [
        [float(one) if type(one) is int else one for one in value] if type(value) is list else value
        for value in values
    ]


def read_nulls(columns: Mapping[str, Any], nulls: Collection[str]) -> dict[str, Any]:
    """Read the texts of `data.nulls` as missing values, as in the tables."""
    return {name: None if type(value) is str and value in nulls else value for name, value in columns.items()}


def refuse_unknown_column(where: str, column: str, known: Collection[str]) -> NoReturn:
    """Raise RequestError for a column that is not among the known ones; `where` names the field of the request."""
    near = difflib.get_close_matches(column, sorted(known), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    raise RequestError(f"{where}: the bundle knows no '{column}' here; {hint}")
