//! What there is of attributes: the entries of a map with their types, and which of them have columns of their own.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::{exec_datafusion_err, plan_err};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use spanlake_schema::promotion::PromotedColumn;
use spanlake_schema::types::{BOOL, BYTES, DOUBLE, EMPTY, INT, MISSING, Places, STRING};
use spanlake_schema::{Column, ColumnType, TableSpec};

/// The attributes that have columns of their own in `spans`. No table of the store: its rows are the metadata of `spans`.
pub(crate) const PROMOTED_COLUMNS: TableSpec = TableSpec {
    name: "promoted_columns",
    comment: "The attributes that stand in columns of spans, as the configuration's promote asks for it",
    columns: &[
        Column::required("column_name", ColumnType::Text, "The column of spans"),
        Column::required("attribute", ColumnType::Text, "The attribute that it holds"),
        Column::required("type", ColumnType::Text, "string, int, double or bool"),
    ],
    statistics: &[],
    bloom_filters: &[],
    sums: &[],
    attributes: &[],
};

/// The rows of [`PROMOTED_COLUMNS`].
pub(crate) fn promoted_columns(promoted: &[PromotedColumn]) -> Result<Arc<dyn TableProvider>> {
    let texts = |of: fn(&PromotedColumn) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(promoted.iter().map(of)))
    };
    let columns = vec![
        texts(|column| &column.name),
        texts(|column| &column.attribute),
        texts(|column| match column.column_type {
            ColumnType::Int64 => "int",
            ColumnType::Float64 => "double",
            ColumnType::Bool => "bool",
            _ => "string",
        }),
    ];
    let schema = PROMOTED_COLUMNS.arrow_schema();
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![rows]])?))
}

/// `attribute_entries(attributes, attribute_types)`: the entries of a map as a list of structs `name`, `type` and `value`.
pub(crate) fn attribute_entries() -> ScalarUDF {
    ScalarUDF::new_from_impl(AttributeEntries { signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AttributeEntries {
    signature: Signature,
}

fn fields() -> Fields {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Fields::from(vec![text("name", false), text("type", false), text("value", true)])
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Struct(fields()), true))
}

impl ScalarUDFImpl for AttributeEntries {
    fn name(&self) -> &'static str {
        "attribute_entries"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_text = |entries: &Field| match entries.data_type() {
            DataType::Struct(pair) => pair.iter().all(|field| *field.data_type() == DataType::Utf8),
            _ => false,
        };
        match types {
            [map @ DataType::Map(entries, _), _] if is_text(entries) => Ok(vec![map.clone(), DataType::Utf8]),
            _ => plan_err!(
                "attribute_entries takes a map of text, such as attributes, and its types, such as attribute_types"
            ),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item()))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let [maps, types] = arrays.as_slice() else {
            return Err(exec_datafusion_err!("attribute_entries takes a map and its types"));
        };
        Ok(ColumnarValue::Array(entries(maps, types)?))
    }
}

fn entries(maps: &ArrayRef, types: &ArrayRef) -> Result<ArrayRef> {
    let unfit = || exec_datafusion_err!("attribute_entries takes a map of text and text");
    let (maps, types) = (maps.as_map_opt().ok_or_else(unfit)?, types.as_string_opt::<i32>().ok_or_else(unfit)?);
    let (first, last) = match maps.value_offsets() {
        [first, .., last] => (*first as usize, *last as usize),
        _ => (0, 0),
    };
    let mut symbols = StringBuilder::new();
    for row in 0..maps.len() {
        let of_row = if types.is_valid(row) { types.value(row) } else { "" };
        let mut places = Places::of(of_row);
        for _ in 0..maps.value_length(row) {
            symbols.append_value(type_name(places.next_in_map()));
        }
    }
    let columns: Vec<ArrayRef> = vec![
        maps.keys().slice(first, last - first),
        Arc::new(symbols.finish()),
        maps.values().slice(first, last - first),
    ];
    let offsets = OffsetBuffer::from_lengths((0..maps.len()).map(|row| maps.value_length(row) as usize));
    let values = StructArray::try_new(fields(), columns, None)?;
    Ok(Arc::new(ListArray::try_new(item(), offsets, Arc::new(values), maps.nulls().cloned())?))
}

fn type_name(symbol: Option<char>) -> &'static str {
    match symbol {
        Some(STRING) => "string",
        Some(INT) => "int",
        Some(DOUBLE) => "double",
        Some(BOOL) => "bool",
        Some(BYTES) => "bytes",
        Some('[') => "array",
        Some('{') => "kvlist",
        Some(EMPTY | MISSING) => "empty",
        _ => "unknown",
    }
}
