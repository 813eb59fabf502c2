"""An application that writes its own attributes, as articles on monitoring LLM calls show.

No GenAI instrumentation: a span `do_work` carries prompt_tokens, completion_tokens, model and cost.

The first argument is the provider's URL; OTEL_EXPORTER_OTLP_* tells where the spans go.
"""

import json
import sys

import openai
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import calls

USD_PER_1000_TOKENS = 0.02


class Counters:
    completions = 0


def do_work(llm, tracer, prompt):
    with tracer.start_as_current_span("do_work") as span:
        answer = llm.completions.create(model="text-davinci-003", prompt=prompt, max_tokens=60)
        Counters.completions += 1
        span.set_attribute("completion_count", Counters.completions)
        span.set_attribute("token_count", answer.usage.total_tokens)
        span.set_attribute("prompt_tokens", answer.usage.prompt_tokens)
        span.set_attribute("completion_tokens", answer.usage.completion_tokens)
        span.set_attribute("model", answer.model)
        span.set_attribute("cost", answer.usage.total_tokens * USD_PER_1000_TOKENS / 1000)
        span.set_attribute("response", json.dumps(answer.to_dict()))


def main():
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("article")
    llm = calls.client(sys.argv[1])

    for prompt in ("Why is Elastic an amazing observability tool?", "Say 可观测性.", "Say hello. [[fake text=Hello]]"):
        do_work(llm, tracer, prompt)
    try:
        do_work(llm, tracer, "Fail. [[fake status=500]]")
    except openai.InternalServerError:
        pass
    provider.shutdown()


main()
