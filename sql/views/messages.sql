-- name: messages
-- description: What was said: every part of prompts, answers, tool calls and tool definitions, once, whole and in order
-- contents: content
--
-- One row a part. Within a span, order by direction, position, part.
--
-- The same content may be told twice: by the attributes of a span and by log records, by two instrumentations of one span, or
-- in a request that was sent again. Told alike (one span, direction, kind, tool call and hash) it stands once. What a single
-- source says several times in one span, at several places, stands as often: the first telling of one source is the
-- first of the other, the second the second. Attributes are preferred, then span events, then logs.
--
-- Log records tell no position; it follows from their time and their order in the request. Parts of kind raw, which repeat
-- what stands in other parts of the span, are left out: message_parts has them.
SELECT
    date,
    trace_id,
    span_id,
    time,
    direction,
    place AS position,
    part,
    role,
    kind,
    content,
    content_bytes,
    content_hash,
    tool_name,
    tool_call_id,
    finish_reason,
    details,
    source,
    service_name,
    received_time
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY date, trace_id, span_id, direction, kind, tool_call_id, content_hash, telling
            ORDER BY source, received_time, sequence, part
        ) AS teller
    FROM (
        SELECT
            *,
            dense_rank() OVER (
                PARTITION BY date, trace_id, span_id, direction, kind, tool_call_id, content_hash, source
                ORDER BY place, part
            ) AS telling
        FROM (
            SELECT
                *,
                coalesce(
                    position,
                    CAST(dense_rank() OVER (
                        PARTITION BY date, trace_id, span_id, direction, source ORDER BY time, sequence
                    ) AS BIGINT) - 1
                ) AS place
            FROM message_parts
            WHERE kind <> 'raw'
        ) AS placed
    ) AS counted
) AS told
WHERE teller = 1
