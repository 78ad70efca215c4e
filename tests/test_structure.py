"""The shape of the code: folders, files, functions and names that a reader can hold in mind.

Every test lists all violations at once.
"""

import ast
import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import corank
from corank.core.registry import Registry
from corank.datasets.importer import IMPORTERS
from corank.datasets.simulated import WORLDS
from corank.engine.base import ENGINES
from corank.features.feature_kind import FEATURE_KINDS
from corank.losses.base import LOSSES
from corank.models.settings.stage import STAGE_MODELS
from corank.serving.store.base import STORES

pytestmark = pytest.mark.slow

ROOT = Path(corank.__file__).parent

FILES_OF_A_FOLDER = 20
LINES_OF_A_FILE = 500
LINES_OF_A_FUNCTION = 60

LONG_FILES: dict[str, str] = {}
"""Files that may be longer than LINES_OF_A_FILE → why."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


REGISTRIES = [FEATURE_KINDS, LOSSES, STAGE_MODELS, STORES, IMPORTERS, WORLDS, ENGINES]


@dataclass(frozen=True)
class Found:
    """A function, method or class of a file."""

    file: str
    name: str
    """With the names of the classes around it."""
    node: Definition
    nested: bool
    """Whether it is in a function."""

    @property
    def public(self) -> bool:
        """Whether users and other files may name it."""
        return not self.nested and not any(part.startswith("_") for part in self.name.split("."))

    @property
    def where(self) -> str:
        """File, line and name, for a message."""
        return f"{self.file}:{self.node.lineno} {self.name}"

    def member(self) -> object:
        """The defined object, imported."""
        module = self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return attrgetter(self.name)(importlib.import_module(f"corank.{module}"))


@cache
def sources() -> dict[str, ast.Module]:
    """Every file of the package, by its path."""
    return {
        str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(ROOT.rglob("*.py"))
    }


def definitions(file: str, tree: ast.AST, around: str = "", nested: bool = False) -> Iterator[Found]:
    """Functions, methods and classes of a file, at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS) and any(ast.unparse(d) == "overload" for d in node.decorator_list):
            continue  # only types; the definition follows
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            name = f"{around}{node.name}"
            yield Found(file, name, node, nested)
            yield from definitions(file, node, f"{name}.", nested or isinstance(node, FUNCTIONS))
        else:
            yield from definitions(file, node, around, nested)


@cache
def all_definitions() -> list[Found]:
    """The definitions of every file."""
    return [definition for file, tree in sources().items() for definition in definitions(file, tree)]


def doubled(kinds: tuple[type[ast.AST], ...]) -> list[str]:
    """Public names of modules that are defined more than once, and where."""
    places = defaultdict(list)
    for definition in all_definitions():
        if definition.public and "." not in definition.name and isinstance(definition.node, kinds):
            places[definition.name].append(definition.where)
    return [", ".join(where) for where in places.values() if len(where) > 1]


def part_classes(registry: Registry[Any]) -> dict[str, str]:
    """The classes of the parts that come with corank → the file that defines each."""
    parts = [registry[name] for name in registry]
    own = [part for part in parts if part.__module__.startswith("corank.")]
    return {part.__name__: part.__module__.removeprefix("corank.").replace(".", "/") + ".py" for part in own}


def refuse(violations: Iterable[str]) -> None:
    """Fail if there is any, and list them all."""
    lines = sorted(violations)
    assert not lines, "\n".join(["", *lines])


def test_a_folder_has_few_files() -> None:
    folders = [ROOT, *(path for path in ROOT.rglob("*") if path.is_dir())]
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("[!_]*.py"))) for folder in folders}
    refuse(f"{name}: {count} files" for name, count in counts.items() if count > FILES_OF_A_FOLDER)


def test_a_file_is_short_or_says_why_not() -> None:
    lines = {file: (ROOT / file).read_text(encoding="utf-8").count("\n") for file in sources()}
    long = {file: count for file, count in lines.items() if count > LINES_OF_A_FILE}
    refuse(f"{file}: {count} lines" for file, count in long.items() if file not in LONG_FILES)
    refuse(f"{file} is short now" for file in LONG_FILES if file not in long)


def test_a_function_can_be_seen_whole() -> None:
    functions = [definition for definition in all_definitions() if isinstance(definition.node, FUNCTIONS)]
    lengths = {
        definition.where: (definition.node.end_lineno or 0) - definition.node.lineno + 1
        for definition in functions
    }
    refuse(f"{where}: {n} lines" for where, n in lengths.items() if n > LINES_OF_A_FUNCTION)


def test_a_class_has_a_name_of_its_own() -> None:
    refuse(doubled((ast.ClassDef,)))


def test_a_function_has_a_name_of_its_own() -> None:
    refuse(doubled(FUNCTIONS))


def test_what_is_public_has_a_docstring() -> None:
    """A method that overrides one of a base class may leave it to that one's."""
    public = [
        definition
        for definition in all_definitions()
        if definition.public and not ast.get_docstring(definition.node)
    ]
    refuse(
        definition.where
        for definition in public
        if "." not in definition.name or not inspect.getdoc(definition.member())
    )


def test_a_module_says_what_it_is() -> None:
    refuse(file for file, tree in sources().items() if tree.body and not ast.get_docstring(tree))


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: str(r.sort))
def test_no_part_is_told_apart_by_its_class(registry: Registry[Any]) -> None:
    """Code that asks for the class of a part would have to change with every part that is added."""
    homes = part_classes(registry)
    refuse(
        f"{file}:{node.lineno} {name}"
        for file, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")
        for name in {
            n.id for argument in node.args[1:] for n in ast.walk(argument) if isinstance(n, ast.Name)
        }
        if name in homes and homes[name] != file
    )
