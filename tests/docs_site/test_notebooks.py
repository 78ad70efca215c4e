"""The notebooks run top to bottom, in kernels of their own, and show what they promise."""

import re
from pathlib import Path
from typing import Any

import pytest

from docs_site import notebooks
from docs_site.notebooks import keep_executed, read_notebook, to_page
from tests.support.notebooks import NOTEBOOKS, executed

SHOWN = {
    "from_a_log_to_a_judged_cascade": [
        "<th>is_click</th>",  # the log
        "<th>brand</th>",  # the items
        "<th>city</th>",  # the users
        "<summary>features</summary>",  # check
        "kept epoch ",  # the training
        "truth_recall@10@15",  # the cascade
        "<summary>reliability</summary>",  # the evaluation
        "<iframe srcdoc=",  # the report
    ],
    "what_selection_bias_does": ["truth_recall@10@20", "8 trainings done", "- **strong**: ", "AUC, exposed"],
    "serve_trace_and_roll_out": [
        "<th>scorer</th>",  # the bundle
        "<th>cut by</th>",  # the trace
        "the same items as in process: True",
        "answered by ",
        "roll back",  # in the store's log
    ],
}


def outputs(name: str) -> list[Any]:
    """The outputs of an executed notebook."""
    cells: list[Any] = executed(NOTEBOOKS / f"{name}.ipynb").cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_every_notebook_is_tested_and_kept_without_outputs() -> None:
    import nbformat

    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == SHOWN.keys()
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        for cell in notebook.cells:
            assert cell.metadata == {} and not cell.get("outputs") and cell.get("execution_count") is None, (
                f"{path.name}: clear all outputs before you commit it"
            )


def test_what_was_executed_is_kept_until_the_notebook_or_what_it_runs_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbformat.v4 import new_output

    package, path, kept = tmp_path / "package", tmp_path / "shop.ipynb", tmp_path / "kept"
    package.mkdir()
    monkeypatch.setattr(notebooks, "PACKAGE", package)
    path.write_text((NOTEBOOKS / "what_selection_bias_does.ipynb").read_text(encoding="utf-8"))
    runs = 0

    def run(path: Path) -> Any:
        nonlocal runs
        runs += 1
        notebook = read_notebook(path)
        code = next(cell for cell in notebook.cells if cell.cell_type == "code")
        code.outputs = [new_output("stream", text=f"run {runs}")]  # type: ignore[no-untyped-call]
        return notebook

    def shown() -> str:
        text = to_page(keep_executed(path, kept, run), "shop").text
        return text.partition("~~~~text\nrun ")[2][:1]

    assert [shown(), shown()] == ["1", "1"]
    (package / "module.py").touch()
    assert [shown(), shown()] == ["2", "2"]
    path.write_text(path.read_text(encoding="utf-8").replace("# What", "# Which", 1))
    assert [shown(), shown()] == ["3", "3"]
    assert len([*kept.iterdir()]) == 1
    assert "~~~~text" not in to_page(read_notebook(path), "shop").text

    def fail(path: Path) -> Any:
        raise RuntimeError

    (package / "module.py").unlink()
    with pytest.raises(RuntimeError):
        keep_executed(path, kept, fail)
    (package / "module.py").touch()
    assert shown() == "3"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_and_shows_what_it_promises(name: str) -> None:
    cell_outputs = outputs(name)
    assert not [output for output in cell_outputs if output.output_type == "error"]
    assert not [output.text for output in cell_outputs if output.get("name") == "stderr"]
    text = "\n".join(
        output.text if output.output_type == "stream" else "\n".join(map(str, output.data.values()))
        for output in cell_outputs
    )
    lacking = [part for part in SHOWN[name] if part not in text]
    assert not lacking, f"{name} no longer shows {lacking}"
    assert "<svg" in text
    assert str(Path.home()) not in text


@pytest.mark.slow
def test_a_training_shows_one_bar() -> None:
    cell_outputs = outputs("from_a_log_to_a_judged_cascade")
    bars = [
        output for output in cell_outputs if "kept epoch" in str(output.get("data", {}).get("text/html", ""))
    ]
    trainings = [output for output in bars if output.output_type == "display_data"]
    assert len(trainings) == 1 and trainings[0].data["text/html"].count("<tr>") == 2
    assert sum(output.output_type == "stream" for output in cell_outputs) == 0


@pytest.mark.slow
def test_a_notebook_becomes_a_page_with_its_figures_beside_it() -> None:
    page = to_page(executed(NOTEBOOKS / "from_a_log_to_a_judged_cascade.ipynb"), "shop")
    assert page.text.startswith("# From a log to a judged cascade\n\n<a href=")
    assert {Path(name).suffix for name in page.files} == {".svg", ".html"}
    assert all(f"({name})" in page.text or f'src="{name}"' in page.text for name in page.files)
    frames = [content for name, content in page.files.items() if name.endswith(".html")]
    assert frames[0].startswith("<!") and "srcdoc" not in page.text
    assert not re.search(r"<div class=\"notebook-output\">[^\n]*\n[^\n]", page.text)
