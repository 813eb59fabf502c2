//! Corrections as values, and as rows of their table.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListBuilder, StringArray,
    StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::{CORRECTABLE, SPEC};
use crate::column::ColumnType;

/// Why a span is corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Other spans of its trace tell what it is to the totals.
    Role,
    /// Log records tell what it does not.
    Facts,
    /// Prices changed.
    Price,
    /// The rules it is read by changed.
    Rules,
}

impl Reason {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Facts => "facts",
            Self::Price => "price",
            Self::Rules => "rules",
        }
    }
}

/// A value of a column that can be corrected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Text.
    #[serde(rename = "s")]
    Text(String),
    /// A 64-bit integer.
    #[serde(rename = "i")]
    Int(i64),
    /// A double.
    #[serde(rename = "d")]
    Float(f64),
    /// True or false.
    #[serde(rename = "b")]
    Bool(bool),
    /// Units of 10^-12 US dollars, as `DECIMAL(18,12)` holds them.
    #[serde(rename = "u")]
    Usd(i64),
    /// A list of text.
    #[serde(rename = "l")]
    TextList(Vec<String>),
}

/// Units of 10^-12 dollars as people read them.
pub fn dollars(picos: i128) -> String {
    let sign = if picos < 0 { "-" } else { "" };
    let picos = picos.unsigned_abs();
    format!("{sign}{}.{:012}", picos / 1_000_000_000_000, picos % 1_000_000_000_000)
}

/// Which row of `spans` is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Days since 1970-01-01: the row's partition.
    pub date: i32,
    /// Lower-case hex.
    pub trace_id: String,
    /// Lower-case hex.
    pub span_id: String,
    /// Microseconds since 1970-01-01.
    pub received_micros: i64,
    /// Which telling of the span within its request; `None` for the first.
    pub telling: Option<i64>,
    /// Microseconds since 1970-01-01. It tells windows, not rows.
    pub start_micros: i64,
}

/// One correction of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// The row.
    pub address: Address,
    /// Of several corrections of a column the highest holds.
    pub revision: i64,
    /// When it was made, microseconds since 1970-01-01.
    pub recorded_micros: i64,
    /// Why.
    pub reason: Reason,
    /// Columns and what they are from now on; `None` is NULL.
    pub changes: Vec<(String, Option<Value>)>,
}

/// The table's schema, made once.
fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| SPEC.arrow_schema());
    Arc::clone(&SCHEMA)
}

/// Rows of `span_corrections`.
///
/// # Errors
/// Where a change names a column that cannot be corrected, or its value is of another type.
pub fn batch(corrections: &[Correction]) -> Result<RecordBatch, ArrowError> {
    let stray = corrections.iter().flat_map(|one| &one.changes).find(|(name, _)| !CORRECTABLE.contains(&name.as_str()));
    if let Some((name, _)) = stray {
        return Err(ArrowError::SchemaError(format!("column {name} of spans cannot be corrected")));
    }
    let address = || corrections.iter().map(|one| &one.address);
    let times =
        |micros: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC")) };
    let names = corrections.iter().map(|one| Some(one.changes.iter().map(|(name, _)| name.clone()).collect()));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from_iter_values(address().map(|one| one.date))),
        Arc::new(StringArray::from_iter_values(address().map(|one| &one.trace_id))),
        Arc::new(StringArray::from_iter_values(address().map(|one| &one.span_id))),
        times(address().map(|one| one.received_micros).collect()),
        Arc::new(address().map(|one| one.telling).collect::<Int64Array>()),
        times(address().map(|one| one.start_micros).collect()),
        Arc::new(Int64Array::from_iter_values(corrections.iter().map(|one| one.revision))),
        times(corrections.iter().map(|one| one.recorded_micros).collect()),
        Arc::new(StringArray::from_iter_values(corrections.iter().map(|one| one.reason.as_str()))),
        lists(names),
    ];
    for column in &SPEC.columns[columns.len()..] {
        let values: Vec<Option<&Value>> = corrections
            .iter()
            .map(|one| one.changes.iter().find(|(name, _)| name == column.name)?.1.as_ref())
            .collect();
        columns.push(array(column.column_type, &values).ok_or_else(|| {
            ArrowError::SchemaError(format!("a correction of column {} is of another type", column.name))
        })?);
    }
    RecordBatch::try_new(schema(), columns)
}

