"""Base of all settings: frozen models that refuse unknown keys, and errors that name the key."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from corank.core.errors import ConfigError
from corank.core.formatting import shorten
from corank.core.removed import REMOVED

LONGEST_RECEIVED = 300
"""Characters of a faulty value that an error repeats, at most."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Settings(BaseModel):
    """A frozen part of the config. Unknown keys fail and name the nearest known one; numbers must be finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = _known_keys(cls)
        for key in value if cls.model_config.get("extra") == "forbid" else ():
            if (way := REMOVED.get(f"{cls.__name__}.{key}")) is not None:
                fault = PydanticCustomError("removed_key", "{message}", {"message": way})
                raise ValidationError.from_exception_data(
                    cls.__name__, [InitErrorDetails(type=fault, loc=(key,), input=value[key])]
                )
            if key not in known:
                raise PydanticCustomError(
                    "unknown_key", "{message}", {"message": describe_unknown(key, known)}
                )
        return value


@lru_cache(maxsize=1024)
def _known_keys(kind: type[Settings]) -> frozenset[str]:
    """The keys that settings may have: a manifest has an entry for each of up to a million files."""
    by_name = kind.model_config.get("populate_by_name", False)
    fields = kind.model_fields
    return frozenset(field.alias or name for name, field in fields.items()) | (
        fields.keys() if by_name else set()
    )


_Value = TypeVar("_Value")
_Built = TypeVar("_Built")


def build_once(build: Callable[[Mapping[str, _Value]], _Built]) -> Callable[[Mapping[str, _Value]], _Built]:
    """Return a function that builds a thing of settings by name once, as long as it is given the same objects.

    Settings are frozen, but a dict of them may change: the last 64 are distinguished by the objects that they hold.
    """

    @lru_cache(maxsize=64)
    def remember(same: _SameObjects[_Value]) -> _Built:
        return build(same.values)

    return lambda values: remember(_SameObjects(values))


class _SameObjects(Generic[_Value]):
    """Objects by name, equal to others where they are the same in the same order. It keeps them, and so their ids."""

    def __init__(self, values: Mapping[str, _Value]) -> None:
        self.values = dict(values)
        self._ids = tuple((name, id(value)) for name, value in values.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameObjects) and self._ids == other._ids

    def __hash__(self) -> int:
        return hash(self._ids)


def describe_unknown(key: Any, known: Iterable[str], what: str = "key") -> str:
    """Say in a message that a key, or a name of another kind (`what`), is unknown, and which one may be meant."""
    near = difflib.get_close_matches(shorten(str(key)), sorted(known), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known {what}s: {', '.join(sorted(known))}"
    return f"unknown {what} '{shorten(str(key))}'; {hint}"


def require_known(name: str, known: Collection[str], key: str, what: str, named: str) -> None:
    """Raise ConfigError, which begins with a key, unless a name is known; `named` says which names are."""
    if name not in known:
        raise ConfigError(f"{key}: no {what} '{name}'; {named} are {', '.join(known) or 'not declared'}")


def _duration(value: Any) -> Any:
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", value) if isinstance(value, str) else None
    if match:
        try:
            return timedelta(seconds=int(match[1]) * _UNITS[match[2]])
        except OverflowError:
            raise PydanticCustomError("duration", "expected a few thousand years at most") from None
    if isinstance(value, timedelta):
        return value
    raise PydanticCustomError("duration", "expected a duration such as 30m, 1h or 3d")


def read_duration(text: str) -> timedelta:
    """Read a length of time, such as 10m. Raises ConfigError."""
    try:
        length: timedelta = _duration(text)
        return length
    except ValueError as error:
        raise ConfigError(str(error)) from None


def format_duration(value: timedelta) -> str:
    """Write a length of time as `Duration` reads it, in the longest unit that is whole."""
    seconds = int(value.total_seconds())
    unit = next(unit for unit in "dhms" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(format_duration, return_type=str)]
"""A length of time, written as a whole number and s, m, h or d: `30m`, `1h`, `3d`."""


def read_moment(text: str) -> datetime | date:
    """Read a day, such as 2026-04-30, or a time, such as 2026-04-30T06:00. Raises ValueError."""
    try:
        if re.match("[0-9]{4}-", text):
            return (
                date.fromisoformat(text) if len(text) == len("2026-01-31") else datetime.fromisoformat(text)
            )
    except ValueError:
        pass
    raise ValueError(
        f"expected a day or a time, such as 2026-04-30 or 2026-04-30T06:00; received {shorten(text)!r}"
    )


def as_moment(value: Any) -> Any:
    """Read a moment; a number would be read as seconds since 1970, which nobody means."""
    if isinstance(value, date):
        return value
    return read_moment(value if isinstance(value, str) else repr(value))


Moment = Annotated[datetime | date, BeforeValidator(as_moment)]
"""A day, or a time, of a config."""

_Model = TypeVar("_Model", bound=BaseModel)


def validate(model: type[_Model], value: Any, source: str) -> _Model:
    """Build settings from plain YAML values. Raises ConfigError, which names `source` and every faulty key."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [_line(fault, value) for fault in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _line(fault: Any, value: Any) -> str:
    path = _path(fault["loc"], value, missing=fault["type"] == "missing") or "(top level)"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{path}: required, but not given"
    if fault["type"] in ("gone_key", "unknown_key", "value_error"):
        return f"{path}: {message}"
    return f"{path}: {message}; received {shorten(repr(fault['input']), LONGEST_RECEIVED)}"


def _path(location: Sequence[str | int], value: Any, missing: bool) -> str:
    """Return the keys as the user wrote them, without the member of a union that pydantic names in between."""
    path: list[str] = []
    for n, part in enumerate(location):
        if isinstance(value, dict | list):
            try:
                value = value[part]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                if not (missing and n == len(location) - 1):
                    continue
            path.append(str(part))
    return ".".join(path)
