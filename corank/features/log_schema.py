"""The log as the config describes it: its tables and columns, labels, scores and the split by time.

Labels of candidates: known only where exposed unless they are `known: everywhere`, where the label they are given
happened, and once they are mature.

Rows are those of the log, with the columns of `row_columns`. Letters: C candidates.

Names of columns that corank adds to rows of the user's tables. They begin with @, as no column of a feature does.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import cache
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import polars as pl
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from corank.core.errors import DataError
from corank.core.settings import Duration, Settings, as_moment, read_moment
from corank.core.time import MILLISECOND, NEVER, to_ms
from corank.core.types import Longs
from corank.features.split import Split, SplitColumns

_timezones = cache(available_timezones)  # which reads the names anew from the folders of time zones
LEVELS = ("retrieved", "preranked", "ranked", "exposed")
POSITIONS = {"position", "pos", "slot", "display_position", "show_position", "page_position"}
"""Names of columns that say where a candidate stood on the page."""


def _require_files(value: object) -> object:
    """Refuse a table of no files. Raises ValueError."""
    if value in ("", []) or (isinstance(value, list) and "" in value):
        raise ValueError(f"names no file; write one, a glob, a URL, or a list of them; received {value!r}")
    return value


Files = Annotated[str | list[str], BeforeValidator(_require_files)]
"""The files of a table: one, a glob, a URL, or a list of them."""
NEWER = Field(exclude_if=lambda value: value is None)
"""Of a setting that a newer version added: unless it is given, packs and bundles of earlier ones keep their hashes."""


class Label(Settings):
    """An event that may follow on a candidate, such as a click."""

    column: str
    """Of the log: 1, 0, or null where it is unknown."""
    given: str | None = None
    """The label that must be 1 for this one to be known, as a click is for an order."""
    matures_after: Duration = timedelta()
    """How late it may come: on a row that was younger than this when the log was read, it is unknown."""
    known: Annotated[Literal["everywhere"] | None, NEWER] = None
    """`everywhere`: of candidates of all levels, such as what a user later bought by any path; else where exposed."""


class Score(Settings):
    """A score that production gave candidates."""

    column: str
    """Of the log; null where production gave no score."""
    scale: Literal["logit", "probability"] = "logit"
    """What the column holds."""


class EventTable(Settings):
    """A table of events of users, such as clicks of the days before the log."""

    table: Files
    """A file, a glob, a URL, or a list of them."""
    user: str | None = None
    """Its column of users; that of the log, `data.user`, unless given."""
    item: str | None = None
    """Its column of items; `data.item` unless given. Histories of other values need none."""
    time: str | None = None
    """Its column of times; `data.time` unless given."""


_Names = list[str]


class ListLog(Settings):
    """A log with a row an impression, whose candidates are a list: it is read as a row a candidate.

    Example:
        log: {files: impressions/*.parquet, list: candidates, along: [clicked]}
    """

    files: Files
    """A file, a glob, a URL, or a list of them."""
    list: str
    """The column of the lists of candidates; each becomes the column `data.item`."""
    along: _Names = []
    """Columns of lists that go along with it, element by element, such as labels and positions."""
    members: dict[str, str] = {}
    """New column → a column of lists: 1 for a candidate that is in the list, otherwise 0, as a label."""
    index: Annotated[str | None, NEWER] = None
    """New column: where a candidate is in its list, from 0, as a position on the page."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        used = [self.list, *self.along]
        for column in used:
            if used.count(column) > 1:
                raise ValueError(f"along: '{column}' is named twice")
        for column in self.members:
            if column in used:
                raise ValueError(f"members: '{column}' is a column of lists already; take another name")
        if self.index in [*used, *self.members]:
            raise ValueError(f"index: '{self.index}' is a column already; take another name")
        return self


class Satiation(Settings):
    """A law of clicks: a candidate's probability is (1 − share)^m of its own, m being how many above are alike."""

    of: str
    """The item feature of kind id in which they are alike."""
    share: Annotated[float, Ge(0), Le(1)]
    """By how much each of them lowers it."""


def _read_log(value: object) -> object:
    """A mapping as a log of lists, so that an error is about its keys alone."""
    return ListLog.model_validate(value) if isinstance(value, dict) else _require_files(value)


def _read_as_of(value: object) -> object:
    """A text that does not begin as a day does names a column."""
    return (
        value if value is None or (isinstance(value, str) and not value[:1].isdigit()) else as_moment(value)
    )


AsOf = Annotated[datetime | date | str | None, BeforeValidator(_read_as_of)]


class DataSettings(Settings):
    """The tables and columns of a log. Paths are relative to the config, and may hold `*`."""

    log: Annotated[str | list[str] | ListLog, BeforeValidator(_read_log)]
    """A row a candidate: a file, a glob, a URL, or a list of them; a mapping for a log with a row an impression."""
    items: Files | None = None
    """A row an item, or an item and `valid_from`."""
    users: Files | None = None
    """A row a user, or a user and `valid_from`."""
    truth: Files | None = None
    """Known click probabilities of a simulated world, a column a label; read by evaluation alone."""
    events: dict[str, EventTable] = {}
    """Tables of events, by the name under which histories are made of them."""
    nulls: Annotated[list[str] | None, NEWER] = None
    """Texts that stand for missing values in any column of the tables, and in requests, such as [NULL, "-"]. Columns of
    CSV that hold numbers but for these are numbers."""
    request: list[str] = Field(min_length=1)
    """Columns of the log that together name a request."""
    user: str
    """The column of users, in the log and in `users`."""
    item: str
    """The column of items, in the log and in `items`."""
    time: str
    """The column of times in the log."""
    timezone: str = "UTC"
    """Where a day begins, for `split` and for histories frozen `every` so often. Times are UTC."""
    level: str | None = None
    """The column of the deepest level that a candidate reached; without it every row was exposed."""
    levels: list[str] = Field(default=list(LEVELS), min_length=1)
    """From the shallowest to the deepest, which is the exposed one. A log without `level` is all exposed."""
    weight: str | None = None
    """A positive column: the inverse of the rate at which a row was sampled."""
    position: str | None = None
    """Where an exposed candidate stood on the page, from 0 or 1: a term of `click` in training alone."""
    propensity: Annotated[str | None, NEWER] = None
    """The column of the probability at which production exposed the candidate, in requests where that was drawn, those
    of a random bucket; null elsewhere. Read by evaluation, and by `propensity_weight`. Experimental."""
    propensity_weight: Annotated[Annotated[float, Ge(1)] | None, NEWER] = None
    """What an exposed candidate of the bucket weighs at most in training and in figures of exposed candidates: its
    `weight` times 1 / propensity, which is cut off there. None: as all others. Experimental."""
    satiation: Annotated[Satiation | None, NEWER] = None
    """How users of a simulated world tire of what is alike; read by the truth of pages alone."""
    columns: list[str] = []
    """Numbers of the log, or else of the items, that a stage's `value` may name, such as a bid."""
    labels: dict[str, Label] = Field(min_length=1)
    """What is to be predicted, by the names that stages and losses use."""
    as_of: AsOf = None
    """When the log's labels were looked at, or the column that says it of each row; the log's last row unless given."""
    scores: dict[str, Score] = {}
    """Production's scores, by the name under which a loss may take one as its teacher; null where there is none."""
    split: Split
    """Which requests train, validate and test."""

    @property
    def log_files(self) -> str | list[str]:
        """The files of the log."""
        return self.log.files if isinstance(self.log, ListLog) else self.log

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.timezone not in _timezones():
            raise ValueError(f"timezone: expected a name such as Asia/Shanghai; received {self.timezone!r}")
        for level in self.levels:
            if level in ("batch", "catalogue"):
                raise ValueError(f"levels: '{level}' names negatives beyond the log; rename the level")
        if self.propensity_weight is not None and self.propensity is None:
            raise ValueError("propensity_weight: name the column of propensities as propensity, or drop it")
        self._check_labels()
        self.split.check(self._instant_ms)
        return self

    def _check_labels(self) -> None:
        for name, label in self.labels.items():
            seen = [name]
            while label.given is not None:
                if label.given not in self.labels:
                    raise ValueError(
                        f"labels.{seen[-1]}.given: no label '{label.given}'; labels are {', '.join(self.labels)}"
                    )
                if label.given in seen:
                    raise ValueError(f"labels.{name}.given: goes round in a circle ({' given '.join(seen)})")
                seen.append(label.given)
                label = self.labels[label.given]
        for column in self.columns:
            if column in self.labels:
                raise ValueError(f"columns: '{column}' is a label, too; rename the label")

    def instant(self, moment: datetime | date) -> datetime:
        """A day of the config as the moment at which it begins in `timezone`."""
        if not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(self.timezone))

    def milliseconds(self, moment: str) -> int:
        """A day, such as 2026-04-30, or a time, in `timezone` unless it has one, in ms UTC. Raises DataError."""
        try:
            return self._instant_ms(read_moment(moment))
        except ValueError as error:
            raise DataError(str(error)) from None

    def matures(self, label: str) -> timedelta:
        """How long after a candidate its label is known: its own delay, or a longer one of what it is given."""
        settings = self.labels[label]
        return max(settings.matures_after, self.matures(settings.given) if settings.given else timedelta())

    @property
    def everywhere(self) -> Sequence[str]:
        """The labels that are known of candidates of all levels."""
        return [name for name, label in self.labels.items() if label.known]

    @property
    def split_names(self) -> Sequence[str]:
        """The splits that there are, in order: `train`, and `valid` and `test` if the config has them."""
        return self.split.names

    def select_splits(self, rows: SplitColumns) -> Mapping[str, pl.Expr]:
        """Make an expression for each split: whether a row is in it."""
        return self.split.select(rows, self._instant_ms)

    def split_bounds(self) -> Mapping[str, tuple[int, int]]:
        """Return when each split begins and ends, ms UTC; none if the split is by no time."""
        return self.split.bounds(self._instant_ms)

    def training_end(self) -> int:
        """Return when training ends, ms UTC: FOREVER if the split is by no time."""
        return self.split.training_end(self._instant_ms)

    def labels_until(self) -> int:
        """Return until when labels of training rows are known, ms UTC: training's end unless the split says later."""
        return self.split.labels_until(self._instant_ms)

    def looked_at(self, last: int) -> int:
        """Return when the labels were looked at, ms UTC, unless a column says it; `last` is the log's last row."""
        return last if self.as_of is None or isinstance(self.as_of, str) else to_ms(self.instant(self.as_of))

    def training_begin(self) -> int:
        """Return when training begins, ms UTC: NEVER if the split names no such moment."""
        return self.split.training_begin(self._instant_ms)

    def _instant_ms(self, moment: datetime | date) -> int:
        return to_ms(self.instant(moment))


ID = "@id"
"""The item, or the user, of a row of `items` or `users`."""
FROM = "@from"
"""The time from which such a row holds, ms UTC; NEVER if it always held."""
RECORDED = "@recorded"
"""The time at which such a row was written, ms UTC; NEVER if unknown."""
ROW = "@row"
"""The number of a row, in the order of its table."""
USER, ITEM, TIME, LEVEL, WEIGHT, POSITION = "@user", "@item", "@time", "@level", "@weight", "@position"
"""Of a candidate of the log: ids, time in ms UTC, code of the level, weight, position on the page."""
PROPENSITY = "@propensity"
"""Of a candidate of the log: the probability at which it was exposed."""
AS_OF = "@as of"
"""Of a candidate of the log: when its labels were looked at, ms UTC, if a column says it."""
SPLIT = "@split"
"""Of a candidate of the log: the value by which it is split, if a column says it."""


def request_column(index: int) -> str:
    """Return the column of one part of the request key."""
    return f"@request {index}"


def label_column(label: str) -> str:
    """Return the column of a label."""
    return f"@label {label}"


def score_column(score: str) -> str:
    """Return the column of a logged score, as a logit."""
    return f"@score {score}"


def value_column(column: str) -> str:
    """Return the column of one of the data's `columns`."""
    return f"@value {column}"


def user_column(feature: str) -> str:
    """Return the column of a feature that is read from the table of users."""
    return f"@user {feature}"


Labels = dict[str, NDArray[np.int8]]
"""By name 1, 0, or −1 where unknown: (C,)."""


def read_levels(rows: pl.DataFrame, data: DataSettings) -> NDArray[np.uint8]:
    """Read the code of each candidate's level; the deepest if the log has no levels: (C,)."""
    if data.level is None:
        return np.full(len(rows), len(data.levels) - 1, dtype=np.uint8)
    level: NDArray[np.uint8] = rows[LEVEL].to_numpy()
    return level


def find_exposed(rows: pl.DataFrame, data: DataSettings) -> NDArray[np.bool_]:
    """Find the exposed candidates, which are those of the deepest level: (C,)."""
    deepest: NDArray[np.bool_] = read_levels(rows, data) == len(data.levels) - 1
    return deepest


def find_events(
    event: str | None, rows: pl.DataFrame, labels: Labels, data: DataSettings
) -> NDArray[np.bool_]:
    """Find the events of a history: candidates whose label `event` is 1, or all exposed ones if None: (C,)."""
    return find_exposed(rows, data) if event is None else labels[event] == 1


def read_labels(rows: pl.DataFrame, data: DataSettings) -> Labels:
    """Read the labels, however late they became known."""
    shown = find_exposed(rows, data)
    labels: Labels = {}
    for name in data.labels:
        label = data.labels[name]
        where, condition = np.ones_like(shown) if label.known else shown, label.given
        while (
            condition is not None
        ):  # not by a function that calls itself: its closure would keep the rows alive
            where = where & (rows[label_column(condition)] == 1).fill_null(False).to_numpy()
            condition = data.labels[condition].given
        labels[name] = np.where(where, rows[label_column(name)].fill_null(-1).to_numpy(), np.int8(-1))
    return labels


def hide_immature(labels: Labels, rows: pl.DataFrame, data: DataSettings, as_of: int) -> Labels:
    """Hide labels that were not mature when training ended, or when the log was read.

    A row that was younger then than its label takes is unknown, whatever the label says.
    """
    time, end = rows[TIME].to_numpy(), data.labels_until()
    looked = rows[AS_OF].fill_null(NEVER).to_numpy() if AS_OF in rows.columns else np.full_like(time, as_of)
    looked = np.where(time < data.training_end(), np.minimum(end, looked), looked)
    return hide_young(labels, time, looked, data)


def hide_young(labels: Labels, time: Longs, looked: Longs, data: DataSettings) -> Labels:
    """Hide labels that were not mature when they were looked at: by candidate, its time and when, ms UTC: (C,)."""
    mature_labels: Labels = {}
    for name, label in labels.items():
        delay = data.matures(name) // MILLISECOND
        mature_labels[name] = np.where(time + delay <= looked, label, np.int8(-1)) if delay else label
    return mature_labels
