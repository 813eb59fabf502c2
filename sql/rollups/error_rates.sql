-- name: error_rates
-- description: Failed LLM calls per hour, service, provider, model and class of error, beside all calls of the model
-- source: spans
-- schedule: every 1m
-- window: 1h
-- keys: service_name, provider, model, error_type
--
-- Calls that did not fail have no error_type: the rate of a model is the sum of errors over the sum of requests.
--
-- A span belongs to the time at which it started; where that cannot be believed (bit 1 of time_flags), at which it arrived.
SELECT
    date_trunc('hour', event_time) AS window_start,
    service_name,
    provider,
    model,
    error_type,
    count(*) AS requests,
    count(*) FILTER (WHERE status_code = 'ERROR') AS errors,
    histogram(duration_ns) FILTER (WHERE status_code = 'ERROR') AS error_duration
FROM (
    SELECT
        CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END AS event_time,
        service_name,
        provider,
        model,
        error_type,
        status_code,
        duration_ns
    FROM spans
    WHERE usage_role = 'leaf'
        AND date BETWEEN $first_date AND $last_date
        AND (
            ((time_flags & 1) = 0 AND start_time >= $window_start AND start_time < $window_end)
            OR ((time_flags & 1) = 1 AND received_time >= $window_start AND received_time < $window_end)
        )
) AS told
GROUP BY window_start, service_name, provider, model, error_type
