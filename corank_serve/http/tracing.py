"""OpenTelemetry traces: a span for each request, with one for encoding and one for each stage, if they are asked for.

Sampling, resource and exporter are those of the variables OTEL_*, as for any other service; a request's `traceparent`
is its parent. The extra `otel` brings the packages, which are imported here alone.
"""

import os
import threading
import time
from typing import Any

from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context

from corank.core.errors import ConfigError
from corank_serve.http.asgi import HttpCall, HttpReply

EXPORTER, PROTOCOL, SERVICE = "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SERVICE_NAME"
CLOSE_SECONDS = 2.0
"""Time for the last spans to be sent."""


def open_exporter() -> SpanExporter | None:
    """Open the exporter that the environment names; None for none. Raises ConfigError for one that is not known."""
    name = os.environ.get(EXPORTER) or "otlp"
    if name == "none":
        return None
    if name == "console":
        return ConsoleSpanExporter()
    if name != "otlp":
        raise ConfigError(f"{EXPORTER}: expected otlp, console or none; received {name!r}")
    protocol = os.environ.get(PROTOCOL) or "http/protobuf"
    if protocol != "http/protobuf":
        raise ConfigError(f"{PROTOCOL}: expected http/protobuf; received {protocol!r}")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class RequestTracer:
    """Makes the spans of one worker process."""

    def __init__(self, exporter: SpanExporter | None) -> None:
        """`exporter` receives spans, in a thread of its own; None for none."""
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: os.environ.get(SERVICE) or "corank"}),
            shutdown_on_exit=False,
        )
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("corank")

    def close(self) -> None:
        """Send what waits, no longer than CLOSE_SECONDS: the collector may be away."""
        closing = threading.Thread(target=self._provider.shutdown, name="corank-traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def observe(self, call: HttpCall, reply: HttpReply, began: float) -> None:
        """Make the spans of a request that is answered; as an `Observer`."""
        # spans are timed by the clock of the day, requests by one that is never set
        zero = time.time_ns() - round(time.perf_counter() * 1e9)

        def moment(seconds: float) -> int:
            return zero + round(seconds * 1e9)

        carrier = {name: call.headers.get(name, "") for name in ("traceparent", "tracestate")}
        path = call.scope["path"] if reply.status not in (404, 405) else ""
        attributes: dict[str, Any] = {
            "http.request.method": call.scope["method"],
            "http.response.status_code": reply.status,
            "http.response.body.size": len(reply.body),
            "corank.token": call.caller,
        }
        if path:
            attributes |= {"http.route": path, "url.path": path}
        if call.why is not None:
            attributes["corank.why"] = call.why
        for one in call.ranked[:1]:
            attributes["corank.model_version"] = one.model_version
            attributes["corank.items_seq"] = one.items_seq
        span = self._tracer.start_span(
            f"{call.scope['method']} {path}".rstrip(),
            extract(carrier),
            SpanKind.SERVER,
            attributes,
            start_time=moment(began),
        )
        call.trace = format_trace_id(span.get_span_context().trace_id)
        if span.is_recording():
            if reply.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            parent = set_span_in_context(span)
            for one in call.ranked:
                # parts follow each other, the last one until the request was ranked
                start = one.done - sum(one.seconds.values())
                for name, seconds in one.seconds.items():
                    part = self._tracer.start_span(name, parent, start_time=moment(start))
                    if name == "receive":
                        part.set_attribute("corank.candidates", len(one.candidates))
                    start += seconds
                    part.end(moment(start))
        span.end()
