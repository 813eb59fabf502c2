"""The OpenTelemetry SDK with opentelemetry-instrumentation-openai-v2, over gRPC and over HTTP."""

import pytest

import spanlake
import truth

GRPC = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20some-token"}
WAYS = {
    "grpc": ("grpc", GRPC),
    "grpc-gzip": ("grpc", GRPC | {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
    "http": ("http", {}),
    "http-gzip": ("http", {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
    "http-deflate": ("http", {"OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"}),
}


def run(server, provider, way):
    protocol, variables = WAYS[way]
    variables = variables | {
        "OTEL_SERVICE_NAME": "clients-openai",
        "OTEL_EXPORTER_OTLP_ENDPOINT": server.grpc if protocol == "grpc" else server.otlp,
    }
    python = spanlake.environment("openai_v2")
    return spanlake.run_program("openai_v2.py", python, provider.url, protocol, env=variables)


@pytest.mark.parametrize("way", WAYS)
def test_sql_tells_what_the_provider_answered(server, provider, way):
    output = run(server, provider, way)
    assert output == "", "the exporter has nothing to complain about"

    calls = provider.calls()
    assert len(calls) == 16
    assert truth.told_per_model(server) == truth.per_model(calls, truth.OPENAI_V2)
    truth.assert_each_answer_is_told(server, calls, truth.OPENAI_V2)

    root = server.one("SELECT name, usage_role, service_name, environment FROM spans WHERE parent_span_id IS NULL")
    assert root == {
        "name": "handle_request",
        "usage_role": None,
        "service_name": "clients-openai",
        "environment": "test",
    }
    assert server.one("SELECT count(*) AS spans, count(DISTINCT trace_id) AS traces FROM spans") == {
        "spans": len(calls) + 1,
        "traces": 1,
    }
    errors = server.sql("SELECT error_type, status_code FROM spans WHERE error_type IS NOT NULL ORDER BY error_type")
    assert errors == [
        {"error_type": kind, "status_code": "ERROR"}
        for kind in ("BadRequestError", "InternalServerError", "RateLimitError")
    ]


def test_two_processes_add_up(server, provider):
    run(server, provider, "grpc")
    run(server, provider, "http")
    calls = provider.calls()
    assert len(calls) == 32
    assert truth.told_per_model(server) == truth.per_model(calls, truth.OPENAI_V2)


def test_a_restart_keeps_what_was_acknowledged(server, provider, tmp_path):
    run(server, provider, "http")
    before = truth.told_per_model(server)
    server.kill()

    again = spanlake.Server(tmp_path)
    try:
        assert truth.told_per_model(again) == before == truth.per_model(provider.calls(), truth.OPENAI_V2)
        assert again.stop() == 0, "SIGTERM is a clean end"
    finally:
        again.kill()
