-- name: slowest_calls_daily
-- description: The hundred slowest LLM calls of each UTC day, with trace and span to look them up
-- source: spans
-- schedule: every 1m
-- window: 1d
-- keys: place
--
-- A call belongs to the time at which it started; where that cannot be believed (bit 1 of time_flags), at which it arrived.
SELECT
    window_start,
    place,
    trace_id,
    span_id,
    service_name,
    provider,
    model,
    operation,
    duration_ns,
    input_tokens,
    output_tokens,
    cost_usd,
    status_code
FROM (
    SELECT
        *,
        row_number() OVER (PARTITION BY window_start ORDER BY duration_ns DESC, trace_id, span_id, received_time) AS place
    FROM (
        SELECT
            date_trunc('day', CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END) AS window_start,
            trace_id,
            span_id,
            service_name,
            provider,
            model,
            operation,
            duration_ns,
            input_tokens,
            output_tokens,
            CAST(cost_usd AS DECIMAL(38, 12)) AS cost_usd,
            status_code,
            received_time
        FROM spans
        WHERE usage_role = 'leaf'
            AND duration_ns IS NOT NULL
            AND date BETWEEN $first_date AND $last_date
            AND (
                ((time_flags & 1) = 0 AND start_time >= $window_start AND start_time < $window_end)
                OR ((time_flags & 1) = 1 AND received_time >= $window_start AND received_time < $window_end)
            )
    ) AS calls
) AS ranked
WHERE place <= 100
