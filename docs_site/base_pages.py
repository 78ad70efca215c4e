"""Reference of the classes that parts derive from or read: what each declares, a table a class, from its docstrings."""

from collections.abc import Iterator
from typing import Any

import griffe

from corank.batches.batch import Batch
from corank.core.package import Package
from corank.data.table_formats import TableFormat
from corank.datasets.importer import Importer
from corank.datasets.simulated import SimulatedWorld
from corank.engine.base import Engine
from corank.features.feature_kind import ColumnFeature, DerivedFeature
from corank.funnel.stage_scorer import StageScorer
from corank.losses.base import Loss, StageLoss
from corank.metrics.inputs import INPUTS
from corank.metrics.metric import Metric
from corank.models.mlp import Mlp
from corank.models.settings.stage import StageSettings
from corank.models.stage_model import StageModel, VectorModel
from corank.models.two_tower import Towers
from corank.training.callbacks import Callback
from corank_serve.store.base import Store
from docs_site.docstrings import OWN, flatten, render, source
from docs_site.pages import Page, escape, table

PAGE = "extending/bases.md"
BASES: tuple[type, ...] = (
    *(ColumnFeature, DerivedFeature, Loss, StageLoss, Batch),
    *(StageSettings, StageModel, VectorModel, Mlp, Towers, StageScorer, Metric),
    *(Store, Engine, Callback, Importer, SimulatedWorld, TableFormat, Package),
)


def base_pages() -> Iterator[Page]:
    """The page of all base classes, below what is written by hand."""
    blocks = ["# Base classes", "A member in bold must be defined."]
    for base in BASES:
        head, *below = render(base.__doc__).split("\n\n")
        blocks += [f"## {base.__name__}", head, *below]
        rows = [
            (_cell(base, name, member), flatten(member.docstring.value)) for name, member in members(base)
        ]
        blocks.append(table(("member", "what it is"), rows))
    blocks.append("## Inputs of metrics")
    for population, inputs in INPUTS.items():
        rows = [(f"`{name}`", escape(meaning)) for name, meaning in inputs.items()]
        blocks += [f"### `{population}`", table(("input", "what it is"), rows)]
    yield Page(PAGE, "Base classes", "\n\n".join(blocks) + "\n")


def members(base: type) -> list[tuple[str, Any]]:
    """The public members of a class that have docstrings, by name, those of its bases first."""
    found: dict[str, Any] = {}
    for kind in reversed(base.__mro__):
        if kind.__module__.startswith(OWN):
            shown = source(kind).members.items()
            found |= {name: member for name, member in shown if name[0] != "_" and member.docstring}
    return list(found.items())


def _cell(base: type, name: str, member: Any) -> str:
    """A member as it is called, in bold if a subclass must define it."""
    called = name
    if isinstance(member, griffe.Function):
        given = [parameter.name for parameter in member.parameters if parameter.name not in ("self", "cls")]
        called = f"{name}({', '.join(given)})"
    required = name in getattr(base, "__abstractmethods__", ()) or getattr(base, "_is_protocol", False)
    return f"**`{called}`**" if required else f"`{called}`"
