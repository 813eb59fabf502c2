//! Totals of LLM calls by key, folded as requests become durable.
//!
//! They are what was first ingested since the process started: a call counts where its request's own spans say that it is one, and
//! corrections that follow from later requests change nothing, so that no counter ever falls.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, Decimal128Array, Int64Array, StringArray};
use arrow::datatypes::{Decimal128Type, Int64Type};
use arrow::record_batch::RecordBatch;
use parking_lot::{Mutex, RwLock};
use spanlake_ingest::CallObserver;
use spanlake_schema::spans;

use crate::scrape::bounds;
use crate::scrape::distribution::{Distribution, Measure};
use crate::scrape::page::{Family, Kind, Label, Series, Value};

/// Keys that are kept apart. As one takes 5 KiB as a rule and 48 KiB at worst, and a hundred lines of a page, there has to be an end.
const KEYS_MAX: usize = 1_000;

/// A label's value is cut here, at the end of a character.
const LABEL_BYTES_MAX: usize = 128;

/// The value of every label of the calls beyond [`KEYS_MAX`].
const OTHER: &str = "__other__";

/// Columns that are labels of the same name, beside `status`.
const LABELS: [&str; 4] = ["service_name", "provider", "model", "operation"];

/// Ends a label in a key; no text in UTF-8 has this byte.
const END: u8 = 0xff;

/// Columns that are added up and no more.
const SUMMED: [&str; 3] = ["cache_read_tokens", "cache_write_tokens", "reasoning_tokens"];

struct Measured {
    column: &'static str,
    name: &'static str,
    help: &'static str,
    measure: Measure,
}

const INPUT: usize = 2;
const OUTPUT: usize = 3;
const COST: usize = 4;

/// Columns whose distribution is kept.
const MEASURED: [Measured; 5] = [
    Measured {
        column: "duration_ns",
        name: "spanlake_llm_request_duration_seconds",
        help: "How long LLM calls took.",
        measure: Measure { decimal_places: bounds::SECONDS_PLACES, bounds: bounds::DURATION_NS },
    },
    Measured {
        column: "time_to_first_token_ns",
        name: "spanlake_llm_time_to_first_token_seconds",
        help: "How long LLM calls took to their first token, where it is told.",
        measure: Measure { decimal_places: bounds::SECONDS_PLACES, bounds: bounds::FIRST_TOKEN_NS },
    },
    Measured {
        column: "input_tokens",
        name: "spanlake_llm_request_input_tokens",
        help: "Input tokens of LLM calls, cache included.",
        measure: Measure { decimal_places: 0, bounds: bounds::TOKENS },
    },
    Measured {
        column: "output_tokens",
        name: "spanlake_llm_request_output_tokens",
        help: "Output tokens of LLM calls, reasoning included.",
        measure: Measure { decimal_places: 0, bounds: bounds::TOKENS },
    },
    Measured {
        column: "cost_usd",
        name: "spanlake_llm_request_cost_usd",
        help: "Cost of LLM calls whose price is known.",
        measure: Measure { decimal_places: bounds::USD_PLACES, bounds: bounds::USD },
    },
];

type Read = fn(&Totals) -> f64;

/// The counters. OpenMetrics takes a counter's name without `_total` for the family's, hence none of the above has that.
const COUNTERS: [(&str, &str, Read); 8] = [
    ("spanlake_llm_requests_total", "LLM calls, each once, as first ingested.", |totals| totals.requests as f64),
    ("spanlake_llm_input_tokens_total", "Input tokens, cache included.", |totals| totals.measured[INPUT].sum()),
    ("spanlake_llm_output_tokens_total", "Output tokens, reasoning included.", |totals| totals.measured[OUTPUT].sum()),
    ("spanlake_llm_cache_read_tokens_total", "Input tokens served from cache.", |totals| totals.summed[0] as f64),
    ("spanlake_llm_cache_write_tokens_total", "Input tokens written to cache.", |totals| totals.summed[1] as f64),
    ("spanlake_llm_reasoning_tokens_total", "Output tokens spent thinking.", |totals| totals.summed[2] as f64),
    ("spanlake_llm_cost_usd_total", "Cost of calls whose price is known.", |totals| totals.measured[COST].sum()),
    (
        "spanlake_llm_unpriced_requests_total",
        "LLM calls that used tokens and have no cost, because no price is known.",
        |totals| totals.unpriced as f64,
    ),
];

