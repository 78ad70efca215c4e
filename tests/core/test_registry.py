import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import PositiveInt

from corank.core.errors import ConfigError, PluginError
from corank.core.registry import Registry, by_name, load_plugins
from corank.core.settings import Settings, validate
from corank.testing.parts import registered, unregister
from tests.support.plugin_files import own_imports


class Shape(Settings):
    kind: str


def check(what: str, part: Any) -> None:
    if not issubclass(part, Shape):
        raise PluginError(f"{what} is no Shape")


SHAPES = Registry[type[Shape]]("shape", "tests.no_such_group", "tests.core", check)
SHAPES._loaded = True  # the package holds tests, not shapes


@SHAPES.register("circle")
class Circle(Shape):
    kind: Literal["circle"]
    radius: PositiveInt = 1


class Picture(Settings):
    shapes: list[Annotated[Shape, *by_name(SHAPES, "kind")]] = []


@pytest.fixture
def path(tmp_path: Path) -> Iterator[None]:
    """Python's path and modules as they were, afterwards."""
    with own_imports(tmp_path):
        yield


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"kind": "circle", "radios": 1}, "x: shapes.0: unknown key 'radios'; did you mean 'radius'?"),
        ({"kind": "circel"}, "x: shapes.0: unknown kind 'circel'; did you mean 'circle'?"),
        ({}, "x: shapes.0: 'kind' is required, one of circle"),
    ],
)
def test_what_is_wrong_is_named(shape: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Picture, {"shapes": [shape]}, "x")
    assert message in str(caught.value)


def test_a_name_is_taken_once() -> None:
    SHAPES.add("circle", Circle)  # the same again is no other
    with pytest.raises(PluginError, match=r"shape 'circle': the name .* tests\.core\.test_registry\.Circle"):

        @SHAPES.register("circle")
        class Other(Shape):
            pass


def test_a_plugin_is_found_beside_the_config(tmp_path: Path, path: None) -> None:
    (tmp_path / "ring_shape.py").write_text(
        "from tests.core.test_registry import SHAPES, Shape\n"
        "@SHAPES.register('ring')\nclass Ring(Shape):\n    kind: str = 'ring'\n"
    )
    with registered(SHAPES):
        load_plugins(["ring_shape"], tmp_path)
        assert SHAPES["ring"].__name__ == "Ring"
    assert "ring" not in SHAPES


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent_shape", None, r"no module 'absent_shape' on the Python path and in "),
        ("../x", None, r"expected the dotted name of a module; received '\.\./x'"),
        ("broken_shape", "1 / 0", r"'broken_shape' cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_is_no_use_is_refused(
    name: str, text: str | None, message: str, tmp_path: Path, path: None
) -> None:
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(PluginError, match=message):
        load_plugins([name], tmp_path)


def test_entry_points_are_imported_at_the_first_look_up(
    tmp_path: Path, path: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_shape.py").write_text(
        "from tests.core.test_registry import SHAPES, Shape\n"
        "@SHAPES.register('oval')\nclass Oval(Shape):\n    kind: str = 'oval'\n"
    )
    sys.path.append(str(tmp_path))
    entry = EntryPoint("oval", "installed_shape", "tests.shapes")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([entry]))
    monkeypatch.setattr("pkgutil.iter_modules", lambda path: [])
    monkeypatch.setattr(SHAPES, "_loaded", False)
    assert list(SHAPES) == ["circle", "oval"]
    unregister(SHAPES, "oval")


def test_an_entry_point_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("oval", "no_such_module", "tests.shapes")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([entry]))
    monkeypatch.setattr("pkgutil.iter_modules", lambda path: [])
    monkeypatch.setattr(SHAPES, "_loaded", False)
    with pytest.raises(PluginError, match=r"entry point 'oval' of .* cannot be imported: Module"):
        list(SHAPES)
    assert not SHAPES._loaded  # told again at the next look-up
