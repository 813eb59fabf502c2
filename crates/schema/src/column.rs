use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

/// What a column holds. Each kind maps to one Arrow type and one Delta type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Days since 1970-01-01, UTC.
    Date,
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp,
    /// A 64-bit signed integer.
    Int64,
    /// A double.
    Float64,
    /// True or false.
    Bool,
    /// UTF-8 text.
    Text,
    /// A list of text.
    TextList,
    /// Attribute keys and values, in order of arrival, keys possibly repeated.
    TextMap,
    /// `DECIMAL(18,12)`: US dollars of one call.
    Usd,
    /// `DECIMAL(38,12)`: a sum of US dollars.
    UsdSum,
    /// Span events: a list of structs.
    Events,
    /// Span links: a list of structs.
    Links,
    /// A list of 64-bit signed integers.
    Int64List,
    /// A list of doubles.
    Float64List,
    /// Exemplars of a metric point: a list of structs.
    Exemplars,
    /// Quantiles of a summary: a list of structs.
    Quantiles,
    /// A histogram in the encoding of the functions `histogram_…`.
    Histogram,
}

impl ColumnType {
    /// The Arrow type of this column, the same in hot batches, in Parquet and in SQL results.
    pub fn arrow_type(self) -> DataType {
        match self {
            Self::Date => DataType::Date32,
            Self::Timestamp => timestamp_type(),
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Text => DataType::Utf8,
            Self::TextList => list_of(DataType::Utf8, true),
            Self::TextMap => map_type(),
            Self::Usd => DataType::Decimal128(18, 12),
            Self::UsdSum => DataType::Decimal128(38, 12),
            Self::Events => list_of(DataType::Struct(event_fields()), true),
            Self::Links => list_of(DataType::Struct(link_fields()), true),
            Self::Int64List => list_of(DataType::Int64, true),
            Self::Float64List => list_of(DataType::Float64, true),
            Self::Exemplars => list_of(DataType::Struct(exemplar_fields()), true),
            Self::Quantiles => list_of(DataType::Struct(quantile_fields()), true),
            Self::Histogram => DataType::Binary,
        }
    }

    /// The kind of column that holds all values of an Arrow type, for tables whose columns a SELECT decides. `None` where there
    /// is none.
    pub fn holding(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Date32 => Self::Date,
            DataType::Timestamp(TimeUnit::Nanosecond, _) => return None,
            DataType::Timestamp(_, Some(_)) => Self::Timestamp,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Self::Int64,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Self::Int64,
            DataType::Float32 | DataType::Float64 => Self::Float64,
            DataType::Boolean => Self::Bool,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Decimal128(digits, scale @ 0..=12) if *digits <= 26 + *scale as u8 => Self::UsdSum,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Self::Histogram,
            DataType::List(item) => match item.data_type() {
                DataType::Utf8 | DataType::Utf8View => Self::TextList,
                DataType::Int64 => Self::Int64List,
                DataType::Float64 => Self::Float64List,
                _ => return None,
            },
            _ => return None,
        })
    }
}

fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn list_of(item: DataType, nullable: bool) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, nullable)))
}

/// `Map<Utf8, Utf8>` with the entry names that Delta and Parquet use (`key_value`, `key`, `value`).
pub fn map_type() -> DataType {
    let entries =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
}

/// The fields of one element of the `events` column. Below a list everything may be NULL, as the Delta schema has it: other
/// tools that rewrite a table's files write them so.
pub fn event_fields() -> Fields {
    Fields::from(vec![
        Field::new("time", timestamp_type(), true),
        Field::new("time_unix_nano", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("attributes", map_type(), true),
        Field::new("attribute_types", DataType::Utf8, true),
        Field::new("dropped_attributes_count", DataType::Int64, true),
    ])
}

/// The fields of one element of the `links` column, nullable as those of events are.
pub fn link_fields() -> Fields {
    Fields::from(vec![
        Field::new("trace_id", DataType::Utf8, true),
        Field::new("span_id", DataType::Utf8, true),
        Field::new("trace_state", DataType::Utf8, true),
        Field::new("flags", DataType::Int64, true),
        Field::new("attributes", map_type(), true),
        Field::new("attribute_types", DataType::Utf8, true),
        Field::new("dropped_attributes_count", DataType::Int64, true),
    ])
}

/// The fields of one element of the `exemplars` column.
pub fn exemplar_fields() -> Fields {
    Fields::from(vec![
        Field::new("time", timestamp_type(), true),
        Field::new("time_unix_nano", DataType::Int64, true),
        Field::new("value_int", DataType::Int64, true),
        Field::new("value_double", DataType::Float64, true),
        Field::new("trace_id", DataType::Utf8, true),
        Field::new("span_id", DataType::Utf8, true),
        Field::new("attributes", map_type(), true),
        Field::new("attribute_types", DataType::Utf8, true),
    ])
}

/// The fields of one element of the `quantiles` column.
pub fn quantile_fields() -> Fields {
    Fields::from(vec![Field::new("quantile", DataType::Float64, true), Field::new("value", DataType::Float64, true)])
}

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The name in SQL.
    pub name: &'static str,
    /// What it holds.
    pub column_type: ColumnType,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// One sentence for people; stored as the Delta column comment.
    pub comment: &'static str,
}