/// Totals of calls by service, provider, model, operation and status.
#[derive(Debug)]
pub(crate) struct CallTotals {
    entries: RwLock<HashMap<Box<[u8]>, Arc<Entry>>>,
    /// Calls of all keys for which there was no room.
    other: Arc<Entry>,
    keys_max: usize,
}

#[derive(Debug)]
struct Entry {
    labels: Arc<[Label]>,
    totals: Mutex<Totals>,
}

#[derive(Clone, Debug)]
struct Totals {
    requests: u64,
    unpriced: u64,
    summed: [u128; SUMMED.len()],
    measured: [Distribution; MEASURED.len()],
}

impl Default for CallTotals {
    fn default() -> Self {
        Self::with_keys(KEYS_MAX)
    }
}

impl CallTotals {
    fn with_keys(keys_max: usize) -> Self {
        let labels = LABELS.into_iter().chain(["status"]).map(|name| (name, OTHER.to_owned()));
        let other = Arc::new(Entry { labels: labels.collect(), totals: Mutex::new(Totals::new()) });
        Self { entries: RwLock::default(), other, keys_max }
    }

    /// All of them as they are now; those of each key belong together.
    pub(crate) fn families(&self) -> Vec<Family> {
        let mut entries: Vec<Arc<Entry>> = self.entries.read().values().map(Arc::clone).collect();
        entries.sort_by(|one, other| one.labels.cmp(&other.labels));
        let keys = entries.len() as f64;
        let folded = self.other.totals.lock().requests as f64;
        entries.extend((folded > 0.0).then(|| Arc::clone(&self.other)));
        let totals: Vec<(Arc<[Label]>, Totals)> =
            entries.iter().map(|entry| (Arc::clone(&entry.labels), entry.totals.lock().clone())).collect();

        let mut families: Vec<Family> = COUNTERS
            .iter()
            .map(|(name, help, read)| {
                let value = |totals: &Totals| Value::Number(read(totals));
                family(Family::new(*name, Kind::Counter, *help), &totals, value)
            })
            .collect();
        families.extend(MEASURED.iter().enumerate().map(|(at, measured)| {
            let value = |totals: &Totals| Value::Histogram(Box::new(totals.measured[at].value()));
            family(Family::new(measured.name, Kind::Histogram, measured.help), &totals, value)
        }));
        let help = "Label sets of spanlake_llm_requests_total that are kept apart.";
        families.push(number(Family::new("spanlake_llm_label_sets", Kind::Gauge, help), keys));
        let help = "LLM calls counted as __other__, because there are too many label sets.";
        families.push(number(Family::new("spanlake_llm_folded_requests_total", Kind::Counter, help), folded));
        families
    }

    /// The entry of a key, which is made where there is room.
    fn entry(&self, key: &[u8]) -> Arc<Entry> {
        if let Some(entry) = self.entries.read().get(key) {
            return Arc::clone(entry);
        }
        let mut entries = self.entries.write();
        if !entries.contains_key(key) && entries.len() >= self.keys_max {
            return Arc::clone(&self.other);
        }
        Arc::clone(entries.entry(key.into()).or_insert_with(|| Arc::new(Entry::new(key))))
    }
}

impl CallObserver for CallTotals {
    fn calls_stored(&self, rows: &[RecordBatch]) {
        let mut scratch = Vec::new();
        for rows in rows {
            let columns = Columns::of(rows);
            for (key, rows) in columns.rows_by_key() {
                self.entry(&key).totals.lock().add(&columns, &rows, &mut scratch);
            }
        }
    }
}

fn family(family: Family, totals: &[(Arc<[Label]>, Totals)], value: impl Fn(&Totals) -> Value) -> Family {
    let series = totals.iter().map(|(labels, totals)| Series { labels: Arc::clone(labels), value: value(totals) });
    Family { series: series.collect(), ..family }
}

fn number(family: Family, value: f64) -> Family {
    Family { series: vec![Series { labels: Arc::new([]), value: Value::Number(value) }], ..family }
}

impl Entry {
    fn new(key: &[u8]) -> Self {
        let names = LABELS.into_iter().chain(["status"]);
        let labels = names.zip(key.split(|byte| *byte == END)).map(|(name, value)| {
            (name, std::str::from_utf8(value).expect("invariant: keys are made of whole characters").to_owned())
        });
        Self { labels: labels.collect(), totals: Mutex::new(Totals::new()) }
    }
}

