"""Reference of the config: a page for each of its keys, from the settings classes."""

from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import BaseModel

from corank.features.feature_kind import FeatureKind
from corank.losses.base import Loss
from corank.models.settings.stage import StageSettings
from corank.training.config.config import Config
from docs_site.docstrings import field_docstrings, render
from docs_site.pages import Page, relative
from docs_site.settings import keys_table, settings_within

PARTS: Mapping[type, str] = {
    FeatureKind: "reference/features/README.md",
    Loss: "reference/losses/README.md",
    StageSettings: "reference/stages/README.md",
}
"""Settings that are chosen by a key from a registry → the page that lists them."""
FOLDER = "reference/config"
GUIDE = "guides/config.md"


def config_pages() -> Iterator[Page]:
    """The pages of the config: one of its own keys, and one for each key that is made of further settings."""
    fields = {name: _sections(name, field.annotation) for name, field in Config.model_fields.items()}
    index = f"{FOLDER}/README.md"
    places = {kind: f"{FOLDER}/{name}.md" for name, sections in fields.items() for kind in sections.values()}
    head = (
        "# Config\n\nGenerated from the settings classes of the code that builds this site. What the keys are for, "
        f"with examples: [the guide]({relative(index, GUIDE)}).\n\n"
    )
    top = keys_table(Config, _links(index, places))
    listed = "\n".join(f"- [`{name}`]({name}.md)" for name, sections in fields.items() if sections)
    yield Page(index, "Overview", f"{head}{top}\n\nKeys with a page of their own:\n\n{listed}\n")
    meanings = field_docstrings(Config)
    for name, sections in fields.items():
        if sections:
            path = f"{FOLDER}/{name}.md"
            text = f"# Config: {name}\n\n{render(meanings.get(name))}\n\n"
            yield Page(path, name, text + settings_sections(path, sections, places))


def settings_sections(path: str, sections: Mapping[str, type[BaseModel]], places: Mapping[type, str]) -> str:
    """A heading, the docstring and the table of keys of each settings class.

    Args:
        path: the page.
        sections: heading → class.
        places: the page of each class that has one.
    """
    links = _links(path, {**places, **dict.fromkeys(sections.values(), path)})
    return "\n\n".join(
        f"## {title} {{#{kind.__name__.lower()}}}\n\n{render(kind.__doc__)}\n\n{keys_table(kind, links)}"
        for title, kind in sections.items()
    )


def sections_of(key: str, settings: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The settings classes of the fields of a class, and of their fields, by the key under which they stand."""
    fields = [(field.alias or name, field.annotation) for name, field in settings.model_fields.items()]
    fields += [("NAME", extra) for extra in get_args(settings.__annotations__.get("__pydantic_extra__"))]
    parts = (_sections(f"{key}.{name}", annotation) for name, annotation in fields)
    return {title: kind for part in parts for title, kind in part.items()}


def _sections(key: str, annotation: object) -> dict[str, type[BaseModel]]:
    kinds = [kind for kind in settings_within(annotation) if kind not in PARTS]
    found: dict[str, type[BaseModel]] = {}
    for kind in kinds:
        found[f"`{key}`, {kind.__name__}" if len(kinds) > 1 else f"`{key}`"] = kind
        found |= sections_of(key, kind)
    return found


def _links(path: str, places: Mapping[type, str]) -> dict[str, str]:
    """Links of a page to the descriptions of classes, by their names."""
    links = {kind.__name__: f"{relative(path, at)}#{kind.__name__.lower()}" for kind, at in places.items()}
    return links | {kind.__name__: relative(path, at) for kind, at in PARTS.items()}
