-- What the ledger says of a signal, and how many rows its table has.
--
-- Parameters: $signal, and minutes from $from to before $to. `items` is the table of the signal.
SELECT
    CAST(coalesce(sum(requests), 0) AS BIGINT) AS requests,
    CAST(coalesce(sum(received), 0) AS BIGINT) AS received,
    CAST(coalesce(sum(stored), 0) AS BIGINT) AS stored,
    CAST(coalesce(sum(refused), 0) AS BIGINT) AS refused,
    CAST(coalesce(sum(duplicate), 0) AS BIGINT) AS duplicate,
    CAST(coalesce(sum(undecodable_requests), 0) AS BIGINT) AS undecodable_requests,
    CAST(coalesce(sum(undecodable_bytes), 0) AS BIGINT) AS undecodable_bytes,
    CAST(coalesce(sum(item_rows), 0) AS BIGINT) AS item_rows
FROM (
    SELECT
        requests,
        received,
        stored,
        refused,
        duplicate,
        undecodable_requests,
        undecodable_bytes,
        CAST(0 AS BIGINT) AS item_rows
    FROM ledger
    WHERE signal = $signal AND window_start >= $from AND window_start < $to
    UNION ALL
    SELECT
        CAST(0 AS BIGINT) AS requests,
        CAST(0 AS BIGINT) AS received,
        CAST(0 AS BIGINT) AS stored,
        CAST(0 AS BIGINT) AS refused,
        CAST(0 AS BIGINT) AS duplicate,
        CAST(0 AS BIGINT) AS undecodable_requests,
        CAST(0 AS BIGINT) AS undecodable_bytes,
        count(*) AS item_rows
    FROM items
    WHERE received_time >= $from AND received_time < $to
) AS both_sides
