//! The original span, log record or data point out of its row: every field of it, its scope and its resource.
//!
//! Content is the exception: it is kept by meaning in other tables. Where an attribute was content, [`Rebuilt::moved`] says so.
//!
//! What a promoted column holds goes back to its place among the attributes; what the map holds as text gets its type
//! back from the symbols of [`spanlake_schema::types`].

mod logs;
mod metrics;
mod typed;

use arrow::array::{
    Array, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, MapArray, StringArray, StructArray,
};
use arrow::record_batch::RecordBatch;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use spanlake_schema::flags::reading;
use spanlake_schema::spans::PROMOTED;
use spanlake_schema::types;

use typed::{Symbol, Symbols};

/// A span, log record or data point, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Rebuilt<T> {
    /// The span, the log record, or a metric with nothing but the data point.
    pub item: T,
    /// Places of attributes that are content and left out of the item.
    pub moved: Moved,
    /// The resource, where one was sent.
    pub resource: Option<Resource>,
    /// The schema URL of the resource.
    pub resource_schema_url: String,
    /// The scope, where one was sent.
    pub scope: Option<InstrumentationScope>,
    /// The schema URL of the scope's items.
    pub scope_schema_url: String,
}

/// Where content stood, as places among the attributes that were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Among those of the span.
    pub attributes: Vec<usize>,
    /// Among those of each of its events.
    pub event_attributes: Vec<Vec<usize>>,
}

/// Why a row is no span, log record or data point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row}: {what}")]
pub struct RebuildError {
    /// The row within its batch.
    pub row: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Rebuilds the span of every row of a batch of `spans`, in order.
///
/// # Errors
/// Where a row is not as ingest writes it; the row is named.
pub fn rebuild(batch: &RecordBatch) -> Result<Vec<Rebuilt<Span>>, RebuildError> {
    rebuild_with(batch, |rows, row| rows.span(row))
}

/// Rebuilds the log record of every row of a batch of `logs`, in order.
///
/// # Errors
/// Where a row is not as ingest writes it; the row is named.
pub fn rebuild_logs(batch: &RecordBatch) -> Result<Vec<Rebuilt<LogRecord>>, RebuildError> {
    rebuild_with(batch, |rows, row| rows.log_record(row))
}

/// Rebuilds the data point of every row of a batch of `metric_points`, in order, each as a metric that has no other.
///
/// # Errors
/// Where a row is not as ingest writes it; the row is named.
pub fn rebuild_points(batch: &RecordBatch) -> Result<Vec<Rebuilt<Metric>>, RebuildError> {
    rebuild_with(batch, |rows, row| rows.metric_point(row))
}

fn rebuild_with<T>(
    batch: &RecordBatch,
    item: impl Fn(&Rows<'_>, usize) -> Fallible<T>,
) -> Result<Vec<Rebuilt<T>>, RebuildError> {
    let rows = Rows { batch };
    let row = |row| item(&rows, row).and_then(|item| rows.with_origin(item, row));
    (0..batch.num_rows()).map(|at| row(at).map_err(|what| RebuildError { row: at, what })).collect()
}

struct Rows<'a> {
    batch: &'a RecordBatch,
}

type Fallible<T> = Result<T, String>;

impl<'a> Rows<'a> {
    fn column(&self, name: &str) -> Fallible<&'a dyn Array> {
        let column = self.batch.column_by_name(name).ok_or_else(|| format!("no column {name}"))?;
        Ok(column.as_ref())
    }

