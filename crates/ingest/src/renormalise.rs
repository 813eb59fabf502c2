//! Stored spans, read again by the rules of now.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use arrow::record_batch::RecordBatch;
use hashbrown::HashMap;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use spanlake_schema::corrections::{Address, CORRECTABLE, Correction, Reason, Value, dollars};
use spanlake_schema::flags::reading as flag;
use spanlake_schema::{ColumnType, spans};
use spanlake_storage::{Error, ErrorKind, Result};

use crate::meaning::Meaning;
use crate::price::Cost;
use crate::rebuild::{Rebuilt, rebuild};
use crate::recall::Row;
use crate::roles::Role;
use crate::room::Room;
use crate::traces::TraceOf;
use crate::walk::Walker;
use crate::{Ingest, Signal};

/// Columns of `spans` that do not follow from the span alone: its trace decides, or its price.
const SETTLED: &[&str] = &["usage_role", "unattributed_tokens", "cost_usd", "price_source"];

/// Columns that decide what a call costs.
const PRICED: &[&str] = &[
    "provider",
    "request_model",
    "response_model",
    "model",
    "operation",
    "service_tier",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
];

/// Bits of `reading_flags` that rules set; the others tell of the bytes that came.
const RULE_FLAGS: i64 = flag::PROVIDER_DERIVED
    | flag::OPERATION_DERIVED
    | flag::TYPE_CONFLICT
    | flag::USAGE_ESTIMATED
    | flag::INPUT_EXCLUDED_CACHE
    | flag::COUNT_IMPLAUSIBLE
    | flag::OUTPUT_EXCLUDED_REASONING
    | flag::JSON_BROKEN;

/// Distinct changes of a column that are told one by one.
const EXAMPLES_MAX: usize = 64;

/// The columns of `spans` that [`Ingest::renormalise`] compares, as queries see them, in any order; further ones may be there.
pub fn renormalised_columns() -> Vec<&'static str> {
    let address = ["date", "trace_id", "span_id", "received_time", "telling", "start_time"];
    address.iter().chain(CORRECTABLE).copied().collect()
}

/// What newer rules change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renormalising {
    /// Spans that were read again.
    pub spans: u64,
    /// Those of them that change.
    pub changed: u64,
    /// By column.
    pub columns: BTreeMap<&'static str, RenormalisedColumn>,
}

/// What newer rules change in one column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenormalisedColumn {
    /// Spans whose value changes.
    pub changed: u64,
    /// From what to what, and in how many spans, as far as these are few.
    pub examples: BTreeMap<(Option<String>, Option<String>), u64>,
}

impl Renormalising {
    fn note(&mut self, column: &'static str, from: Option<&Value>, to: Option<&Value>) {
        let column = self.columns.entry(column).or_default();
        column.changed += 1;
        let example = (from.map(shown), to.map(shown));
        if column.examples.len() < EXAMPLES_MAX || column.examples.contains_key(&example) {
            *column.examples.entry(example).or_default() += 1;
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Usd(picos) => dollars(i128::from(*picos)),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::TextList(items) => items.join(", "),
    }
}

/// A value of a column of `spans`, in the type of the table.
fn value(column: &dyn Array, column_type: ColumnType, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return None;
    }
    Some(match column_type {
        ColumnType::Int64 => Value::Int(column.as_primitive_opt::<Int64Type>()?.value(row)),
        ColumnType::Float64 => Value::Float(column.as_primitive_opt::<Float64Type>()?.value(row)),
        ColumnType::Bool => Value::Bool(column.as_boolean_opt()?.value(row)),
        ColumnType::Usd => Value::Usd(i64::try_from(column.as_primitive_opt::<Decimal128Type>()?.value(row)).ok()?),
        ColumnType::TextList => {
            let items = column.as_list_opt::<i32>()?.value(row);
            let items = items.as_string_opt::<i32>()?.iter().map(|item| item.unwrap_or_default().to_owned()).collect();
            Value::TextList(items)
        }
        _ => Value::Text(column.as_string_opt::<i32>()?.value(row).to_owned()),
    })
}

