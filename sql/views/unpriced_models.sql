-- name: unpriced_models
-- description: Models whose calls have usage but no known price, and how much was used without one
--
-- A price for them can be given in a catalogue of your own. Until then their cost is NULL, never zero.
SELECT
    provider,
    model,
    count(*) AS calls,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    min(start_time) AS first_call,
    max(start_time) AS last_call
FROM llm_calls
WHERE cost_usd IS NULL AND (input_tokens IS NOT NULL OR output_tokens IS NOT NULL)
GROUP BY provider, model
