"""The state of a table of items: which changes of a store it contains."""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from corank.core.errors import DataError
from corank.core.settings import Settings
from corank.core.time import EARLIEST, LATEST, format_time
from corank.features.log_schema import DataSettings

CHANGE = re.compile(r"(\d{1,15})(?:-([0-9a-f]{16}))?")


class ItemsAsOf(Settings):
    """What a table of items contains: all that happened up to a time, or up to a change of the store."""

    time: Annotated[int, Field(ge=EARLIEST, le=LATEST)] | None = None
    """ms UTC"""
    change: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Number of a change."""
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    """Id of that change, if it is given."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.time is None) == (self.change is None) or (self.id is not None and self.change is None):
            raise ValueError("expected a time, or a change with or without its id")
        return self

    @classmethod
    def parse(cls, text: str, data: DataSettings) -> Self:
        """Parse a change such as `42` or `42-9f3c2b1a00d4e5f6`, or a day or a time.

        Args:
            text: as given.
            data: has the time zone of days and of times without one.

        Raises DataError.
        """
        if match := CHANGE.fullmatch(text):
            return cls(change=int(match[1]), id=match[2])
        try:
            return cls(time=data.milliseconds(text))
        except DataError:
            raise DataError(
                f"--items-as-of {text!r}: expected a change of the store, such as 42 or 42-9f3c2b1a00d4e5f6, or a day "
                "or a time, such as 2026-04-30 or 2026-04-30T06:00"
            ) from None

    def __str__(self) -> str:
        if self.time is not None:
            return format_time(self.time)
        return f"change {self.change}" + (f"-{self.id}" if self.id else "")
