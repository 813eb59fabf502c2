//! Every captured call against what its provider truly answered: fact by fact, as the rows of its body tell it.

#[path = "../../../tests/pipeline/scored.rs"]
mod scored;

use arrow::compute::concat_batches;
use serde_json::Value;
use spanlake_ingest::{Decoder, json};
use spanlake_schema::spans::SPEC;

const RECEIVED: u64 = 1_763_702_400_000_000_000;

/// Scenario: what real instrumentations sent, of every dialect captured. Guarantee: each fact that a body's spans carry is
/// read right, what they do not carry is NULL, and each call counts once.
#[test]
fn every_fact_of_every_captured_call_is_right() {
    let folder = format!("{}/../../tests/otlp", env!("CARGO_MANIFEST_DIR"));
    let (mut captures, mut asked, mut misses) = (0, 0, Vec::new());
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let Some((name, kind)) = name.split_once(".traces.") else { continue };
        let expected = std::fs::read(format!("{folder}/{name}.expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        // The others were built by hand; what they must give stands in `meaning.rs`.
        if !expected["counts"].is_object() {
            continue;
        }
        let body = std::fs::read(&file).unwrap();
        let body = if kind == "json" { json::traces_to_protobuf(&body).unwrap() } else { body };
        let batches = Decoder::default().decode_traces(&body, RECEIVED).unwrap();
        let batch = concat_batches(&SPEC.arrow_schema(), &batches).unwrap();
        let score = scored::score(name, batch, &expected, None);
        let right: u32 = score.cells.values().map(|cell| cell.0).sum();
        let all: u32 = score.cells.values().map(|cell| cell.1).sum();
        let cells: Vec<_> = score.cells.iter().map(|(fact, (right, all))| format!("{fact} {right}/{all}")).collect();
        println!("{name}: {right}/{all} ({})", cells.join(", "));
        captures += 1;
        asked += all;
        misses.extend(score.misses);
    }
    assert!(captures >= 10 && asked > 1_400, "{captures} captures, {asked} facts");
    assert!(misses.is_empty(), "{} of {asked} facts are wrong:\n{}", misses.len(), misses.join("\n"));
}
