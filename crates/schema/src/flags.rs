//! Bits of the flag columns.

/// Bits of `time_flags`: what is odd about the times of a span, a log record or a metric point.
pub mod time {
    /// The event's day lies too far from its arrival, or a request named too many days: `date` is the day of arrival.
    pub const DATE_FROM_ARRIVAL: i64 = 1;
    /// The start time is zero: the sender set none.
    pub const NO_START: i64 = 1 << 1;
    /// The end time is zero: the span never ended.
    pub const NO_END: i64 = 1 << 2;
    /// The end lies before the start.
    pub const END_BEFORE_START: i64 = 1 << 3;
    /// The duration is longer than `i64::MAX` nanoseconds.
    pub const DURATION_OVERFLOW: i64 = 1 << 4;
    /// The sender set no time: `time` is when the log record was observed.
    pub const TIME_FROM_OBSERVED: i64 = 1 << 5;
    /// The sender set no time at all: `time` is the arrival.
    pub const TIME_FROM_ARRIVAL: i64 = 1 << 6;
}

/// Bits of `reading_flags`: how a row's meaning was read. Spans use the bits below 2^20.
pub mod reading {
    /// `provider` was derived from the server's address or the model's name, not told.
    pub const PROVIDER_DERIVED: i64 = 1;
    /// `operation` was derived, not told.
    pub const OPERATION_DERIVED: i64 = 1 << 1;
    /// An attribute a rule reads had a type it cannot be read from.
    pub const TYPE_CONFLICT: i64 = 1 << 2;
    /// Usage was estimated, not reported.
    pub const USAGE_ESTIMATED: i64 = 1 << 3;
    /// The emitter's input count excluded cached tokens; they were added.
    pub const INPUT_EXCLUDED_CACHE: i64 = 1 << 4;
    /// Invalid UTF-8 was replaced by U+FFFD somewhere in the span.
    pub const UTF8_REPAIRED: i64 = 1 << 5;
    /// A value was nested deeper than the limit and was cut there.
    pub const NESTING_CUT: i64 = 1 << 6;
    /// The computed cost does not fit `DECIMAL(18,12)`; `cost_usd` is NULL.
    pub const COST_OUT_OF_RANGE: i64 = 1 << 7;
    /// An attribute key stands more than once; the first is read, all are kept.
    pub const DUPLICATE_KEYS: i64 = 1 << 8;
    /// The parent span id was sent as eight zero bytes, which means none.
    pub const PARENT_ALL_ZERO: i64 = 1 << 9;
    /// A status was sent without code or message, which means the same as none.
    pub const EMPTY_STATUS: i64 = 1 << 10;
    /// A token count was beyond what any call can have and was not read; the attribute is kept as sent.
    pub const COUNT_IMPLAUSIBLE: i64 = 1 << 11;
    /// The emitter's output count excluded reasoning tokens; they were added.
    pub const OUTPUT_EXCLUDED_REASONING: i64 = 1 << 12;
    /// An attribute that begins like JSON and has to be JSON is none; it is kept as text.
    pub const JSON_BROKEN: i64 = 1 << 13;
    /// The span's kind or status code is a number that OTLP has no name for; the number is kept.
    pub const ENUM_UNKNOWN: i64 = 1 << 14;
    /// A log record's `event_name` was told by the attribute `event.name`, not by the field.
    pub const EVENT_NAME_FROM_ATTRIBUTE: i64 = 1 << 20;
    /// A histogram's buckets do not fit its bounds or do not add up to its count; all are kept as sent.
    pub const BUCKETS_INCONSISTENT: i64 = 1 << 24;
}
