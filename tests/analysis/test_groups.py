"""`corank evaluate --by`: each group is evaluated as if it were the split."""

import json
from pathlib import Path

import numpy as np
import pytest

import corank
from corank.analysis.run_evaluation import predict_run
from corank.core.errors import DataError
from corank.metrics.point import auc
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.shared import finished_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run() -> Run:
    return finished_run()


def test_a_group_has_the_metrics_of_its_rows(run: Run) -> None:
    predicted = predict_run(run, "test")
    packed, predictions = predicted.packed, predicted.predictions
    found = corank.evaluate(run.folder, by="tab", bootstrap=False)
    codes = np.concatenate([shard.query.ids for shard in packed.splits["test"]])
    column = packed.schema.row_features("query").ids.index("tab")
    of = codes[:, column][predictions.requests.request_of]
    assert found["run"]["whole_requests"]
    sizes = {row["group"]: row["n"] for row in found["rows"] if row["metric"] == "candidates"}
    assert len(sizes) == len(np.unique(of))
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    for group in sizes:
        code = {str(packed.encoders.fitted["tab"].decode(int(c))): c for c in np.unique(of)}[group]
        rows = (of == code) & predictions.exposed
        args = predictions.requests.user_of()[rows], predictions.logits["rank"]["click"][rows]
        expected = auc(*args, predictions.labels["click"][rows]).value()
        assert found.row("rank.exposed.click.auc", group=group)["value"] == pytest.approx(expected)
        assert [row for row in found["rows"] if (row["group"], row["population"]) == (group, "cascade")]


def test_days_are_in_order_and_add_up(run: Run) -> None:
    whole, by_day = (
        corank.evaluate(run.folder, "train", bootstrap=False),
        corank.evaluate(run.folder, "train", by="day"),
    )
    requests = {row["group"]: row["n"] for row in by_day["rows"] if row["metric"] == "requests"}
    names = [*requests]
    assert names == sorted(names) and names[0] == "2026-03-01"
    assert sum(requests.values()) == whole.row("rows.requests")["n"]
    assert by_day.row("rank.exposed.click.auc", group=names[0])["low"] is not None


def test_what_cannot_be_grouped_by_is_refused(run: Run) -> None:
    with pytest.raises(DataError, match=r"--by: unknown feature or column 'tabb'; did you mean 'tab'\?"):
        corank.evaluate(run.folder, by="tabb")
    with pytest.raises(DataError, match="--page needs --by"):
        corank.evaluate(run.folder, page=Path("page.html"))
    with pytest.raises(DataError, match="leave out --by"):
        corank.evaluate(run.folder, by="day", reference=run.folder)


def test_the_command_prints_a_table_and_writes_a_page(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, text, _ = run_corank(capsys, "evaluate", run.folder, "--by", "tab", "--page", page)
    assert code == 0 and "click: auc" in text and "prerank" in text and " … " in text
    content = page.read_text(encoding="utf-8")
    assert content.startswith("<!DOCTYPE html>") and "auc of click by tab" in content
    _, text, _ = run_corank(capsys, "evaluate", run.folder, "--by", "tab", "--json")
    assert json.loads(text)["run"]["by"] == "tab"
