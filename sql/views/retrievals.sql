-- name: retrievals
-- description: Retrievals and rerankings: the spans in which documents were looked up or put in order
--
-- The query and the documents stand in messages, under the same trace_id and span_id.
SELECT
    date,
    trace_id,
    span_id,
    parent_span_id,
    start_time,
    duration_ns,
    service_name,
    environment,
    scope_name,
    dialect,
    name,
    operation,
    data_source_id,
    provider,
    model,
    CAST(top_k AS BIGINT) AS top_k,
    db_system,
    db_namespace,
    agent_name,
    workflow_name,
    conversation_id,
    CASE WHEN status_code = 'ERROR' THEN 'error' ELSE 'ok' END AS status,
    status_message,
    error_type,
    received_time
FROM spans
WHERE operation IN ('retrieval', 'rerank')
