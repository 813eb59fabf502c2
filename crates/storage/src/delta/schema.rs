//! A table's columns as the Delta log describes them.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};
use spanlake_schema::promotion::{COLUMNS_MAX, PromotedColumn, is_same_column, standing_column};
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
        configuration: [(STATISTICS_PROPERTY.to_owned(), Some(statistics))].into(),
        created_time: Some(created_time_ms),
    })
}

/// The metadata that lets this version write a table of another version: with the columns that it lacks, and NULL
/// allowed where this version writes it. `None` where the table is fine as it is.
pub(super) fn evolved(table: &str, spec: &TableSpec, metadata: &Metadata) -> Result<Option<Metadata>> {
    let refused = |what: String| Error::new(ErrorKind::Invalid, format!("table {table} {what}"));
    let mut schema = parsed(table, metadata)?;
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
    let schema = parsed(table, metadata)?;
    let fields = schema["fields"].as_array().into_iter().flatten();
    let nullable = fields.filter(|field| field["nullable"] != false);
    Ok(nullable.filter_map(|field| Some(field["name"].as_str()?.to_owned())).collect())
}

/// The table's property whose value is the attribute of a promoted column, the column's name following.
const PROMOTE_PROPERTY: &str = "spanlake.promote.";

/// The columns that statistics are wanted of.
const STATISTICS_PROPERTY: &str = "delta.dataSkippingStatsColumns";

/// The columns promoted from attributes, in the order of the schema. One whose type was changed by somebody else is none.
pub(super) fn promoted_columns(table: &str, metadata: &Metadata) -> Result<Vec<PromotedColumn>> {
    let attribute = |name: &str| metadata.configuration.get(&format!("{PROMOTE_PROPERTY}{name}"))?.clone();
    if !metadata.configuration.keys().any(|key| key.starts_with(PROMOTE_PROPERTY)) {
        return Ok(Vec::new());
    }
    let schema = parsed(table, metadata)?;
    let fields = schema["fields"].as_array().into_iter().flatten();
    let column = |field: &Value| {
        let name = field["name"].as_str()?.to_owned();
        let attribute = attribute(&name)?;
        let column_type = PROMOTED_TYPES.iter().find(|(_, delta)| field["type"] == *delta)?.0;
        Some(PromotedColumn { name, attribute, column_type })
    };
    Ok(fields.filter_map(column).collect())
}

const PROMOTED_TYPES: [(ColumnType, &str); 4] = [
    (ColumnType::Text, "string"),
    (ColumnType::Int64, "long"),
    (ColumnType::Float64, "double"),
    (ColumnType::Bool, "boolean"),
];

/// The metadata with further columns promoted from attributes, as far as there is room, their names are free and the attributes
/// have none. `None` where nothing is to be added.
pub(super) fn with_promoted(
    table: &str,
    spec: &TableSpec,
    metadata: &Metadata,
    wanted: &[PromotedColumn],
) -> Result<Option<Metadata>> {
    let mut present = promoted_columns(table, metadata)?;
    let mut evolved = metadata.clone();
    let mut schema = parsed(table, metadata)?;
    let Some(fields) = schema["fields"].as_array_mut() else {
        return Err(Error::new(ErrorKind::Invalid, format!("table {table} has a schema without fields")));
    };
    let before = fields.len();
    for column in wanted {
        let Some((_, delta_type)) = PROMOTED_TYPES.iter().find(|(known, _)| *known == column.column_type) else {
            continue;
        };
        let is_taken = |field: &Value| field["name"].as_str().is_some_and(|name| is_same_column(name, &column.name));
        let has_column = present.iter().any(|other| other.attribute == column.attribute);
        let is_own = standing_column(spec, &column.attribute).is_some();
        if has_column || is_own || fields.iter().any(is_taken) || present.len() >= COLUMNS_MAX {
            continue;
        }
        let comment = format!("Attribute {}, promoted", column.attribute);
        fields.push(json!({
            "name": column.name, "type": delta_type, "nullable": true, "metadata": {"comment": comment},
        }));
        evolved.configuration.insert(format!("{PROMOTE_PROPERTY}{}", column.name), Some(column.attribute.clone()));
        if let Some(Some(statistics)) = evolved.configuration.get_mut(STATISTICS_PROPERTY) {
            statistics.push(',');
            statistics.push_str(&column.name);
        }
        present.push(column.clone());
    }
    let is_changed = fields.len() > before;
    evolved.schema_string = schema.to_string();
    Ok(is_changed.then_some(evolved))
}

fn parsed(table: &str, metadata: &Metadata) -> Result<Value> {
    serde_json::from_str(&metadata.schema_string).map_err(|source| {
        Error::new(ErrorKind::Invalid, format!("table {table} has an unreadable schema")).with_source(source)
    })
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
    use spanlake_schema::{Column, TABLES, spans};

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
        attributes: &[],
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

    fn promoted(attribute: &str, column_type: ColumnType) -> PromotedColumn {
        let name = spanlake_schema::promotion::column_name(attribute);
        PromotedColumn { name, attribute: attribute.to_owned(), column_type }
    }

    #[test]
    fn promoted_columns_are_added_once_and_stay_as_they_are() {
        let add = |to: &Metadata, wanted: &[PromotedColumn]| with_promoted("t", &NARROW, to, wanted).unwrap();
        let (tier, seats) = (promoted("customer.tier", ColumnType::Text), promoted("seats", ColumnType::Int64));
        let first = add(&metadata(&NARROW), std::slice::from_ref(&tier)).unwrap();
        assert_eq!(promoted_columns("t", &first).unwrap(), std::slice::from_ref(&tier));
        assert_eq!(first.configuration["delta.dataSkippingStatsColumns"].as_deref(), Some("cost_usd,customer_tier"));
        let otherwise = PromotedColumn { column_type: ColumnType::Bool, ..tier.clone() };
        for there_already in [tier.clone(), otherwise, promoted("Customer-Tier", ColumnType::Text)] {
            assert_eq!(add(&first, &[there_already]), None);
        }
        for own in ["name", "Cost.USD", "date"] {
            assert_eq!(add(&first, &[promoted(own, ColumnType::Text)]), None, "{own}");
        }
        let second = add(&first, &[tier.clone(), seats.clone()]).unwrap();
        assert_eq!(promoted_columns("t", &second).unwrap(), [tier, seats]);
        // An evolution of the table's own columns leaves them.
        assert_eq!(evolved("t", &NARROW, &second).unwrap(), None);
    }

    #[test]
    fn promoted_columns_are_bounded() {
        let wanted: Vec<PromotedColumn> =
            (0..2 * COLUMNS_MAX).map(|number| promoted(&format!("a.{number}"), ColumnType::Float64)).collect();
        let full = with_promoted("t", &NARROW, &metadata(&NARROW), &wanted).unwrap().unwrap();
        assert_eq!(promoted_columns("t", &full).unwrap(), wanted[..COLUMNS_MAX]);
        assert_eq!(with_promoted("t", &NARROW, &full, &wanted).unwrap(), None);
    }
}
