//! Anything OTLP can say about log records.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};

use super::arbitrary::{DEPTH, Generator};

/// A logs request with any field set to anything; see [`crate::arbitrary`]. Ids are of any length, and times absent or
/// impossible: no record is refused for them.
///
/// The same seed gives the same request. Compare requests by their encoding, because NaN is not equal to itself.
pub fn arbitrary_logs(seed: u64) -> ExportLogsServiceRequest {
    let mut generator = Generator::new(seed);
    let resource_logs = generator.up_to(3, |generator| ResourceLogs {
        resource: generator.perhaps(800, Generator::resource),
        scope_logs: generator.up_to(3, |generator| ScopeLogs {
            scope: generator.perhaps(800, Generator::scope),
            log_records: generator.up_to(5, Generator::log_record),
            schema_url: generator.schema_url(),
        }),
        schema_url: generator.schema_url(),
    });
    ExportLogsServiceRequest { resource_logs }
}

/// All log records of a request, in the order in which they are written.
pub fn records_of(request: &ExportLogsServiceRequest) -> impl Iterator<Item = &LogRecord> {
    request.resource_logs.iter().flat_map(|resource| &resource.scope_logs).flat_map(|scope| &scope.log_records)
}

impl Generator {
    fn log_record(&mut self) -> LogRecord {
        LogRecord {
            time_unix_nano: self.time(),
            observed_time_unix_nano: self.time(),
            severity_number: self.severity(),
            severity_text: (*self.random.pick(&["", "", "INFO", "warning", "\u{0}"])).to_owned(),
            body: self.perhaps(800, |generator| generator.any_value(DEPTH)),
            attributes: self.attributes(&["event.name", "gen_ai.system", "code.lineno"]),
            dropped_attributes_count: self.count(),
            flags: self.flags(),
            trace_id: self.any_id(16),
            span_id: self.any_id(8),
            event_name: (*self.random.pick(&["", "", "gen_ai.choice", "gen_ai.user.message", "ünknown event"]))
                .to_owned(),
        }
    }

    fn severity(&mut self) -> i32 {
        match self.random.below(4) {
            0 => self.enumeration(),
            _ => self.random.below(25) as i32,
        }
    }

    /// An id, or what is none: absent, of another length, or all zero.
    pub(super) fn any_id(&mut self, length: usize) -> Vec<u8> {
        match self.random.below(8) {
            0 => Vec::new(),
            1 => vec![0; length],
            2 => self.random.id(3),
            _ => self.random.id(length),
        }
    }
}
