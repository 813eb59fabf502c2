//! The messages of an OTLP metrics request as tables.

use super::schema::{EnumNames, KEY_VALUE, Kind, Message, RESOURCE, SCOPE, choosing, many, message, one};

/// `ExportMetricsServiceRequest`, and `MetricsData`, which is written the same.
pub(super) static METRICS: Message =
    message(&[many("resourceMetrics", "resource_metrics", 1, Kind::Message(&RESOURCE_METRICS))]);

static RESOURCE_METRICS: Message = message(&[
    one("resource", "resource", 1, Kind::Message(&RESOURCE)),
    many("scopeMetrics", "scope_metrics", 2, Kind::Message(&SCOPE_METRICS)),
    one("schemaUrl", "schema_url", 3, Kind::Text),
]);

static SCOPE_METRICS: Message = message(&[
    one("scope", "scope", 1, Kind::Message(&SCOPE)),
    many("metrics", "metrics", 2, Kind::Message(&METRIC)),
    one("schemaUrl", "schema_url", 3, Kind::Text),
]);

static METRIC: Message = choosing(
    &[
        one("name", "name", 1, Kind::Text),
        one("description", "description", 2, Kind::Text),
        one("unit", "unit", 3, Kind::Text),
        one("gauge", "gauge", 5, Kind::Message(&GAUGE)),
        one("sum", "sum", 7, Kind::Message(&SUM)),
        one("histogram", "histogram", 9, Kind::Message(&HISTOGRAM)),
        one("exponentialHistogram", "exponential_histogram", 10, Kind::Message(&EXPONENTIAL_HISTOGRAM)),
        one("summary", "summary", 11, Kind::Message(&SUMMARY)),
        many("metadata", "metadata", 12, Kind::Message(&KEY_VALUE)),
    ],
    3,
    5,
);

static GAUGE: Message = message(&[many("dataPoints", "data_points", 1, Kind::Message(&NUMBER_POINT))]);

static SUM: Message = message(&[
    many("dataPoints", "data_points", 1, Kind::Message(&NUMBER_POINT)),
    one("aggregationTemporality", "aggregation_temporality", 2, Kind::Enum(&TEMPORALITY)),
    one("isMonotonic", "is_monotonic", 3, Kind::Bool),
]);

static HISTOGRAM: Message = message(&[
    many("dataPoints", "data_points", 1, Kind::Message(&HISTOGRAM_POINT)),
    one("aggregationTemporality", "aggregation_temporality", 2, Kind::Enum(&TEMPORALITY)),
]);

static EXPONENTIAL_HISTOGRAM: Message = message(&[
    many("dataPoints", "data_points", 1, Kind::Message(&EXPONENTIAL_POINT)),
    one("aggregationTemporality", "aggregation_temporality", 2, Kind::Enum(&TEMPORALITY)),
]);

static SUMMARY: Message = message(&[many("dataPoints", "data_points", 1, Kind::Message(&SUMMARY_POINT))]);

static NUMBER_POINT: Message = choosing(
    &[
        many("attributes", "attributes", 7, Kind::Message(&KEY_VALUE)),
        one("startTimeUnixNano", "start_time_unix_nano", 2, Kind::Fixed64),
        one("timeUnixNano", "time_unix_nano", 3, Kind::Fixed64),
        one("asDouble", "as_double", 4, Kind::Double),
        one("asInt", "as_int", 6, Kind::Sfixed64),
        many("exemplars", "exemplars", 5, Kind::Message(&EXEMPLAR)),
        one("flags", "flags", 8, Kind::Uint32),
    ],
    3,
    2,
);

static HISTOGRAM_POINT: Message = message(&[
    many("attributes", "attributes", 9, Kind::Message(&KEY_VALUE)),
    one("startTimeUnixNano", "start_time_unix_nano", 2, Kind::Fixed64),
    one("timeUnixNano", "time_unix_nano", 3, Kind::Fixed64),
    one("count", "count", 4, Kind::Fixed64),
    one("sum", "sum", 5, Kind::Double),
    many("bucketCounts", "bucket_counts", 6, Kind::Fixed64),
    many("explicitBounds", "explicit_bounds", 7, Kind::Double),
    many("exemplars", "exemplars", 8, Kind::Message(&EXEMPLAR)),
    one("flags", "flags", 10, Kind::Uint32),
    one("min", "min", 11, Kind::Double),
    one("max", "max", 12, Kind::Double),
]);

static EXPONENTIAL_POINT: Message = message(&[
    many("attributes", "attributes", 1, Kind::Message(&KEY_VALUE)),
    one("startTimeUnixNano", "start_time_unix_nano", 2, Kind::Fixed64),
    one("timeUnixNano", "time_unix_nano", 3, Kind::Fixed64),
    one("count", "count", 4, Kind::Fixed64),
    one("sum", "sum", 5, Kind::Double),
    one("scale", "scale", 6, Kind::Sint32),
    one("zeroCount", "zero_count", 7, Kind::Fixed64),
    one("positive", "positive", 8, Kind::Message(&BUCKETS)),
    one("negative", "negative", 9, Kind::Message(&BUCKETS)),
    one("flags", "flags", 10, Kind::Uint32),
    many("exemplars", "exemplars", 11, Kind::Message(&EXEMPLAR)),
    one("min", "min", 12, Kind::Double),
    one("max", "max", 13, Kind::Double),
    one("zeroThreshold", "zero_threshold", 14, Kind::Double),
]);

static BUCKETS: Message =
    message(&[one("offset", "offset", 1, Kind::Sint32), many("bucketCounts", "bucket_counts", 2, Kind::Uint64)]);

static SUMMARY_POINT: Message = message(&[
    many("attributes", "attributes", 7, Kind::Message(&KEY_VALUE)),
    one("startTimeUnixNano", "start_time_unix_nano", 2, Kind::Fixed64),
    one("timeUnixNano", "time_unix_nano", 3, Kind::Fixed64),
    one("count", "count", 4, Kind::Fixed64),
    one("sum", "sum", 5, Kind::Double),
    many("quantileValues", "quantile_values", 6, Kind::Message(&QUANTILE)),
    one("flags", "flags", 8, Kind::Uint32),
]);

static QUANTILE: Message =
    message(&[one("quantile", "quantile", 1, Kind::Double), one("value", "value", 2, Kind::Double)]);

static EXEMPLAR: Message = choosing(
    &[
        many("filteredAttributes", "filtered_attributes", 7, Kind::Message(&KEY_VALUE)),
        one("timeUnixNano", "time_unix_nano", 2, Kind::Fixed64),
        one("asDouble", "as_double", 3, Kind::Double),
        one("asInt", "as_int", 6, Kind::Sfixed64),
        one("spanId", "span_id", 4, Kind::Id(8)),
        one("traceId", "trace_id", 5, Kind::Id(16)),
    ],
    2,
    2,
);

static TEMPORALITY: EnumNames =
    EnumNames { prefix: "AGGREGATION_TEMPORALITY_", short_names: &["UNSPECIFIED", "DELTA", "CUMULATIVE"] };
