"""A config's file and overrides → plain values: YAML 1.2's core schema, strict and in bounded time and memory.

PyYAML splits the text into events. It would then read them as YAML 1.1, where `030` is 24, `1:30` is 90 and `on` is
true, keep the last of two equal keys, and expand aliases without end. What the events mean is therefore decided here.
An alias is refused: what a value is stands where it is read.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from corank.core.errors import ConfigError, PluginError
from corank.core.formatting import shorten
from corank.core.registry import load_plugins

LARGEST = 2**18
"""Bytes of a file, at most."""
DEEPEST = 64
"""Levels of nesting, at most."""
LONGEST_NUMBER = 40
"""Characters of a whole number, at most."""

_CORE = "tag:yaml.org,2002:"
_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of surrogate pairs, as which Python passes on bytes of a command line that are not UTF-8."""
_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def _whole(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    # before the conversion, which takes time by the square of the digits
    value = int(text[2:] if base != 10 else text, base) if len(text) <= LONGEST_NUMBER else 2**64
    if not -(2**63) <= value < 2**63:
        raise ValueError("expected a whole number of at most 64 bits")
    return value


def _fraction(text: str) -> float:
    special = re.fullmatch(r"([-+]?)\.(inf|nan)", text.lower())
    value = float(special[1] + special[2] if special else text)
    if math.isinf(value) and not special:
        raise ValueError("expected a number that a 64-bit float can hold")
    return value


_SCHEMA: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"null|Null|NULL|~|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _whole),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        _fraction,
    ),
}
"""The core schema: what plain text must look like to be of a type, and how it becomes a value."""


def read_yaml_file(path: Path) -> Any:
    """Read a file of one YAML document. Raises ConfigError, which names the file, and the line of what is wrong.

    Example:
        read_yaml_file(Path("shop.yaml"))["train"]["epochs"]
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{path}: larger than {LARGEST:,} bytes, so it is no config; name another file")
        return read_yaml(content.decode("utf-8-sig"), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_describe(error)}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _describe(error: yaml.YAMLError) -> str:
    """Say in one line where text is no YAML, and why."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark, said = error.problem_mark, filter(None, (error.context, error.problem))
    return f"line {mark.line + 1}, column {mark.column + 1}: {', '.join(said)}"


def read_yaml(text: str, source: str) -> Any:
    """Read one YAML document; None if there is nothing in it.

    Args:
        text: the document.
        source: what errors begin with.

    Raises:
        yaml.YAMLError: it is not YAML.
        ConfigError: it has a key twice, an anchor, an alias or a tag of its own, or is too deep.

    Example:
        >>> read_yaml("{levels: 030, keep: [1:30, 0o17]}", "--set")
        {'levels': 30, 'keep': ['1:30', 15]}
    """
    if _HALVES.search(text):
        raise ConfigError(f"{source}: not UTF-8; write it in that encoding")
    return _Document(yaml.parse(text, Loader=_PARSER), source).read()


