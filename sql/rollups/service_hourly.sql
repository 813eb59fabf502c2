-- name: service_hourly
-- description: Spans per hour, service, environment and kind, with errors and durations: all spans, not calls of models alone
-- source: spans
-- schedule: every 1m
-- window: 1h
-- keys: service_name, environment, kind
--
-- A span belongs to the time at which it started; where that cannot be believed (bit 1 of time_flags), at which it arrived.
SELECT
    date_trunc('hour', event_time) AS window_start,
    service_name,
    environment,
    kind,
    count(*) AS spans,
    count(*) FILTER (WHERE status_code = 'ERROR') AS errors,
    count(DISTINCT trace_id) AS traces,
    histogram(duration_ns) AS duration
FROM (
    SELECT
        CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END AS event_time,
        service_name,
        environment,
        kind,
        status_code,
        trace_id,
        duration_ns
    FROM spans
    WHERE date BETWEEN $first_date AND $last_date
        AND (
            ((time_flags & 1) = 0 AND start_time >= $window_start AND start_time < $window_end)
            OR ((time_flags & 1) = 1 AND received_time >= $window_start AND received_time < $window_end)
        )
) AS told
GROUP BY window_start, service_name, environment, kind
