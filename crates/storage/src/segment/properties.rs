//! Writer settings. Encoding is the largest part of ingest, so that each setting is chosen by what it costs.

use arrow::datatypes::DataType;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use spanlake_schema::{ColumnType, DATE, TableSpec};

/// Rows of a row group at most.
const ROW_GROUP_ROWS: usize = 1 << 20;

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
];

/// The settings for a segment of so many rows.
///
/// # Panics
/// Never: the compression level is a valid constant.
pub fn writer_properties(spec: &TableSpec, rows: usize) -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("spanlake ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_enabled(true);
    for column in spec.columns.iter().filter(|column| column.name != DATE) {
        let path = ColumnPath::from(column.name);
        builder = leaf_settings(builder, path.parts().to_vec(), &column.column_type.arrow_type());
        if UNIQUE_TEXT.contains(&column.name) {
            builder = builder.set_column_dictionary_enabled(path.clone(), false);
        }
        if column.column_type == ColumnType::TextMap {
            // Prompts, ids and counts hardly repeat; hashing each of them costs more than compressing those that do.
            let values = vec![column.name.to_owned(), "key_value".to_owned(), "value".to_owned()];
            builder = builder.set_column_dictionary_enabled(ColumnPath::new(values), false);
        }
        if spec.statistics.contains(&column.name) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        if spec.bloom_filters.contains(&column.name) {
            builder = builder
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), 0.01)
                .set_column_bloom_filter_max_ndv(path, rows.clamp(1, ROW_GROUP_ROWS) as u64);
        }
    }
    builder.build()
}

/// Encodings by type, for the leaves of nested columns too.
fn leaf_settings(builder: WriterPropertiesBuilder, path: Vec<String>, data_type: &DataType) -> WriterPropertiesBuilder {
    let child = |name: &[&str]| -> Vec<String> {
        path.iter().cloned().chain(name.iter().map(|part| (*part).to_owned())).collect()
    };
    match data_type {
        DataType::Int64 | DataType::Timestamp(_, _) => fixed(builder, path, Encoding::DELTA_BINARY_PACKED),
        DataType::Float64 => fixed(builder, path, Encoding::BYTE_STREAM_SPLIT),
        DataType::List(item) => {
            let path = child(&["list", item.name()]);
            leaf_settings(builder, path, item.data_type())
        }
        DataType::Struct(fields) => fields.iter().fold(builder, |builder, field| {
            let path = child(&[field.name()]);
            leaf_settings(builder, path, field.data_type())
        }),
        _ => builder,
    }
}

fn fixed(builder: WriterPropertiesBuilder, path: Vec<String>, encoding: Encoding) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(path);
    builder.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, encoding)
}
