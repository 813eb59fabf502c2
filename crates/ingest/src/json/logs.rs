//! The messages of an OTLP logs request as tables.

use super::schema::{ANY_VALUE, EnumNames, KEY_VALUE, Kind, Message, RESOURCE, SCOPE, many, message, one};

/// `ExportLogsServiceRequest`, and `LogsData`, which is written the same.
pub(super) static LOGS: Message = message(&[many("resourceLogs", "resource_logs", 1, Kind::Message(&RESOURCE_LOGS))]);

static RESOURCE_LOGS: Message = message(&[
    one("resource", "resource", 1, Kind::Message(&RESOURCE)),
    many("scopeLogs", "scope_logs", 2, Kind::Message(&SCOPE_LOGS)),
    one("schemaUrl", "schema_url", 3, Kind::Text),
]);

static SCOPE_LOGS: Message = message(&[
    one("scope", "scope", 1, Kind::Message(&SCOPE)),
    many("logRecords", "log_records", 2, Kind::Message(&LOG_RECORD)),
    one("schemaUrl", "schema_url", 3, Kind::Text),
]);

static LOG_RECORD: Message = message(&[
    one("timeUnixNano", "time_unix_nano", 1, Kind::Fixed64),
    one("observedTimeUnixNano", "observed_time_unix_nano", 11, Kind::Fixed64),
    one("severityNumber", "severity_number", 2, Kind::Enum(&SEVERITY_NUMBER)),
    one("severityText", "severity_text", 3, Kind::Text),
    one("body", "body", 5, Kind::Message(&ANY_VALUE)),
    many("attributes", "attributes", 6, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", "dropped_attributes_count", 7, Kind::Uint32),
    one("flags", "flags", 8, Kind::Fixed32),
    one("traceId", "trace_id", 9, Kind::Id(16)),
    one("spanId", "span_id", 10, Kind::Id(8)),
    one("eventName", "event_name", 12, Kind::Text),
]);

static SEVERITY_NUMBER: EnumNames = EnumNames {
    prefix: "SEVERITY_NUMBER_",
    short_names: &[
        "UNSPECIFIED",
        "TRACE",
        "TRACE2",
        "TRACE3",
        "TRACE4",
        "DEBUG",
        "DEBUG2",
        "DEBUG3",
        "DEBUG4",
        "INFO",
        "INFO2",
        "INFO3",
        "INFO4",
        "WARN",
        "WARN2",
        "WARN3",
        "WARN4",
        "ERROR",
        "ERROR2",
        "ERROR3",
        "ERROR4",
        "FATAL",
        "FATAL2",
        "FATAL3",
        "FATAL4",
    ],
};
