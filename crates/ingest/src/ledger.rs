//! The ledger: what came in each minute, and what became of it.
//!
//! The rows of a stored request travel with it, in the same frame, and are made anew from its bytes on replay. What stores
//! nothing (repeats, requests refused whole or empty, bodies that cannot be read) is gathered here for a moment and logged in
//! small frames of its own, for which no sender waits. A crash may lose the last of those; as each row adds up by itself, the
//! ledger adds up without them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arrow::array::{ArrayRef, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use spanlake_schema::{Ambient, ledger};
use spanlake_storage::{Entry, ErrorKind, Frame, Lake};

/// Frame kind of ledger rows that belong to no stored request: JSON.
pub(crate) const KIND_LEDGER: u8 = 64;

const MINUTE_NS: u64 = 60_000_000_000;
const DAY_NS: u64 = 86_400_000_000_000;

/// How long rows are gathered before they are logged.
const GATHER: Duration = Duration::from_millis(200);

/// Memory for rows that wait for the log; what is beyond it is counted, not kept.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// What a row costs beside its service's name.
const ROW_BYTES: usize = 256;

/// What became of one request's items, by service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    services: BTreeMap<Option<String>, Fates>,
    /// Of all services together.
    told: Fates,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fates {
    stored: u64,
    refused: u64,
}

impl Tally {
    /// The items of a service have been walked: so many are stored and refused by now, those of services before it
    /// included.
    pub(crate) fn up_to(&mut self, service_name: Option<&[u8]>, stored: u64, refused: u64) {
        let (new_stored, new_refused) = (stored - self.told.stored, refused - self.told.refused);
        self.told = Fates { stored, refused };
        if new_stored + new_refused > 0 {
            let service_name = service_name.map(|name| String::from_utf8_lossy(name).into_owned());
            let fates = self.services.entry(service_name).or_default();
            fates.stored += new_stored;
            fates.refused += new_refused;
        }
    }
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key {
    minute_unix_nano: u64,
    signal: String,
    service_name: Option<String>,
}

/// The numbers of a row, as in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Counts {
    requests: u64,
    request_bytes: u64,
    received: u64,
    stored: u64,
    refused: u64,
    duplicate: u64,
    undecodable_requests: u64,
    undecodable_bytes: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.request_bytes += other.request_bytes;
        self.received += other.received;
        self.stored += other.stored;
        self.refused += other.refused;
        self.duplicate += other.duplicate;
        self.undecodable_requests += other.undecodable_requests;
        self.undecodable_bytes += other.undecodable_bytes;
    }

    /// In the order of the table's columns.
    fn numbers(&self) -> [u64; 8] {
        [
            self.requests,
            self.request_bytes,
            self.received,
            self.stored,
            self.refused,
            self.duplicate,
            self.undecodable_requests,
            self.undecodable_bytes,
        ]
    }
}

/// Rows of the ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows(BTreeMap<Key, Counts>);

impl Rows {
    /// A request whose items were stored, but for those refused.
    pub(crate) fn taken(signal: &str, received_unix_nano: u64, request_bytes: usize, tally: &Tally) -> Self {
        Self::of_request(signal, received_unix_nano, request_bytes, tally, false)
    }

    /// A request that had been stored before: what was stored then is a duplicate now.
    pub(crate) fn repeated(signal: &str, received_unix_nano: u64, request_bytes: usize, tally: &Tally) -> Self {
        Self::of_request(signal, received_unix_nano, request_bytes, tally, true)
    }

    /// A body that could not be read.
    pub(crate) fn undecodable(signal: &str, received_unix_nano: u64, body_bytes: usize) -> Self {
        let counts = Counts { undecodable_requests: 1, undecodable_bytes: body_bytes as u64, ..Counts::default() };
        Self([(key(signal, received_unix_nano, None), counts)].into())
    }

    fn of_request(signal: &str, received_unix_nano: u64, bytes: usize, tally: &Tally, is_repeat: bool) -> Self {
        let rows = tally.services.iter().map(|(service_name, fates)| {
            let counts = Counts {
                received: fates.stored + fates.refused,
                stored: if is_repeat { 0 } else { fates.stored },
                refused: fates.refused,
                duplicate: if is_repeat { fates.stored } else { 0 },
                ..Counts::default()
            };
            (key(signal, received_unix_nano, service_name.clone()), counts)
        });
        let mut rows = Self(rows.collect());
        if rows.0.is_empty() {
            rows.0.insert(key(signal, received_unix_nano, None), Counts::default());
        }
        if let Some(mut first) = rows.0.first_entry() {
            let counts = first.get_mut();
            (counts.requests, counts.request_bytes) = (1, bytes as u64);
        }
        rows
    }

