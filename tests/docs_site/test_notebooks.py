"""The notebooks run top to bottom, in kernels of their own, and show what they promise."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.notebooks import NOTEBOOKS, executed

SHOWN = {
    "from_a_log_to_a_judged_cascade": [
        "<th>is_click</th>",  # the log
        "<th>brand</th>",  # the items
        "<th>city</th>",  # the users
        "Which feature enters which tower",  # check
        "kept epoch ",  # the training
        "truth_recall@10@15",  # the cascade
        "Stages side by side",  # the evaluation
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
