-- name: client_operation_duration
-- description: Calls and seconds per service, model and error as the senders' own metrics tell (gen_ai.client.operation.duration)
--
-- Some senders measure in milliseconds: the unit decides.
SELECT
    service_name,
    environment,
    lower(coalesce(attributes['gen_ai.provider.name'], attributes['gen_ai.system'])) AS provider,
    coalesce(attributes['gen_ai.response.model'], attributes['gen_ai.request.model']) AS model,
    attributes['gen_ai.operation.name'] AS operation,
    attributes['error.type'] AS error_type,
    sum(count) AS calls,
    sum(sum * unit_seconds) AS seconds,
    sum(sum * unit_seconds) / nullif(sum(count), 0) AS seconds_mean,
    min(min * unit_seconds) AS seconds_min,
    max(max * unit_seconds) AS seconds_max
FROM (
    SELECT *, CASE unit WHEN 'ms' THEN 0.001 WHEN 'us' THEN 0.000001 WHEN 'ns' THEN 0.000000001 ELSE 1.0 END AS unit_seconds
    FROM metric_totals
    WHERE name = 'gen_ai.client.operation.duration'
) AS durations
GROUP BY 1, 2, 3, 4, 5, 6
