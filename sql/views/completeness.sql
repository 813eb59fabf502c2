-- name: completeness
-- description: What the calls of each producer and service leave unsaid: the share that lacks provider, model, tokens or price
--
-- One row an instrumentation (scope, version, dialect) and service. A share of 0 is all told, of 1 nothing told. Calls that
-- failed have no usage to tell and count in the columns of provider and model only; embeddings have no output. What could not be
-- read as it was sent (a value of another type, broken JSON, nesting without end, counts that cannot be, numbers of enums that
-- OTLP has no name for, text that is no UTF-8) is stored and counted.
SELECT
    service_name,
    scope_name,
    scope_version,
    dialect,
    count(*) AS calls,
    CAST(count(*) FILTER (WHERE provider IS NULL) AS DOUBLE) / count(*) AS lacks_provider,
    CAST(count(*) FILTER (WHERE model IS NULL) AS DOUBLE) / count(*) AS lacks_model,
    CAST(count(*) FILTER (WHERE input_tokens IS NULL AND status = 'ok') AS DOUBLE)
        / nullif(count(*) FILTER (WHERE status = 'ok'), 0) AS lacks_input_tokens,
    CAST(count(*) FILTER (WHERE output_tokens IS NULL AND status = 'ok' AND operation IS DISTINCT FROM 'embeddings') AS DOUBLE)
        / nullif(count(*) FILTER (WHERE status = 'ok' AND operation IS DISTINCT FROM 'embeddings'), 0) AS lacks_output_tokens,
    CAST(count(*) FILTER (WHERE cost_usd IS NULL AND status = 'ok') AS DOUBLE)
        / nullif(count(*) FILTER (WHERE status = 'ok'), 0) AS lacks_price,
    count(*) FILTER (WHERE (reading_flags & 1) <> 0) AS provider_derived_calls,
    count(*) FILTER (WHERE (reading_flags & 4) <> 0) AS type_conflict_calls,
    count(*) FILTER (WHERE (reading_flags & 8192) <> 0) AS broken_json_calls,
    count(*) FILTER (WHERE (reading_flags & 64) <> 0) AS nesting_cut_calls,
    count(*) FILTER (WHERE (reading_flags & 2048) <> 0) AS implausible_count_calls,
    count(*) FILTER (WHERE (reading_flags & 16384) <> 0) AS unknown_enum_calls,
    count(*) FILTER (WHERE (reading_flags & 32) <> 0) AS repaired_text_calls,
    min(start_time) AS first_call,
    max(start_time) AS last_call
FROM llm_calls
GROUP BY service_name, scope_name, scope_version, dialect
