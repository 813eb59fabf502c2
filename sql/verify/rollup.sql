-- The calls of each hour as the rollup counts them, and as the spans do. `items` is the table `spans`.
SELECT
    window_start,
    CAST(sum(requests) AS BIGINT) AS requests,
    CAST(sum(leaf_spans) AS BIGINT) AS leaf_spans
FROM (
    SELECT window_start, requests, CAST(0 AS BIGINT) AS leaf_spans
    FROM model_usage_hour
    UNION ALL
    SELECT
        date_trunc('hour', CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END) AS window_start,
        CAST(0 AS BIGINT) AS requests,
        count(*) AS leaf_spans
    FROM items
    WHERE usage_role = 'leaf'
    GROUP BY date_trunc('hour', CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END)
) AS both_sides
GROUP BY window_start
ORDER BY window_start
