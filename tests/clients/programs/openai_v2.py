"""An application with the OpenTelemetry SDK and its OpenAI instrumentation.

Where the spans go is told by the standard OTEL_EXPORTER_OTLP_* variables; the first argument is the provider's URL, the
second one `grpc` or `http`.
"""

import sys

from opentelemetry import trace
from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import calls


def exporter(protocol):
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    return OTLPSpanExporter()


def main():
    base_url, protocol = sys.argv[1:]
    provider = TracerProvider(resource=Resource.create({"deployment.environment.name": "test"}))
    provider.add_span_processor(BatchSpanProcessor(exporter(protocol)))
    trace.set_tracer_provider(provider)
    OpenAIInstrumentor().instrument()

    llm = calls.client(base_url)
    with trace.get_tracer("example").start_as_current_span("handle_request"):
        calls.all_calls(llm)
    provider.shutdown()


main()
