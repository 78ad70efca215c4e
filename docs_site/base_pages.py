"""Reference of the classes that parts derive from or read: what each declares, a table a class, from its docstrings."""

from collections.abc import Iterator
from typing import Any

import griffe

from corank.batches.batch import Batch
from corank.core.package import Package
from corank.core.settings import Settings
from corank.data.table_formats import TableFormat
from corank.datasets.importer import Importer
from corank.datasets.simulated import SimulatedWorld
from corank.engine.base import Engine
from corank.features.feature_kind import ColumnFeature, DerivedFeature, FeatureKind
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
    *(FeatureKind, ColumnFeature, DerivedFeature, Loss, StageLoss, Batch),
    *(StageSettings, StageModel, VectorModel, Mlp, Towers, StageScorer, Metric),
    *(Store, Engine, Callback, Importer, SimulatedWorld, TableFormat, Package),
)


def base_pages() -> Iterator[Page]:
    """The page of all base classes, below what is written by hand."""
    blocks = ["# Base classes", "A member in bold must be defined."]
    for base in BASES:
        blocks += [f"## {base.__name__}", render(base.__doc__)]
        if above := [kind.__name__ for kind in base.__mro__[1:] if kind in BASES]:
            blocks.append(f"It also has what [{above[0]}](#{above[0].lower()}) has.")
        shown = sorted(members(base), key=lambda named: not is_required(base, named[0]))
        rows = [(_cell(base, name, member), flatten(member.docstring.value)) for name, member in shown]
        blocks.append(table(("member", "what it is"), rows))
    blocks.append("## Inputs of metrics")
    for population, inputs in INPUTS.items():
        rows = [(f"`{name}`", escape(meaning)) for name, meaning in inputs.items()]
        blocks += [f"### `{population}`", table(("input", "what it is"), rows)]
    yield Page(PAGE, "Base classes", "\n\n".join(blocks) + "\n")


def members(base: type) -> list[tuple[str, Any]]:
    """The public members of a class that have docstrings, by name; without those of bases that are in BASES, too."""
    found: dict[str, Any] = {}
    for kind in reversed(base.__mro__):
        if kind.__module__.startswith(OWN) and (kind is base or kind not in (*BASES, Settings)):
            shown = source(kind).members.items()
            found |= {name: member for name, member in shown if name[0] != "_" and member.docstring}
    return list(found.items())


def is_required(base: type, name: str) -> bool:
    """Whether a subclass, or a class that has what a protocol declares, must define a member."""
    return name in getattr(base, "__abstractmethods__", ()) or getattr(base, "_is_protocol", False)


def _cell(base: type, name: str, member: Any) -> str:
    """A member as it is called, in bold if it must be defined."""
    called = name
    if isinstance(member, griffe.Function):
        given = [parameter.name for parameter in member.parameters if parameter.name not in ("self", "cls")]
        called = f"{name}({', '.join(given)})"
    return f"**`{called}`**" if is_required(base, name) else f"`{called}`"
