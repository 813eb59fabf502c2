//! A table's columns as the Delta log describes them.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};
use spanlake_schema::{ColumnType, DATE, TableSpec};

use super::action::{Format, Metadata};
use crate::error::{Error, ErrorKind, Result};

/// The metadata of a new table.
pub(super) fn metadata_of(spec: &TableSpec, id: String, created_time_ms: i64) -> Result<Metadata> {
    let fields = fields_of(spec)?;
    let statistics = spec.statistics.join(",");
    Ok(Metadata {
        id,
        name: Some(spec.name.to_owned()),
        description: Some(spec.comment.to_owned()),
        format: Format { provider: "parquet".to_owned(), ..Format::default() },
        schema_string: json!({"type": "struct", "fields": fields}).to_string(),
        partition_columns: vec![DATE.to_owned()],
        configuration: [("delta.dataSkippingStatsColumns".to_owned(), Some(statistics))].into(),
        created_time: Some(created_time_ms),
    })
}

/// The metadata that lets this version write a table of another version: with the columns that it lacks, and NULL
/// allowed where this version writes it. `None` where the table is fine as it is.
pub(super) fn evolved(table: &str, spec: &TableSpec, metadata: &Metadata) -> Result<Option<Metadata>> {
    let refused = |what: String| Error::new(ErrorKind::Invalid, format!("table {table} {what}"));
    let mut schema: Value = serde_json::from_str(&metadata.schema_string)
        .map_err(|source| refused("has an unreadable schema".to_owned()).with_source(source))?;
    let Some(fields) = schema["fields"].as_array_mut() else {
        return Err(refused("has a schema without fields".to_owned()));
    };
    let mut changed = false;
    for mut wanted in fields_of(spec)? {
        match fields.iter_mut().find(|field| field["name"] == wanted["name"]) {
            None => {
                // Rows written before have no value.
                wanted["nullable"] = Value::Bool(true);
                fields.push(wanted);
                changed = true;
            }
            Some(field) if !same_type(&field["type"], &wanted["type"]) => {
                let (name, found, expected) = (&wanted["name"], &field["type"], &wanted["type"]);
                return Err(refused(format!("has column {name} of type {found} instead of {expected}")));
            }
            Some(field) if wanted["nullable"] == true && field["nullable"] == false => {
                field["nullable"] = Value::Bool(true);
                changed = true;
            }
            Some(_) => {}
        }
    }
    let known = |name: &Value| spec.columns.iter().any(|column| *name == *column.name);
    if let Some(field) = fields.iter().find(|field| field["nullable"] == false && !known(&field["name"])) {
        return Err(refused(format!("requires column {}, which this version does not write", field["name"])));
    }
    Ok(changed.then(|| Metadata { schema_string: schema.to_string(), ..metadata.clone() }))
}

/// A table as its metadata describe it; `None` where it has columns of other kinds than those of rollups, or is not kept by day.
pub(super) fn spec_of(name: &str, metadata: &Metadata) -> Option<&'static TableSpec> {
    let schema: Value = serde_json::from_str(&metadata.schema_string).ok()?;
    let mut columns = Vec::new();
    for field in schema["fields"].as_array()? {
        let column_type = match (&field["type"], field["type"]["elementType"].as_str()) {
            (Value::String(simple), _) => match simple.as_str() {
                "date" => ColumnType::Date,
                "timestamp" => ColumnType::Timestamp,
                "long" => ColumnType::Int64,
                "double" => ColumnType::Float64,
                "boolean" => ColumnType::Bool,
                "string" => ColumnType::Text,
                "binary" => ColumnType::Histogram,
                "decimal(38,12)" => ColumnType::UsdSum,
                _ => return None,
            },
            (_, Some("string")) => ColumnType::TextList,
            (_, Some("long")) => ColumnType::Int64List,
            (_, Some("double")) => ColumnType::Float64List,
            _ => return None,
        };
        let comment = field["metadata"]["comment"].as_str().unwrap_or_default().to_owned();
        columns.push((field["name"].as_str()?.to_owned(), column_type, field["nullable"] != false, comment));
    }
    if metadata.partition_columns != [DATE] || columns.first().is_none_or(|(name, ..)| name != DATE) {
        return None;
    }
    Some(TableSpec::of_columns(name, metadata.description.as_deref().unwrap_or_default(), columns))
}

/// The columns that may be NULL.
pub(super) fn nullable_columns(table: &str, metadata: &Metadata) -> Result<BTreeSet<String>> {
    let schema: Value = serde_json::from_str(&metadata.schema_string).map_err(|source| {
        Error::new(ErrorKind::Invalid, format!("table {table} has an unreadable schema")).with_source(source)
    })?;
    let fields = schema["fields"].as_array().into_iter().flatten();
    let nullable = fields.filter(|field| field["nullable"] != false);
    Ok(nullable.filter_map(|field| Some(field["name"].as_str()?.to_owned())).collect())
}

/// Whether two Delta types hold the same values, whatever they say about NULL and comments.
fn same_type(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => match (a.get("fields"), b.get("fields")) {
            (Some(Value::Array(a)), Some(Value::Array(b))) => {
                let pairs = || a.iter().zip(b);
                a.len() == b.len() && pairs().all(|(a, b)| a["name"] == b["name"] && same_type(&a["type"], &b["type"]))
            }
            _ => ["type", "elementType", "keyType", "valueType"].iter().all(|key| match (a.get(*key), b.get(*key)) {
                (Some(a), Some(b)) => same_type(a, b),
                (a, b) => a.is_none() && b.is_none(),
            }),
        },
        _ => left == right,
    }
}

