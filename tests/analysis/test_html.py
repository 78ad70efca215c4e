"""A page fetches nothing, takes text as text, and is written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from corank.analysis.colours import COLOURS
from corank.analysis.html import render, render_part, write_drawings
from corank.core.errors import CorankError
from corank.core.view import (
    Beside,
    Block,
    Cell,
    Detail,
    Folded,
    Heading,
    Noted,
    Plot,
    Section,
    Table,
    Verdict,
    View,
)
from tests.support.axe import violations
from tests.support.browser import chromium
from tests.support.html import Read


def draw(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="a $ b_1$ <i>")
    axes.pcolormesh(np.eye(2), rasterized=True)
    axes.legend()


def test_a_page_is_one_document_that_fetches_nothing() -> None:
    parts: list[Block] = ["words", Heading("part"), Table(["", "b"], [["c", Noted("1", "0 – 2")]])]
    sections = [
        Section("one", [*parts, Detail([Plot(draw, "caption")])]),
        Section("two", [Folded("more", "a: b\n  c")]),
    ]
    parsed = Read(render(View("title", "lead", sections)))
    assert parsed.foreign == []
    assert any(value.startswith("data:image/png") for value in parsed.fetched)
    assert parsed.tags.count("html") == parsed.tags.count("body") == parsed.tags.count("svg") == 1
    for said in ("title", "lead", "one", "two", "words", "part", "0 – 2", "caption", "more", "a: b\n  c"):
        assert said in parsed.text


def test_a_cell_of_a_notebook_has_text_and_tables_alone() -> None:
    table = Table(["name", "value"], [["a", "1"]], title="some")
    part = render_part(View("title", "lead", [Section("one", ["words", table, Plot(draw, "caption")])]))
    parsed = Read(f"<div>{part}</div>")
    assert "svg" not in parsed.tags and "caption" not in parsed.text
    for said in ("lead", "words", "some", "name", "1"):
        assert said in parsed.text


def worded(words: str) -> View:
    """A view of which each text is the same."""
    cells: list[Cell] = [words, Noted(words, words), Verdict(words, 1)]
    blocks: list[Block] = [words, Heading(words), Table([words] * 3, [cells], words), Folded(words, words)]
    return View(words, words, [Section(words, blocks)])


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_text_is_text(words: str) -> None:
    parsed = Read(render(worded(words)))
    assert parsed.text.count(words) >= 16
    assert set(parsed.tags) == set(Read(render(worded("a"))).tags) - ({"th"} if not words else set())


def test_figures_are_written_by_the_name_of_their_section(tmp_path: Path) -> None:
    """As the page shows them, in the light colours; written again, the bytes are the same."""
    two = Section("Scores / levels: 点击", [Plot(draw, "a"), Beside([[Plot(draw, "b")], ["c"]])])
    document = render(View("title", "lead", [Section("One", [Plot(draw, "d")]), two]))
    names = ["one", "scores-levels-点击-1", "scores-levels-点击-2"]
    written = write_drawings(document, tmp_path / "slides")
    assert sorted(written) == sorted(f"{name}.{kind}" for name in names for kind in ("svg", "png"))
    assert {file.name for file in (tmp_path / "slides").iterdir()} == set(written)
    content = {name: (tmp_path / "slides" / name).read_bytes() for name in written}
    svg = content["one.svg"].decode()
    assert (
        svg.startswith("<?xml") and "a $ b_1$ &lt;i&gt;" in svg and "var(--" not in svg and COLOURS[0] in svg
    )
    assert "var(--hue0)" in document and COLOURS[0] not in document.partition("<body>")[2]
    assert imread(tmp_path / "slides" / "one.png").shape == (750, 1900, 4)
    write_drawings(document, tmp_path / "slides")
    assert content == {name: (tmp_path / "slides" / name).read_bytes() for name in written}
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorankError, match=r"file/one\.svg: cannot be written"):
        write_drawings(document, tmp_path / "file")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1600, True)])
def test_a_page_breaks_no_rule_of_accessibility(tmp_path: Path, width: int, dark: bool) -> None:
    """On a phone in light colours, on a desktop in dark ones."""
    judged = [Verdict("better", 1), Verdict("worse", -1)]
    wide = Table(["", *map(str, range(32))], [[str(n), *judged, *["0.1234"] * 30] for n in range(3)])
    parts: list[Block] = ["words", Heading("part"), Beside([[Plot(draw, "one")], [Plot(draw, "two")]]), wide]
    sections = [Section("a", parts), Section("b", [Folded("more", "a: b")])]
    document = render(View("title", "lead", sections, wide=True))
    (tmp_path / "page.html").write_text(document, encoding="utf-8")
    with chromium(tmp_path / "profile", width, dark) as window:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        window.get((tmp_path / "page.html").as_uri())
        assert violations(window) == []
        assert window.execute_script("return document.documentElement.scrollWidth") <= width
        ground = window.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
