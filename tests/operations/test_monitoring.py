"""Dashboard, alerts and scaling name metrics and labels that real processes expose; pages describe them all."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggregateExpr, BinaryExpr, Expr, VectorSelector, parse, walk

import corank
from corank_serve.http.prometheus import list_metrics
from tests.support.kafka_broker import Broker, kafka_broker
from tests.support.ports import free_port
from tests.support.service import PROGRAM, metrics_of, running_service
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
EXAMPLES, DOCS = ROOT / "examples" / "operations", ROOT / "docs"
SAMPLES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_sum", "_count"],
    "summary": ["_sum", "_count"],
}
"""What the name of a family is followed by in its samples, by its type."""
SCRAPED = {"job", "instance", "pod", "namespace"}
"""Labels that Prometheus adds."""


class Alert(msgspec.Struct, forbid_unknown_fields=True):
    """A rule, as Prometheus documents it; these have all that operators need."""

    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    for_: str = msgspec.field(name="for", default="0s")


class Group(msgspec.Struct, forbid_unknown_fields=True):
    """A group of rules."""

    name: str
    rules: list[Alert]


class RuleFile(msgspec.Struct, forbid_unknown_fields=True):
    """A file of rules."""

    groups: list[Group]


def alerts() -> list[Alert]:
    """The rules of the example."""
    text = (EXAMPLES / "alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in msgspec.yaml.decode(text, type=RuleFile).groups for rule in group.rules]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of PromQL of the examples, and where it stands."""
    for rule in alerts():
        yield rule.alert, rule.expr
    for panel in json.loads((EXAMPLES / "dashboard.json").read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    adapter = yaml.safe_load((EXAMPLES / "adapter.yaml").read_text(encoding="utf-8"))
    for rule in adapter["rules"]:
        yield "adapter.yaml", rule["seriesQuery"]
        yield "adapter.yaml", fill_template(rule["metricsQuery"])


def fill_template(query: str) -> str:
    """A query as prometheus-adapter sends it."""
    filled = query.replace("<<.LabelMatchers>>", 'namespace="shop",pod=~"corank-1"').replace(
        "<<.GroupBy>>", "pod"
    )
    assert "<<" not in filled
    return filled


def selectors_of(expression: str) -> tuple[list[tuple[str, dict[str, str]]], list[str]]:
    """What an expression selects by, names and matchers, and the labels that it groups and joins by."""
    selectors: list[tuple[str, dict[str, str]]] = []
    labels: list[str] = []

    def visit(node: Expr) -> bool:
        if isinstance(node, VectorSelector):
            matchers = {matcher.name: matcher.value for matcher in node.matchers.matchers}
            selectors.append((node.name or "", matchers))
        elif isinstance(node, AggregateExpr) and node.modifier:
            labels.extend(node.modifier.labels)
        elif isinstance(node, BinaryExpr) and node.modifier and node.modifier.matching:
            labels.extend(node.modifier.matching.labels or [])
        return True

    walk(parse(expression), visit)
    return selectors, labels


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with kafka_broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="module")
def exposed(
    trained_bundle: Path, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Metric]:
    """The families that a service and a follower expose, by name."""
    folder = tmp_path_factory.mktemp("exposed")
    with running_service(str(trained_bundle), folder / "cache") as (url, _):
        httpx2.post(f"{url}/rank", json=httpx2.get(f"{url}/example").json()).raise_for_status()
        served = httpx2.get(f"{url}/metrics").text
    store, port, topic = f"lmdb:{folder / 'store'}", free_port(), broker.make_topic("items")
    corank.publish(trained_bundle, store)
    command = [str(PROGRAM), "follow", "items", topic, store, "--metrics", str(port)]
    process = subprocess.Popen(command)
    try:
        eventually(lambda: "corank_follow_lag{" in metrics_of(process, port))
        text = served + metrics_of(process, port)
    finally:
        process.terminate()
        process.wait(PATIENCE)
    families = text_string_to_metric_families(text)
    # prometheus_client adds the time at which a counter began, of one process alone
    return {family.name: family for family in families if not family.name.endswith("_created")}


