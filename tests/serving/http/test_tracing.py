"""OpenTelemetry traces: the parent of a request, its spans by stage, sampling, exporters, and the missing extra."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from corank.core.errors import ConfigError
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits
from corank_serve.http.tracing import RequestTracer, open_exporter
from corank_serve.http.worker import RankingService
from corank_serve.store.source import BundleSource
from tests.support.command_line import run_corank
from tests.support.random_worlds import RICH
from tests.support.service import access
from tests.support.shared import shared_case

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY = {"user": {"id": 7}, "candidates": [1, 2, 3]}


def spans_of(sampled: str) -> tuple[ReadableSpan, ...]:
    """The spans of two requests, the first one of a trace."""
    exporter = InMemorySpanExporter()
    follower = Follower(BundleSource(shared_case(RICH).base / "bundle"))
    service = RankingService(follower, Limits(), access(), tracer=RequestTracer(exporter))
    with TestClient(service.app()) as client:
        header = {"traceparent": f"00-{TRACE}-{PARENT}-{sampled}"}
        assert client.post("/rank", json=BODY, headers=header).status_code == 200
        assert client.get("/nowhere").status_code == 404
    return exporter.get_finished_spans()


def test_a_request_is_a_span_of_its_callers_trace_with_one_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-rank")
    *parts, ranked, missing = spans_of("01")
    assert ranked.name == "POST /rank" and missing.name == "GET"
    assert ranked.context.trace_id == int(TRACE, 16) != missing.context.trace_id
    assert ranked.parent is not None and ranked.parent.span_id == int(PARENT, 16)
    assert ranked.attributes is not None and ranked.attributes["http.response.status_code"] == 200
    assert ranked.resource.attributes["service.name"] == "shop-rank"
    assert [part.name for part in parts] == ["receive", "prerank", "rank"]
    times = [ranked.start_time, *(part.start_time for part in parts), parts[-1].end_time, ranked.end_time]
    assert times == sorted(times, key=lambda time: time or 0)
    assert {part.parent.span_id for part in parts if part.parent} == {ranked.context.span_id}
    assert "user" not in str([span.attributes for span in (ranked, *parts)])


def test_what_is_not_sampled_makes_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    assert spans_of("00") == ()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER: expected otlp, console or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf"),
    ],
)
def test_an_exporter_that_is_not_there_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        open_exporter()


def test_the_extra_is_named_if_it_is_missing_and_not_imported_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys, corank_serve.http.server; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    for module in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "corank_serve.http.tracing")
    status, _, err = run_corank(capsys, "serve", "bundle", "--traces", "--print-config")
    assert status == 1 and "pip install '.[otel]'" in err
