"""The report of a run: what it shows, and its text where there is nothing to show."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import corank
from corank.analysis import report_figures as run_figures
from corank.core.errors import CheckpointError, CorankError, DataError
from corank.core.formatting import format_metric
from corank.training.run import Run
from tests.support.html import Read
from tests.support.shared import copy_run
from tests.support.simulated_runs import make_world, trained_run

pytestmark = pytest.mark.slow

Sections = dict[str, str]
"""Title → markup."""

TOWERS = "model: towers, query: [8, 4], item: [8, 4]"
MLP = "model: mlp, hidden: [8]"
RICH = (
    "name=rich",
    "data.truth=null",
    "data.labels.a<b>&$c$={column: is_click}",
    f"stages=[{{name: first, {TOWERS}, cuts: [retrieved], keep: 18}}, {{name: second, {TOWERS}, keep: 12}}, "
    f"{{name: third, {MLP}, keep: 5, labels: [click, a<b>&$c$]}}]",
    "losses=[{kind: click, stage: first}, {kind: click, stage: second}, {kind: click, stage: third}, "
    "{kind: click, stage: third, label: a<b>&$c$}]",
)
ALONE = ("name=alone", f"stages=[{{name: rank, {MLP}, keep: 5}}]", "losses=[{kind: click, stage: rank}]")


def read_report(run: Run, split: str = "test") -> tuple[str, Sections]:
    """The page, checked to be complete and to fetch nothing, and its sections."""
    path = corank.report(run.folder, split=split).location
    assert path == run.folder / "report.html"
    document = path.read_text(encoding="utf-8")
    assert Read(document).foreign == []
    assert len(document) < 1_000_000
    parts = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", document, flags=re.DOTALL)
    return document, dict(parts)


def plots(sections: Sections) -> dict[str, int]:
    return {title: part.count("<svg ") for title, part in sections.items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a world of 240 requests."""
    return make_world(tmp_path_factory.mktemp("small"), requests=240)


@pytest.fixture(scope="module")
def exposures(small: Path) -> Callable[..., Run]:
    """A run of the small world's exposed rows, those of the test days cut down by a function."""

    def run(name: str, cut: Callable[[pl.DataFrame], pl.DataFrame]) -> Run:
        log = pl.read_parquet(small.parent / "log" / "*.parquet").filter(pl.col("level") == "exposed")
        late = pl.col("time").dt.date() == log["time"].dt.date().max()
        pl.concat([log.filter(~late), cut(log.filter(late))]).write_parquet(small.parent / f"{name}.parquet")
        changes = (f"name={name}", f"data.log={name}.parquet", "data.level=null", "data.truth=null")
        losses = "losses=[{kind: click, stage: prerank}, {kind: click, stage: rank}]"
        cuts = ("stages.0.cuts=[]", "stages.1.cuts=[]")
        return trained_run(small, small.parent / "runs" / name, *changes, *cuts, losses)

    return run


