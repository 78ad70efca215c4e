"""Tables of the keys of settings classes: type, default, bounds, meaning."""

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from corank.core.settings import format_duration
from corank.features.split import TimeRange
from docs_site.docstrings import field_docstrings
from docs_site.pages import escape, table

HEAD = ("key", "type", "default", "meaning")
WORDS: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    timedelta: "duration",
    Path: "path",
    date: "day",
    datetime: "time",
    TimeRange: "range, `FROM..UNTIL`",
    Any: "any",
}


def key_of(name: str, field: FieldInfo) -> str:
    """The key of a field in a config."""
    return field.alias or name


def is_settings(kind: Any) -> bool:
    """Whether a type is a settings class."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def keys_table(settings: type[BaseModel], links: Mapping[type, str]) -> str:
    """A table of all keys of a settings class.

    Args:
        settings: the class.
        links: where types are described that are settings themselves: class → target of a link.
    """
    meanings = field_docstrings(settings)
    rows = []
    for name, field in settings.model_fields.items():
        meaning = meaning_of(name, field, meanings)
        kind = describe_type(field.annotation, links)
        bounds = ", ".join(describe_bounds(field.metadata))
        rows.append(
            (
                f"`{key_of(name, field)}`",
                f"{kind}; {bounds}" if bounds else kind,
                describe_default(field),
                escape(meaning),
            )
        )
    extra = settings.__annotations__.get("__pydantic_extra__")
    if extra is not None:
        rows.append(
            ("*a name*", describe_type(get_args(extra)[1], links), "–", escape(meanings.get("extra", "")))
        )
    return table(HEAD, rows)


def meaning_of(name: str, field: FieldInfo, meanings: Mapping[str, str]) -> str:
    """What a key means, by its description, or the docstring below the field."""
    if name in ("kind", "model") and len(get_args(field.annotation)) == 1:
        return "Chooses this part."
    return field.description or meanings.get(name, "")


def describe_type(kind: Any, links: Mapping[type, str]) -> str:
    """Say in words, with links, what values a type has."""
    origin, members = get_origin(kind), get_args(kind)
    if kind in links:
        return f"[{kind.__name__}]({links[kind]})"
    if kind in WORDS:
        return WORDS[kind]
    if origin is Annotated:
        bounds = ", ".join(describe_bounds(members[1:]))
        inner = describe_type(members[0], links)
        return f"{inner} ({bounds})" if bounds else inner
    if origin is Literal:
        return ", ".join(f"`{member}`" for member in members)
    if origin in (Union, UnionType):
        kinds = dict.fromkeys(describe_type(member, links) for member in members if member is not NoneType)
        return " or ".join(kinds)
    if origin is list:
        return f"list of {describe_type(members[0], links)}"
    if origin is dict:
        return f"mapping of names to {describe_type(members[1], links)}"
    return f"`{getattr(kind, '__name__', kind)}`"


def describe_bounds(metadata: Any) -> Iterator[str]:
    """Say which values are allowed, by the constraints of a field."""
    for bound in metadata:
        match bound:
            case Gt():
                yield f"above {bound.gt}"
            case Ge():
                yield f"{bound.ge} or more"
            case Lt():
                yield f"below {bound.lt}"
            case Le():
                yield f"{bound.le} at most"
            case Len() if bound.min_length == bound.max_length:
                yield f"{bound.min_length} of them"
            case Len():
                yield f"{bound.min_length} to {bound.max_length} of them"
            case MinLen() if bound.min_length == 1:
                yield "not empty"
            case MinLen():
                yield f"{bound.min_length} of them at least"
            case MaxLen():
                yield f"{bound.max_length} of them at most"
            case _ if getattr(bound, "pattern", None):
                yield f"matches `{bound.pattern}`"


def describe_default(field: FieldInfo) -> str:
    """The default as a config would write it."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "its defaults" if isinstance(default, BaseModel) else f"`{_plain(default)}`"


def _plain(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case timedelta():
            return format_duration(value) if value else "0s"
        case list() | tuple():
            return f"[{', '.join(map(_plain, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_plain(member)}' for key, member in value.items())}}}"
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def settings_within(kind: Any) -> Iterator[type[BaseModel]]:
    """The settings classes that a type is made of, not those of their fields."""
    if is_settings(kind):
        yield kind
    for member in get_args(kind):
        if not isinstance(member, str):
            yield from settings_within(member)


def reachable(settings: type[BaseModel]) -> list[type[BaseModel]]:
    """A settings class and all classes of its fields, and of theirs."""
    found = [settings]
    for owner in found:
        annotations = [field.annotation for field in owner.model_fields.values()]
        annotations += get_args(owner.__annotations__.get("__pydantic_extra__"))
        for kind in annotations:
            found += [inner for inner in settings_within(kind) if inner not in found]
    return found
