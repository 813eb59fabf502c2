-- The hours to which some spans belong. `items` holds the spans.
SELECT DISTINCT date_trunc('hour', CASE WHEN (time_flags & 1) = 1 THEN received_time ELSE start_time END) AS window_start
FROM items
