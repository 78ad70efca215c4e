"""Tables of docs/results: what writes them, which are older than their benchmark, and which no benchmark writes."""

import re
from collections import Counter

import pytest

from docs_site.pages import ROOT
from docs_site.plots import PLOT, read_plot
from docs_site.result_tables import (
    RESULTS,
    TABLE,
    PageError,
    ResultTable,
    code_of,
    hash_code,
    read_tables,
    write_tables,
)

PAGES = sorted(RESULTS.glob("*.md"))
TABLES = [(page.name, table) for page in PAGES for table in read_tables(page.read_text(encoding="utf-8"))]
TO_RENEW = {
    ("daily.md", "daily_churn"),
    ("logs.md", "real_logs"),
    ("peers.md", "peers"),
    ("cascades.md", "cascades"),
    ("logs.md", "ablation"),
    ("logs.md", "feature_cost"),
    ("serving.md", "soak"),
    ("serving.md", "hot_swap"),
    ("joint-training.md", "defaults"),
}
"""Page and benchmark of tables that an earlier state of the benchmark's code measured. A renewal takes its row away."""
BY_HAND = {"cascades.md": 1, "joint-training.md": 3, "selection-bias.md": 1, "serving.md": 1}
"""Tables of figures that no benchmark has written: of experiments, `defaults --random`, several benchmarks."""
FIGURE = re.compile(r"\**[−+]?\.?\d")
EXACT = re.compile(r"(?<![\w.,])(?:\d+(?:,\d{3})+|\d*\.\d+)(?![\d.,]*\d| ?[%万])")
"""Decimals and thousands; no percent, which README gives of means, and no unit of Chinese."""
DOCUMENT = {
    "name": "vectors",
    "machine": "a machine",
    "date": "2026-12-02",
    "code": "0123456789ab",
    "figures": {
        "weak.clicks.recall": 0.5,
        "weak.lcron-clicks.recall": -0.1234,
        "weak.lcron-clicks.recall.low": -0.2,
        "weak.lcron-clicks.recall.high": -0.1,
        "weak.status": "ok",
        "strong.clicks.recall": 1,
    },
}
PAGE = """\
<!-- table:
benchmark: vectors
args: DIR
key: "{column}.{row}.recall"
head: end
rows: {clicks: "`clicks`", "*-clicks": [null, "+.3f"]}
columns: {weak: , strong: production}
plot: [weak]
-->
SHOWN<!-- /table: CODE -->
"""
SHOWN = """
<!-- plot: weak -->
| end | weak | production |
|---|---|---|
| `clicks` | .500 | 1 |
| `lcron` | **−.123 [−.200, −.100]** |  |

a machine, 2026-12-02.

"""