    fn text(&self, name: &str, row: usize) -> Fallible<Option<&'a str>> {
        let column: &StringArray = self.column(name)?.as_string_opt().ok_or_else(|| format!("{name} is no text"))?;
        Ok(column.is_valid(row).then(|| column.value(row)))
    }

    fn int(&self, name: &str, row: usize) -> Fallible<Option<i64>> {
        let column: Option<&Int64Array> = self.column(name)?.as_primitive_opt();
        let column = column.ok_or_else(|| format!("{name} is no Int64"))?;
        Ok(column.is_valid(row).then(|| column.value(row)))
    }

    fn required(&self, name: &str, row: usize) -> Fallible<i64> {
        self.int(name, row)?.ok_or_else(|| format!("{name} is NULL"))
    }

    fn count(&self, name: &str, row: usize) -> Fallible<u32> {
        u32::try_from(self.required(name, row)?).map_err(|_| format!("{name} is no 32-bit count"))
    }

    fn owned(&self, name: &str, row: usize) -> Fallible<String> {
        Ok(self.text(name, row)?.unwrap_or_default().to_owned())
    }

    fn id(&self, name: &str, row: usize) -> Fallible<Vec<u8>> {
        unhex(self.text(name, row)?.unwrap_or_default())
    }

    fn with_origin<T>(&self, item: T, row: usize) -> Fallible<Rebuilt<T>> {
        Ok(Rebuilt {
            item,
            moved: self.moved(row)?,
            resource: self.resource(row)?,
            resource_schema_url: self.owned("resource_schema_url", row)?,
            scope: self.scope(row)?,
            scope_schema_url: self.owned("scope_schema_url", row)?,
        })
    }

    fn span(&self, row: usize) -> Fallible<Span> {
        let flags = self.required("reading_flags", row)?;
        let mut parent_span_id = self.id("parent_span_id", row)?;
        if flags & reading::PARENT_ALL_ZERO != 0 {
            parent_span_id = vec![0; 8];
        }
        Ok(Span {
            trace_id: self.id("trace_id", row)?,
            span_id: self.id("span_id", row)?,
            trace_state: self.owned("trace_state", row)?,
            parent_span_id,
            flags: self.count("flags", row)?,
            name: self.owned("name", row)?,
            kind: number_of(&self.owned("kind", row)?, KINDS)?,
            start_time_unix_nano: self.required("start_time_unix_nano", row)? as u64,
            end_time_unix_nano: self.required("end_time_unix_nano", row)? as u64,
            attributes: self.attributes("attributes", "attribute_types", row)?.unwrap_or_default(),
            dropped_attributes_count: self.count("dropped_attributes_count", row)?,
            events: self.events(row)?,
            dropped_events_count: self.count("dropped_events_count", row)?,
            links: self.links(row)?,
            dropped_links_count: self.count("dropped_links_count", row)?,
            status: self.status(row, flags)?,
        })
    }

    fn moved(&self, row: usize) -> Fallible<Moved> {
        let attributes = places_of_content(&self.owned("attribute_types", row)?)?;
        if self.batch.column_by_name("events").is_none() {
            return Ok(Moved { attributes, event_attributes: Vec::new() });
        }
        let items = self.items("events", row)?;
        let items = Items { items: &items };
        let events = (0..items.items.len()).map(|item| places_of_content(&items.text("attribute_types", item)?));
        Ok(Moved { attributes, event_attributes: events.collect::<Fallible<_>>()? })
    }

    fn status(&self, row: usize, flags: i64) -> Fallible<Option<Status>> {
        let code = number_of(&self.owned("status_code", row)?, STATUSES)?;
        let message = self.owned("status_message", row)?;
        let sent = code != 0 || !message.is_empty() || flags & reading::EMPTY_STATUS != 0;
        Ok(sent.then_some(Status { message, code }))
    }

    fn resource(&self, row: usize) -> Fallible<Option<Resource>> {
        let Some(attributes) = self.attributes("resource_attributes", "resource_attribute_types", row)? else {
            return Ok(None);
        };
        let entity_refs = match self.text("resource_entity_refs", row)? {
            Some(json) => entity_refs(json)?,
            None => Vec::new(),
        };
        let dropped_attributes_count = self.count("resource_dropped_attributes_count", row)?;
        Ok(Some(Resource { attributes, dropped_attributes_count, entity_refs }))
    }

    fn scope(&self, row: usize) -> Fallible<Option<InstrumentationScope>> {
        let Some(attributes) = self.attributes("scope_attributes", "scope_attribute_types", row)? else {
            return Ok(None);
        };
        Ok(Some(InstrumentationScope {
            name: self.owned("scope_name", row)?,
            version: self.owned("scope_version", row)?,
            attributes,
            dropped_attributes_count: self.count("scope_dropped_attributes_count", row)?,
        }))
    }

    /// The attributes of a row; `None` where the map is NULL.
    fn attributes(&self, map: &str, types: &str, row: usize) -> Fallible<Option<Vec<KeyValue>>> {
        let maps = self.column(map)?.as_map_opt().ok_or_else(|| format!("{map} is no map"))?;
        if maps.is_null(row) {
            return Ok(None);
        }
        let symbols = self.text(types, row)?.ok_or_else(|| format!("{types} is NULL"))?;
        let promoted = |letter: u8| self.promoted(letter, row);
        read_attributes(maps, row, symbols, &promoted).map(Some).map_err(|what| format!("{map}: {what}"))
    }

    /// The attribute that a promoted column stands in for.
    fn promoted(&self, letter: u8, row: usize) -> Fallible<KeyValue> {
        let known = PROMOTED.iter().find(|known| known.letter == letter);
        let known = known.ok_or_else(|| format!("no promoted column has the letter {}", char::from(letter)))?;
        let column = self.column(known.column)?;
        let wrong = || format!("{} does not hold the attribute it stands in for", known.column);
        if column.is_null(row) {
            return Err(wrong());
        }
        let value = match known.symbol {
            's' => Value::StringValue(self.owned(known.column, row)?),
            'i' => Value::IntValue(self.required(known.column, row)?),
            'd' => {
                let doubles: &Float64Array = column.as_primitive_opt().ok_or_else(wrong)?;
                Value::DoubleValue(doubles.value(row))
            }
            'b' => {
                let bools: &BooleanArray = column.as_boolean_opt().ok_or_else(wrong)?;
                Value::BoolValue(bools.value(row))
            }
            _ => {
                let lists: &ListArray = column.as_list_opt().ok_or_else(wrong)?;
                let items = lists.value(row);
                let items: &StringArray = items.as_string_opt().ok_or_else(wrong)?;
                let value = |item: &str| AnyValue { value: Some(Value::StringValue(item.to_owned())) };
                Value::ArrayValue(ArrayValue { values: items.iter().flatten().map(value).collect() })
            }
        };
        Ok(KeyValue {
            key: known.attribute.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        })
    }

    fn events(&self, row: usize) -> Fallible<Vec<Event>> {
        let items = self.items("events", row)?;
        let items = Items { items: &items };
        (0..items.items.len())
            .map(|item| {
                Ok(Event {
                    time_unix_nano: items.int("time_unix_nano", item)? as u64,
                    name: items.text("name", item)?,
                    attributes: items.attributes(item)?,
                    dropped_attributes_count: items.int("dropped_attributes_count", item)? as u32,
                })
            })
            .collect()
    }

    fn links(&self, row: usize) -> Fallible<Vec<Link>> {
        let items = self.items("links", row)?;
        let items = Items { items: &items };
        (0..items.items.len())
            .map(|item| {
                Ok(Link {
                    trace_id: unhex(&items.text("trace_id", item)?)?,
                    span_id: unhex(&items.text("span_id", item)?)?,
                    trace_state: items.text("trace_state", item)?,
                    attributes: items.attributes(item)?,
                    dropped_attributes_count: items.int("dropped_attributes_count", item)? as u32,
                    flags: items.int("flags", item)? as u32,
                })
            })
            .collect()
    }

    fn items(&self, name: &str, row: usize) -> Fallible<StructArray> {
        let lists: Option<&ListArray> = self.column(name)?.as_list_opt();
        let items = lists.ok_or_else(|| format!("{name} is no list"))?.value(row);
        items.as_struct_opt().cloned().ok_or_else(|| format!("{name} holds no structs"))
    }
}