/// Rows as they are read by the rules of now, in their order.
fn read_again(
    walker: &Walker,
    tenant: &str,
    rebuilt: Vec<Rebuilt<Span>>,
    received_unix_nano: u64,
) -> Result<RecordBatch> {
    let count = rebuilt.len();
    let resource_spans = rebuilt.into_iter().map(|one| ResourceSpans {
        resource: one.resource,
        schema_url: one.resource_schema_url,
        scope_spans: vec![ScopeSpans { scope: one.scope, spans: vec![one.item], schema_url: one.scope_schema_url }],
    });
    let body = ExportTraceServiceRequest { resource_spans: resource_spans.collect() }.encode_to_vec();
    let unreadable = || Error::new(ErrorKind::Corrupt, "stored spans cannot be read as they would be sent");
    let walked = walker
        .walk(Signal::Traces, tenant, &body, received_unix_nano, Room::unlimited())
        .map_err(|error| unreadable().with_source(error))?;
    let batches = walked.batches.iter().filter(|(table, _)| *table == spans::SPEC.name).map(|(_, batch)| batch);
    let rows = concat_batches(&spans::SPEC.arrow_schema(), batches).map_err(|error| unreadable().with_source(error))?;
    if rows.num_rows() == count { Ok(rows) } else { Err(unreadable()) }
}

/// Columns, and what they are from now on.
type Changes = Vec<(String, Option<Value>)>;

/// A column, what it is and what it is read as now.
type Pair = (&'static str, Option<Value>, Option<Value>);

/// The columns that follow from the span alone.
fn pairs<'a>(row: Row<'a>, again: Row<'a>) -> impl Iterator<Item = Pair> + 'a {
    CORRECTABLE.iter().copied().filter(|name| !SETTLED.contains(name)).map(move |name| {
        let column_type = spans::SPEC.columns[spans::SPEC.index_of(name)].column_type;
        let of =
            |row: Row<'_>| row.batch.column_by_name(name).and_then(|found| value(found.as_ref(), column_type, row.at));
        let (from, mut to) = (of(row), of(again));
        if name == "reading_flags"
            && let (Some(Value::Int(old)), Some(Value::Int(new))) = (&from, &to)
        {
            to = Some(Value::Int(old & !RULE_FLAGS | new & RULE_FLAGS));
        }
        (name, from, to)
    })
}

/// What changes of one row, `row` as queries see it and `again` as it is read now, and whether its trace has to be settled anew.
/// `said` tells that it had content, which is kept elsewhere.
fn changes_of(
    row: Row<'_>,
    again: Row<'_>,
    said: bool,
    meaning: &Meaning,
    told: &mut Renormalising,
) -> Result<(Changes, bool)> {
    let mut changes = Vec::new();
    let mut is_priced_anew = false;
    let mut is_settled_anew = false;
    let pairs: Vec<Pair> = pairs(row, again).collect();
    // Content is kept elsewhere. Where something was read of it that cannot be read again, what is known stays as it is.
    let keeps = said && pairs.iter().any(|(_, from, to)| from.is_some() && to.is_none());
    for (name, from, to) in pairs {
        if from == to || (keeps && from.is_some()) {
            continue;
        }
        told.note(name, from.as_ref(), to.as_ref());
        is_priced_anew |= PRICED.contains(&name);
        is_settled_anew |= PRICED.contains(&name) || name == "response_id";
        changes.push((name.to_owned(), to));
    }
    if changes.is_empty() {
        return Ok((changes, false));
    }
    let (role, new_role) = (row.role()?, again.role()?);
    // Whether it is a call follows from the span; which of several tells of it is settled with its trace.
    let becomes = (role == Role::None) != (new_role == Role::None) && !(said && new_role == Role::None);
    let mut cost = None;
    if becomes {
        let name = |role: Role| role.name().map(|name| Value::Text(name.to_owned()));
        told.note("usage_role", name(role).as_ref(), name(new_role).as_ref());
        changes.push(("usage_role".to_owned(), name(new_role)));
        cost = Some((again.stored_cost()?, again.text("price_source")?));
    } else if is_priced_anew && role.has_cost() {
        let (priced, priced_by) = again.price(meaning)?;
        cost = Some(match priced {
            Cost::Usd(usd) => (i64::try_from(usd).ok(), Some(meaning.pricer().source(priced_by))),
            Cost::Unknown | Cost::OutOfRange => (None, None),
        });
    }
    if let Some((cost, source)) = cost
        && row.stored_cost()? != cost
    {
        let (from, to) = (row.stored_cost()?.map(Value::Usd), cost.map(Value::Usd));
        told.note("cost_usd", from.as_ref(), to.as_ref());
        changes.push(("cost_usd".to_owned(), to));
        changes.push(("price_source".to_owned(), source.map(|source| Value::Text(source.to_owned()))));
    }
    Ok((changes, is_settled_anew))
}

/// What the rules of now change of rows of `spans`: `stored` as they were written, `current` as queries see them.
fn renormalise(
    walker: &Walker,
    meaning: &Meaning,
    tenant: &str,
    (stored, current): (&RecordBatch, &[RecordBatch]),
    told: &mut Renormalising,
    now: (i64, i64),
) -> Result<(Vec<Correction>, Vec<TraceOf>)> {
    let mut seen: HashMap<Address, Row<'_>> = HashMap::new();
    for batch in current {
        for at in 0..batch.num_rows() {
            let row = Row { batch, at };
            seen.extend(row.address()?.map(|address| (address, row)));
        }
    }
    let rebuilt = rebuild(stored).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "a stored span cannot be put together again").with_source(error)
    })?;
    let said: Vec<bool> = rebuilt
        .iter()
        .map(|one| !one.moved.attributes.is_empty() || one.moved.event_attributes.iter().any(|event| !event.is_empty()))
        .collect();
    let received = Row { batch: stored, at: 0 }.address()?.map_or(0, |address| address.received_micros as u64 * 1_000);
    let read = read_again(walker, tenant, rebuilt, received)?;
    let (mut corrections, mut traces) = (Vec::new(), Vec::new());
    for (at, said) in said.into_iter().enumerate() {
        let Some(address) = Row { batch: stored, at }.address()? else { continue };
        // What came in since has been read by the rules of now.
        let Some(row) = seen.get(&address) else { continue };
        told.spans += 1;
        let (changes, is_settled_anew) = changes_of(*row, Row { batch: &read, at }, said, meaning, told)?;
        if changes.is_empty() {
            continue;
        }
        told.changed += 1;
        if is_settled_anew {
            traces.push(TraceOf { tenant: tenant.to_owned(), trace_id: address.trace_id.clone() });
        }
        let (revision, recorded_micros) = now;
        corrections.push(Correction { address, revision, recorded_micros, reason: Reason::Rules, changes });
    }
    Ok((corrections, traces))
}

