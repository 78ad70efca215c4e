"""Labels that events decide: the candidates to which a click, an order or a view belongs.

An event of the request names it, by the columns of its key, and the candidate. Any other belongs to the same user's
requests with the same item, by whatever path the user came: it may have been cut there. Neither counts before the
request or after the window; an event that is in a table twice counts once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from corank.core.settings import Duration, Settings
from corank.core.time import MILLISECOND
from corank.features.log_schema import ITEM, TIME, USER, DataSettings, Files, request_column

KIND = "kind"
"""The column of an event's kind, such as `click`."""
LABELS_AS_OF = "labels_as_of"
"""The column that says when a row's labels were looked at."""
EXPOSED = "@exposed"
_AT = "@at"
NO_SKEW = timedelta()


class JoinedEvents(Settings):
    """Events of a table: `orders/*.parquet:order`, or all of them, `orders/*.parquet`."""

    events: Files
    """A file, a glob, a URL, or a list of them; each file has the log's columns of user, item and time."""
    kind: str | None = None
    """The value of the column `kind`; all events unless given."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Read `FILES:KIND`."""
        if not isinstance(value, str):
            return value
        files, colon, kind = value.rpartition(":")
        return {"events": files, "kind": kind} if colon and kind and "/" not in kind else {"events": value}


class JoinedLabel(JoinedEvents):
    """The events that make a label 1."""

    of_request: bool = False
    """Whether an event names its request; else it belongs to its user and item, on any path."""
    window: Duration | None = None
    """How long after the request an event counts; that of the join unless given."""


class JoinSettings(Settings):
    """How a log gets its labels.

    Example:
        log: served/*.parquet
        labels:
          is_click: {events: clicks/*.parquet, of_request: true, window: 1h}
          later: orders/*.parquet:order
        window: 3d
    """

    log: Files
    """A row a candidate, such as the log of served requests; a file, a glob, a URL, or a list of them."""
    labels: dict[str, JoinedLabel] = Field(min_length=1)
    """New columns of the log."""
    exposed: JoinedEvents | None = None
    """Events of requests that say what was shown: it gets the deepest level."""
    window: Duration = timedelta(days=3)
    """How long after a request an event counts."""
    credit: Literal["first", "last", "all"] = "all"
    """Which of a user's requests with an item an event belongs to, of those within the window before it."""
    skew: Duration = NO_SKEW
    """By how much clocks differ: an event so much before its request counts, and labels are known so much later."""

    def tables(self) -> dict[str, JoinedEvents]:
        """The tables of events, by label; that of what was shown as EXPOSED."""
        return {**self.labels, **({EXPOSED: self.exposed} if self.exposed else {})}

    def window_of(self, name: str) -> timedelta:
        """How long after a request the events of a table count; of what was shown as those of the first label."""
        windows = {label: one.window or self.window for label, one in self.labels.items()}
        return windows.get(name) or min(windows.values())

    @property
    def longest(self) -> timedelta:
        """How long after a request all of its labels are known."""
        return max(map(self.window_of, self.labels))

    def as_of(self, known: Mapping[str, int]) -> int:
        """When labels were looked at, ms UTC: rows that are older than the longest window then have all of theirs.

        Args:
            known: table → until when it has events, ms UTC.
        """
        return min(end + (self.longest - self.window_of(name)) // MILLISECOND for name, end in known.items())


class JoinColumns(Settings):
    """The columns of the log, which events share."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "time"
    request: list[str] = ["request_id"]
    level: str = "level"
    deepest: str = "exposed"
    """The level of what was shown."""

    @property
    def key(self) -> dict[str, str]:
        """The columns of the request key → their names among selected rows."""
        return {column: request_column(n) for n, column in enumerate(self.request)}


def data_columns(data: DataSettings) -> JoinColumns:
    """The columns of a config's log."""
    return JoinColumns(
        user=data.user,
        item=data.item,
        time=data.time,
        request=data.request,
        level=data.level or "level",
        deepest=data.levels[-1],
    )


Rows = Callable[[int, int], pl.LazyFrame]
"""Selects the rows of a table from a time on until another one, ms UTC, both in it."""


@dataclass(frozen=True)
class DayJoin:
    """The join of the requests of a day."""

    settings: JoinSettings
    key: Sequence[str]
    """The selected columns of the request key."""
    begin: int
    """ms UTC."""
    end: int
    """ms UTC; the day's last millisecond."""
    log: Rows
    """Selects the key, ITEM, USER and TIME of requests."""

    def find(self, name: str, events: Rows) -> pl.LazyFrame:
        """Find the candidates of the day that have an event of a label: key, ITEM, and the label, 1."""
        label, skew = self.settings.tables()[name], self.settings.skew // MILLISECOND
        window = self.settings.window_of(name) // MILLISECOND
        named = not isinstance(label, JoinedLabel) or label.of_request
        on = [*self.key, ITEM] if named else [USER, ITEM]
        shared = not named and self.settings.credit != "all"
        more = window + skew if shared else 0  # requests of other days may take the events
        found = events(self.begin - skew, self.end + window).rename({TIME: _AT})
        pairs = (
            self.log(self.begin - more, self.end + more)
            .join(found.select(*on, _AT).drop_nulls().unique(), on=on)
            .filter((pl.col(_AT) - pl.col(TIME)).is_between(-skew, window))
        )
        if shared:
            order = pairs.sort(TIME, *self.key).group_by(USER, ITEM, _AT, maintain_order=True)
            taken = order.first() if self.settings.credit == "first" else order.last()
            pairs = taken.filter(pl.col(TIME).is_between(self.begin, self.end))
        return pairs.select(*self.key, ITEM).unique().with_columns(pl.lit(1, pl.Int8).alias(name))


def find_labels(day: DayJoin, events: Mapping[str, Rows]) -> pl.LazyFrame:
    """Find all candidates of a day that have events: key, ITEM, and a column a table of events, 1 or null."""
    on = [*day.key, ITEM]
    found = [day.find(name, rows) for name, rows in events.items()]
    return pl.concat(found, how="diagonal").group_by(on).agg(pl.col(list(events)).max())


def make_labels(settings: JoinSettings, columns: JoinColumns, known: Mapping[str, int]) -> list[pl.Expr]:
    """Make the columns of rows that are joined with `find_labels`.

    A label is 1 or 0 when its window is over, and null before; LABELS_AS_OF is when it was looked at, but no later
    than the longest window ends: what is known then does not depend on when one looks.

    Args:
        settings: of the join.
        columns: of the log.
        known: table of events → until when it has them, ms UTC.
    """
    made = [
        pl.when(
            pl.col(USER).is_not_null(),
            pl.col(TIME) + settings.window_of(name) // MILLISECOND <= known[name],
        )
        .then(pl.col(name).fill_null(0))
        .alias(name)
        for name in settings.labels
    ]
    looked = pl.min_horizontal(pl.col(TIME) + settings.longest // MILLISECOND, pl.lit(settings.as_of(known)))
    made.append(looked.cast(pl.Datetime("ms", "UTC")).alias(LABELS_AS_OF))
    if settings.exposed is not None:
        level = pl.col(columns.level).cast(pl.String)
        made.append(
            pl.when(pl.col(EXPOSED) == 1).then(pl.lit(columns.deepest)).otherwise(level).alias(columns.level)
        )
    return made
