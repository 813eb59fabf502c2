//! A span out of its row equals the span that was sent.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::{ProptestConfig, any};
use proptest::{prop_assert, prop_assert_eq, proptest};
use prost::Message;
use spanlake_ingest::Decoder;
use spanlake_ingest::rebuild::{Moved, rebuild};
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

/// A span without the attributes that moved to the tables of messages.
fn without(span: &Span, moved: &Moved) -> Span {
    let mut span = span.clone();
    let remove = |attributes: &mut Vec<KeyValue>, places: &[usize]| {
        places.iter().rev().for_each(|&place| drop(attributes.remove(place)));
    };
    remove(&mut span.attributes, &moved.attributes);
    for (event, places) in span.events.iter_mut().zip(&moved.event_attributes) {
        remove(&mut event.attributes, places);
    }
    span
}

/// What was sent, content apart.
fn sent(request: &ExportTraceServiceRequest, moved: &[Moved]) -> Vec<Flat> {
    let (mut sent, mut moved) = (Vec::new(), moved.iter());
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let valid = |id: &[u8], length: usize| id.len() == length && id.iter().any(|&byte| byte != 0);
                if valid(&span.trace_id, 16) && valid(&span.span_id, 8) {
                    let (origin, within) = (resource.resource.as_ref(), scope.scope.as_ref());
                    let span = without(span, moved.next().expect("a row a span"));
                    sent.push(flat(&span, origin, &resource.schema_url, within, &scope.schema_url));
                }
            }
        }
    }
    sent
}

fn stored(body: &[u8]) -> (Vec<Flat>, Vec<Moved>) {
    let batches = Decoder::default().decode_traces(body, RECEIVED).unwrap();
    let rebuilt = batches.iter().flat_map(|batch| rebuild(batch).unwrap());
    rebuilt
        .map(|row| {
            let (resource, scope) = (row.resource.as_ref(), row.scope.as_ref());
            let flat = flat(&row.item, resource, &row.resource_schema_url, scope, &row.scope_schema_url);
            (flat, row.moved)
        })
        .unzip()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Scenario: any request of valid ids, every field set to anything. Guarantee: every span, its scope and its
    /// resource come back from the columns byte for byte.
    #[test]
    fn any_span_comes_back_from_its_row(seed in any::<u64>()) {
        let request = arbitrary(seed);
        let (stored, moved) = stored(&request.encode_to_vec());
        prop_assert_eq!(stored, sent(&request, &moved));
        let none = |moved: &Moved| moved.attributes.is_empty() && moved.event_attributes.iter().all(Vec::is_empty);
        prop_assert!(moved.iter().all(none), "nothing in it is content");
    }
}

/// Scenario: realistic LLM traffic, whose canonical attributes are held by columns. Guarantee: it comes back too.
#[test]
fn llm_traffic_comes_back_from_its_rows() {
    for request in realistic(7, 2_000) {
        let (stored, moved) = stored(&request.encode_to_vec());
        assert_eq!(stored, sent(&request, &moved));
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
        let (stored, moved) = stored(&body);
        assert_eq!(stored, sent(&request, &moved), "{name}");
        bodies += 1;
    }
    assert!(bodies > 10, "only {bodies} bodies were found");
}
