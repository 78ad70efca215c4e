import ast

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from corank.core.ordering import MAX_LENGTH, Formula

KNOWN = ("click", "bid", "long-view")
COLUMNS = {"a": np.array([3.0, -2.0, 0.0]), "b": np.array([2.0, 0.5, 4.0]), "c": np.array([5.0, 1.0, -1.0])}


def value(text: str) -> list[float]:
    values: list[float] = Formula.parse(text)(COLUMNS).tolist()
    return values


def refused(text: str) -> str:
    with pytest.raises(ValueError) as error:
        Formula.parse(text, KNOWN)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * c", [13, -1.5, -4]),
        ("c / (b / 2)", [5, 4, -0.5]),
        ("-a ** 2", [-9, -4, 0]),
        ("b ** -1", [0.5, 2, 0.25]),
        ("b ** 2 ** 3", [256, 0.5**8, 65536]),
    ],
)
def test_values_by_hand(text: str, expected: list[float]) -> None:
    assert value(text) == expected


def test_a_label_of_any_name_orders_alone() -> None:
    for odd in ("long-view", "30s views", "True", "x" * (MAX_LENGTH + 1)):
        formula = Formula.parse(f" {odd} ", [odd])
        assert (formula.names, formula.single) == ((odd,), odd)
        assert formula({odd: np.array([0.25])}).tolist() == [0.25]
    assert refused("long-view * bid") == "unknown name 'long'; did you mean 'long-view'?"
    assert Formula.parse("long-view").names == ("long", "view")  # a difference, unless there is such a label


def test_unknown_names_are_refused_with_a_near_one() -> None:
    assert refused("clik * bid") == "unknown name 'clik'; did you mean 'click'?"
    assert refused("click * zzz") == "unknown name 'zzz'; known names: bid, click, long-view"
    assert Formula.parse("zzz").names == ("zzz",)  # every name is accepted where no names are given


REFUSED = {
    "abs(click)": "abs(click)",
    "click * bid.real": "bid.real",
    "click[0]": "click[0]",
    "click * f'{bid}'": "f'{bid}'",
    "~click": "~click",
    "click if bid else 1": "click if bid else 1",
    "lambda: click": "lambda: click",
    "(click := 1)": "(click := 1)",
    "click // bid": "click // bid",
    "True": "True",
    "click * 1j": "1j",
    "click * 1e999": "1e309",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_neither_a_number_a_name_nor_arithmetic_has_no_place(text: str) -> None:
    assert refused(text) == (f"{REFUSED[text]!r} is not allowed; use names, numbers, + - * / ** and brackets")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "click *",
        "click; bid",
        "click\0",
    ],
)
def test_what_does_not_parse_is_no_expression(text: str) -> None:
    assert refused(text) == f"{text!r} is not an expression; write one such as click * bid"


def test_an_expression_names_something() -> None:
    assert refused("1 + 2") == "'1 + 2' names no label, so that all candidates would be alike"


def test_huge_expressions_are_refused() -> None:
    longest = "a" + "+a" * ((MAX_LENGTH - 1) // 2) + " "
    assert len(longest) == MAX_LENGTH
    assert value(longest) == [3.0 * (MAX_LENGTH // 2), -2.0 * (MAX_LENGTH // 2), 0]
    assert refused("(" * 300 + "click" + ")" * 300) == "expected at most 500 characters; received 605"


def test_what_has_no_place_may_be_nested_deeply() -> None:
    assert refused("~" * 490 + "click")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("click / 0", "'click / 0' divides by 0"),
        ("click / (2 - 2.0) * bid", "'click / (2 - 2.0)' divides by 0"),
        ("click * 9**9**9**9", "'9 ** 9 ** 9' has the exponent 3.8742e+08; write one from -32 to 32"),
        ("bid ** 1000", "'bid ** 1000' has the exponent 1000; write one from -32 to 32"),
        ("bid ** (3 - 36)", "'bid ** (3 - 36)' has the exponent -33; write one from -32 to 32"),
        ("click * 1e200 ** 2", "'1e+200 ** 2' is inf; write numbers with a result below 1e+300"),
        (
            "click * (1e200 * 1e100)",
            "'1e+200 * 1e+100' is 1e+300; write numbers with a result below 1e+300",
        ),
        ("click * 0 ** (1 - 2)", "'0 ** (1 - 2)' is inf; write numbers with a result below 1e+300"),
        ("click + (-1) ** .5", "'(-1) ** 0.5' is nan; write numbers with a result below 1e+300"),
    ],
)
def test_numbers_that_leave_no_value_are_refused(text: str, message: str) -> None:
    assert refused(text) == message


def test_exponents_may_be_columns_and_small_numbers() -> None:
    assert value("b ** (a - 3) * 2 ** 32 / 2 ** 32 * b ** 32 / b ** 32") == [1.0, 32.0, 0.25**3]


# Of powers of two, whose own powers are exact on every machine; written with blanks or without
bases = st.sampled_from(["a", "b", "c", "1.", "2.0", ".5", "4e0"])
exponents = st.sampled_from(["-2", "- 1", "0", "1", "2", "3", "2 ** 2", "-(1)", "(0)"])
atoms = (
    bases | st.builds("{} **{}".format, bases, exponents) | st.builds("({})** {}".format, bases, exponents)
)
expressions = st.recursive(
    atoms,
    lambda inner: (
        st.builds("{}{}{}".format, inner, st.sampled_from(["+", " - ", "*", " /", "-", "/ "]), inner)
        | st.builds("({})".format, inner)
        | st.builds("{}{}".format, st.sampled_from(["-", "+", "- "]), inner)
    ),
    max_leaves=12,
)
powers = st.sampled_from([-4.0, -1.0, -0.5, 0.25, 1.0, 2.0, 8.0])


@given(expressions, st.lists(st.tuples(powers, powers, powers), min_size=1, max_size=4))
def test_values_are_those_of_python(text: str, rows: list[tuple[float, float, float]]) -> None:
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assume(used)
    try:
        parsed = Formula.parse(text, ["a", "b", "c"])
    except ValueError as error:
        assert "divides by 0" in str(error)
        with pytest.raises(ZeroDivisionError):
            eval(text, {"__builtins__": {}}, dict.fromkeys("abc", 1.0))
        return
    assert set(parsed.names) == used
    values = parsed(dict(zip("abc", np.array(rows).T, strict=True)))
    for one, row in zip(values.tolist(), rows, strict=True):
        try:
            expected = eval(text, {"__builtins__": {}}, dict(zip("abc", row, strict=True)))
        except ZeroDivisionError:  # numpy continues with an infinity
            continue
        assert one == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
