//! The rollup tables of usage per model.

use crate::column::ColumnType::{Date, Float64, Histogram, Int64, Text, Timestamp, UsdSum};
use crate::column::{Column, TableSpec};

/// `model_usage_hour`: requests, tokens, cost and duration per hour and key. Only leaf spans count.
pub const HOUR_SPEC: TableSpec = TableSpec {
    name: "model_usage_hour",
    comment: "LLM calls per hour, service, provider, model, operation, environment and status; only leaf spans count",
    columns: &[
        Column::required("date", Date, "UTC day of the window; the partition"),
        Column::required("window_start", Timestamp, "Start of the hour, UTC; the window is half-open"),
        Column::optional("service_name", Text, "Resource attribute service.name"),
        Column::optional("provider", Text, "Provider of the model"),
        Column::optional("model", Text, "The model that answered, else the requested one"),
        Column::optional("operation", Text, "GenAI operation"),
        Column::optional("environment", Text, "Deployment environment"),
        Column::optional("status", Text, "error or ok"),
        Column::required("requests", Int64, "Calls"),
        Column::required("errors", Int64, "Calls that failed"),
        Column::required("streamed", Int64, "Calls known to be streamed"),
        Column::optional("input_tokens", Int64, "Prompt tokens, cache included; NULL where no call tells"),
        Column::optional("output_tokens", Int64, "Completion tokens, reasoning included; NULL where no call tells"),
        Column::optional("cache_read_tokens", Int64, "Prompt tokens served from cache; NULL where no call tells"),
        Column::optional("cache_write_tokens", Int64, "Prompt tokens written to cache; NULL where no call tells"),
        Column::optional("reasoning_tokens", Int64, "Completion tokens spent thinking; NULL where no call tells"),
        Column::optional("cost_usd", UsdSum, "US dollars, summed exactly; NULL where no call has a known price"),
        Column::required("unpriced_requests", Int64, "Calls without a known price"),
        Column::optional("duration_ns_min", Int64, "Shortest call"),
        Column::optional("duration_ns_max", Int64, "Longest call"),
        Column::optional("duration_ns_sum", Int64, "Sum of durations; NULL where it does not fit"),
        Column::required("duration_count", Int64, "Calls with a duration"),
        Column::optional("duration_ns_mean", Float64, "Mean duration; known even where the sum does not fit"),
        Column::optional("duration", Histogram, "Durations, nanoseconds"),
        Column::optional(
            "time_to_first_token",
            Histogram,
            "Times to the first token, nanoseconds, of calls that tell it",
        ),
        Column::optional("time_per_output_token", Histogram, "Times for each token after the first, nanoseconds"),
        Column::optional("input_tokens_histogram", Histogram, "Prompt tokens of a call"),
        Column::optional("output_tokens_histogram", Histogram, "Completion tokens of a call"),
        Column::optional("cost_histogram", Histogram, "US dollars of a call"),
        Column::required(
            "revision",
            Int64,
            "How often the rows of this window were written; grows with each restatement that changes them",
        ),
    ],
    statistics: &["window_start"],
    bloom_filters: &[],
    sums: &[],
    attributes: &[],
};
