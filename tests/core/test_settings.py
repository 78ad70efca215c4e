"""Frozen settings: unknown keys and wrong values are refused by the path of their key."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, ValidationError

from corank.core.errors import ConfigError
from corank.core.settings import Duration, Settings, build_once, describe_unknown, validate


class Circle(Settings):
    kind: Literal["circle"]
    radius: float


class Square(Settings):
    kind: Literal["square"]
    side: float


class Drawing(Settings):
    name: str
    copies: PositiveInt = 1
    levels: list[str] = Field(default=["low"], alias="from")
    every: Duration = timedelta()
    shapes: list[Annotated[Circle | Square, Field(discriminator="kind")]] = []


def refused(value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Drawing, value, "a.yaml")
    return str(caught.value)


def test_an_unknown_key_names_the_nearest() -> None:
    assert (
        refused({"name": "x", "copis": 2})
        == "a.yaml: (top level): unknown key 'copis'; did you mean 'copies'?"
    )


def test_an_unknown_key_like_no_other_lists_all() -> None:
    assert describe_unknown("zzz", ["b", "a"]) == "unknown key 'zzz'; known keys: a, b"
    assert describe_unknown(7, ["a"]) == "unknown key '7'; known keys: a"


def test_the_path_is_the_one_that_the_user_wrote() -> None:
    """The union's tag, which pydantic puts into its path, is no key of the file."""
    shapes = [{"kind": "square", "side": 1}, {"kind": "circle", "radius": "wide"}]
    message = refused({"name": "x", "shapes": shapes})
    assert message.startswith("a.yaml: shapes.1.radius: ") and message.endswith("received 'wide'")


def test_a_missing_key_is_named() -> None:
    assert refused({"copies": 1}) == "a.yaml: name: required, but not given"
    assert refused({"name": "x", "shapes": [{"kind": "circle"}]}) == (
        "a.yaml: shapes.0.radius: required, but not given"
    )


def test_every_fault_has_its_line() -> None:
    lines = refused({"copies": 0, "shapes": 3, "every": "soon"}).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["name", "copies", "every", "shapes"]
    assert lines[2] == "a.yaml: every: expected a duration such as 30m, 1h or 3d; received 'soon'"


def test_an_unknown_kind_names_those_there_are() -> None:
    message = refused({"name": "x", "shapes": [{"kind": "star"}]})
    assert message.startswith("a.yaml: shapes.0: ") and "'circle', 'square'" in message


def test_an_alias_is_a_known_key() -> None:
    assert validate(Drawing, {"name": "x", "from": ["high"]}, "a.yaml").levels == ["high"]


def test_settings_are_frozen() -> None:
    drawing = validate(Drawing, {"name": "x"}, "a.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        drawing.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("30m", 1800), ("1h", 3600), ("3d", 259200)]
)
def test_durations(text: str, seconds: int) -> None:
    drawing = validate(Drawing, {"name": "x", "every": text}, "a.yaml")
    assert drawing.every == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "h", "1w", "-1h", "1.5h", "1 h", 3600])
def test_what_is_no_duration(text: object) -> None:
    assert "expected a duration" in refused({"name": "x", "every": text})


@given(st.integers(0, 10**9))
def test_a_duration_is_written_as_it_is_read(seconds: int) -> None:
    drawing = Drawing(name="x", every=timedelta(seconds=seconds))
    written = drawing.model_dump(mode="json", by_alias=True)
    assert Drawing.model_validate(written) == drawing


def test_what_is_built_of_settings_is_built_again_once_they_are_others() -> None:
    built: list[list[str]] = []

    def note(shapes: Mapping[str, Circle | Square]) -> dict[str, Circle | Square]:
        built.append(list(shapes))
        return dict(shapes)

    build = build_once(note)
    circle, square = Circle(kind="circle", radius=1), Square(kind="square", side=1)
    shapes: dict[str, Circle | Square] = {"a": circle, "b": square}
    first = build(shapes)
    assert build(shapes) is first and build(dict(shapes)) is first
    assert list(build({"b": square, "a": circle})) == ["b", "a"]
    shapes["a"] = circle.model_copy(update={"radius": 2})
    assert build(shapes) is not first and first == {"a": circle, "b": square}
    shapes["c"] = circle
    assert list(build(shapes)) == ["a", "b", "c"]
    assert built == [["a", "b"], ["b", "a"], ["a", "b"], ["a", "b", "c"]]


def test_what_a_builder_raises_it_raises_again() -> None:
    def refuse(shapes: Mapping[str, Circle]) -> None:
        raise ConfigError(f"{len(shapes)} shapes")

    build = build_once(refuse)
    for _ in range(2):
        with pytest.raises(ConfigError, match="0 shapes"):
            build({})
