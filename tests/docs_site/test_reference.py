"""The reference describes every config key, option, public name and part, each with its meaning."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from inspect import signature
from typing import Any

import pytest
from pydantic import BaseModel

import corank
from corank.cli.main import build_app
from corank.core.registry import Registry
from corank.datasets.importer import IMPORTERS
from corank.datasets.simulated import WORLDS
from corank.engine.base import ENGINES
from corank.features.feature_kind import FEATURE_KINDS
from corank.funnel.stage_scorer import SCORERS
from corank.losses.base import LOSSES
from corank.metrics.metric import METRICS
from corank.models.settings.stage import STAGE_MODELS, StageSettings
from corank.training.config.config import Config
from corank_serve.http.prometheus import list_metrics
from corank_serve.store.base import STORES
from docs_site.base_pages import BASES, PAGE, members
from docs_site.build import reference_pages
from docs_site.command_pages import walk
from docs_site.config_pages import sections_of
from docs_site.docstrings import first_line, render

FOLDERS: Mapping[str, Registry[Any]] = {
    "features": FEATURE_KINDS,
    "stages": STAGE_MODELS,
    "losses": LOSSES,
    "metrics": METRICS,
    "stores": STORES,
    "importers": IMPORTERS,
    "worlds": WORLDS,
    "engines": ENGINES,
    "scorers": SCORERS,
}


@cache
def texts() -> Mapping[str, str]:
    """The generated pages by path."""
    return {page.path: page.text for page in reference_pages()}


def rows(text: str) -> Iterator[list[str]]:
    """The cells of the rows of all tables of a page."""
    for line in text.splitlines():
        if line.startswith("| `"):
            cells = re.split(r"(?<!\\)\|(?=(?:[^`]*`[^`]*`)*[^`]*$)", line)  # not within code
            yield [cell.strip() for cell in cells[1:-1]]


def settings_of_a_config() -> list[type[BaseModel]]:
    """All settings classes of which a config may be made."""
    parts = [part for registry in (FEATURE_KINDS, STAGE_MODELS, LOSSES) for part in registry.parts().values()]
    kinds = [kind for part in [Config, *parts] for kind in (part, *sections_of("", part).values())]
    bases = [kind for kind in kinds if getattr(kind, "__abstractmethods__", None)]
    return [kind for kind in dict.fromkeys(kinds) if kind not in (*bases, StageSettings)]


@pytest.mark.parametrize("settings", settings_of_a_config(), ids=lambda kind: kind.__name__)
def test_every_key_is_described(settings: type[BaseModel]) -> None:
    pages = [text for text in texts().values() if f"{{#{settings.__name__.lower()}}}" in text]
    if settings is Config:
        pages = [texts()["reference/config/README.md"]]
    assert pages, f"no page describes {settings.__name__}"
    for text in pages:
        section = text.partition(f"{{#{settings.__name__.lower()}}}")[2].partition("\n## ")[0] or text
        described = {row[0]: row[3] for row in rows(section)}
        keys = {f"`{field.alias or name}`" for name, field in settings.model_fields.items()}
        assert keys <= described.keys()
        assert not [key for key in keys if not described[key]], "add a docstring below the field"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_part_has_a_page(folder: str) -> None:
    for name in FOLDERS[folder]:
        text = texts()[f"reference/{folder}/{name}.md"]
        assert len(text.splitlines()[2]) > 20, f"{name}: its docstring says nothing"
        assert f"[`{name}`]({name}.md)" in texts()[f"reference/{folder}/README.md"]


def test_every_public_name_has_a_page() -> None:
    for name in corank.__all__:
        if not name.startswith("__"):
            text, part = texts()[f"reference/python/{name}.md"], getattr(corank, name)
            if isinstance(part, type):
                assert render(part.__doc__) in text
            else:
                assert first_line(part.__doc__) in text
                parameters = {row[0].strip("`*"): row[3] for row in rows(text) if len(row) == 4}
                assert all(parameters.values()) and parameters.keys() == set(signature(part).parameters)


def test_a_function_begins_with_its_example() -> None:
    _, first, example, *_ = texts()["reference/python/check.md"].split("\n\n")
    assert first.startswith("Read a config") and example == "**Example**"


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_every_member_of_a_base_class_is_described(base: type) -> None:
    described = {name for kind in base.__mro__ if kind in BASES for name, _ in members(kind)}
    assert getattr(base, "__abstractmethods__", frozenset()) - {"__init__"} <= described
    assert not is_dataclass(base) or {field.name for field in fields(base)} <= described
    assert f"## {base.__name__}\n" in texts()[PAGE]


def test_every_metric_of_a_service_is_described() -> None:
    described = [row[0] for row in rows(texts()["operations/watch.md"])]
    assert [re.sub(r"\{.*", "", name.strip("`")) for name in described] == [
        name for name, *_ in list_metrics()
    ]


def test_every_option_is_described() -> None:
    described = 0
    for name, command in walk(build_app(), "corank"):
        text = texts()[f"reference/cli/{name.removeprefix('corank ').replace(' ', '-')}.md"]
        for argument in command.assemble_argument_collection():
            if not argument.show:  # it is gone, and names the way
                continue
            line = re.search(rf"^\* `.*{re.escape(argument.name)}\b.*`: (\S.*)$", text, re.MULTILINE)
            assert line and not line[1].startswith(("*[default", "**[required")), (
                f"{name} {argument.name}: no help"
            )
            described += 1
    assert described > 50
