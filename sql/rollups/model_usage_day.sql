-- name: model_usage_day
-- description: LLM calls per UTC day, service, provider, model, operation, environment and status; only leaf spans count
-- source: model_usage_hour
-- schedule: every 1m
-- window: 1d
-- keys: service_name, provider, model, operation, environment, status
--
-- The days of model_usage_hour: sums of sums, histograms merged. Percentiles over months are read from a few rows.
SELECT
    date_trunc('day', window_start) AS window_start,
    service_name,
    provider,
    model,
    operation,
    environment,
    status,
    TRY_CAST(sum(CAST(requests AS DECIMAL(38, 0))) AS BIGINT) AS requests,
    TRY_CAST(sum(CAST(errors AS DECIMAL(38, 0))) AS BIGINT) AS errors,
    TRY_CAST(sum(CAST(streamed AS DECIMAL(38, 0))) AS BIGINT) AS streamed,
    TRY_CAST(sum(CAST(input_tokens AS DECIMAL(38, 0))) AS BIGINT) AS input_tokens,
    TRY_CAST(sum(CAST(output_tokens AS DECIMAL(38, 0))) AS BIGINT) AS output_tokens,
    TRY_CAST(sum(CAST(cache_read_tokens AS DECIMAL(38, 0))) AS BIGINT) AS cache_read_tokens,
    TRY_CAST(sum(CAST(cache_write_tokens AS DECIMAL(38, 0))) AS BIGINT) AS cache_write_tokens,
    TRY_CAST(sum(CAST(reasoning_tokens AS DECIMAL(38, 0))) AS BIGINT) AS reasoning_tokens,
    sum(cost_usd) AS cost_usd,
    TRY_CAST(sum(CAST(unpriced_requests AS DECIMAL(38, 0))) AS BIGINT) AS unpriced_requests,
    histogram_merge(duration) AS duration,
    histogram_merge(time_to_first_token) AS time_to_first_token,
    histogram_merge(time_per_output_token) AS time_per_output_token,
    histogram_merge(input_tokens_histogram) AS input_tokens_histogram,
    histogram_merge(output_tokens_histogram) AS output_tokens_histogram,
    histogram_merge(cost_histogram) AS cost_histogram
FROM model_usage_hour
WHERE date BETWEEN $first_date AND $last_date AND window_start >= $window_start AND window_start < $window_end
GROUP BY date_trunc('day', window_start), service_name, provider, model, operation, environment, status