/// Reading again what is stored.
impl Ingest {
    /// Reads rows of `spans` again, `stored` as they were written with all columns, `current` the same rows as queries see them
    /// with [`renormalised_columns`], and adds to `told` what the rules of now change. Unless it is a dry run, what changes is
    /// recorded as corrections, and their traces are left to be settled anew ([`Ingest::take_doubtful_traces`]).
    ///
    /// Content is kept in other tables: of a span of which something was read there, what is known stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where a row cannot be read back, and as of the log. What was recorded before stays, and another
    /// run records the rest.
    pub async fn renormalise(
        &self,
        tenant: &str,
        stored: RecordBatch,
        current: Vec<RecordBatch>,
        told: &mut Renormalising,
        is_dry_run: bool,
    ) -> Result<()> {
        if stored.num_rows() == 0 {
            return Ok(());
        }
        let (walker, settling, owner) = (self.walker.clone(), std::sync::Arc::clone(&self.settling), tenant.to_owned());
        let mut so_far = std::mem::take(told);
        let work = tokio::task::spawn_blocking(move || {
            let now = settling.next_revision();
            let found = renormalise(&walker, settling.meaning(), &owner, (&stored, &current), &mut so_far, now);
            (found, so_far)
        });
        let (found, so_far) = work
            .await
            .map_err(|error| Error::new(ErrorKind::Closed, "reading spans again was broken off").with_source(error))?;
        *told = so_far;
        let (corrections, traces) = found?;
        if !is_dry_run {
            self.settling.append_all(tenant, &corrections).await?;
            self.settling.traces().forget(&traces);
            self.doubt(traces);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rules;

    #[test]
    fn every_column_that_rules_fill_can_be_corrected() {
        let rules = Rules::built_in();
        let filled = rules.facts.iter().filter(|fact| fact.target.is_some()).map(|fact| fact.column);
        let fixed: Vec<&str> = filled.filter(|column| !CORRECTABLE.contains(column)).collect();
        assert!(fixed.is_empty(), "{fixed:?}");
        assert!(PRICED.iter().chain(SETTLED).all(|column| CORRECTABLE.contains(column)));
    }
}
