"""The report of a run: what it shows, and its text where there is nothing to show."""

import re
from pathlib import Path

import pytest

import corank
from corank.core.errors import CheckpointError, DataError
from corank.core.formatting import format_metric
from corank.testing.worlds import make_world, trained_run
from corank.training.run import Run
from tests.support.html import Read
from tests.support.shared import copy_run

pytestmark = pytest.mark.slow

Sections = dict[str, str]
"""Title → markup."""


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
def trained(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the run, since a report is written to its folder."""
    return copy_run(trained, tmp_path_factory.mktemp("copy") / "run")


@pytest.fixture(scope="module")
def two_stages(trained: Run) -> tuple[str, Sections]:
    return read_report(trained)


def test_two_stages(trained: Run, two_stages: tuple[str, Sections]) -> None:
    document, sections = two_stages
    assert plots(sections) == {
        "The funnel": 0,
        "Stages side by side": 0,
        "The cascade": 0,
        "Quota curve": 1,
        "Calibration": 1,
        "Config": 0,
    }
    evaluation = corank.evaluate(trained.folder)
    for row in evaluation["rows"]:
        if row["population"] in ("exposed", "candidates"):
            for value in (row["value"], row["random"], row["n"] if row["random"] else None):
                if value:  # no request shows more than the ten of hit@10
                    said = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
                    assert f"<td>{said}<" in sections["Stages side by side"]
        if row["population"] in ("cut", "cascade"):
            bounds = f"<small>{row['low']:.4f} … {row['high']:.4f}</small>"
            said = f"<td>{row['metric']}</td><td>{row['value']:.4f}{bounds}</td>"
            assert said in sections["The cascade"]
            better = row["metric"].startswith(("score_loss", "best_score_loss", "best_cut"))
            said = f"<td>{row['n']:,}</td><td>{'lower' if better else 'higher'}</td></tr>"
            assert said in sections["The cascade"]
    assert f"{evaluation.row('rows.requests')['value']:,} requests of" in document
    assert next(iter(sections)) == "The funnel"
    assert f"<h1>{trained.config.name}, {trained.folder.name}: prerank → rank</h1>" in document
    assert f"seed {trained.config.train.seed}" in document.partition("<section>")[0]
    for line in ("rank's top 6", "true top 6", "clicks", "random order"):
        assert f">{line}<" in sections["Quota curve"]


def test_the_same_run_gives_the_same_page(trained: Run, two_stages: tuple[str, Sections]) -> None:
    assert read_report(trained) == two_stages


@pytest.mark.thorough
def test_two_runs_side_by_side(small: Path, tmp_path: Path) -> None:
    """Figures of both, the differences of `corank compare`, and what differs in the configs."""
    world = small.parent / "runs"
    one = trained_run(small, world / "one", "name=one")
    other = trained_run(small, world / "seed7", "name=seed7", "train.seed=7")
    path = corank.report(one.folder, against=other.folder, figures=tmp_path / "slides").location
    assert path == one.folder / "report-against-seed7.html"
    document = path.read_text(encoding="utf-8")
    assert Read(document).foreign == []
    sections = dict(re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", document, flags=re.DOTALL))
    beside = dict.fromkeys(("Quota curve", "Calibration"), 2)
    assert {title: count for title, count in plots(sections).items() if title in beside} == beside
    assert "<h3>a: one</h3>" in sections["Quota curve"] and "<h3>b: seed7</h3>" in sections["Quota curve"]
    compared = corank.compare(one.folder, other.folder)
    rows = [row for row in compared["rows"] if (row["stage"], row["population"]) == ("rank", "exposed")]
    for figure in rows:
        cells = [re.escape(figure["metric"]) + " .*?", *(format_metric(figure[side]) for side in "ab")]
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        difference = re.escape(f"{figure['difference']:+.4f}")
        assert re.search(rf'{row}<td class="left">{difference}<small>', sections["rank: click, exposed"])
    assert "<h1>one against seed7</h1>" in document and next(iter(sections)) == "The funnel"
    for key, *values in (("name", "one", "seed7"), ("train.seed", "0", "7")):
        row = "".join(f'<td class="prose">{value}</td>' for value in values)
        assert f"<tr><td>{key}</td>{row}</tr>" in sections["What is compared"]
    files = {file.name for file in (tmp_path / "slides").iterdir()}
    assert {"quota-curve-1.svg", "quota-curve-2.png", "calibration-1.svg", "summary.png"} <= files
    assert len(files) == 2 * document.count("<svg ")


@pytest.mark.thorough
def test_value_is_drawn_against_diversity_over_strengths(small: Path, tmp_path: Path) -> None:
    page = "stages.2={name: page, model: page, keep: 3, method: mmr, by: category, lambda: 0.75}"
    run = corank.train(small, ["stages.1.keep=8", page], folder=tmp_path / "run").run
    _, sections = read_report(run)
    title = "Value and diversity"
    assert plots(sections)[title] == 1
    assert "mmr by category, at one λ" in sections[title]
    assert "value by the last stage" in sections[title] and "true value" in sections[title]


def test_what_cannot_be_reported_is_refused(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a run \(no run.json\)"):
        corank.report(tmp_path)
    with pytest.raises(DataError, match=r"no split 'tset': data\.split gives train, valid, test;"):
        corank.report(trained.folder, tmp_path / "a.html", "tset")
    unfinished = Run.create(tmp_path / "run", trained.config, trained.base)
    with pytest.raises(CheckpointError, match="training has not finished"):
        corank.report(unfinished.folder)
    assert not list(tmp_path.rglob("*.html"))