impl Totals {
    fn new() -> Self {
        let measured = MEASURED.map(|measured| Distribution::new(measured.measure));
        Self { requests: 0, unpriced: 0, summed: [0; SUMMED.len()], measured }
    }

    fn add(&mut self, columns: &Columns<'_>, rows: &[usize], scratch: &mut Vec<i64>) {
        self.requests += rows.len() as u64;
        self.unpriced += rows.iter().filter(|row| columns.is_unpriced(**row)).count() as u64;
        for (sum, column) in self.summed.iter_mut().zip(columns.summed) {
            *sum += rows.iter().filter_map(|row| integer(column, *row)).map(u128::from).sum::<u128>();
        }
        for (at, distribution) in self.measured.iter_mut().enumerate() {
            scratch.clear();
            scratch.extend(rows.iter().filter_map(|row| columns.measured(at, *row)));
            distribution.add_all(scratch);
        }
    }
}

/// Where the columns stand in rows of `spans`.
struct Places {
    labels: [usize; LABELS.len()],
    summed: [usize; SUMMED.len()],
    measured: [usize; MEASURED.len()],
    usage_role: usize,
    status_code: usize,
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let place = |name| spans::SPEC.index_of(name);
    Places {
        labels: LABELS.map(place),
        summed: SUMMED.map(place),
        measured: MEASURED.map(|measured| place(measured.column)),
        usage_role: place("usage_role"),
        status_code: place("status_code"),
    }
});

/// The columns that are counted, of some rows.
struct Columns<'a> {
    labels: [&'a StringArray; LABELS.len()],
    summed: [&'a Int64Array; SUMMED.len()],
    /// All that are measured but the cost.
    integers: [&'a Int64Array; COST],
    cost: &'a Decimal128Array,
    usage_role: &'a StringArray,
    status_code: &'a StringArray,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a RecordBatch) -> Self {
        let text = |place: usize| rows.column(place).as_string::<i32>();
        let integers = |place: usize| rows.column(place).as_primitive::<Int64Type>();
        Self {
            labels: PLACES.labels.map(text),
            summed: PLACES.summed.map(integers),
            integers: std::array::from_fn(|at| integers(PLACES.measured[at])),
            cost: rows.column(PLACES.measured[COST]).as_primitive::<Decimal128Type>(),
            usage_role: text(PLACES.usage_role),
            status_code: text(PLACES.status_code),
        }
    }

    /// The rows that are calls, by key.
    fn rows_by_key(&self) -> HashMap<Box<[u8]>, Vec<usize>> {
        let mut by_key: HashMap<Box<[u8]>, Vec<usize>> = HashMap::new();
        let mut key = Vec::new();
        for row in 0..self.usage_role.len() {
            if self.usage_role.is_null(row) || self.usage_role.value(row) != "leaf" {
                continue;
            }
            self.write_key(row, &mut key);
            match by_key.get_mut(key.as_slice()) {
                Some(rows) => rows.push(row),
                None => drop(by_key.insert(key.as_slice().into(), vec![row])),
            }
        }
        by_key
    }

    /// The values of all labels; what is NULL is empty, which to Prometheus is a label that is not there.
    fn write_key(&self, row: usize, key: &mut Vec<u8>) {
        key.clear();
        for column in self.labels {
            let value = if column.is_null(row) { "" } else { column.value(row) };
            key.extend_from_slice(&value.as_bytes()[..value.floor_char_boundary(LABEL_BYTES_MAX)]);
            key.push(END);
        }
        let is_error = self.status_code.value(row) == "ERROR";
        key.extend_from_slice(if is_error { b"error" } else { b"ok" });
    }

    /// A value that is measured. One below zero is nothing that a counter could count.
    fn measured(&self, at: usize, row: usize) -> Option<i64> {
        if at < COST {
            return integer(self.integers[at], row).map(|value| value as i64);
        }
        let units = self.cost.is_valid(row).then(|| self.cost.value(row))?;
        i64::try_from(units).ok().filter(|units| *units >= 0)
    }

    fn is_unpriced(&self, row: usize) -> bool {
        let has_tokens = self.integers[INPUT].is_valid(row) || self.integers[OUTPUT].is_valid(row);
        self.cost.is_null(row) && has_tokens
    }
}

/// An integer that is there and not below zero.
fn integer(column: &Int64Array, row: usize) -> Option<u64> {
    column.is_valid(row).then(|| column.value(row)).and_then(|value| u64::try_from(value).ok())
}

#[cfg(test)]
mod tests;
