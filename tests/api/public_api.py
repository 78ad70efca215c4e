"""What corank promises by semantic versioning, a line a promise: public names, commands, the config, documents.

python -m tests.api.public_api    # writes public_api.txt anew; add a line to CHANGELOG.md of what changed
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import corank
from corank.cli.main import build_app
from corank.datasets.importer import IMPORTERS
from corank.training.config.config import Config
from docs_site.command_pages import walk
from docs_site.part_pages import SORTS

OURS = "corank", "corank_serve", "corank_continual"
"""Packages whose parts are promised; tests register others."""
KEPT = Path(__file__).with_suffix(".txt")


def list_promises() -> list[str]:
    """All of them but the documents, sorted."""
    return sorted({*_names(), *_commands(), *_config(), *_parts()})


def _names() -> Iterator[str]:
    """Public names with their signatures; of classes what is public in them, too, if corank defines it."""
    for name in corank.__all__:
        value = getattr(corank, name)
        if inspect.isclass(value):
            yield f"corank.{name}{_signature(value)}"
            for member, part in inspect.getmembers(value):
                if not member.startswith("_") and _is_ours(value, member):
                    yield f"corank.{name}.{member}{_signature(part)}"
        elif callable(value):
            yield f"corank.{name}{_signature(value)}"
        else:
            yield f"corank.{name}"


def _is_ours(kind: type, member: str) -> bool:
    owner = next(one for one in kind.__mro__ if member in vars(one))
    return owner.__module__.startswith("corank")


def _signature(value: Any) -> str:
    """Parameters, their kinds and defaults; types are left out: they may become wider."""
    if not callable(value):
        return ""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    plain = [
        one.replace(annotation=inspect.Parameter.empty) for one in parameters if not one.name.startswith("_")
    ]
    return re.sub(r" at 0x\w+", "", str(inspect.Signature(plain)))


def _commands() -> Iterator[str]:
    """Commands with their arguments and options; not the lab's importers."""
    of_lab = {f"corank import {name}" for name, part in IMPORTERS.parts().items() if not _is_promised(part)}
    for name, command in walk(build_app(), "corank"):
        if name in of_lab:
            continue
        yield name
        for argument in filter(lambda argument: argument.show, command.assemble_argument_collection()):
            for option in argument.names or (argument.name,):
                yield f"{name} {option}" + (" (required)" if argument.required else "")


def _config() -> Iterator[str]:
    """Keys of the config and of the settings in it, with defaults."""
    schema = Config.model_json_schema()
    parts = {
        part.__name__ for sort in SORTS for part in sort.registry.parts().values() if inspect.isclass(part)
    }
    for name, fields in {"config": schema, **schema["$defs"]}.items():
        if name not in parts:  # which `_parts` lists
            for key, field in fields.get("properties", {}).items():
                yield f"{name}: {key}" + (f" = {field['default']!r}" if "default" in field else "")


def _parts() -> Iterator[str]:
    """Parts that configs and commands name, with their keys; not those of the lab or of plug-ins."""
    for sort in SORTS:
        for name, part in sort.registry.parts().items():
            if _is_promised(part):
                yield f"{sort.folder} {name}"
                if inspect.isclass(part) and issubclass(part, BaseModel):
                    yield from (_key(f"{sort.folder} {name}", *field) for field in part.model_fields.items())


def _is_promised(part: Any) -> bool:
    package: str = part.__module__.partition(".")[0]
    return package in OURS


def _key(part: str, key: str, field: FieldInfo) -> str:
    default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
    return f"{part}: {field.alias or key}{default}"


def document_keys(document: Any, path: str = "") -> Iterator[str]:
    """The keys of a document, with dots; of a list, those of its items."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield f"{path}.{key}" if path else key
            yield from document_keys(value, f"{path}.{key}" if path else key)
    elif isinstance(document, Sequence) and not isinstance(document, str):
        for one in document:
            yield from document_keys(one, f"{path}[]")


if __name__ == "__main__":
    KEPT.write_text("\n".join(list_promises()) + "\n", encoding="utf-8")
