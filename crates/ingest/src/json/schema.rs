//! The messages of an OTLP trace request as tables: names, field numbers and types of `opentelemetry-proto`.
//!
//! Fields stand in the order in which senders write them, because the search for a name begins after the last one found.

/// A message: its fields, and those of which at most one may be set.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) fields: &'static [Field],
    /// The members of its oneof: one bit a field.
    pub(crate) oneof: u32,
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) camel: &'static str,
    pub(crate) snake: &'static str,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) is_repeated: bool,
}

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    /// An id of so many bytes, hexadecimal in JSON.
    Id(usize),
    Bytes,
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    /// A 32-bit integer in zigzag encoding.
    Sint32,
    Fixed32,
    Fixed64,
    Sfixed64,
    Double,
    Enum(&'static EnumNames),
    Message(&'static Message),
}

/// The names of an enum's numbers, counted from 0, without their common prefix.
#[derive(Debug)]
pub(crate) struct EnumNames {
    pub(crate) prefix: &'static str,
    pub(crate) short_names: &'static [&'static str],
}

pub(super) const fn one(camel: &'static str, snake: &'static str, number: u32, kind: Kind) -> Field {
    Field { camel, snake, number, kind, is_repeated: false }
}

pub(super) const fn many(camel: &'static str, snake: &'static str, number: u32, kind: Kind) -> Field {
    Field { camel, snake, number, kind, is_repeated: true }
}

pub(super) const fn message(fields: &'static [Field]) -> Message {
    choosing(fields, 0, 0)
}

/// A message with a oneof: of the fields from `first` on, so many.
pub(super) const fn choosing(fields: &'static [Field], first: u32, count: u32) -> Message {
    assert!(fields.len() <= u32::BITS as usize, "the transcoder notes the fields of a message in the bits of a u32");
    Message { fields, oneof: ((1 << count) - 1) << first }
}

/// `ExportTraceServiceRequest`, and `TracesData`, which is written the same.
pub(super) static TRACES: Message =
    message(&[many("resourceSpans", "resource_spans", 1, Kind::Message(&RESOURCE_SPANS))]);

static RESOURCE_SPANS: Message = message(&[
    one("resource", "resource", 1, Kind::Message(&RESOURCE)),
    many("scopeSpans", "scope_spans", 2, Kind::Message(&SCOPE_SPANS)),
    one("schemaUrl", "schema_url", 3, Kind::Text),
]);

pub(super) static RESOURCE: Message = message(&[
    many("attributes", "attributes", 1, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", "dropped_attributes_count", 2, Kind::Uint32),
    many("entityRefs", "entity_refs", 3, Kind::Message(&ENTITY_REF)),
]);

static ENTITY_REF: Message = message(&[
    one("schemaUrl", "schema_url", 1, Kind::Text),
    one("type", "type", 2, Kind::Text),
    many("idKeys", "id_keys", 3, Kind::Text),
    many("descriptionKeys", "description_keys", 4, Kind::Text),
]);

static SCOPE_SPANS: Message = message(&[
    one("scope", "scope", 1, Kind::Message(&SCOPE)),
    many("spans", "spans", 2, Kind::Message(&SPAN)),
    one("schemaUrl", "schema_url", 3, Kind::Text),
]);

pub(super) static SCOPE: Message = message(&[
    one("name", "name", 1, Kind::Text),
    one("version", "version", 2, Kind::Text),
    many("attributes", "attributes", 3, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", "dropped_attributes_count", 4, Kind::Uint32),
]);

static SPAN: Message = message(&[
    one("traceId", "trace_id", 1, Kind::Id(16)),
    one("spanId", "span_id", 2, Kind::Id(8)),
    one("traceState", "trace_state", 3, Kind::Text),
    one("parentSpanId", "parent_span_id", 4, Kind::Id(8)),
    one("flags", "flags", 16, Kind::Fixed32),
    one("name", "name", 5, Kind::Text),
    one("kind", "kind", 6, Kind::Enum(&SPAN_KIND)),
    one("startTimeUnixNano", "start_time_unix_nano", 7, Kind::Fixed64),
    one("endTimeUnixNano", "end_time_unix_nano", 8, Kind::Fixed64),
    many("attributes", "attributes", 9, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", "dropped_attributes_count", 10, Kind::Uint32),
    many("events", "events", 11, Kind::Message(&EVENT)),
    one("droppedEventsCount", "dropped_events_count", 12, Kind::Uint32),
    many("links", "links", 13, Kind::Message(&LINK)),
    one("droppedLinksCount", "dropped_links_count", 14, Kind::Uint32),
    one("status", "status", 15, Kind::Message(&STATUS)),
]);

static EVENT: Message = message(&[
    one("timeUnixNano", "time_unix_nano", 1, Kind::Fixed64),
    one("name", "name", 2, Kind::Text),
    many("attributes", "attributes", 3, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", "dropped_attributes_count", 4, Kind::Uint32),
]);

static LINK: Message = message(&[
    one("traceId", "trace_id", 1, Kind::Id(16)),
    one("spanId", "span_id", 2, Kind::Id(8)),
    one("traceState", "trace_state", 3, Kind::Text),
    many("attributes", "attributes", 4, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", "dropped_attributes_count", 5, Kind::Uint32),
    one("flags", "flags", 6, Kind::Fixed32),
]);

static STATUS: Message =
    message(&[one("message", "message", 2, Kind::Text), one("code", "code", 3, Kind::Enum(&STATUS_CODE))]);

pub(crate) static KEY_VALUE: Message = message(&[
    one("key", "key", 1, Kind::Text),
    one("value", "value", 2, Kind::Message(&ANY_VALUE)),
    one("keyStrindex", "key_strindex", 3, Kind::Int32),
]);

pub(crate) static ANY_VALUE: Message = choosing(
    &[
        one("stringValue", "string_value", 1, Kind::Text),
        one("intValue", "int_value", 3, Kind::Int64),
        one("doubleValue", "double_value", 4, Kind::Double),
        one("boolValue", "bool_value", 2, Kind::Bool),
        one("arrayValue", "array_value", 5, Kind::Message(&ARRAY_VALUE)),
        one("kvlistValue", "kvlist_value", 6, Kind::Message(&KEY_VALUE_LIST)),
        one("bytesValue", "bytes_value", 7, Kind::Bytes),
        one("stringValueStrindex", "string_value_strindex", 8, Kind::Int32),
    ],
    0,
    8,
);

static ARRAY_VALUE: Message = message(&[many("values", "values", 1, Kind::Message(&ANY_VALUE))]);

static KEY_VALUE_LIST: Message = message(&[many("values", "values", 1, Kind::Message(&KEY_VALUE))]);

static SPAN_KIND: EnumNames = EnumNames {
    prefix: "SPAN_KIND_",
    short_names: &["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"],
};

static STATUS_CODE: EnumNames = EnumNames { prefix: "STATUS_CODE_", short_names: &["UNSET", "OK", "ERROR"] };