    /// The rows as the table has them.
    pub(crate) fn batch(&self) -> RecordBatch {
        let keys = || self.0.keys();
        let minutes = keys().map(|key| (key.minute_unix_nano / 1_000) as i64);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Date32Array::from_iter_values(keys().map(|key| (key.minute_unix_nano / DAY_NS) as i32))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(minutes).with_timezone("UTC")),
            Arc::new(keys().map(|key| key.service_name.as_deref()).collect::<StringArray>()),
            Arc::new(keys().map(|key| Some(&key.signal)).collect::<StringArray>()),
        ];
        for at in 0..ledger::SPEC.sums.len() {
            let numbers = self.0.values().map(|counts| i64::try_from(counts.numbers()[at]).unwrap_or(i64::MAX));
            columns.push(Arc::new(Int64Array::from_iter_values(numbers)));
        }
        RecordBatch::try_new(schema(), columns).expect("invariant: the columns are the ledger's")
    }

    /// Rows as they are logged.
    fn encode(&self) -> Bytes {
        let rows: Vec<(&Key, &Counts)> = self.0.iter().collect();
        serde_json::to_vec(&rows).expect("invariant: text and numbers become JSON").into()
    }

    /// Rows as they were logged.
    ///
    /// # Errors
    /// Where the payload is none that [`Rows::encode`] made.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, serde_json::Error> {
        let rows: Vec<(Key, Counts)> = serde_json::from_slice(payload)?;
        Ok(Self(rows.into_iter().collect()))
    }
}

fn schema() -> arrow::datatypes::SchemaRef {
    static SCHEMA: std::sync::LazyLock<arrow::datatypes::SchemaRef> =
        std::sync::LazyLock::new(|| ledger::SPEC.arrow_schema());
    Arc::clone(&SCHEMA)
}

fn key(signal: &str, received_unix_nano: u64, service_name: Option<String>) -> Key {
    let minute_unix_nano = received_unix_nano / MINUTE_NS * MINUTE_NS;
    Key { minute_unix_nano, signal: signal.to_owned(), service_name }
}

/// Rows that belong to no stored request, on their way into the log.
#[derive(Debug)]
pub(crate) struct Notes {
    lake: Arc<Lake>,
    ambient: Arc<dyn Ambient>,
    waiting: Mutex<Waiting>,
    unlogged_requests: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    tenants: BTreeMap<String, Rows>,
    bytes: usize,
    /// Whether a task is at work that will log what waits.
    is_served: bool,
}

impl Notes {
    pub(crate) fn new(lake: Arc<Lake>, ambient: Arc<dyn Ambient>) -> Arc<Self> {
        Arc::new(Self { lake, ambient, waiting: Mutex::default(), unlogged_requests: AtomicU64::new(0) })
    }

    /// Takes rows; they are in the log soon.
    pub(crate) fn add(self: &Arc<Self>, tenant: &str, rows: Rows) {
        let mut waiting = self.waiting.lock();
        self.unlogged_requests.fetch_add(waiting.take(tenant, rows), Relaxed);
        if !std::mem::replace(&mut waiting.is_served, true) {
            // Nobody waits for the task, so it keeps nobody from ending.
            let notes = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                if let Some(notes) = notes.upgrade() {
                    notes.write().await;
                }
            });
        }
    }

    /// Logs what waits. What the log does not take now waits for the next time.
    pub(crate) async fn write(&self) {
        let tenants = {
            let mut waiting = self.waiting.lock();
            waiting.is_served = false;
            waiting.bytes = 0;
            std::mem::take(&mut waiting.tenants)
        };
        for (tenant, rows) in tenants {
            let frame = Frame {
                tenant: tenant.clone(),
                kind: KIND_LEDGER,
                received_unix_nano: self.ambient.now_unix_nano(),
                rules_version: 0,
                prices_version: 0,
            };
            let entry = Entry { frame, payload: rows.encode(), batches: vec![(ledger::SPEC.name, rows.batch())] };
            if let Err(error) = self.lake.append(entry).await {
                tracing::debug!(%error, tenant, "rows of the ledger are not logged yet");
                let lost = match error.kind() {
                    ErrorKind::Full | ErrorKind::Retry => self.waiting.lock().take(&tenant, rows),
                    _ => requests(&rows),
                };
                self.unlogged_requests.fetch_add(lost, Relaxed);
            }
        }
    }

    /// Requests that stored nothing and are not in the ledger either, for want of memory or log.
    pub(crate) fn unlogged_requests(&self) -> u64 {
        self.unlogged_requests.load(Relaxed)
    }
}

