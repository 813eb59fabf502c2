-- name: conversations
-- description: Whole conversations: what was said in the calls of one conversation_id, or of one trace without one, once and in order
-- contents: content
--
-- A call resends what was said before it, and the answer of one call is part of the prompt of the next. Here every part stands
-- once, with the call that first told it. What one call says twice stands twice. Order by turn.
SELECT
    conversation,
    CAST(row_number() OVER (
        PARTITION BY conversation ORDER BY start_time_unix_nano, span_id, direction_order, position, part
    ) AS BIGINT) AS turn,
    conversation_id,
    date,
    trace_id,
    span_id,
    start_time AS time,
    direction,
    role,
    kind,
    content,
    content_bytes,
    content_hash,
    tool_name,
    tool_call_id,
    finish_reason,
    model,
    service_name
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY conversation, kind, tool_call_id, content_hash, telling
            ORDER BY start_time_unix_nano, span_id
        ) AS teller
    FROM (
        SELECT
            coalesce(calls.conversation_id, calls.trace_id) AS conversation,
            calls.conversation_id,
            calls.start_time,
            calls.start_time_unix_nano,
            calls.model,
            calls.service_name,
            said.date,
            said.trace_id,
            said.span_id,
            said.direction,
            CASE said.direction WHEN 'system' THEN 0 WHEN 'input' THEN 1 ELSE 2 END AS direction_order,
            said.position,
            said.part,
            said.role,
            said.kind,
            said.content,
            said.content_bytes,
            said.content_hash,
            said.tool_name,
            said.tool_call_id,
            said.finish_reason,
            row_number() OVER (
                PARTITION BY calls.trace_id, calls.span_id, said.kind, said.tool_call_id, said.content_hash
                ORDER BY CASE said.direction WHEN 'system' THEN 0 WHEN 'input' THEN 1 ELSE 2 END, said.position, said.part
            ) AS telling
        FROM llm_calls AS calls
        JOIN messages AS said ON said.trace_id = calls.trace_id AND said.span_id = calls.span_id
        WHERE said.direction <> 'tool_definition'
    ) AS counted
) AS told
WHERE teller = 1
