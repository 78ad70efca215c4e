"""Reference of the parts that register by name: an overview of each sort, and a page a part."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from corank.core.registry import Registry
from corank.datasets.importer import IMPORTERS
from corank.datasets.simulated import WORLDS
from corank.engine.base import ENGINES
from corank.features.feature_kind import FEATURE_KINDS
from corank.losses.base import LOSSES
from corank.metrics.metric import METRICS, Metric
from corank.models.settings.stage import STAGE_MODELS
from corank.serving.funnel.stage_scorer import SCORERS
from corank.serving.store.base import STORES
from docs_site.config_pages import sections_of, settings_sections
from docs_site.docstrings import first_line, render
from docs_site.pages import Page, relative, table

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sort:
    """A sort of parts, with its registry and the folder of its pages."""

    registry: Registry[Any]
    folder: str
    title: str
    intro: str
    guide: str
    """The page of docs/ that explains how its parts are used."""
    key: str = ""
    """The key of a config that names a part; none if no config names it."""


SORTS = (
    Sort(
        FEATURE_KINDS,
        "features",
        "Feature kinds",
        "Values of `kind` under `features`.",
        "guides/features.md",
        "kind",
    ),
    Sort(
        STAGE_MODELS,
        "stages",
        "Stage models",
        "Values of `model` under `stages`.",
        "guides/config.md#stages",
        "model",
    ),
    Sort(LOSSES, "losses", "Losses", "Values of `kind` under `losses`.", "guides/losses.md", "kind"),
    Sort(METRICS, "metrics", "Metrics", "What `corank evaluate` prints.", "guides/evaluate.md"),
    Sort(
        STORES, "stores", "Stores", "Addresses of `corank publish` and `serve`.", "guides/serving.md#stores"
    ),
    Sort(IMPORTERS, "importers", "Importers", "Commands of `corank import`.", "guides/importing.md"),
    Sort(
        WORLDS, "worlds", "Simulated worlds", "What `corank simulate` writes.", "guides/data.md#public-logs"
    ),
    Sort(
        ENGINES,
        "engines",
        "Engines",
        "Names of `--engine`.",
        "operations/scaling.md#pack-with-several-workers",
    ),
    Sort(
        SCORERS,
        "scorers",
        "Scorers",
        "How a stage scores online. A stage model names its scorer; no config does.",
        "extending/README.md#a-stage-model",
    ),
)


def part_pages() -> Iterator[Page]:
    """All pages of parts."""
    for sort in SORTS:
        index = f"reference/{sort.folder}/README.md"
        parts = dict(sorted(sort.registry.parts().items()))
        rows = [(f"[`{name}`]({name}.md)", _summary(part)) for name, part in parts.items()]
        text = (
            f"# {sort.title}\n\n{sort.intro} How to use them: [the guide]({relative(index, sort.guide)}). Parts of "
            f"your own: [extending]({relative(index, 'extending/README.md')}).\n\n"
            f"{table(('name', 'what it is'), rows)}\n"
        )
        yield Page(index, "Overview", text)
        for name, part in parts.items():
            yield _page(sort, name, part)


def _summary(part: Any) -> str:
    return first_line(_formula(part).__doc__ if isinstance(part, Metric) else part.__doc__)


def _page(sort: Sort, name: str, part: Any) -> Page:
    path = f"reference/{sort.folder}/{name}.md"
    blocks = [f"# `{name}`"]
    if isinstance(part, Metric):
        blocks.append(_metric(part))
    else:
        blocks.append(render(part.__doc__))
        module = inspect.getmodule(part)
        if module is not None and module.__doc__ and sort.key == "":
            blocks.append(render(module.__doc__))
    if hasattr(part, "url_form"):
        blocks.append(f"Address: `{part.url_form}`")
    if sort.registry is IMPORTERS:
        blocks.append(f"Command: [`corank import {name}`](../cli/import-{name}.md)")
    if isinstance(part, type) and issubclass(part, BaseModel):
        sections = {"Keys": part, **sections_of(name, part)}
        blocks.append(
            settings_sections(path, sections, {}).replace(f"\n\n{render(part.__doc__)}\n\n", "\n\n", 1)
        )
    if sort.key and (found := _examples(sort.key, name)):
        blocks.append(f"## In the examples\n\n{found}")
    blocks.append(f"Read on: [{_guide_title(sort)}]({relative(path, sort.guide)}).")
    return Page(path, name, "\n\n".join(blocks) + "\n")


def _guide_title(sort: Sort) -> str:
    return sort.guide.partition("#")[0].removesuffix("/README.md").removesuffix(".md").rpartition("/")[2]


def _formula(metric: Metric) -> Callable[..., Any]:
    formula = metric.formula
    return formula.func if isinstance(formula, partial) else formula


def _metric(metric: Metric) -> str:
    better = {"higher": "the higher", "lower": "the lower", "one": "the nearer to 1"}[metric.better]
    facts = [
        ("name in documents", f"`{metric.name}`"),
        ("better", better),
        ("computed on", f"`{metric.population}`"),
        ("inputs", ", ".join(f"`{name}`" for name in metric.inputs)),
        ("early stopping may use it", "yes" if metric.validation else "no"),
        ("a study compares by it", {None: "no", "first": "for the first stage", "both": "yes"}[metric.study]),
    ]
    return f"{render(_formula(metric).__doc__)}\n\n{table(('', ''), facts)}"


def _examples(key: str, name: str) -> str:
    """Lines of the example configs that use a part, at most two of each."""
    blocks = []
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if re.search(rf"\b{key}: {re.escape(name)}\b", line)]
        if found and all("{" in line for line in found):
            text = "\n".join(line.strip() for line in found[:2])
            blocks.append(f"[{path.name}](../../../examples/{path.name}):\n\n```yaml\n{text}\n```")
    return "\n\n".join(blocks[:3])
