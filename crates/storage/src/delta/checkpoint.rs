//! Classic checkpoints: one Parquet file with a row for every action that still matters.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::json::{LineDelimitedWriter, ReaderBuilder};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use spanlake_schema::ColumnType;

use super::action::{Action, Add, Txn, parse_commit};
use super::log::LastCheckpoint;
use super::state::State;
use crate::error::{Error, ErrorKind, Result};

/// How long a checkpoint remembers removed files.
const RETENTION_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// Actions encoded at a time.
const CHUNK_ROWS: usize = 4_096;

/// The columns read; others, such as parsed statistics, repeat what these say.
const COLUMNS: &[&str] = &[
    "protocol",
    "metaData",
    "txn",
    "add.path",
    "add.partitionValues",
    "add.size",
    "add.modificationTime",
    "add.dataChange",
    "add.stats",
    "add.tags",
    "add.deletionVector",
    "remove.path",
    "remove.deletionTimestamp",
    "remove.dataChange",
    "remove.extendedFileMetadata",
    "remove.partitionValues",
    "remove.size",
    "sidecar",
];

/// Encodes the checkpoint of a state.
pub(super) async fn encode(state: &State, now_ms: i64) -> Result<(Bytes, LastCheckpoint)> {
    let version = state.snapshot.version;
    let add_files = state.snapshot.segments.len();
    let state = state.clone();
    let table = state.table.clone();
    let failed = move |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Corrupt, format!("cannot encode the checkpoint {version} of table {table}"))
            .with_source(source)
    };
    let encoded = tokio::task::spawn_blocking(move || {
        let actions = actions_of(&state, now_ms);
        let bytes = encode_actions(&actions)?;
        Ok((bytes, actions.len()))
    })
    .await
    .map_err(|error| failed(error.into()))?;
    let (bytes, actions) = encoded.map_err(failed)?;
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let pointer = LastCheckpoint {
        version,
        size: count(actions),
        parts: None,
        size_in_bytes: Some(count(bytes.len())),
        num_of_add_files: Some(count(add_files)),
    };
    Ok((bytes, pointer))
}

/// Everything a reader needs to start from here. Adds and removes count as not changing rows: they did so in their
/// commits.
fn actions_of(state: &State, now_ms: i64) -> Vec<Action> {
    let mut actions = vec![
        Action { protocol: Some(state.protocol.clone()), ..Action::default() },
        Action { meta_data: Some(state.metadata.clone()), ..Action::default() },
    ];
    actions.extend(state.snapshot.transactions.iter().map(|(app_id, version)| {
        let last_updated = state.transactions_updated_ms.get(app_id).copied();
        let txn = Txn { app_id: app_id.clone(), version: *version, last_updated };
        Action { txn: Some(txn), ..Action::default() }
    }));
    let expired = now_ms.saturating_sub(RETENTION_MS);
    let kept = state.tombstones.values().filter(|remove| remove.deletion_timestamp.unwrap_or(0) > expired);
    actions.extend(kept.map(|remove| {
        let mut remove = remove.clone();
        remove.data_change = false;
        Action { remove: Some(remove), ..Action::default() }
    }));
    actions.extend(state.snapshot.segments.iter().map(|segment| {
        let mut add = Add::of(segment, state.encoded_path(&segment.path), false);
        if let Some(tags) = state.extras.get(&segment.path).and_then(|extra| extra.tags.clone()) {
            add.tags.get_or_insert_default().extend(tags);
        }
        Action { add: Some(add), ..Action::default() }
    }));
    actions
}

type EncodeResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn encode_actions(actions: &[Action]) -> EncodeResult<Bytes> {
    let schema = Arc::new(schema());
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))?;
    for chunk in actions.chunks(CHUNK_ROWS) {
        let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).build_decoder()?;
        decoder.serialize(chunk)?;
        if let Some(batch) = decoder.flush()? {
            writer.write(&batch)?;
        }
    }
    Ok(Bytes::from(writer.into_inner()?))
}

/// Reads the actions of one part of a checkpoint.
pub(super) async fn decode(name: String, bytes: Bytes) -> Result<Vec<Action>> {
    let failed = move |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Corrupt, format!("cannot understand the checkpoint {name}")).with_source(source)
    };
    let decoded = tokio::task::spawn_blocking(move || decode_actions(bytes)).await;
    decoded.map_err(|error| failed.clone()(error.into()))?.map_err(failed)
}

fn decode_actions(bytes: Bytes) -> EncodeResult<Vec<Action>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS.iter().copied());
    let mut actions = Vec::new();
    for batch in builder.with_projection(mask).with_batch_size(CHUNK_ROWS).build()? {
        actions.extend(parse_commit(&json_lines(&batch?)?)?);
    }
    Ok(actions)
}

fn json_lines(batch: &RecordBatch) -> EncodeResult<Vec<u8>> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

fn schema() -> Schema {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let long = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
    let flag = |name: &str, nullable| Field::new(name, DataType::Boolean, nullable);
    let texts = |name: &str| Field::new_list(name, Field::new("element", DataType::Utf8, false), true);
    let group = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(Fields::from(fields)), true);
    let protocol = vec![
        Field::new("minReaderVersion", DataType::Int32, false),
        Field::new("minWriterVersion", DataType::Int32, false),
        texts("readerFeatures"),
        texts("writerFeatures"),
    ];
    let format = group("format", vec![text("provider", false), text_map("options", true)]);
    let metadata = vec![
        text("id", false),
        text("name", true),
        text("description", true),
        format,
        text("schemaString", false),
        texts("partitionColumns"),
        text_map("configuration", true),
        long("createdTime", true),
    ];
    let add = vec![
        text("path", false),
        text_map("partitionValues", true),
        long("size", false),
        long("modificationTime", false),
        flag("dataChange", false),
        text("stats", true),
        text_map("tags", true),
    ];
    let remove = vec![
        text("path", false),
        long("deletionTimestamp", true),
        flag("dataChange", false),
        flag("extendedFileMetadata", true),
        text_map("partitionValues", true),
        long("size", true),
    ];
    Schema::new(vec![
        group("protocol", protocol),
        group("metaData", metadata),
        group("txn", vec![text("appId", false), long("version", false), long("lastUpdated", true)]),
        group("add", add),
        group("remove", remove),
    ])
}

fn text_map(name: &str, nullable: bool) -> Field {
    Field::new(name, ColumnType::TextMap.arrow_type(), nullable)
}
