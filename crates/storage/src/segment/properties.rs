//! How segments are written. Encoding is the largest part of ingest, so that each setting is chosen by what it costs.

use arrow::datatypes::DataType;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use spanlake_schema::{ColumnType, TableSpec};

use super::encoder::{Leaf, Settings};

/// Rows of a row group at most.
pub(super) const ROW_GROUP_ROWS: usize = 1 << 20;

/// Higher levels make files a tenth smaller and take twice as long.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// Text columns whose values hardly repeat: a dictionary would be built, outgrown and thrown away.
const UNIQUE_TEXT: &[&str] = &[
    "trace_id",
    "span_id",
    "parent_span_id",
    "response_id",
    "tool_call_id",
    "conversation_id",
    "session_id",
    "db_query_text",
    "http_url",
    "content",
    "content_hash",
    "details",
];

/// What the footer says beside the columns.
pub(super) fn writer_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(concat!("spanlake ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_statistics_enabled(EnabledStatistics::None)
        .build()
}

/// How a leaf is written.
///
/// # Panics
/// Never: the compression level is a valid constant.
pub(super) fn settings_of(spec: &TableSpec, leaf: &Leaf) -> Settings {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).expect("a level of zstd");
    let compression = Compression::ZSTD(level);
    let Some(column) = spec.columns.get(leaf.column) else {
        // A promoted column is there to be filtered by.
        let dictionary = leaf.data_type == DataType::Utf8;
        return Settings { dictionary, statistics: true, bloom_filter: false, compression };
    };
    let named = |names: &[&str]| leaf.is_flat() && names.contains(&column.name);
    // Prompts, ids and counts hardly repeat; hashing each of them costs more than compressing those that do.
    let map_value = column.column_type == ColumnType::TextMap && leaf.path.last().is_some_and(|name| name == "value");
    Settings {
        dictionary: leaf.data_type == DataType::Utf8 && !named(UNIQUE_TEXT) && !map_value,
        statistics: named(spec.statistics),
        bloom_filter: named(spec.bloom_filters),
        compression,
    }
}
