"""The user's tables: log, items, users, truth."""

from datetime import date, datetime
from typing import Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, model_validator

from corank.settings import Settings

LEVELS = ("retrieved", "preranked", "ranked", "exposed")


class Label(Settings):
    column: str


class Split(Settings):
    """Requests before `valid` train; those from `valid` on validate, those from `test` on test."""

    valid: datetime | date
    test: datetime | date


class DataSettings(Settings):
    log: str | list[str]
    items: str | list[str] | None = None
    users: str | list[str] | None = None
    truth: str | list[str] | None = None
    """Known click probabilities of a simulated world, a column a label; read by evaluation alone."""
    request: list[str] = Field(min_length=1)
    user: str
    item: str
    time: str
    timezone: str = "UTC"
    """Where a day begins, for `split` and for histories frozen `every` so often. Times are UTC all the same."""
    level: str | None = None
    levels: list[str] = Field(default=list(LEVELS), min_length=1)
    """From the shallowest to the deepest, which is the exposed one. A log without `level` is all exposed."""
    weight: str | None = None
    labels: dict[str, Label] = Field(min_length=1)
    split: Split

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.timezone not in available_timezones():
            raise ValueError(f"timezone: expected a name such as UTC or Asia/Shanghai; received {self.timezone!r}")
        if self.instant(self.split.valid) >= self.instant(self.split.test):
            raise ValueError(f"split: valid ({self.split.valid}) must begin before test ({self.split.test})")
        return self

    def instant(self, moment: datetime | date) -> datetime:
        """A day of the config as the moment at which it begins in `timezone`."""
        if not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(self.timezone))
