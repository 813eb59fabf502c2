//! A span out of its row equals the span that was sent.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::{ProptestConfig, any};
use proptest::{prop_assert_eq, proptest};
use prost::Message;
use spanlake_ingest::Decoder;
use spanlake_ingest::rebuild::rebuild;
use spanlake_testkit::{arbitrary, realistic};

const RECEIVED: u64 = 1_763_700_000_000_000_000;

/// A span with its origin, as bytes: NaN equals NaN there.
type Flat = (Vec<u8>, Option<Vec<u8>>, String, Option<Vec<u8>>, String);

fn flat(
    span: &Span,
    resource: Option<&Resource>,
    resource_schema_url: &str,
    scope: Option<&InstrumentationScope>,
    scope_schema_url: &str,
) -> Flat {
    (
        span.encode_to_vec(),
        resource.map(Message::encode_to_vec),
        resource_schema_url.to_owned(),
        scope.map(Message::encode_to_vec),
        scope_schema_url.to_owned(),
    )
}

fn sent(request: &ExportTraceServiceRequest) -> Vec<Flat> {
    let mut sent = Vec::new();
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let valid = |id: &[u8], length: usize| id.len() == length && id.iter().any(|&byte| byte != 0);
                if valid(&span.trace_id, 16) && valid(&span.span_id, 8) {
                    let (origin, within) = (resource.resource.as_ref(), scope.scope.as_ref());
                    sent.push(flat(span, origin, &resource.schema_url, within, &scope.schema_url));
                }
            }
        }
    }
    sent
}

fn stored(body: &[u8]) -> Vec<Flat> {
    let batches = Decoder::default().decode_traces(body, RECEIVED).unwrap();
    let rebuilt = batches.iter().flat_map(|batch| rebuild(batch).unwrap());
    rebuilt
        .map(|row| {
            let (resource, scope) = (row.resource.as_ref(), row.scope.as_ref());
            flat(&row.item, resource, &row.resource_schema_url, scope, &row.scope_schema_url)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Scenario: any request of valid ids, every field set to anything. Guarantee: every span, its scope and its
    /// resource come back from the columns byte for byte.
    #[test]
    fn any_span_comes_back_from_its_row(seed in any::<u64>()) {
        let request = arbitrary(seed);
        prop_assert_eq!(stored(&request.encode_to_vec()), sent(&request));
    }
}

/// Scenario: realistic LLM traffic, whose canonical attributes are held by columns. Guarantee: it comes back too.
#[test]
fn llm_traffic_comes_back_from_its_rows() {
    for request in realistic(7, 2_000) {
        let (stored, sent) = (stored(&request.encode_to_vec()), sent(&request));
        assert_eq!(stored, sent);
    }
}

/// Scenario: every captured request body. Guarantee: its spans come back from their rows.
#[test]
fn captured_spans_come_back_from_their_rows() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/otlp");
    let mut bodies = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let body = match name.rsplit_once(".traces.") {
            Some((_, "pb")) => std::fs::read(&path).unwrap(),
            Some((_, "json")) => spanlake_ingest::json::traces_to_protobuf(&std::fs::read(&path).unwrap()).unwrap(),
            _ => continue,
        };
        let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        assert_eq!(stored(&body), sent(&request), "{name}");
        bodies += 1;
    }
    assert!(bodies > 10, "only {bodies} bodies were found");
}