@pytest.fixture(scope="module")
def series(exposed: Mapping[str, Metric]) -> dict[str, set[str]]:
    """The names of the exposed series, and their labels."""
    by_name = {name + end: set[str]() for name, family in exposed.items() for end in SAMPLES[family.type]}
    for family in exposed.values():
        for sample in family.samples:
            by_name[sample.name] |= sample.labels.keys()
    # of what has not happened there is no sample, and so no label
    for name, kind, _, labels in list_metrics():
        if kind == "counter":
            by_name[name] |= {*labels}
    by_name["corank_follow_rows_total"] |= {"outcome"}
    by_name["corank_follow_errors_total"] |= {"what"}
    return by_name


def test_every_expression_names_series_and_labels_that_exist(series: Mapping[str, set[str]]) -> None:
    known = {**series, "up": set[str]()}
    for place, expression in expressions():
        selectors, named = selectors_of(expression)
        assert {name for name, _ in selectors} <= known.keys(), f"{place}: {expression}"
        assert all(matchers.keys() <= known[name] | SCRAPED for name, matchers in selectors), (
            f"{place}: {expression}"
        )
        labels = {label for name, _ in selectors for label in known[name]} | SCRAPED
        assert {*named} <= labels, f"{place}: {expression}"


def test_every_series_is_shown(series: Mapping[str, set[str]]) -> None:
    """Or in an alert; of a histogram one of its series."""
    used = {name for _, expression in expressions() for name, _ in selectors_of(expression)[0]}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in series.keys() - used} <= {
        re.sub("_(bucket|sum|count)$", "", name) for name in used
    }


def test_every_metric_is_described_and_no_other(exposed: Mapping[str, Metric]) -> None:
    """Those of a service by `list_metrics`, of which the site makes a table; those of followers by their page."""
    text = (DOCS / "operations" / "streaming.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`corank_.*?) \| ", text, re.MULTILINE)
    followed = [re.sub(r"\{.*", "", name) for row in rows for name in re.findall(r"`(corank_[^`]+)`", row)]
    described = [*(name for name, *_ in list_metrics()), *followed]
    names = [f"{name}_total" if family.type == "counter" else name for name, family in exposed.items()]
    assert sorted(described) == sorted(names)


def test_rules_are_as_prometheus_reads_them_and_name_sections_of_the_run_book() -> None:
    rules = alerts()
    assert len({rule.alert for rule in rules}) == len(rules)
    for rule in rules:
        assert re.fullmatch(r"\d+[smhd]", rule.for_), rule.alert
        assert rule.labels.keys() == {"severity"} and rule.annotations.keys() == {"summary", "runbook"}
        page, _, anchor = rule.annotations["runbook"].partition("#")
        headings = re.findall(r"^##+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        labels = set(re.findall(r"\$labels\.(\w+)", rule.annotations["summary"]))
        _, kept = selectors_of(rule.expr)
        grouped = isinstance(parse(rule.expr), AggregateExpr) or kept
        assert not grouped or labels <= {*kept, *SCRAPED}, rule.alert


def test_alerts_fire_as_meant() -> None:
    """By Prometheus' own checker, of alerts_test.yaml, which has each alert."""
    tested = yaml.safe_load((EXAMPLES / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    samples = [sample["labels"] for sample in tested[0]["promql_expr_test"][0]["exp_samples"]]
    assert samples == sorted(f'{{alertname="{rule.alert}"}}' for rule in alerts())
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Prometheus")
    for check in (["check", "config", "prometheus.yaml"], ["test", "rules", "alerts_test.yaml"]):
        subprocess.run([promtool, *check], cwd=EXAMPLES, check=True)


def test_the_dashboard_is_one_of_grafana() -> None:
    """Each panel has a place of its own, queries with letters of their own, and asks the chosen source and jobs."""
    dashboard: Any = json.loads((EXAMPLES / "dashboard.json").read_text(encoding="utf-8"))
    assert {"title", "uid", "schemaVersion", "templating", "panels", "time"} <= dashboard.keys()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
    for panel in panels:
        targets = panel.get("targets", [])
        assert panel["type"] == "row" or targets
        assert len({target["refId"] for target in targets}) == len(targets)
        for target in targets:
            selectors, _ = selectors_of(target["expr"].replace("$__rate_interval", "1m"))
            assert all(matchers["job"] == "$job" for _, matchers in selectors)
