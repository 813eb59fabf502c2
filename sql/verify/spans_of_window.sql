-- Spans of one service that arrived in one minute, those that are there more than once first.
--
-- Parameters: $service_name (may be NULL), and the minute from $from to before $to. `items` is the table `spans`.
SELECT trace_id, span_id, name, count(*) AS copies
FROM items
WHERE (service_name IS NOT DISTINCT FROM $service_name) AND received_time >= $from AND received_time < $to
GROUP BY trace_id, span_id, name
ORDER BY copies DESC, trace_id, span_id
LIMIT 5