/// The events or links of one row.
struct Items<'a> {
    items: &'a StructArray,
}

impl Items<'_> {
    fn field(&self, name: &str) -> Fallible<&dyn Array> {
        Ok(self.items.column_by_name(name).ok_or_else(|| format!("no field {name}"))?.as_ref())
    }

    fn int(&self, name: &str, item: usize) -> Fallible<i64> {
        let column: Option<&Int64Array> = self.field(name)?.as_primitive_opt();
        Ok(column.ok_or_else(|| format!("{name} is no Int64"))?.value(item))
    }

    fn text(&self, name: &str, item: usize) -> Fallible<String> {
        let column: Option<&StringArray> = self.field(name)?.as_string_opt();
        Ok(column.ok_or_else(|| format!("{name} is no text"))?.value(item).to_owned())
    }

    fn attributes(&self, item: usize) -> Fallible<Vec<KeyValue>> {
        let maps = self.field("attributes")?.as_map_opt().ok_or("attributes is no map")?;
        let symbols = self.text("attribute_types", item)?;
        read_attributes(maps, item, &symbols, &|_| Err("only spans have promoted columns".to_owned()))
    }
}

fn read_attributes(
    maps: &MapArray,
    row: usize,
    symbols: &str,
    promoted: &dyn Fn(u8) -> Fallible<KeyValue>,
) -> Fallible<Vec<KeyValue>> {
    let entries = maps.value(row);
    let keys: &StringArray = entries.column(0).as_string_opt().ok_or("keys are no text")?;
    let values: &StringArray = entries.column(1).as_string_opt().ok_or("values are no text")?;
    let mut symbols = Symbols::new(symbols);
    let mut attributes = Vec::with_capacity(entries.len());
    let mut entry = 0;
    while let Some(symbol) = symbols.next()? {
        if let Symbol::Promoted(letter) = symbol {
            attributes.push(promoted(letter)?);
            continue;
        }
        if symbol == CONTENT {
            continue;
        }
        if entry == entries.len() {
            return Err("there are more types than attributes".to_owned());
        }
        let text = values.is_valid(entry).then(|| values.value(entry));
        let value = typed::value(symbol, text, &mut symbols)?;
        attributes.push(KeyValue { key: keys.value(entry).to_owned(), value, ..KeyValue::default() });
        entry += 1;
    }
    if entry < entries.len() {
        return Err("there are more attributes than types".to_owned());
    }
    Ok(attributes)
}

