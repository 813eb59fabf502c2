-- name: model_usage
-- description: LLM calls per minute, service, provider, model, operation, environment and status; only leaf spans count
-- source: spans
-- schedule: every 1m
-- window: 1m
-- keys: service_name, provider, model, operation, environment, status
--
-- Requests, tokens, cost and duration of LLM calls per minute and key. Only leaf spans count: a call told twice, or summed up
-- again by the agent around it, is one call.
--
-- A call belongs to the minute in which it started. Where that time cannot be believed (bit 1 of time_flags) it belongs to the
-- minute in which it arrived; both agree with the partition `date`.
--
-- Parameters: the rows asked for have an event time in [$window_start, $window_end), which lies on the UTC days from
-- $first_date to $last_date. The bounds on date, start_time and received_time let a scan skip partitions, files and row groups;
-- a bound on the CASE alone would skip nothing.
--
-- The histograms merge (`histogram_merge`) and answer percentiles (`histogram_quantile`); their counts and sums are exact.
--
-- NULL is a value of every key. A sum is NULL where no call tells the number, never zero, and NULL where it does not fit; sums
-- of integers are taken in DECIMAL so that they cannot wrap around.
SELECT
    date_trunc('minute', event_time) AS window_start,
    service_name,
    provider,
    model,
    operation,
    environment,
    status,
    count(*) AS requests,
    count(*) FILTER (WHERE status = 'error') AS errors,
    count(*) FILTER (WHERE streamed) AS streamed,
    TRY_CAST(sum(CAST(input_tokens AS DECIMAL(38, 0))) AS BIGINT) AS input_tokens,
    TRY_CAST(sum(CAST(output_tokens AS DECIMAL(38, 0))) AS BIGINT) AS output_tokens,
    TRY_CAST(sum(CAST(cache_read_tokens AS DECIMAL(38, 0))) AS BIGINT) AS cache_read_tokens,
    TRY_CAST(sum(CAST(cache_write_tokens AS DECIMAL(38, 0))) AS BIGINT) AS cache_write_tokens,
    TRY_CAST(sum(CAST(reasoning_tokens AS DECIMAL(38, 0))) AS BIGINT) AS reasoning_tokens,
    sum(CAST(cost_usd AS DECIMAL(38, 12))) AS cost_usd,
    count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced_requests,
    histogram(duration_ns) AS duration,
    histogram(time_to_first_token_ns) AS time_to_first_token,
    histogram(time_per_output_token_ns) AS time_per_output_token,
    histogram(input_tokens) AS input_tokens_histogram,
    histogram(output_tokens) AS output_tokens_histogram,
    histogram(cost_usd) AS cost_histogram
FROM (
    SELECT
        CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END AS event_time,
        CASE WHEN status_code = 'ERROR' THEN 'error' ELSE 'ok' END AS status,
        service_name,
        provider,
        model,
        operation,
        environment,
        streamed,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_write_tokens,
        reasoning_tokens,
        cost_usd,
        duration_ns,
        time_to_first_token_ns,
        time_per_output_token_ns
    FROM spans
    WHERE usage_role = 'leaf'
        AND date BETWEEN $first_date AND $last_date
        AND (
            ((time_flags & 1) = 0 AND start_time >= $window_start AND start_time < $window_end)
            OR ((time_flags & 1) = 1 AND received_time >= $window_start AND received_time < $window_end)
        )
) AS calls
GROUP BY window_start, service_name, provider, model, operation, environment, status
