// An application with the OpenTelemetry SDK for Node. OTEL_EXPORTER_OTLP_ENDPOINT tells where the spans go.
import { SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { NodeSDK } from '@opentelemetry/sdk-node';

const sdk = new NodeSDK({ traceExporter: new OTLPTraceExporter() });
sdk.start();

const tracer = trace.getTracer('example', '1.2.3');
tracer.startActiveSpan('handle request', (root) => {
  tracer.startActiveSpan('chat gpt-4o-mini', { kind: SpanKind.CLIENT }, (span) => {
    span.setAttributes({
      'gen_ai.operation.name': 'chat',
      'gen_ai.provider.name': 'openai',
      'gen_ai.request.model': 'gpt-4o-mini',
      'gen_ai.request.temperature': 0.7,
      'gen_ai.response.model': 'gpt-4o-mini-2024-07-18',
      'gen_ai.response.id': 'chatcmpl-node-1',
      'gen_ai.response.finish_reasons': ['stop'],
      'gen_ai.usage.input_tokens': 1200,
      'gen_ai.usage.output_tokens': 340,
      'gen_ai.usage.cache_read.input_tokens': 1024,
      'app.flag': true,
      'app.tags': ['a', 'ä'],
    });
    span.addEvent('first token', { 'app.index': 0 });
    span.end();
  });
  root.setStatus({ code: SpanStatusCode.ERROR, message: 'no luck' });
  root.end();
});

await sdk.shutdown();
