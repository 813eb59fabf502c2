-- name: cost_disagreements
-- description: Calls whose cost by the price catalogue differs from what their producer claims
--
-- Producers compute in doubles: differences below a billionth of a dollar are none.
SELECT
    date,
    trace_id,
    span_id,
    start_time,
    service_name,
    scope_name,
    dialect,
    provider,
    model,
    input_tokens,
    output_tokens,
    cache_read_tokens,
    cache_write_tokens,
    cost_usd,
    cost_reported_usd,
    cost_reported_usd - cost_usd AS difference_usd,
    price_source
FROM llm_calls
WHERE abs(cost_reported_usd - cost_usd) > 0.000000001