@pytest.fixture(scope="module")
def trained(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the run, since a report is written to its folder."""
    return copy_run(trained, tmp_path_factory.mktemp("copy") / "run")


@pytest.fixture(scope="module")
def two_stages(trained: Run) -> tuple[str, Sections]:
    return read_report(trained)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports export no bundle to time it, which takes as long as the rest. Other tests time one."""

    def one_each(evaluated: object, requests: object, quotas: list[int]) -> NDArray[np.float64]:
        return np.ones(len(quotas))

    monkeypatch.setattr(run_figures, "quota_cpu_ms", one_each)


def test_two_stages(trained: Run, two_stages: tuple[str, Sections]) -> None:
    document, sections = two_stages
    assert plots(sections) == {
        "Summary": 0,
        "Stages side by side": 0,
        "The cascade": 0,
        "Quota curve": 1,
        "Best candidate cut": 1,
        "Calibration": 1,
        "Scores by level": 1,
        "Ranks by stage": 1,
        "Training": 2,
        "Config": 0,
    }
    evaluation = corank.evaluate(trained.folder)
    for stage in ("prerank", "rank"):
        for figures in evaluation["stages"][stage].values():
            click = figures["click"]
            beside = [*click.pop("random", {}).values(), *click.pop("eligible", {}).values()]
            for value in [*click.values(), *beside]:
                if not value:  # no request shows more than the ten of hit@10
                    continue
                said = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
                assert f"<td>{said}<" in sections["Stages side by side"]
    for name, requests in evaluation["cascade"]["eligible"].items():
        low, high = evaluation["interval"]["cascade"][name]
        row = (
            f"<td>{name}</td><td>{evaluation['cascade'][name]:.4f}<small>{low:.4f} … {high:.4f}</small></td>"
        )
        assert row in sections["The cascade"]
        better = "lower" if name.startswith(("score_loss", "best_score_loss", "best_cut")) else "higher"
        assert f"<td>{requests:,}</td><td>{better}</td></tr>" in sections["The cascade"]
    assert f"{evaluation['requests']:,} requests of" in document
    auc, recall = (
        evaluation["stages"]["rank"]["exposed"]["click"]["auc"],
        evaluation["cascade"]["click_recall@18"],
    )
    assert f"an AUC of {auc:.4f} (95 % interval " in sections["Summary"]
    assert f"prerank keeps {recall:.4f} (95 % interval " in sections["Summary"]
    assert next(iter(sections)) == "Summary"
    assert f"<h1>{trained.config.name}, {trained.folder.name}: prerank → rank</h1>" in document
    assert f"seed {trained.config.train.seed}" in document.partition("<section>")[0]
    for name in ("rank.click", "prerank.click", "prerank.unexposed", "prerank.in_batch"):
        assert f">{name}<" in sections["Training"]
    for name in ("retrieved", "preranked", "ranked", "exposed"):
        assert f">{name}<" in sections["Scores by level"]
    for line in ("rank's top 6", "true top 6", "clicks", "random order"):
        assert f">{line}<" in sections["Quota curve"]


@pytest.mark.usefixtures("untimed")
def test_the_same_run_gives_the_same_page_but_for_the_cpu_time(
    trained: Run, two_stages: tuple[str, Sections]
) -> None:
    _, sections = read_report(trained)
    timed = {"Quota curve": sections["Quota curve"]}
    assert sections == two_stages[1] | timed


@pytest.mark.thorough
@pytest.mark.usefixtures("untimed")
def test_two_runs_side_by_side(small: Path, tmp_path: Path) -> None:
    """Figures of both, losses over each other, the differences of `corank compare`, and what differs in the configs."""
    world = small.parent / "runs"
    one = trained_run(small, world / "one", "name=one")
    other = trained_run(small, world / "seed7", "name=seed7", "train.seed=7")
    path = corank.report(one.folder, against=other.folder, figures=tmp_path / "slides").location
    assert path == one.folder / "report-against-seed7.html"
    document = path.read_text(encoding="utf-8")
    assert Read(document).foreign == []
    sections = dict(re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", document, flags=re.DOTALL))
    beside = dict.fromkeys(("Quota curve", "Best candidate cut", "Calibration", "Scores by level"), 2)
    beside |= {"Ranks by stage": 2, "Training": 2}
    assert {title: count for title, count in plots(sections).items() if title in beside} == beside
    assert ">a prerank.click<" in sections["Training"] and ">b prerank.click<" in sections["Training"]
    for title in ("Quota curve", "Ranks by stage"):
        assert "<h3>a: one</h3>" in sections[title] and "<h3>b: seed7</h3>" in sections[title]
    compared = corank.compare(one.folder, other.folder)
    for metric, figure in compared["stages"]["rank"]["exposed"]["click"].items():
        row = f"<td>{metric}</td><td>{format_metric(figure['a'])}</td><td>{format_metric(figure['b'])}</td>"
        assert f"{row}<td>{figure['difference']:+.4f}<small>" in sections["rank: click, exposed"]
    assert "<h1>one against seed7</h1>" in document and next(iter(sections)) == "Summary"
    for key, *values in (("name", "one", "seed7"), ("train.seed", "0", "7")):
        row = "".join(f'<td class="prose">{value}</td>' for value in values)
        assert f"<tr><td>{key}</td>{row}</tr>" in sections["What is compared"]
    files = {file.name for file in (tmp_path / "slides").iterdir()}
    assert {"quota-curve-1.svg", "quota-curve-2.png", "training-1.svg", "cascade.png"} <= files
    assert len(files) == 2 * document.count("<svg ")


@pytest.mark.thorough
def test_three_stages_two_labels_and_no_truth(small: Path) -> None:
    document, sections = read_report(trained_run(small, small.parent / "runs" / "rich", *RICH))
    assert "<b>&$c$" not in document
    assert "<h3>a&lt;b&gt;&amp;$c$</h3>" in sections["Calibration"]
    assert plots(sections)["Calibration"] == 2
    for name in ("first", "second"):
        assert re.search(rf">rank by {name} \(keeps", sections["Ranks by stage"])
    for name in ("first keeps 18", "second keeps 12"):
        assert f">{name}<" in sections["Best candidate cut"] and f"{name}: " in sections["Best candidate cut"]
    assert "random bucket" not in sections["Best candidate cut"]
    assert "true top" not in sections["Quota curve"] and ">third's top 5<" in sections["Quota curve"]
    assert "Undefined here: truth_recall@5@18" in sections["The cascade"]


@pytest.mark.thorough
def test_a_single_stage(small: Path) -> None:
    run = trained_run(small, small.parent / "runs" / "alone", *ALONE)
    _, sections = read_report(run)
    assert "single stage" in sections["The cascade"]
    for title in ("Quota curve", "Best candidate cut", "Ranks by stage"):
        assert "it takes two stages" in sections[title]
    assert plots(sections)["Calibration"] == plots(sections)["Scores by level"] == 1
    assert plots(sections)["Training"] == 2
    shutil.rmtree(run.folder / "events")
    assert "holds no TensorBoard events" in read_report(run)[1]["Training"]


@pytest.mark.thorough
def test_a_log_of_exposures(exposures: Callable[..., Run]) -> None:
    _, sections = read_report(exposures("shown", lambda log: log))
    assert "requests of more than the 6 candidates that rank keeps" in sections["Quota curve"]
    assert "requests of more candidates than a stage before the last" in sections["Best candidate cut"]
    assert "click_recall@18" in sections["The cascade"].partition("Undefined here")[2]
    assert "nothing cut to compare" in sections["Scores by level"]
    assert plots(sections)["Scores by level"] == plots(sections)["Ranks by stage"] == 1


@pytest.mark.thorough
def test_a_split_of_two_rows_without_clicks(exposures: Callable[..., Run]) -> None:
    """One candidate per request, so that there is no order."""

    def two(log: pl.DataFrame) -> pl.DataFrame:
        return log.filter(is_click=0).unique("request_id", maintain_order=True).head(2)

    run = exposures("two", two)
    _, sections = read_report(run)
    assert "Nothing to evaluate: no request has more candidates than" in sections["The cascade"]
    assert "0 of 2 exposed rows are click" in sections["Calibration"]
    assert "of more than one candidate" in sections["Ranks by stage"]
    assert plots(read_report(run, "train")[1])["Calibration"] == 1


@pytest.mark.usefixtures("untimed")
def test_what_cannot_be_reported_is_refused(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a run \(it has no run.json\)"):
        corank.report(tmp_path)
    with pytest.raises(DataError, match=r"no split 'tset': data\.split gives train, valid, test;"):
        corank.report(trained.folder, tmp_path / "a.html", "tset")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorankError, match=r"file/a\.html: cannot be written"):
        corank.report(trained.folder, tmp_path / "file" / "a.html")
    unfinished = Run.create(tmp_path / "run", trained.config, trained.base)
    with pytest.raises(CheckpointError, match="training has not finished"):
        corank.report(unfinished.folder)
    assert not list(tmp_path.rglob("*.html"))
