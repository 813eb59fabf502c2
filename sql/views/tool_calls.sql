-- name: tool_calls
-- description: Tool calls: the spans in which a tool ran, with what ran, how long and how it ended
--
-- What a tool was given and gave back stands in messages, under the same trace_id and span_id.
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
    tool_name,
    tool_call_id,
    agent_name,
    workflow_name,
    conversation_id,
    user_id,
    session_id,
    CASE WHEN status_code = 'ERROR' THEN 'error' ELSE 'ok' END AS status,
    status_message,
    error_type,
    received_time
FROM spans
WHERE operation = 'execute_tool'
    OR (operation IS NULL AND usage_role IS NULL AND (tool_name IS NOT NULL OR tool_call_id IS NOT NULL))
