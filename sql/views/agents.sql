-- name: agents
-- description: Runs of agents and workflows: the spans that stand for one, with what they claim to have used in all
--
-- The tokens are what the agent's own span says of the calls below it. They are no calls: sum llm_calls for totals.
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
    agent_id,
    agent_name,
    agent_version,
    workflow_name,
    data_source_id,
    provider,
    model,
    input_tokens,
    output_tokens,
    total_tokens,
    cost_reported_usd,
    conversation_id,
    user_id,
    session_id,
    CASE WHEN status_code = 'ERROR' THEN 'error' ELSE 'ok' END AS status,
    status_message,
    error_type,
    received_time
FROM spans
WHERE operation IN ('invoke_agent', 'create_agent', 'invoke_workflow')