/// The values as a column; `None` where one is of another type.
fn array(column_type: ColumnType, values: &[Option<&Value>]) -> Option<ArrayRef> {
    if values.iter().all(Option::is_none) {
        return Some(new_null_array(&column_type.arrow_type(), values.len()));
    }
    macro_rules! collect {
        ($kind:ident, $array:ty) => {{
            let picked = values.iter().map(|value| match value {
                None => Some(None),
                Some(Value::$kind(value)) => Some(Some(value.clone())),
                Some(_) => None,
            });
            picked.collect::<Option<Vec<_>>>()?.into_iter().collect::<$array>()
        }};
    }
    Some(match column_type {
        ColumnType::Text => Arc::new(collect!(Text, StringArray)),
        ColumnType::Int64 => Arc::new(collect!(Int, Int64Array)),
        ColumnType::Float64 => Arc::new(collect!(Float, Float64Array)),
        ColumnType::Bool => Arc::new(collect!(Bool, BooleanArray)),
        ColumnType::Usd => {
            let units = collect!(Usd, Int64Array);
            let units: Decimal128Array = units.iter().map(|unit| unit.map(i128::from)).collect();
            Arc::new(units.with_data_type(column_type.arrow_type()))
        }
        ColumnType::TextList => {
            let listed = values.iter().map(|value| match value {
                None => Some(None),
                Some(Value::TextList(items)) => Some(Some(items.clone())),
                Some(_) => None,
            });
            lists(listed.collect::<Option<Vec<_>>>()?.into_iter())
        }
        _ => return None,
    })
}

fn lists(values: impl Iterator<Item = Option<Vec<String>>>) -> ArrayRef {
    let field = Arc::new(Field::new("element", DataType::Utf8, true));
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(field);
    for list in values {
        match list {
            Some(items) => builder.append_value(items.into_iter().map(Some)),
            None => builder.append_null(),
        }
    }
    let list = builder.finish();
    debug_assert_eq!(list.data_type(), &ColumnType::TextList.arrow_type());
    Arc::new(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_keeps_every_digit() {
        assert_eq!(dollars(1), "0.000000000001");
        assert_eq!(dollars(-1_500_000_000_000), "-1.500000000000");
        assert_eq!(dollars(0), "0.000000000000");
    }

    fn correction(changes: Vec<(&str, Option<Value>)>) -> Correction {
        let address = Address {
            date: 20_000,
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            span_id: "b7ad6b7169203331".to_owned(),
            received_micros: 5,
            telling: None,
            start_micros: 3,
        };
        let changes = changes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Correction { address, revision: 7, recorded_micros: 9, reason: Reason::Facts, changes }
    }

    #[test]
    fn every_type_of_column_is_taken_and_another_is_refused() {
        let values = [
            ("model", Value::Text("m".to_owned())),
            ("input_tokens", Value::Int(5)),
            ("temperature", Value::Float(0.5)),
            ("streamed", Value::Bool(true)),
            ("cost_usd", Value::Usd(1_000_000)),
            ("finish_reasons", Value::TextList(vec!["stop".to_owned()])),
        ];
        for (name, value) in &values {
            let rows = batch(&[correction(vec![(name, Some(value.clone()))]), correction(vec![(name, None)])]);
            let rows = rows.unwrap_or_else(|error| panic!("{name}: {error}"));
            let column = rows.column_by_name(name).expect("the column");
            assert!(column.is_valid(0) && column.is_null(1), "{name}");
            let text = serde_json::to_string(&correction(vec![(name, Some(value.clone()))])).expect("JSON");
            let read: Correction = serde_json::from_str(&text).expect("reads back");
            assert_eq!(read, correction(vec![(name, Some(value.clone()))]));
        }
        for name in CORRECTABLE {
            batch(&[correction(vec![(name, None)])]).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(batch(&[correction(vec![("model", Some(Value::Int(1)))])]).is_err());
        assert!(batch(&[correction(vec![("trace_id", None)])]).is_err());
    }
}
