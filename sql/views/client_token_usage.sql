-- name: client_token_usage
-- description: Tokens per service, model and token type as the senders' own metrics tell (gen_ai.client.token.usage)
--
-- Beside llm_calls it shows what sampling or loss kept from the spans. Requests are those that told this type of token.
SELECT
    service_name,
    environment,
    lower(coalesce(attributes['gen_ai.provider.name'], attributes['gen_ai.system'])) AS provider,
    coalesce(attributes['gen_ai.response.model'], attributes['gen_ai.request.model']) AS model,
    attributes['gen_ai.operation.name'] AS operation,
    attributes['gen_ai.token.type'] AS token_type,
    sum(sum) AS tokens,
    sum(count) AS requests,
    min(coalesce(start_time, time)) AS first_time,
    max(time) AS last_time
FROM metric_totals
WHERE name = 'gen_ai.client.token.usage'
GROUP BY 1, 2, 3, 4, 5, 6