impl Column {
    /// A column that always has a value.
    pub const fn required(name: &'static str, column_type: ColumnType, comment: &'static str) -> Self {
        Self { name, column_type, nullable: false, comment }
    }

    /// A column that is NULL where the telemetry says nothing.
    pub const fn optional(name: &'static str, column_type: ColumnType, comment: &'static str) -> Self {
        Self { name, column_type, nullable: true, comment }
    }
}

/// A table: its name, its columns in order, and what storage needs to know to write it well.
#[derive(Clone, Copy, Debug)]
pub struct TableSpec {
    /// The table's name in SQL and the folder's name below the tenant.
    pub name: &'static str,
    /// One sentence for people.
    pub comment: &'static str,
    /// All columns, the partition column `date` first.
    pub columns: &'static [Column],
    /// Columns with minimum and maximum in the Delta log, for pruning.
    pub statistics: &'static [&'static str],
    /// Columns with a Bloom filter in the Parquet file.
    pub bloom_filters: &'static [&'static str],
    /// Columns of 64-bit integers that add up. Where there are any, rows that are equal in all other columns may be made
    /// one at any time, so that readers have to take sums.
    pub sums: &'static [&'static str],
    /// Maps of attributes, each with the column of their types, from which columns may be promoted: what a row has in the first
    /// of them holds. Where there are none, nothing is promoted.
    pub attributes: &'static [(&'static str, &'static str)],
}

impl TableSpec {
    /// A table whose columns are known only when the program runs. It is kept for as long as that does: there are to be few.
    pub fn of_columns(name: &str, comment: &str, columns: Vec<(String, ColumnType, bool, String)>) -> &'static Self {
        let text = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let columns: Vec<Column> = columns
            .into_iter()
            .map(|(name, column_type, nullable, comment)| Column {
                name: text(name),
                column_type,
                nullable,
                comment: text(comment),
            })
            .collect();
        let statistics: Vec<&'static str> = columns
            .iter()
            .filter(|column| column.column_type == ColumnType::Timestamp)
            .map(|column| column.name)
            .collect();
        Box::leak(Box::new(Self {
            name: text(name.to_owned()),
            comment: text(comment.to_owned()),
            columns: Box::leak(columns.into_boxed_slice()),
            statistics: Box::leak(statistics.into_boxed_slice()),
            bloom_filters: &[],
            sums: &[],
            attributes: &[],
        }))
    }

    /// The table's Arrow schema, partition column included.
    pub fn arrow_schema(&self) -> SchemaRef {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .map(|column| Field::new(column.name, column.column_type.arrow_type(), column.nullable))
            .collect();
        Arc::new(Schema::new(fields))
    }

    /// The schema of the table's Parquet files: without the partition column.
    pub fn file_schema(&self) -> SchemaRef {
        let schema = self.arrow_schema();
        let fields: Vec<_> = schema.fields().iter().filter(|field| field.name() != crate::DATE).cloned().collect();
        Arc::new(Schema::new(fields))
    }

    /// The position of a column.
    ///
    /// # Panics
    /// Where the table has no such column: names are constants of this crate.
    pub fn index_of(&self, name: &str) -> usize {
        self.columns
            .iter()
            .position(|column| column.name == name)
            .unwrap_or_else(|| panic!("table {} has no column {name}", self.name))
    }
}
