//! Rows of `spans`, read back: what they tell of calls.
//!
//! The class of an operation is no column. It follows from the operation, the span's name and its scope as when the span was
//! read; where an operation that is part of others had no name of its own, the row's role tells.

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{Date32Type, Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use spanlake_schema::corrections::Address;
use spanlake_storage::{Error, ErrorKind, Result};

use crate::meaning::Meaning;
use crate::price::{Call, Cost, PricedBy};
use crate::roles::{Calls, Id, Note, Role, Settled, name_hash};
use crate::rules::Class;
use crate::traces::{Part, PartRow};

/// The columns of `spans` that [`crate::Ingest::recall`] reads, in any order; further ones may be there.
pub const RECALLED: &[&str] = &[
    "date",
    "trace_id",
    "span_id",
    "parent_span_id",
    "received_time",
    "telling",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "name",
    "status_code",
    "scope_name",
    "scope_version",
    "operation",
    "provider",
    "request_model",
    "response_model",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "service_tier",
    "response_id",
    "usage_role",
    "unattributed_tokens",
    "cost_usd",
    "price_source",
    "model",
    "start_time",
];

/// What a row tells of a call, and the models it names, requested and answered.
type NotedRow<'a> = (Note, [&'a [u8]; 2]);

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) batch: &'a RecordBatch,
    pub(crate) at: usize,
}

