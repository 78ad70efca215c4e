"""The examples are accepted, and the documents are true to the code: keys, files and links."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from corank.core.search.ann_index import RetrievalSettings
from corank.core.settings import validate
from corank.features.kinds.bucket import BucketFeature
from corank.features.kinds.count import CountFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.number import NumberFeature
from corank.features.kinds.pair import PairFeature
from corank.features.kinds.prior import PriorFeature
from corank.features.log_schema import DataSettings, Label, ListLog, Score
from corank.features.splits.by_time import RangeSplit, TimeSplit
from corank.features.splits.by_value import ColumnSplit, UserSplit
from corank.losses.cascade import CascadeLoss
from corank.losses.click import ClickLoss
from corank.losses.distill import DistillLoss
from corank.losses.in_batch import InBatchLoss
from corank.losses.levels import LevelsLoss
from corank.losses.listwise import ListwiseLoss
from corank.losses.pairwise import PairwiseLoss
from corank.losses.unexposed import UnexposedLoss
from corank.models.dcn import DcnSettings
from corank.models.din import DinSettings
from corank.models.mlp import MlpSettings
from corank.models.tables.row_optimisers import TableOptimiser
from corank.models.teacher import TeacherSettings
from corank.models.two_tower import QueryTower, TowersSettings
from corank.training.config import Config
from corank.training.config_file import plain, read
from corank.training.optimisers import DenseOptimiser
from corank.training.train_settings import EarlyStop, TrainSettings

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS: list[type[BaseModel]] = [
    *(Config, DataSettings, ListLog, Label, Score, TimeSplit, RangeSplit, ColumnSplit, UserSplit),
    *(IdFeature, IdsFeature, NumberFeature, BucketFeature, PairFeature, CountFeature, PriorFeature),
    *(QueryTower, DinSettings, DcnSettings, RetrievalSettings),
    *(
        TowersSettings,
        MlpSettings,
        TeacherSettings,
        ClickLoss,
        UnexposedLoss,
        InBatchLoss,
        DistillLoss,
        LevelsLoss,
        ListwiseLoss,
        PairwiseLoss,
        CascadeLoss,
    ),
    *(TrainSettings, EarlyStop, TableOptimiser, DenseOptimiser),
]


def test_every_example_is_found() -> None:
    assert [path.stem for path in EXAMPLES] == [
        *(
            "exposure_only",
            "features",
            "recflow",
            "recipe_distilled",
            "recipe_shared",
            "recipe_taught",
            "shop",
            "three_stages",
        )
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_and_survives_being_written_out(path: Path) -> None:
    config = read(path)
    assert validate(Config, plain(config), "written out") == config


def test_shop_trains_the_stages_on_what_each_must_see() -> None:
    population = read(ROOT / "examples" / "shop.yaml").total.population()
    assert population == {0: 10, 1: None, 2: None, 3: None}, "retrieved sampled, all others read"


def test_an_exposure_log_is_read_where_exposed_alone() -> None:
    assert read(ROOT / "examples" / "exposure_only.yaml").total.population() == {3: None}


def _keys() -> Iterator[str]:
    for settings in SETTINGS:
        yield from (field.alias or name for name, field in settings.model_fields.items())


@pytest.mark.parametrize("key", sorted(set(_keys())))
def test_every_key_is_documented(key: str) -> None:
    text = (ROOT / "docs" / "guides" / "config.md").read_text(encoding="utf-8")
    spans = re.findall(r"`([^`]+)`", text)
    assert any(re.search(rf"(?<![\w.]){key}(?!\w)", span) for span in spans), f"no `{key}` in the page"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not broken


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_examples_are_found(path: Path) -> None:
    lines = re.findall(
        r"^ *from (corank[\w.]*) import ([\w, ]+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    for module, names in lines:
        for name in names.split(","):
            assert hasattr(import_module(module), name.strip()), f"from {module} import {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_within_the_repository_are_headings(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8"))
    pages = [(path.parent / link if link else path, anchor) for link, anchor in links]
    assert not [(str(page), anchor) for page, anchor in pages if anchor not in _anchors(page)]


def test_the_architecture_lists_every_package() -> None:
    text = (ROOT / "docs" / "extending" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+\.py|\w+/)`\]", text, re.MULTILINE)
    package = ROOT / "corank"
    files = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert sorted(listed) == sorted(files | folders)


@pytest.mark.parametrize("name", ["architecture.md"])
def test_a_table_names_what_its_file_defines(name: str) -> None:
    """A row that links to modules and then names functions or classes names those of the modules."""
    rows = re.findall(
        r"^\|(.*\.py\)) \| (`.*`) \|$", (ROOT / "docs" / "extending" / name).read_text(encoding="utf-8"), re.M
    )
    assert rows
    for links, names in rows:
        paths = re.findall(r"\]\(\.\./\.\./([^)]+\.py)\)", links)
        text = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths)
        for defined in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(?:class |def )?{defined}\b", text, re.M), f"{paths}: no {defined}"