const CONTENT: Symbol = Symbol::Of(types::CONTENT as u8);

/// The places of the attributes that are content.
fn places_of_content(symbols: &str) -> Fallible<Vec<usize>> {
    let mut symbols = Symbols::new(symbols);
    let (mut places, mut place, mut depth) = (Vec::new(), 0, 0);
    while let Some(symbol) = symbols.next()? {
        match symbol {
            CONTENT if depth == 0 => places.push(place),
            Symbol::Of(b'[' | b'{') => depth += 1,
            Symbol::Of(b']' | b'}') => depth -= 1,
            _ => {}
        }
        place += usize::from(depth == 0);
    }
    Ok(places)
}

const KINDS: &[&str] = &["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
const STATUSES: &[&str] = &["UNSET", "OK", "ERROR"];

fn number_of(name: &str, names: &[&str]) -> Fallible<i32> {
    match names.iter().position(|known| *known == name) {
        Some(number) => Ok(number as i32),
        None => name.parse().map_err(|_| format!("{name:?} is neither a name nor a number")),
    }
}

fn unhex(text: &str) -> Fallible<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(|| format!("{text:?} is not hexadecimal"));
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok((digit(pair[0])? * 16 + digit(*pair.get(1).unwrap_or(&b'x'))?) as u8)).collect()
}

fn entity_refs(json: &str) -> Fallible<Vec<EntityRef>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entity {
        schema_url: String,
        r#type: String,
        id_keys: Vec<String>,
        description_keys: Vec<String>,
    }
    let entities: Vec<Entity> = serde_json::from_str(json).map_err(|error| format!("entity references: {error}"))?;
    let entity = |entity: Entity| EntityRef {
        schema_url: entity.schema_url,
        r#type: entity.r#type,
        id_keys: entity.id_keys,
        description_keys: entity.description_keys,
    };
    Ok(entities.into_iter().map(entity).collect())
}