impl Waiting {
    /// Adds rows; returns how many requests had no room.
    fn take(&mut self, tenant: &str, rows: Rows) -> u64 {
        let mut lost = 0;
        let waiting = self.tenants.entry(tenant.to_owned()).or_default();
        for (key, counts) in rows.0 {
            if let Some(known) = waiting.0.get_mut(&key) {
                known.add(&counts);
                continue;
            }
            let bytes = ROW_BYTES + key.service_name.as_ref().map_or(0, String::len);
            if self.bytes + bytes > WAITING_BYTES_MAX {
                lost += counts.requests + counts.undecodable_requests;
                continue;
            }
            self.bytes += bytes;
            waiting.0.insert(key, counts);
        }
        lost
    }
}

fn requests(rows: &Rows) -> u64 {
    rows.0.values().map(|counts| counts.requests + counts.undecodable_requests).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVAL: u64 = 1_763_700_059_999_999_999;

    fn items(rows: &[(Option<&str>, u64, u64)]) -> Tally {
        let (mut tally, mut all_stored, mut all_refused) = (Tally::default(), 0, 0);
        for (name, stored, refused) in rows {
            all_stored += stored;
            all_refused += refused;
            tally.up_to(name.map(str::as_bytes), all_stored, all_refused);
        }
        tally
    }

    /// Guarantee: every row adds up by itself, a request is counted once however many services it names, and what is logged
    /// is what is read back.
    #[test]
    fn rows_add_up_and_survive_the_log() {
        let sent = items(&[(Some("b"), 3, 1), (None, 2, 0), (Some("b"), 1, 0), (Some("empty"), 0, 0)]);
        let cases = [
            (Rows::taken("traces", ARRIVAL, 100, &sent), [1, 100, 7, 6, 1, 0, 0, 0]),
            (Rows::repeated("traces", ARRIVAL, 100, &sent), [1, 100, 7, 0, 1, 6, 0, 0]),
            (Rows::taken("logs", ARRIVAL, 9, &Tally::default()), [1, 9, 0, 0, 0, 0, 0, 0]),
            (Rows::undecodable("metrics", ARRIVAL, 55), [0, 0, 0, 0, 0, 0, 1, 55]),
        ];
        for (rows, expected) in cases {
            let mut sum = Counts::default();
            for (key, counts) in &rows.0 {
                assert_eq!(counts.received, counts.stored + counts.refused + counts.duplicate);
                assert_eq!(key.minute_unix_nano, 1_763_700_000_000_000_000);
                sum.add(counts);
            }
            assert_eq!(sum.numbers(), expected);
            let read = Rows::decode(&rows.encode()).expect("reads back");
            assert_eq!(read.0, rows.0);
            assert_eq!(read.batch(), rows.batch());
        }
        assert_eq!(
            Rows::taken("traces", ARRIVAL, 1, &sent).batch().num_rows(),
            2,
            "services without items have no row"
        );
    }

    #[test]
    fn what_waits_is_bounded_and_what_has_no_room_is_counted() {
        let mut waiting = Waiting::default();
        let mut lost = 0;
        for n in 0..10_000 {
            let sent = items(&[(Some(&format!("service {n}")), 1, 0)]);
            lost += waiting.take("default", Rows::repeated("traces", ARRIVAL, 1, &sent));
        }
        assert!(waiting.bytes <= WAITING_BYTES_MAX);
        let kept = waiting.tenants["default"].0.len() as u64;
        assert!(kept > 1_000 && kept + lost == 10_000, "{kept} kept, {lost} lost");
        // Those known already always have room.
        let sent = items(&[(Some("service 1"), 1, 0)]);
        assert_eq!(waiting.take("default", Rows::repeated("traces", ARRIVAL, 1, &sent)), 0);
    }
}