impl<'a> Row<'a> {
    fn column(&self, name: &str) -> Result<&'a ArrayRef> {
        let missing =
            || Error::new(ErrorKind::Invalid, format!("rows of spans that are read back lack the column {name}"));
        self.batch.column_by_name(name).ok_or_else(missing)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let texts: Option<&StringArray> = self.column(name)?.as_string_opt();
        Ok(texts.filter(|texts| texts.is_valid(self.at)).map(|texts| texts.value(self.at)))
    }

    fn int(&self, name: &str) -> Result<Option<i64>> {
        let ints = self.column(name)?.as_primitive_opt::<Int64Type>();
        Ok(ints.filter(|ints| ints.is_valid(self.at)).map(|ints| ints.value(self.at)))
    }

    /// Ids that are none of ours tell nothing.
    fn ids(&self) -> Result<Option<(u128, u64, u64)>> {
        let trace_id = self.text("trace_id")?.and_then(|id| u128::from_str_radix(id, 16).ok());
        let word = |id: Option<&str>| id.and_then(|id| u64::from_str_radix(id, 16).ok());
        let (span_id, parent) = (word(self.text("span_id")?), word(self.text("parent_span_id")?));
        Ok(trace_id.zip(span_id).map(|(trace_id, span_id)| (trace_id, span_id, parent.unwrap_or(0))))
    }

    fn place(&self) -> Result<(i32, i64)> {
        let date = self.column("date")?.as_primitive_opt::<Date32Type>().map(|dates| dates.value(self.at));
        let received = self.column("received_time")?.as_primitive_opt::<TimestampMicrosecondType>();
        let received = received.map(|times| times.value(self.at));
        let unfit =
            || Error::new(ErrorKind::Invalid, "rows of spans that are read back have other types than the table");
        date.zip(received).ok_or_else(unfit)
    }

    pub(crate) fn role(&self) -> Result<Role> {
        Ok(match self.text("usage_role")? {
            Some("leaf") => Role::Leaf,
            Some("aggregate") => Role::Aggregate,
            Some("duplicate") => Role::Duplicate,
            _ => Role::None,
        })
    }

    fn class(&self, meaning: &Meaning, role: Role) -> Result<Class> {
        let (operation, name) = (self.text("operation")?, self.text("name")?.unwrap_or_default());
        let scope = (self.text("scope_name")?.unwrap_or_default(), self.text("scope_version")?.unwrap_or_default());
        let class = meaning.class_of(operation, name, scope);
        let is_nameless_part = operation.is_none() && role == Role::Aggregate;
        Ok(if is_nameless_part { Class::Part } else { class })
    }

    fn cost(&self, meaning: &Meaning) -> Result<(Cost, PricedBy)> {
        if let Some(cost) = self.stored_cost()? {
            let source = self.text("price_source")?;
            let priced_by = if source == Some(meaning.pricer().source(PricedBy::BuiltIn)) {
                PricedBy::BuiltIn
            } else {
                PricedBy::Own
            };
            return Ok((Cost::Usd(i128::from(cost)), priced_by));
        }
        self.price(meaning)
    }

    /// The cost that the row has, in units of 10^-12 US dollars.
    pub(crate) fn stored_cost(&self) -> Result<Option<i64>> {
        let costs = self.column("cost_usd")?.as_primitive_opt::<Decimal128Type>();
        let cost = costs.filter(|costs| costs.is_valid(self.at)).map(|costs| costs.value(self.at));
        Ok(cost.and_then(|cost| i64::try_from(cost).ok()))
    }

    /// What the row costs by the prices of now.
    pub(crate) fn price(&self, meaning: &Meaning) -> Result<(Cost, PricedBy)> {
        let models = [self.text("response_model")?, self.text("request_model")?];
        let call = Call {
            provider: self.text("provider")?,
            model: "",
            operation: self.text("operation")?,
            service_tier: self.text("service_tier")?,
            time_unix_nano: self.time_unix_nano()?,
            input_tokens: self.int("input_tokens")?,
            output_tokens: self.int("output_tokens")?,
            cache_read_tokens: self.int("cache_read_tokens")?,
            cache_write_tokens: self.int("cache_write_tokens")?,
            reasoning_tokens: self.int("reasoning_tokens")?,
        };
        Ok(meaning.price(models, call))
    }

    /// Which row it is; `None` where the columns have other types than the table.
    pub(crate) fn address(&self) -> Result<Option<Address>> {
        let ids = self.text("trace_id")?.zip(self.text("span_id")?);
        let (date, received_micros) = self.place()?;
        let starts = self.column("start_time")?.as_primitive_opt::<TimestampMicrosecondType>();
        let (telling, start_micros) = (self.int("telling")?, starts.map(|starts| starts.value(self.at)));
        Ok(ids.zip(start_micros).map(|((trace_id, span_id), start_micros)| Address {
            date,
            trace_id: trace_id.to_owned(),
            span_id: span_id.to_owned(),
            received_micros,
            telling,
            start_micros,
        }))
    }

    /// When the call was made: its start, or its arrival where it tells none.
    fn time_unix_nano(&self) -> Result<u64> {
        let start = self.int("start_time_unix_nano")?.unwrap_or(0) as u64;
        Ok(if start == 0 { (self.place()?.1 as u64).saturating_mul(1_000) } else { start })
    }

    /// What the row tells of a call, and its models; `None` where it has no role.
    fn note(&self, meaning: &Meaning) -> Result<Option<NotedRow<'a>>> {
        let role = self.role()?;
        if role == Role::None {
            return Ok(None);
        }
        let usage = (self.int("input_tokens")?, self.int("output_tokens")?);
        let usage = (usage.0.is_some() || usage.1.is_some()).then_some(usage);
        let models = [self.text("request_model")?, self.text("response_model")?];
        let class = self.class(meaning, role)?;
        let cost = if usage.is_some() && class != Class::Part { Some(self.cost(meaning)?) } else { None };
        let note = Note {
            class,
            usage,
            names_model: self.text("provider")?.is_some() && models.iter().any(Option::is_some),
            failed: self.text("status_code")? == Some("ERROR"),
            start_unix_nano: self.int("start_time_unix_nano")?.unwrap_or(0) as u64,
            end_unix_nano: self.int("end_time_unix_nano")?.unwrap_or(0) as u64,
            scope: name_hash(self.text("scope_name")?.unwrap_or_default().as_bytes()),
            response_id: self.text("response_id")?.map_or(0, |id| name_hash(id.as_bytes())),
            cost,
            ..Note::default()
        };
        Ok(Some((note, models.map(|model| model.unwrap_or_default().as_bytes()))))
    }
}

/// What rows tell, as one part of the memory.
///
/// # Errors
/// [`ErrorKind::Invalid`] where they lack one of [`RECALLED`].
pub(crate) fn part(tenant: &str, rows: &[RecordBatch], meaning: &Meaning, received_micros: i64) -> Result<Part> {
    let (mut calls, mut told) = (Calls::default(), Vec::new());
    for batch in rows {
        for at in 0..batch.num_rows() {
            let row = Row { batch, at };
            let Some((trace_id, span, parent)) = row.ids()? else { continue };
            let id = Id { trace: crate::roles::trace_word(&trace_id.to_be_bytes()), span };
            let Some((note, models)) = row.note(meaning)? else {
                calls.recall(id, parent, [&[], &[]], None);
                continue;
            };
            calls.recall(id, parent, models, Some(note));
            let (date, received_micros) = row.place()?;
            told.push(PartRow {
                trace_id,
                date,
                received_micros,
                telling: row.int("telling")?.and_then(|telling| u32::try_from(telling).ok()).unwrap_or(0),
                settled: Settled { role: row.role()?, unattributed_tokens: row.int("unattributed_tokens")? },
            });
        }
    }
    Ok(Part::recalled(tenant, calls, told, received_micros))
}
