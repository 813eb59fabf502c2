//! The captured requests of `tests/otlp`, and what their expected files say.

use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;
use spanlake_testkit::spans_of;

/// One captured body.
pub(crate) struct Capture {
    /// The capture's name, such as `elastic_article`.
    pub(crate) name: String,
    /// Whether the body is JSON.
    pub(crate) is_json: bool,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// What is known about it.
    pub(crate) expected: Value,
}

/// A span that was sent: trace id, span id, name.
pub(crate) type Sent = (String, String, String);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/otlp")
}

/// Names of the files of a folder below `tests/otlp`, in order.
pub(crate) fn file_names(below: &str) -> Vec<String> {
    let folder = folder().join(below);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in UTF-8")).collect();
    names.sort();
    names
}

/// The bytes of a file below `tests/otlp`.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The JSON of a file below `tests/otlp`.
pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All captured traces bodies.
pub(crate) fn all() -> Vec<Capture> {
    let captures: Vec<Capture> = file_names("")
        .iter()
        .filter_map(|file| {
            let (name, kind) = file.split_once(".traces.")?;
            let expected = json(&format!("{name}.expected.json"));
            Some(Capture { name: name.to_owned(), is_json: kind == "json", body: bytes(file), expected })
        })
        .collect();
    assert_eq!(captures.len(), 13, "captures in tests/otlp");
    captures
}

/// The captured traces body of this name.
pub(crate) fn named(name: &str) -> Capture {
    all().into_iter().find(|capture| capture.name == name).unwrap_or_else(|| panic!("no capture {name}"))
}

impl Capture {
    /// Spans in the body, as its expected file has it.
    pub(crate) fn span_count(&self) -> u64 {
        let counts = [&self.expected["counts"]["spans"], &self.expected["spans_total"]];
        counts.iter().find_map(|count| count.as_u64()).unwrap_or_else(|| panic!("{}: no span count", self.name))
    }

    /// Spans that must be refused, because their ids are none.
    pub(crate) fn invalid_spans(&self) -> u64 {
        let noted = self.expected["spans"].as_array().into_iter().flatten();
        noted.filter(|span| span["note"].as_str().is_some_and(|note| note.contains("invalid by spec"))).count() as u64
    }

    /// Every span that has valid ids, with repetitions, in order of ids.
    pub(crate) fn valid_spans(&self) -> Vec<Sent> {
        let mut spans = if self.is_json { self.json_spans() } else { self.protobuf_spans() };
        let valid = |id: &str, length: usize| id.len() == length && id.bytes().any(|byte| byte != b'0');
        spans.retain(|(trace_id, span_id, _)| valid(trace_id, 32) && valid(span_id, 16));
        spans.sort();
        spans
    }

    fn protobuf_spans(&self) -> Vec<Sent> {
        let request = ExportTraceServiceRequest::decode(self.body.as_slice()).expect("a request");
        let sent = |span: &opentelemetry_proto::tonic::trace::v1::Span| {
            (crate::hex(&span.trace_id), crate::hex(&span.span_id), span.name.clone())
        };
        spans_of(&request).map(sent).collect()
    }

    fn json_spans(&self) -> Vec<Sent> {
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let text = |span: &Value, key: &str| span[key].as_str().unwrap_or_default().to_owned();
        list(&body, "resourceSpans")
            .iter()
            .flat_map(|resource| list(resource, "scopeSpans"))
            .flat_map(|scope| list(&scope, "spans"))
            .map(|span| {
                let id = |key| text(&span, key).to_lowercase();
                (id("traceId"), id("spanId"), text(&span, "name"))
            })
            .collect()
    }
}
