-- name: cost_daily
-- description: What LLM calls cost per UTC day, service, environment, provider and model, with the calls of unknown price beside it
-- source: model_usage_hour
-- schedule: every 1m
-- window: 1d
-- keys: service_name, environment, provider, model
--
-- A cost that is not known is not in the sum: unpriced_requests tells how many calls that are.
SELECT
    date_trunc('day', window_start) AS window_start,
    service_name,
    environment,
    provider,
    model,
    sum(cost_usd) AS cost_usd,
    TRY_CAST(sum(CAST(requests AS DECIMAL(38, 0))) AS BIGINT) AS requests,
    TRY_CAST(sum(CAST(unpriced_requests AS DECIMAL(38, 0))) AS BIGINT) AS unpriced_requests,
    TRY_CAST(sum(CAST(input_tokens AS DECIMAL(38, 0))) AS BIGINT) AS input_tokens,
    TRY_CAST(sum(CAST(output_tokens AS DECIMAL(38, 0))) AS BIGINT) AS output_tokens
FROM model_usage_hour
WHERE date BETWEEN $first_date AND $last_date AND window_start >= $window_start AND window_start < $window_end
GROUP BY date_trunc('day', window_start), service_name, environment, provider, model