def cells(table: ResultTable) -> list[list[str]]:
    """The cells of a table that is shown, without the line below its head."""
    rows = [line.strip("| ").split(" | ") for line in table.shown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize(("page", "table"), TABLES)
def test_a_table_shows_the_rows_and_columns_that_it_names(page: str, table: ResultTable) -> None:
    head, *rows = cells(table)
    columns = [value if isinstance(value, list) else [value] for value in table.says["columns"].values()]
    named = [str(words or key) for key, (words, *_) in zip(table.says["columns"], columns, strict=True)]
    assert head == [table.says["head"], *named]
    globs = any("*" in str(key) for key in table.says["rows"])
    words = [value[0] if isinstance(value, list) else value for value in table.says["rows"].values()]
    listed = [str(word or key) for word, key in zip(words, table.says["rows"], strict=True)]
    assert globs or [row[0] for row in rows] == listed
    assert set(table.says.get("plot", [])) <= set(head)


def test_tables_are_as_old_as_their_benchmark() -> None:
    older = {
        (page, table.says["benchmark"]): table.command
        for page, table in TABLES
        if table.code != code_of(table.says["benchmark"])
    }
    new = [f"{page}: {command}" for (page, name), command in older.items() if (page, name) not in TO_RENEW]
    assert not new, "tables are older than their benchmark; run its command, or list them in TO_RENEW"
    assert not TO_RENEW - older.keys(), "renewed: take these out of TO_RENEW"


def test_other_tables_of_figures_are_known() -> None:
    found: Counter[str] = Counter()
    for page in PAGES:
        text = TABLE.sub("", page.read_text(encoding="utf-8"))
        for table in re.findall(r"^(?:\|.*\n)+", text, re.MULTILINE):
            rows = [line.strip("|\n ").split(" | ")[1:] for line in table.splitlines()[2:]]
            found[page.name] += any(FIGURE.match(cell.strip()) for row in rows for cell in row)
    assert {page: count for page, count in found.items() if count} == BY_HAND


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_figures_of_the_readme_are_on_the_pages_that_it_links_to(name: str) -> None:
    found = 0
    # paragraphs, items of lists, cells of tables
    for part in re.split(r"\n\n|\n(?=-)| \| ", (ROOT / name).read_text(encoding="utf-8")):
        linked = re.findall(r"\]\((docs/results/[a-z-]+\.md)", part)
        told = {
            figure for page in linked for figure in EXACT.findall((ROOT / page).read_text(encoding="utf-8"))
        }
        figures = set(EXACT.findall(re.sub(r"\]\([^)]*\)", "", part))) if linked else set()
        assert figures <= told, linked
        found += len(figures)
    assert found >= 10


def test_a_document_is_written_between_the_comments() -> None:
    empty, full = (PAGE.replace("CODE", code) for code in ("-", "0123456789ab"))
    written, left = write_tables(f"above\n{empty.replace('SHOWN', '')}below\n", DOCUMENT)
    assert written == f"above\n{full.replace('SHOWN', SHOWN)}below\n" and not left
    assert write_tables(written, DOCUMENT | {"name": "other"}) == (written, [])


def test_a_table_that_a_document_cannot_fill_is_left_as_it_is() -> None:
    lacking = DOCUMENT | {"figures": {"weak.clicks.recall": 0.5}}
    written, left = write_tables(PAGE, lacking)
    assert written == PAGE
    assert left == ["scripts/bench vectors DIR --page: no figure of the column strong"]
    with pytest.raises(PageError, match=r"args, benchmark, columns, head, .* key, plot, rows; received row"):
        list(read_tables(PAGE.replace("rows:", "row:")))


def test_of_differences_and_what_they_are_from_the_differences_are_drawn() -> None:
    rows = "| a | weak |\n|---|---|\n| clicks | .50 |\n| more | +.02 [+.01, +.03] |\n| less | **−.02 [−.03, −.01]** |\n"
    found = PLOT.search(f"<!-- plot: weak -->\n{rows}")
    assert found and read_plot(found) == {"weak": {"more": (0.02, 0.01, 0.03), "less": (-0.02, -0.03, -0.01)}}


def test_a_hash_is_of_what_is_computed_and_imported() -> None:
    files = {
        "benchmarks/a.py": '"""A."""\nfrom benchmarks import b, harness\n\n# why\nprint(b.X)\n',
        "benchmarks/b.py": "X = 1\n",
        "benchmarks/harness.py": "1 / 0\n",
    }
    first = hash_code("benchmarks/a.py", files.get)
    alike = files | {
        "benchmarks/a.py": "import benchmarks.b as b\nfrom benchmarks.b import X\nprint(\n    b.X)"
    }
    assert hash_code("benchmarks/a.py", alike.get) == first
    for path in ("benchmarks/a.py", "benchmarks/b.py"):
        assert hash_code("benchmarks/a.py", (files | {path: files[path] + "Y = 2\n"}).get) != first


def test_pages_name_benchmarks_that_there_are() -> None:
    known = {path.stem for path in ROOT.glob("benchmarks/*/*.py") if "__main__" in path.read_text("utf-8")}
    texts = [page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "README.md"]]
    named = {name for text in texts for name in re.findall(r"scripts/bench ([a-z_]+)", text)}
    assert named <= known
