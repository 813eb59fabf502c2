-- name: tool_calls
-- description: Tool calls: the spans in which a tool ran, with what ran, how long and how it ended
--
-- What a tool was given and gave back stands in messages, under the same trace_id and span_id. A tool of a Model Context
-- Protocol server may be told twice, by its client and by its server: kind tells which (CLIENT, SERVER; INTERNAL where it ran
-- in the caller itself).
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
    kind,
    tool_name,
    tool_type,
    tool_call_id,
    mcp_method,
    mcp_session_id,
    mcp_protocol_version,
    jsonrpc_request_id,
    rpc_response_status_code,
    server_address,
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
