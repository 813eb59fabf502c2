-- name: slow_calls
-- description: The slowest twentieth of the calls of each model and operation, beside the mean of all of them
SELECT
    date,
    trace_id,
    span_id,
    start_time,
    duration_ns,
    duration_ns_mean,
    time_to_first_token_ns,
    service_name,
    provider,
    model,
    operation,
    output_tokens,
    status,
    error_type
FROM (
    SELECT
        *,
        avg(duration_ns) OVER (PARTITION BY provider, model, operation) AS duration_ns_mean,
        percent_rank() OVER (PARTITION BY provider, model, operation ORDER BY duration_ns) AS rank_share
    FROM llm_calls
    WHERE duration_ns IS NOT NULL
) AS ranked
WHERE rank_share > 0.95
