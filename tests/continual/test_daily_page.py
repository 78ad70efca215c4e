"""The page of a daily funnel: the newest period first, charts that do not show noise as change, the gate's lines."""

import re

from corank.analysis.html import render
from corank_continual.periods.daily_result import daily_view
from corank_continual.periods.gate import Condition
from corank_continual.periods.history import PeriodRecord
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
        candidate={AUC: 0.6002 - 0.4 * (n == 3), PCOC: 1.0, "prerank.cut.click_recall@24": 0.8001 + n / 1e4},
        reference={} if n == 0 else {AUC: 0.6001, PCOC: 1.0},
        drift={}
        if n == 0
        else {"hour": 1e-6 * n, "a_feature_with_a_rather_long_name_indeed": 0.3, "same": 0.0},
        seconds={"train": 0.01},
    )
    for n in range(4)
]


def test_the_newest_period_comes_first_with_each_condition_and_whether_it_was_met() -> None:
    document = render(daily_view(RECORDS, GATE))
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
