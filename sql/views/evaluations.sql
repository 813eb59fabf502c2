-- name: evaluations
-- description: Evaluations (gen_ai.evaluation.result): what was scored and how, with the call or agent that was evaluated
--
-- They come as span events or as log records; one that comes as both stands once. The evaluated call is the span that the
-- evaluation names, else the call with the response_id that it names; where neither is known its columns are NULL.
WITH told AS (
    SELECT
        date,
        event['time'] AS time,
        trace_id,
        span_id,
        service_name,
        'event' AS source,
        event['attributes'] AS attributes,
        received_time
    FROM (
        SELECT date, trace_id, span_id, service_name, received_time, unnest(events) AS event
        FROM spans
        WHERE cardinality(events) > 0
    ) AS happened
    WHERE event['name'] = 'gen_ai.evaluation.result'
    UNION ALL
    SELECT date, time, trace_id, span_id, service_name, 'log' AS source, attributes, received_time
    FROM logs
    WHERE event_name = 'gen_ai.evaluation.result'
),
results AS (
    SELECT
        date,
        time,
        trace_id,
        span_id,
        service_name,
        source,
        attributes['gen_ai.evaluation.name'] AS name,
        try_cast(coalesce(attributes['gen_ai.evaluation.score.value'], attributes['gen_ai.evaluation.score']) AS DOUBLE) AS value,
        coalesce(attributes['gen_ai.evaluation.score.label'], attributes['gen_ai.evaluation.label']) AS label,
        attributes['gen_ai.evaluation.explanation'] AS explanation,
        attributes['gen_ai.response.id'] AS response_id,
        attributes['error.type'] AS error_type,
        received_time
    FROM told
),
counted AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY trace_id, span_id, response_id, name, value, label, explanation, source ORDER BY time, received_time
        ) AS telling
    FROM results
),
ranked AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY trace_id, span_id, response_id, name, value, label, explanation, telling ORDER BY source, time, received_time
        ) AS teller
    FROM counted
),
by_span AS (
    SELECT
        trace_id,
        span_id,
        max(response_id) AS response_id,
        max(operation) AS operation,
        max(provider) AS provider,
        max(model) AS model,
        max(agent_name) AS agent_name,
        max(conversation_id) AS conversation_id
    FROM spans
    WHERE operation IS NOT NULL OR model IS NOT NULL
    GROUP BY trace_id, span_id
),
by_response AS (
    SELECT
        response_id,
        min(trace_id) AS trace_id,
        min(span_id) AS span_id,
        max(operation) AS operation,
        max(provider) AS provider,
        max(model) AS model,
        max(agent_name) AS agent_name,
        max(conversation_id) AS conversation_id
    FROM llm_calls
    WHERE response_id IS NOT NULL
    GROUP BY response_id
    HAVING count(*) = 1
)
SELECT
    ranked.date,
    ranked.time,
    ranked.name,
    ranked.value,
    ranked.label,
    ranked.explanation,
    ranked.error_type,
    coalesce(ranked.response_id, by_span.response_id) AS response_id,
    coalesce(by_response.trace_id, ranked.trace_id) AS trace_id,
    coalesce(by_response.span_id, ranked.span_id) AS span_id,
    coalesce(by_response.operation, by_span.operation) AS operation,
    coalesce(by_response.provider, by_span.provider) AS provider,
    coalesce(by_response.model, by_span.model) AS model,
    coalesce(by_response.agent_name, by_span.agent_name) AS agent_name,
    coalesce(by_response.conversation_id, by_span.conversation_id) AS conversation_id,
    ranked.service_name,
    ranked.source,
    ranked.received_time
FROM ranked
LEFT JOIN by_span ON by_span.trace_id = ranked.trace_id AND by_span.span_id = ranked.span_id
LEFT JOIN by_response ON by_response.response_id = ranked.response_id
WHERE ranked.teller = 1
