-- Services and minutes of arrival in which the ledger does not add up, or disagrees with the rows of the signal's table.
--
-- Parameters: $signal, and minutes from $from to before $to. `items` is the table of the signal.
SELECT
    service_name,
    window_start,
    CAST(sum(received) AS BIGINT) AS received,
    CAST(sum(stored) AS BIGINT) AS stored,
    CAST(sum(refused) AS BIGINT) AS refused,
    CAST(sum(duplicate) AS BIGINT) AS duplicate,
    CAST(sum(item_rows) AS BIGINT) AS item_rows
FROM (
    SELECT service_name, window_start, received, stored, refused, duplicate, CAST(0 AS BIGINT) AS item_rows
    FROM ledger
    WHERE signal = $signal AND window_start >= $from AND window_start < $to
    UNION ALL
    SELECT
        service_name,
        date_trunc('minute', received_time) AS window_start,
        CAST(0 AS BIGINT) AS received,
        CAST(0 AS BIGINT) AS stored,
        CAST(0 AS BIGINT) AS refused,
        CAST(0 AS BIGINT) AS duplicate,
        count(*) AS item_rows
    FROM items
    WHERE received_time >= $from AND received_time < $to
    GROUP BY service_name, date_trunc('minute', received_time)
) AS both_sides
GROUP BY service_name, window_start
HAVING sum(received) <> sum(stored) + sum(refused) + sum(duplicate) OR sum(stored) <> sum(item_rows)
ORDER BY window_start, service_name
LIMIT 1001
