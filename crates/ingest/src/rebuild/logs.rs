//! Log records out of the rows of `logs`.

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use spanlake_schema::flags::reading;

use super::typed::{self, Symbols};
use super::{Fallible, Rows};

impl Rows<'_> {
    pub(super) fn log_record(&self, row: usize) -> Fallible<LogRecord> {
        let from_attribute = self.required("reading_flags", row)? & reading::EVENT_NAME_FROM_ATTRIBUTE != 0;
        let number = |name| Ok::<_, String>(self.int(name, row)?.unwrap_or(0));
        Ok(LogRecord {
            time_unix_nano: number("time_unix_nano")? as u64,
            observed_time_unix_nano: number("observed_time_unix_nano")? as u64,
            severity_number: number("severity_number")? as i32,
            severity_text: self.owned("severity_text", row)?,
            body: self.body(row)?,
            attributes: self.attributes("attributes", "attribute_types", row)?.unwrap_or_default(),
            dropped_attributes_count: self.count("dropped_attributes_count", row)?,
            flags: self.count("flags", row)?,
            trace_id: self.id_or("trace_id", "invalid_trace_id", row)?,
            span_id: self.id_or("span_id", "invalid_span_id", row)?,
            event_name: if from_attribute { String::new() } else { self.owned("event_name", row)? },
        })
    }

    fn id_or(&self, valid: &str, invalid: &str, row: usize) -> Fallible<Vec<u8>> {
        let id = self.id(valid, row)?;
        if id.is_empty() { self.id(invalid, row) } else { Ok(id) }
    }

    fn body(&self, row: usize) -> Fallible<Option<AnyValue>> {
        let Some(symbols) = self.text("body_type", row)? else { return Ok(None) };
        let mut symbols = Symbols::new(symbols);
        let symbol = symbols.next()?.ok_or("body_type is empty")?;
        typed::value(symbol, self.text("body", row)?, &mut symbols)
    }
}
