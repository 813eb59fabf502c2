-- name: metric_totals
-- description: The points of metric_points that may be added up: of each cumulative run its last one, of delta series each once
--
-- A cumulative series tells its running total again with every export, so that only the last point of a run counts; a new
-- start_time, or a total that falls, begins another run. A delta series tells what was new; a point sent again counts once.
-- Only what grows has totals: histograms and monotonic sums of known temporality. Sums over this view are right however its
-- rows are grouped; histograms keep all their buckets. Minimum and maximum are those of the whole run, or of the delta.
SELECT
    date,
    time,
    start_time,
    name,
    description,
    unit,
    kind,
    temporality,
    value,
    count,
    sum,
    min,
    max,
    explicit_bounds,
    bucket_counts,
    scale,
    zero_count,
    zero_threshold,
    positive_offset,
    positive_bucket_counts,
    negative_offset,
    negative_bucket_counts,
    series_id,
    service_name,
    environment,
    scope_name,
    scope_version,
    attributes,
    resource_attributes,
    received_time
FROM (
    SELECT
        *,
        lead(level) OVER (
            PARTITION BY series_id, start_time_unix_nano ORDER BY time, time_unix_nano, level
        ) AS next_level,
        row_number() OVER (
            PARTITION BY series_id, start_time_unix_nano, time_unix_nano, level, sum ORDER BY received_time
        ) AS telling
    FROM (
        SELECT
            *,
            coalesce(value_double, CAST(value_int AS DOUBLE)) AS value,
            CASE WHEN kind = 'sum' THEN coalesce(value_double, CAST(value_int AS DOUBLE)) ELSE CAST(count AS DOUBLE) END AS level
        FROM metric_points
        WHERE (kind IN ('histogram', 'exponential_histogram') OR (kind = 'sum' AND monotonic)) AND (flags & 1) = 0
    ) AS levels
) AS told
WHERE (temporality = 'cumulative' AND (next_level IS NULL OR next_level < level))
    OR (temporality = 'delta' AND (telling = 1 OR time_unix_nano IS NULL))
