"""Tables of the keys of settings classes: type with bounds, default, meaning."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from docs_site.docstrings import field_docstrings
from docs_site.pages import escape, table

WORDS: Mapping[str, str] = {
    "string": "text",
    "integer": "whole number",
    "boolean": "true or false",
    "date": "day",
    "date-time": "time",
    "TimeRange": "range, `FROM..UNTIL`",
}
"""What a type, format or class of a JSON schema is called, where it is not called so."""
BOUNDS: Mapping[str, str] = {
    "exclusiveMinimum": "above {}",
    "minimum": "{} or more",
    "minItems": "{} or more",
    "minProperties": "{} or more",
    "exclusiveMaximum": "below {}",
    "maximum": "{} at most",
    "maxItems": "{} at most",
    "minLength": "{} or more characters",
    "pattern": "matches `{}`",
}


def keys_table(settings: type[BaseModel], links: Mapping[str, str]) -> str:
    """A table of all keys of a settings class.

    Args:
        settings: the class.
        links: where types are described that are settings themselves: name of the class → target of a link.
    """
    schema = settings.model_json_schema()
    meanings = field_docstrings(settings)
    plain = settings.model_construct()
    defaults = plain.model_dump(mode="json", by_alias=True)
    rows = []
    for name, field in settings.model_fields.items():
        key = field.alias or name
        described = schema["properties"][key]
        part = name in ("kind", "model") and "const" in described
        meaning = "Chooses this part." if part else field.description or meanings.get(name, "")
        nested = isinstance(getattr(plain, name, None), BaseModel)
        default = "its defaults" if nested else f"`{_written(defaults.get(key))}`"
        default = "required" if field.is_required() else default
        rows.append((f"`{key}`", describe_type(described, links), default, escape(meaning)))
    if extra := schema["additionalProperties"]:
        rows.append(("*a name*", describe_type(extra, links), "–", escape(meanings.get("extra", ""))))
    return table(("key", "type", "default", "meaning"), rows)


def _written(value: Any) -> str:
    """A value as a config writes it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def describe_type(schema: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """Say in words, with links, what values a JSON schema allows."""
    match schema:
        case {"$ref": path}:
            name = path.rpartition("/")[2]
            return f"[{name}]({links[name]})" if name in links else WORDS.get(name, f"`{name}`")
        case {"anyOf": kinds} | {"oneOf": kinds}:
            words = [describe_type(kind, links) for kind in kinds if kind != {"type": "null"}]
            return " or ".join(dict.fromkeys(words))
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"items": items}:
            kind = f"list of {describe_type(items, links)}"
        case {"additionalProperties": values}:
            kind = f"mapping of names to {describe_type(values, links)}"
        case {"format": name} | {"type": name}:
            kind = WORDS.get(name, name)
        case _:
            return "any"
    bounds = ", ".join(text.format(schema[bound]) for bound, text in BOUNDS.items() if bound in schema)
    bounds = re.sub(r"^(\d+) or more, \1 at most", r"\1 of them", bounds)
    return f"{kind} ({bounds})" if bounds else kind


def settings_within(kind: Any) -> Iterator[type[BaseModel]]:
    """The settings classes that a type is made of, not those of their fields."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for member in get_args(kind):
        if not isinstance(member, str):
            yield from settings_within(member)
