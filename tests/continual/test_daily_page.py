"""The page of a daily funnel: the newest period first, charts that do not show noise as change, the gate's lines."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from corank.continual.daily_result import draw_history, write_page
from corank.continual.gate import Condition
from corank.continual.history import PeriodRecord
from tests.support.html import Read

AUC, PCOC = "rank.exposed.click.auc", "prerank.exposed.long_view_of_a_video.pcoc_calibrated"
GATE = [
    Condition.parse(text)
    for text in (f"{AUC} >= live - 0.03", f"{AUC} >= median - 0.07", f"{PCOC} in [0.5, 2.0]")
]
RECORDS = [
    PeriodRecord(
        period=f"2026-03-0{n + 3}T0{n}",
        begin=n,
        end=n + 1,
        decision="refused by the gate" if n == 3 else "live",
        reasons=["too low"] if n == 3 else [],
        candidate={AUC: 0.6002 - 0.4 * (n == 3), PCOC: 1.0, "cascade.click_recall@24": 0.8001 + n / 1e4},
        reference={} if n == 0 else {AUC: 0.6001, PCOC: 1.0},
        drift={}
        if n == 0
        else {"hour": 1e-6 * n, "a_feature_with_a_rather_long_name_indeed": 0.3, "same": 0.0},
        seconds={"train": 0.01},
    )
    for n in range(4)
]


def drawn(records: list[PeriodRecord] = RECORDS) -> Figure:
    figure = draw_history(records, GATE)
    figure.set_size_inches(7.6, 2.6)
    figure.draw_without_rendering()
    return figure


def test_no_text_of_a_chart_lies_on_another() -> None:
    figure = drawn()
    assert [axes.get_title().replace("\n", "") for axes in figure.axes] == [
        AUC,
        PCOC,
        "cascade.click_recall@24",
    ]
    texts = [text for axes in figure.axes for text in (axes.title, *axes.get_xticklabels())]
    texts += [text for axes in figure.axes if (key := axes.get_legend()) for text in key.get_texts()]
    assert len(texts) > 9
    for one, other in combinations(texts, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent()), (one, other)


def test_a_flat_figure_is_drawn_flat() -> None:
    recall = drawn().axes[2]
    low, high = recall.get_ylim()
    assert high - low == pytest.approx(0.1)
    assert low < 0.8 < high
    assert recall.yaxis.get_offset_text().get_text() == ""


def test_what_the_gate_asks_for_is_a_line_with_its_words() -> None:
    auc, pcoc, recall = drawn().axes
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in (*auc.lines, *pcoc.lines)}
    of_live, of_median, between = (lines[f"gate: {condition.requirement}"] for condition in GATE)
    assert of_live[np.isfinite(of_live)] == pytest.approx([0.5701] * 3)
    assert of_median[np.isfinite(of_median)] == pytest.approx([0.5302] * 3)
    assert between[np.isfinite(between)].tolist() == [0.5] * 4 + [2.0] * 4
    keys = [key for axes in (auc, pcoc) if (key := axes.get_legend()) is not None]
    assert [text.get_text() for key in keys for text in key.get_texts()] == [
        "gate: >= live - 0.03",
        "gate: >= median - 0.07",
        "gate: in [0.5, 2.0]",
    ]
    assert recall.get_legend() is None


def test_the_newest_period_comes_first_with_each_condition_and_whether_it_was_met(tmp_path: Path) -> None:
    write_page(tmp_path, RECORDS, GATE)
    document = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert Read(document).foreign == []
    titles = re.findall("<h2>(.*?)</h2>", document)
    assert titles == [
        "Newest period: 2026-03-06T03, refused by the gate", "Periods", "Figures", "Drift", "Time spent",
    ]  # fmt: skip
    newest = document.partition("<h2>")[2].partition("</section>")[0]
    assert "<p>too low</p>" in newest
    rows = re.findall(
        r"<td[^>]*>([^<]*)</td><td>([^<]*)</td>.*<span class=\"(.*)\">(.*)</span></td></tr>", newest
    )
    assert rows == [
        (f"{AUC} &gt;= live - 0.03", "0.2002", "bad", "not met"),
        (f"{AUC} &gt;= median - 0.07", "0.2002", "bad", "not met"),
        (f"{PCOC} in [0.5, 2.0]", "1.0000", "good", "met"),
    ]
    assert ">hour<" in document and ">same<" not in document, "what did not drift is not drawn"


def test_a_condition_on_a_figure_that_is_not_defined_any_more_is_shown_as_not_met(tmp_path: Path) -> None:
    newest = RECORDS[2].model_copy(update={"candidate": {PCOC: 1.0}})
    write_page(
        tmp_path, [*RECORDS[:2], newest], [*GATE, Condition.parse("rank.exposed.click.renamed >= 0.5")]
    )
    document = (tmp_path / "index.html").read_text(encoding="utf-8")
    row = (
        r"&gt;= live - 0\.03</td><td>-</td><td>0\.6001<small>live</small></td><td><span class=\"bad\">not met"
    )
    assert re.search(row, document)
    assert "renamed &gt;=" not in document.partition("</section>")[0], "the gate did not have it then"


def test_a_funnel_without_a_period_has_a_page(tmp_path: Path) -> None:
    write_page(tmp_path, [], GATE)
    assert "no period is live" in (tmp_path / "index.html").read_text(encoding="utf-8")