fn fields_of(spec: &TableSpec) -> Result<Vec<Value>> {
    let schema = spec.arrow_schema();
    let fields = schema.fields().iter().zip(spec.columns);
    fields
        .map(|(field, column)| {
            let mut described = field_of(field)?;
            described["metadata"] = json!({"comment": column.comment});
            Ok(described)
        })
        .collect()
}

fn field_of(field: &Field) -> Result<Value> {
    Ok(json!({
        "name": field.name(),
        "type": type_of(field.data_type())?,
        "nullable": field.is_nullable(),
        "metadata": {},
    }))
}

fn type_of(data_type: &DataType) -> Result<Value> {
    Ok(match data_type {
        DataType::Date32 => json!("date"),
        DataType::Timestamp(_, Some(_)) => json!("timestamp"),
        DataType::Int64 => json!("long"),
        DataType::Float64 => json!("double"),
        DataType::Boolean => json!("boolean"),
        DataType::Utf8 => json!("string"),
        DataType::Binary => json!("binary"),
        DataType::Decimal128(precision, scale) => json!(format!("decimal({precision},{scale})")),
        DataType::List(item) => {
            json!({"type": "array", "elementType": nested_type_of(item)?, "containsNull": item.is_nullable()})
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { return Err(unknown_type(data_type)) };
            json!({
                "type": "map",
                "keyType": nested_type_of(&pair[0])?,
                "valueType": nested_type_of(&pair[1])?,
                "valueContainsNull": pair[1].is_nullable(),
            })
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| field_of(field)).collect::<Result<Vec<_>>>()?;
            json!({"type": "struct", "fields": fields})
        }
        _ => return Err(unknown_type(data_type)),
    })
}

/// The type of a list's item or of a map's part. Spark refuses to write a table with NOT NULL below a list or a map, so
/// that fields down there are declared nullable, whatever this version writes into them.
fn nested_type_of(field: &Field) -> Result<Value> {
    let mut described = type_of(field.data_type())?;
    if let Some(fields) = described.get_mut("fields").and_then(Value::as_array_mut) {
        for field in fields {
            field["nullable"] = Value::Bool(true);
        }
    }
    Ok(described)
}

fn unknown_type(data_type: &DataType) -> Error {
    Error::new(ErrorKind::Invalid, format!("type {data_type} has no counterpart in delta tables"))
}

#[cfg(test)]
mod tests {
    use spanlake_schema::{Column, ColumnType, TABLES, spans};

    use super::*;

    const NARROW: TableSpec = TableSpec {
        columns: &[
            Column::required("date", ColumnType::Date, "day"),
            Column::required("name", ColumnType::Text, "text"),
            Column::optional("cost_usd", ColumnType::Usd, "money"),
        ],
        name: "narrow",
        comment: "",
        statistics: &["cost_usd"],
        bloom_filters: &[],
        sums: &[],
    };

    fn metadata(spec: &TableSpec) -> Metadata {
        metadata_of(spec, "id".to_owned(), 0).unwrap()
    }

    #[test]
    fn every_table_has_a_delta_schema_and_needs_no_evolution_of_itself() {
        for spec in TABLES {
            assert_eq!(evolved("t", spec, &metadata(spec)).unwrap(), None, "{}", spec.name);
        }
        let schema: Value = serde_json::from_str(&metadata(&spans::SPEC).schema_string).unwrap();
        let field =
            |name: &str| schema["fields"].as_array().unwrap().iter().find(|f| f["name"] == name).unwrap().clone();
        assert_eq!(field("date")["type"], "date");
        assert_eq!(field("start_time")["type"], "timestamp");
        assert_eq!(field("cost_usd")["type"], "decimal(18,12)");
        assert_eq!(field("attributes")["type"]["valueContainsNull"], true);
        assert_eq!(field("trace_id")["nullable"], false);
        assert_eq!(field("trace_id")["metadata"]["comment"], "Trace id, lower-case hex");
        assert_eq!(field("events")["type"]["elementType"]["fields"][0]["type"], "timestamp");
    }

    #[test]
    fn missing_columns_are_added_as_nullable_and_required_ones_relaxed() {
        const WIDER: TableSpec = TableSpec {
            columns: &[
                Column::required("date", ColumnType::Date, "day"),
                Column::optional("name", ColumnType::Text, "text"),
                Column::required("tokens", ColumnType::Int64, "count"),
            ],
            ..NARROW
        };
        let evolved_once = evolved("t", &WIDER, &metadata(&NARROW)).unwrap().unwrap();
        let schema: Value = serde_json::from_str(&evolved_once.schema_string).unwrap();
        let shown: Vec<_> = schema["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|field| (field["name"].as_str().unwrap(), field["nullable"].as_bool().unwrap()))
            .collect();
        assert_eq!(shown, [("date", false), ("name", true), ("cost_usd", true), ("tokens", true)]);
        assert_eq!(evolved("t", &WIDER, &evolved_once).unwrap(), None);
    }

    #[test]
    fn other_types_and_unknown_required_columns_are_refused_by_name() {
        const OTHER: TableSpec = TableSpec {
            columns: &[
                Column::required("date", ColumnType::Date, "day"),
                Column::required("name", ColumnType::Int64, "number"),
            ],
            ..NARROW
        };
        const LESS: TableSpec = TableSpec { columns: &[Column::required("date", ColumnType::Date, "day")], ..NARROW };
        for spec in [&OTHER, &LESS] {
            let error = evolved("default/narrow", spec, &metadata(&NARROW)).unwrap_err();
            assert!(error.to_string().contains("\"name\"") && error.to_string().contains("default/narrow"), "{error}");
        }
    }
}
