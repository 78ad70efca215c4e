"""Reference of the parts that register by name: an overview of each sort, and a page a part."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel

from corank.core.registry import Registry
from corank.datasets.importer import IMPORTERS
from corank.datasets.simulated import WORLDS
from corank.engine.base import ENGINES
from corank.features.feature_kind import FEATURE_KINDS
from corank.funnel.stage_scorer import SCORERS
from corank.losses.base import LOSSES
from corank.metrics.inputs import INPUTS
from corank.metrics.metric import METRICS, Metric
from corank.models.settings.stage import STAGE_MODELS
from corank_serve.store.base import STORES
from docs_site.config_pages import sections_of, settings_sections
from docs_site.docstrings import first_line, render
from docs_site.pages import ROOT, Page, relative, table


class Sort(NamedTuple):
    """A sort of parts, with its registry and the folder of its pages."""

    registry: Registry[Any]
    folder: str
    guide: str
    """The page of docs/ that explains how its parts are used."""
    intro: str = ""
    title: str = ""
    """The folder's name unless given."""
    key: str = ""
    """The key of a config that names a part; none if no config names it, but what `intro` says."""


SCORING = "How a stage scores online. A stage model names its scorer; no config does."
SORTS = (
    Sort(FEATURE_KINDS, "features", "guides/features.md", title="Feature kinds", key="kind"),
    Sort(STAGE_MODELS, "stages", "guides/config.md#stages", title="Stage models", key="model"),
    Sort(LOSSES, "losses", "guides/losses.md", key="kind"),
    Sort(METRICS, "metrics", "guides/evaluate.md", "What `corank evaluate` prints."),
    Sort(STORES, "stores", "guides/serving.md#stores", "Addresses of `corank publish` and `serve`."),
    Sort(IMPORTERS, "importers", "guides/importing.md", "Commands of `corank import`."),
    Sort(
        WORLDS,
        "worlds",
        "guides/importing.md#simulated-worlds",
        "What `corank simulate` writes.",
        "Simulated worlds",
    ),
    Sort(ENGINES, "engines", "operations/scaling.md#pack-with-several-workers", "Names of `--engine`."),
    Sort(SCORERS, "scorers", "extending/README.md#a-stage-model", SCORING),
)


def part_pages() -> Iterator[Page]:
    """All pages of parts."""
    for sort in SORTS:
        index = f"reference/{sort.folder}/README.md"
        parts = dict(sorted(sort.registry.parts().items()))
        rows = [(f"[`{name}`]({name}.md)", _summary(part)) for name, part in parts.items()]
        intro = sort.intro or f"Values of `{sort.key}` under `{sort.folder}`."
        text = (
            f"# {sort.title or sort.folder.capitalize()}\n\n{intro} How to use them: "
            f"[the guide]({relative(index, sort.guide)}). Parts of your own: "
            f"[extending]({relative(index, 'extending/README.md')}).\n\n{table(('name', 'what it is'), rows)}\n"
        )
        yield Page(index, "Overview", text)
        for name, part in parts.items():
            yield _page(sort, name, part)


def _page(sort: Sort, name: str, part: Any) -> Page:
    path = f"reference/{sort.folder}/{name}.md"
    blocks = [f"# `{name}`", render(_described(part).__doc__)]
    if isinstance(part, Metric):
        blocks = [blocks[0], part.about, *blocks[1:], _facts(part)]
    elif not sort.key:
        blocks.append(render(getattr(inspect.getmodule(part), "__doc__", "")))
    if hasattr(part, "url_form"):
        blocks.append(f"Address: `{part.url_form}`")
    if sort.registry is IMPORTERS:
        blocks.append(f"Command: [`corank import {name}`](../cli/import-{name}.md)")
    if isinstance(part, type) and issubclass(part, BaseModel):
        sections = settings_sections(path, {"Keys": part, **sections_of(name, part)}, {})
        blocks.append(sections.replace(f"\n\n{blocks[1]}\n\n", "\n\n", 1))
    if sort.key and (examples := _examples(sort.key, name)):
        blocks.append(f"## In the examples\n\n{examples}")
    guide = sort.guide.partition("#")[0].removesuffix("/README.md").removesuffix(".md").rpartition("/")[2]
    blocks.append(f"Read on: [{guide}]({relative(path, sort.guide)}).")
    return Page(path, name, "\n\n".join(filter(None, blocks)) + "\n")


def _summary(part: Any) -> str:
    """A line about a part for the overview."""
    return getattr(part, "about", "") or first_line(_described(part).__doc__)


def _described(part: Any) -> Any:
    """What has the docstring of a part: of a metric, its formula."""
    return getattr(part.formula, "func", part.formula) if isinstance(part, Metric) else part


def _facts(metric: Metric) -> str:
    better = {"higher": "the higher", "lower": "the lower", "one": "the nearer to 1"}
    facts = [
        ("name in documents", f"`{metric.name}`"),
        ("better", better[metric.better]),
        ("computed on", f"`{metric.population}`"),
        *((f"input `{name}`", INPUTS[metric.population][name]) for name in metric.inputs),
        ("early stopping may use it", "yes" if metric.validation else "no"),
    ]
    return table(("", ""), facts)


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