class _Document:
    """Builds the value of one document from its events."""

    def __init__(self, events: Iterator[Any], source: str) -> None:
        self._events, self._source = events, source

    def read(self) -> Any:
        """Read the only document of the stream."""
        value, documents = None, 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "a second document begins; write one, without '---' between")
                value = self._value(next(self._events), 0)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        if event.anchor is not None:
            sign = "alias '*" if isinstance(event, yaml.AliasEvent) else "anchor '&"
            raise self._error(event, f"{sign}{shorten(event.anchor)}' is refused; write the value out")
        if depth > DEEPEST:
            raise self._error(event, f"nested more than {DEEPEST} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            self._require_tag(event, "seq")
            return [self._value(item, depth + 1) for item in self._items()]
        self._require_tag(event, "map")
        return self._mapping(depth + 1)

    def _items(self) -> Iterator[Any]:
        """The events that begin the items of a list, or the keys of a mapping; the caller reads what follows each."""
        while not isinstance(event := next(self._events), yaml.CollectionEndEvent):
            yield event

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for event in self._items():
            key = self._key(event, depth)
            if key in values:
                raise self._error(event, f"key '{shorten(key)}' is in line {lines[key]} already; drop one")
            values[key], lines[key] = self._value(next(self._events), depth), event.start_mark.line + 1
        return values

    def _key(self, event: Any, depth: int) -> str:
        key = self._value(event, depth)
        if not isinstance(key, str):
            raise self._error(event, "a key must be text; write it in quotes")
        if key == "<<" and event.implicit[0]:
            raise self._error(event, "'<<' merges mappings in YAML 1.1 alone; write the keys out")
        return key

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if "\0" in text or _HALVES.search(text):
            raise self._error(event, "text with a NUL or half a surrogate pair, which no name can hold")
        plain = event.implicit[0] and event.tag is None
        for kind, (pattern, convert) in _SCHEMA.items():
            if (plain or event.tag == _CORE + kind) and re.fullmatch(pattern, text):
                try:
                    return convert(text)
                except ValueError as error:
                    raise self._error(event, f"{error}; received {shorten(text)}") from None
        if not plain:
            self._require_tag(event, "str")
        return text

    def _require_tag(self, event: Any, kind: str) -> None:
        """Raise ConfigError if a value has a tag other than the core schema's of its kind."""
        if event.tag not in (None, "!", _CORE + kind):
            raise self._error(event, f"tag '{shorten(event.tag.replace(_CORE, '!!'))}' does not fit; drop it")

    def _error(self, event: Any, message: str) -> ConfigError:
        mark = event.start_mark
        return ConfigError(f"{self._source}: line {mark.line + 1}, column {mark.column + 1}: {message}")


class ConfigValues(NamedTuple):
    """The plain values of a config, with what overrides remove."""

    value: dict[str, Any]
    removed: dict[str, Any]
    """Features that an override sets to null; they are still among the values."""


def read_values(path: Path, overrides: Sequence[str] = ()) -> ConfigValues:
    """Read a config's file, and change it by overrides `a.b=value`. Raises ConfigError."""
    value = read_yaml_file(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys such as name, data and features at the top level")
    return change_values(value, overrides)


def change_values(value: dict[str, Any], overrides: Sequence[str]) -> ConfigValues:
    """Change plain values in place by overrides `a.b=value`. Raises ConfigError."""
    removed: dict[str, Any] = {}
    for override in overrides:
        _set(value, override, removed)
    return ConfigValues(value, removed)


def load_named_plugins(value: Any, source: str, folder: Path) -> None:
    """Load the plug-ins that plain values name. Raises PluginError, which begins with `source`.

    Args:
        value: of a config.
        source: what errors begin with, such as the file.
        folder: where plug-ins are looked for in addition to the Python path; usually the config's.
    """
    match value:
        case {"plugins": [*modules]} if all(isinstance(name, str) for name in modules):
            try:
                load_plugins(modules, folder)
            except PluginError as error:
                raise PluginError(f"{source}: {error}") from None


def _set(value: Any, override: str, removed: dict[str, Any]) -> None:
    """Change plain values by an override; a feature that it removes is noted, and stays until all are checked."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {shorten(override)}: expected a.b=value")
    try:
        new = read_yaml(text, f"--set {shorten(override)}")
    except yaml.YAMLError:
        raise ConfigError(f"--set {shorten(override)}: '{shorten(text)}' is not valid YAML") from None
    parent, _, name = path.partition(".")
    if parent == "features" and name and "." not in name:
        removed.pop(name, None)
        if new is None:
            removed[name] = None
            return
    set_key(value, path, new, f"--set {shorten(override)}")


def set_key(value: Any, path: str, new: Any, source: str) -> None:
    """Set a key of plain values, such as `stages.1.dropout`; the number after a list's last appends to it.

    Raises ConfigError, which begins with `source`.
    """
    *parents, last = path.split(".")
    for part in parents:
        value = _entry(value, part, source)
    if isinstance(value, list):
        if last == str(len(value)):
            value.append(None)
        _entry(value, last, source)
        value[int(last)] = new
    elif isinstance(value, dict):
        value[last] = new
    else:
        raise _no_such_place(source)


def _entry(value: Any, part: str, source: str) -> Any:
    """The value at a key of a mapping, an empty mapping if there is none, or at an index of a list."""
    if isinstance(value, dict):
        return value.setdefault(part, {})
    if isinstance(value, list) and re.fullmatch("[0-9]{1,9}", part) and int(part) < len(value):
        return value[int(part)]
    raise _no_such_place(source)


def _no_such_place(source: str) -> ConfigError:
    return ConfigError(f"{source}: the config has no such place")
