"""The settings of `corank daily`, a YAML file next to the config that it trains; and the periods of a log.

A period is a day, some hours or some minutes, with a name, bounds, and what of it trains, validates and compares.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from corank.core.errors import ConfigError
from corank.core.settings import Duration, Moment, Settings, validate
from corank.core.time import DAY, MILLISECOND, floor_time, from_ms, now_ms
from corank.data.joined_labels import JoinSettings
from corank.training.config.yaml_values import read_yaml_file
from corank_continual.periods.gate import GateCondition

HOUR, MINUTE, ZERO = timedelta(hours=1), timedelta(minutes=1), timedelta()


@dataclass(frozen=True)
class Period:
    """A day, some hours or some minutes of a time zone."""

    begin: int
    """ms UTC."""
    end: int
    """ms UTC; not in it."""
    name: str
    """`2026-04-25`, `2026-04-25T13` of hours, `2026-04-25T1310` of minutes: in the time zone."""

    @classmethod
    def at(cls, time: int, length: timedelta, timezone: str) -> Self:
        """The period that a time lies in.

        Args:
            time: ms UTC.
            length: of periods; they begin at midnight, and the last of a day ends there, also where clocks change.
            timezone: IANA name.
        """
        begin = floor_time(time, length, timezone)
        midnight = floor_time(floor_time(begin, DAY, timezone) + 36 * 3_600_000, DAY, timezone)
        end = midnight if length == DAY else min(begin + length // MILLISECOND, midnight)
        local = from_ms(begin).astimezone(ZoneInfo(timezone))
        form = "%Y-%m-%d" if length == DAY else "%Y-%m-%dT%H" if length % HOUR == ZERO else "%Y-%m-%dT%H%M"
        name = local.strftime(form)
        # the hour that clocks repeat in autumn has a name of its own
        return cls(begin, end, name + ("+" if local.fold and length != DAY else ""))

    def as_range(self) -> str:
        """The period as a range of the config, `FROM..UNTIL`."""
        return f"{_text(self.begin)}..{_text(self.end)}"

    def trained(self, wait: timedelta) -> dict[str, str]:
        """The part of `data.split` that says when the period is trained, so long after its end."""
        return {"trained": _text(self.end + wait // MILLISECOND)} if wait else {}

    def split(self, since: int | None, holdout: timedelta, wait: timedelta = ZERO) -> dict[str, str]:
        """The `data.split` of a period: all from `since` on trains but the holdout at its end.

        The first half of the holdout validates, the second compares: that is `test`. On the next period they train.

        Args:
            since: where the training before this one ended, ms UTC; None: the first has all of the log before it.
            holdout: at the end of the period, shorter than it.
            wait: how long after the period it is trained.
        """
        step = holdout // MILLISECOND
        valid, test = self.end - step, self.end - step // 2
        bounds = {"train": (since, valid), "valid": (valid, test), "test": (test, self.end)}
        return self.trained(wait) | {
            name: f"{'' if begin is None else _text(begin)}..{_text(end)}"
            for name, (begin, end) in bounds.items()
        }


def check_length(length: timedelta) -> timedelta:
    """Return the length of periods. Raises ValueError unless it is a day, or what divides a day or an hour."""
    unit, whole = (HOUR, DAY) if length >= HOUR else (MINUTE, HOUR)
    if length < MINUTE or length % unit or whole % length:
        raise ValueError(
            "expected 1d, hours that divide a day, or minutes that divide an hour: 6h, 1h, 10m, 1m"
        )
    return length


def due_periods(
    first: int, last: int, length: timedelta, timezone: str, delay: timedelta, now: int | None = None
) -> Iterator[Period]:
    """Yield the periods from a time on that are over and whose labels are known, in order.

    Args:
        first: a time of the first one, ms UTC.
        last: the time of the log's last candidate, ms UTC; later periods have no rows.
        length: of periods.
        timezone: in which they begin.
        delay: how long after its end a period's labels are known.
        now: ms UTC; the clock's time by default.

    Raises ConfigError if the log ends before the first period.
    """
    now = now_ms() if now is None else now
    period = Period.at(first, length, timezone)
    if last < period.begin:
        raise ConfigError(f"first: the log ends before {period.name}; give a period that it has rows of")
    while period.begin <= last and period.end + delay // MILLISECOND <= now:
        yield period
        period = Period.at(period.end, length, timezone)


def _text(time: int) -> str:
    """A moment as the config writes it, with the zone UTC."""
    return from_ms(time).isoformat(timespec="milliseconds")


class DailySettings(Settings):
    """What is trained every period, when a candidate goes live, and where it is published.

    Example:
        config: config.yaml
        first: 2026-04-25
        gate:
          - rank.exposed.click.auc >= live - 0.002
          - rank.exposed.click.pcoc_calibrated in [0.9, 1.1]
        store: lmdb:store
    """

    config: str
    """The config that is trained; its path is relative to this file. Its `data.split` is not used."""
    first: Moment
    """In the first period; the first model is trained on all of the log until its holdout."""
    folder: str = "daily"
    """Of packed data, runs, bundles, the history and its page, relative to this file."""
    period: Annotated[Duration, AfterValidator(check_length)] = DAY
    """How often: `1d`, or what divides a day or an hour, such as `1h` and `10m`."""
    holdout: Duration = timedelta(hours=2)
    """At the end of a period: half validates, half compares the candidate with the live run; on the next it trains."""
    delay: Duration = timedelta()
    """How long after a period its labels are known; it is trained then."""
    join: JoinSettings | None = None
    """How the config's log is made of another one and of events, before it trains. A period is trained when the labels
    of all its rows are known."""
    changes: list[str] = []
    """Changes of the config after the first period, `a.b=value`, such as `train.epochs=1`."""
    gate: list[GateCondition] = Field(min_length=1)
    """What a candidate must meet to go live."""
    store: str | None = None
    """The address of the store that is published to; a path of `lmdb:` is relative to this file. Without it the bundle
    alone is written."""
    users: str | None = None
    """A table of users that is published with a bundle: files, relative to this file."""
    verify: PositiveInt = 20
    """Logged requests whose online scores must equal those of the evaluation before a bundle is published."""
    keep: PositiveInt = 7
    """Periods whose packed data, runs and bundles stay, plus the live one's; older versions that the store keeps."""
    track: list[str] = []
    """Trackers that get the figures of each period, by name as in `corank train --track`: `mlflow`,
    `wandb,project=shop`. TensorBoard's files are written in any case, to `events/` of the folder."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not timedelta(0) < self.holdout < self.period:
            raise ValueError("holdout: must be above 0 and shorter than the period")
        if self.delay and self.join is not None:
            raise ValueError("delay: `join` waits until labels are known; leave it out")
        return self

    @property
    def wait(self) -> timedelta:
        """How long after a period its labels are known."""
        return self.delay if self.join is None else self.join.longest


def read_settings(path: Path) -> DailySettings:
    """Read the settings of `corank daily`. Raises ConfigError, which names the file and the key."""
    return validate(DailySettings, read_yaml_file(path), str(path))
