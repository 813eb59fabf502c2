-- name: tool_usage_hourly
-- description: Calls of tools per hour, service, agent and tool, with errors and durations
-- source: spans
-- schedule: every 1m
-- window: 1h
-- keys: service_name, agent_name, tool_name, kind
--
-- A tool of a Model Context Protocol server may be told by its client and by its server: kind tells which.
--
-- A span belongs to the time at which it started; where that cannot be believed (bit 1 of time_flags), at which it arrived.
SELECT
    date_trunc('hour', event_time) AS window_start,
    service_name,
    agent_name,
    tool_name,
    kind,
    count(*) AS calls,
    count(*) FILTER (WHERE status_code = 'ERROR') AS errors,
    histogram(duration_ns) AS duration
FROM (
    SELECT
        CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END AS event_time,
        service_name,
        agent_name,
        tool_name,
        kind,
        status_code,
        duration_ns
    FROM spans
    WHERE operation = 'execute_tool'
        AND date BETWEEN $first_date AND $last_date
        AND (
            ((time_flags & 1) = 0 AND start_time >= $window_start AND start_time < $window_end)
            OR ((time_flags & 1) = 1 AND received_time >= $window_start AND received_time < $window_end)
        )
) AS told
GROUP BY window_start, service_name, agent_name, tool_name, kind
