//! Admission, decoding, logging: one request from bytes to answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spanlake_schema::Ambient;
use spanlake_storage::{Entry, Frame, Lake};
use tokio::sync::Semaphore;

use crate::content::ContentMemory;
use crate::decode::Decoder;
use crate::decompress::{DecompressError, decompress};
use crate::json;
use crate::ledger::{Notes, Rows};
use crate::policy::Policy;
use crate::room::{ROOM_FACTOR, Room};
use crate::settling::Settling;
use crate::signal::Signal;
use crate::stats::{IngestStats, SignalStats};
use crate::traces;
use crate::walk::{Walked, Walker};
use crate::wire::WireError;

/// Bounds of ingest.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// Largest message in bytes, compressed and decompressed.
    pub message_limit_bytes: usize,
    /// Bytes of requests in flight beyond which senders are pushed back.
    pub in_flight_limit_bytes: usize,
    /// Clock and randomness.
    pub ambient: Arc<dyn Ambient>,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/x-protobuf`, and every gRPC message.
    Protobuf,
    /// `application/json`.
    Json,
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentEncoding {
    /// Not at all.
    Identity,
    /// gzip (RFC 1952).
    Gzip,
    /// `deflate` of HTTP: zlib (RFC 1950), and the raw form (RFC 1951) some senders use.
    Deflate,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// One export request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tenant.
    pub tenant: String,
    /// How the body is written.
    pub content_type: ContentType,
    /// How the body is compressed.
    pub content_encoding: ContentEncoding,
    /// The body as it came.
    pub body: Bytes,
}

/// What happened to a request that was answered with success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOutcome {
    /// Spans, metric points or log records stored.
    pub stored: u64,
    /// Those refused, for `partial_success`.
    pub rejected: u64,
    /// Why, for `partial_success.error_message`; empty where nothing is to be said.
    pub error_message: String,
}

/// What kind of refusal a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// The body cannot be read: 400, INVALID_ARGUMENT. Not to be retried.
    Malformed,
    /// The body is over the limit: 413, RESOURCE_EXHAUSTED without RetryInfo. Not to be retried.
    TooLarge,
    /// Too much is in flight or waits for the store: 429, RESOURCE_EXHAUSTED with RetryInfo.
    Overloaded,
    /// Disk full, shutting down, log failed: 503, UNAVAILABLE with RetryInfo.
    Unavailable,
}

/// A refused request: nothing of it is stored.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// What the sender may do.
    pub kind: RejectionKind,
    /// What is wrong and where, for the sender.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// The way in.
#[derive(Debug)]
pub struct Ingest {
    options: IngestOptions,
    pub(crate) walker: Walker,
    policy: Arc<Policy>,
    /// What stores nothing, on its way to the ledger.
    notes: Arc<Notes>,
    /// Long contents that are durable: they are stored once.
    contents: Arc<ContentMemory>,
    /// Settles traces over their requests.
    pub(crate) settling: Arc<Settling>,
    last_arrival: AtomicU64,
    /// Walks that run at once off the I/O runtime: one a core.
    walks: Semaphore,
    in_flight_bytes: AtomicUsize,
    counters: Counters,
}

#[derive(Debug, Default)]
struct SignalCounters {
    requests: AtomicU64,
    received: AtomicU64,
    refused: AtomicU64,
    stored: AtomicU64,
    duplicate: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    signals: [SignalCounters; Signal::ALL.len()],
    received_bytes: AtomicU64,
    decompressed_bytes: AtomicU64,
    duplicate_requests: AtomicU64,
    malformed: AtomicU64,
    too_large: AtomicU64,
    overloaded: AtomicU64,
    unavailable: AtomicU64,
    repaired_strings: AtomicU64,
    type_conflicts: AtomicU64,
    unpriced_calls: AtomicU64,
    walk_nanos: AtomicU64,
}

/// Bodies up to this size are walked where they arrive: about 100 microseconds of work. Larger ones leave the I/O runtime.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// When a sender may try again after being pushed back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A decoded request: its protobuf bytes and what the walk made of them.
struct Decoded {
    body: Bytes,
    walked: Walked,
}

impl Ingest {
    /// Takes requests for a lake.
    pub fn new(lake: Arc<Lake>, options: IngestOptions) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let contents = Arc::new(ContentMemory::default());
        let walker = Decoder::default().into_walker().with_memory(Arc::clone(&contents));
        let meaning = Arc::clone(&walker.meaning);
        Self {
            notes: Notes::new(Arc::clone(&lake), Arc::clone(&options.ambient)),
            settling: Settling::new(lake, Arc::clone(&options.ambient), meaning, traces::LIMIT_BYTES),
            options,
            walker,
            policy: Arc::default(),
            contents,
            last_arrival: AtomicU64::new(0),
            walks: Semaphore::new(cores),
            in_flight_bytes: AtomicUsize::new(0),
            counters: Counters::default(),
        }
    }

    /// Reads as this decoder does, which has to be the one that the lake replays its log with.
    #[must_use]
    pub fn with_decoder(self, decoder: &Decoder) -> Self {
        let walker = decoder.walker().clone().with_memory(Arc::clone(&self.contents));
        let settling = self.settling.with_meaning(Arc::clone(&walker.meaning));
        Self { walker, settling, ..self }
    }

    /// Stores of requests what a policy leaves.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy: Arc::new(policy), ..self }
    }

    /// Takes an export request of a signal. Returns after its items are durable and visible to queries. The same request
    /// again within the lake's retry window gets the same answer, and nothing of it is stored.
    ///
    /// # Errors
    /// A [`Rejection`]: nothing of the request is stored.
    pub async fn export(&self, signal: Signal, request: Request) -> Result<ExportOutcome, Rejection> {
        self.counters.signals[signal.index()].requests.fetch_add(1, Relaxed);
        self.counters.received_bytes.fetch_add(request.body.len() as u64, Relaxed);
        let outcome = self.take(signal, request).await;
        if let Err(rejection) = &outcome {
            let counter = match rejection.kind {
                RejectionKind::Malformed => &self.counters.malformed,
                RejectionKind::TooLarge => &self.counters.too_large,
                RejectionKind::Overloaded => &self.counters.overloaded,
                RejectionKind::Unavailable => &self.counters.unavailable,
            };
            counter.fetch_add(1, Relaxed);
        }
        outcome
    }

    async fn take(&self, signal: Signal, request: Request) -> Result<ExportOutcome, Rejection> {
        let mut share = self.admit(request.body.len())?;
        let received_unix_nano = self.arrival();
        let (tenant, body_bytes) = (request.tenant.clone(), request.body.len());
        let decoded = self.decode(signal, request, received_unix_nano).await;
        let Decoded { body, walked } = decoded.inspect_err(|rejection| {
            if matches!(rejection.kind, RejectionKind::Malformed | RejectionKind::TooLarge) {
                self.notes.add(&tenant, Rows::undecodable(signal.name(), received_unix_nano, body_bytes));
            }
        })?;
        share.grow(body.len())?;
        self.count(signal, &body, &walked);
        let outcome = ExportOutcome {
            stored: walked.stored,
            rejected: walked.refused,
            error_message: match walked.refused {
                0 | 1 => walked.refusal,
                more => format!("{} (and {} more)", walked.refusal, more - 1),
            },
        };
        let request_bytes = body.len();
        if walked.stored == 0 {
            self.notes.add(&tenant, Rows::taken(signal.name(), received_unix_nano, request_bytes, &walked.tally));
        } else {
            let frame = Frame {
                tenant: tenant.clone(),
                kind: signal.frame_kind(),
                received_unix_nano,
                rules_version: self.walker.rules_version(),
                prices_version: self.walker.prices_version(),
            };
            let entry = Entry { frame, payload: body, batches: walked.batches };
            let receipt = self.settling.store(entry, walked.told).await.map_err(|error| refuse(&error))?;
            let counters = &self.counters.signals[signal.index()];
            // The answer to a repeat is the first one's: it follows from the bytes.
            if receipt.is_repeat {
                let rows = Rows::repeated(signal.name(), received_unix_nano, request_bytes, &walked.tally);
                self.notes.add(&tenant, rows);
                self.counters.duplicate_requests.fetch_add(1, Relaxed);
                counters.duplicate.fetch_add(outcome.stored, Relaxed);
            } else {
                self.contents.remember(&tenant, &walked.contents);
                counters.stored.fetch_add(outcome.stored, Relaxed);
            }
        }
        Ok(outcome)
    }

    fn count(&self, signal: Signal, body: &Bytes, walked: &Walked) {
        let counters = &self.counters;
        counters.decompressed_bytes.fetch_add(body.len() as u64, Relaxed);
        counters.signals[signal.index()].received.fetch_add(walked.stored + walked.refused, Relaxed);
        counters.signals[signal.index()].refused.fetch_add(walked.refused, Relaxed);
        counters.repaired_strings.fetch_add(walked.repaired_strings, Relaxed);
        counters.type_conflicts.fetch_add(walked.type_conflicts, Relaxed);
        counters.unpriced_calls.fetch_add(walked.unpriced_calls, Relaxed);
    }

    fn admit(&self, bytes: usize) -> Result<Share<'_>, Rejection> {
        let limit = self.options.message_limit_bytes;
        if bytes > limit {
            return Err(too_large(bytes, limit));
        }
        let mut share = Share { ingest: self, bytes: 0 };
        share.grow(bytes)?;
        Ok(share)
    }

    /// The time, at least a microsecond after that of the request before: it tells the rows of one request from another's.
    fn arrival(&self) -> u64 {
        let now = self.options.ambient.now_unix_nano();
        let next = |last: u64| Some(now.max(last.saturating_add(1_000)));
        let last = self.last_arrival.fetch_update(Relaxed, Relaxed, next).unwrap_or(now);
        now.max(last.saturating_add(1_000))
    }

    async fn decode(&self, signal: Signal, request: Request, received_unix_nano: u64) -> Result<Decoded, Rejection> {
        let limit = self.options.message_limit_bytes;
        let way = (self.walker.clone(), Arc::clone(&self.policy));
        let plain = request.content_encoding == ContentEncoding::Identity;
        let started = Instant::now();
        let decoded = if plain && request.body.len() <= INLINE_BYTES_MAX {
            decode(&way, signal, request, limit, received_unix_nano)
        } else {
            // The semaphore is never closed; without a permit the walk would merely not be bounded.
            let _permit = self.walks.acquire().await;
            let work = move || decode(&way, signal, request, limit, received_unix_nano);
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
                Err(Rejection {
                    kind: RejectionKind::Unavailable,
                    message: format!("decoding stopped: {panic}"),
                    retry_after: None,
                })
            })
        };
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.walk_nanos.fetch_add(nanos, Relaxed);
        decoded
    }

    /// Sends what is still gathered for the ledger, and corrections that wait, to the log. To be called before the lake is shut
    /// down.
    pub async fn settle(&self) {
        self.notes.write().await;
        self.settling.log_waiting().await;
    }

    /// Counters and gauges.
    pub fn stats(&self) -> IngestStats {
        let counters = &self.counters;
        let (trace_memory_bytes, unsettled_traces_total) = self.settling.traces().stats();
        IngestStats {
            signals: counters.signals.each_ref().map(|counters| SignalStats {
                requests_total: counters.requests.load(Relaxed),
                received_total: counters.received.load(Relaxed),
                refused_total: counters.refused.load(Relaxed),
                stored_total: counters.stored.load(Relaxed),
                duplicate_total: counters.duplicate.load(Relaxed),
            }),
            received_bytes_total: counters.received_bytes.load(Relaxed),
            decompressed_bytes_total: counters.decompressed_bytes.load(Relaxed),
            duplicate_requests_total: counters.duplicate_requests.load(Relaxed),
            malformed_requests_total: counters.malformed.load(Relaxed),
            too_large_requests_total: counters.too_large.load(Relaxed),
            overloaded_requests_total: counters.overloaded.load(Relaxed),
            unavailable_requests_total: counters.unavailable.load(Relaxed),
            in_flight_bytes: self.in_flight_bytes.load(Relaxed) as u64,
            repaired_strings_total: counters.repaired_strings.load(Relaxed),
            type_conflicts_total: counters.type_conflicts.load(Relaxed),
            unpriced_calls_total: counters.unpriced_calls.load(Relaxed),
            walk_seconds_total: counters.walk_nanos.load(Relaxed) as f64 / 1e9,
            unlogged_requests_total: self.notes.unlogged_requests(),
            trace_memory_bytes: trace_memory_bytes as u64,
            unsettled_traces_total,
            policy_values_total: self.policy.counts(),
        }
    }
}

/// A request's share of the bytes in flight, given back when it is dropped.
struct Share<'a> {
    ingest: &'a Ingest,
    bytes: usize,
}

impl Share<'_> {
    fn grow(&mut self, bytes: usize) -> Result<(), Rejection> {
        let limit = self.ingest.options.in_flight_limit_bytes;
        let before = self.ingest.in_flight_bytes.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        if before + bytes <= limit {
            return Ok(());
        }
        Err(Rejection {
            kind: RejectionKind::Overloaded,
            message: format!("{before} bytes of requests are in flight, the limit is {limit} bytes (memory_limit)"),
            retry_after: Some(RETRY_AFTER),
        })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.ingest.in_flight_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// From a body as it came to protobuf bytes, as they may be stored, and columns. Pure computation.
fn decode(
    (walker, policy): &(Walker, Arc<Policy>),
    signal: Signal,
    request: Request,
    limit: usize,
    received_unix_nano: u64,
) -> Result<Decoded, Rejection> {
    let tenant = request.tenant;
    let malformed = |message: String| Rejection { kind: RejectionKind::Malformed, message, retry_after: None };
    let body = decompress(request.content_encoding, request.body, limit).map_err(|error| Rejection {
        kind: match error {
            DecompressError::TooLarge { .. } => RejectionKind::TooLarge,
            DecompressError::Malformed { .. } => RejectionKind::Malformed,
        },
        message: error.to_string(),
        retry_after: None,
    })?;
    let body = match request.content_type {
        ContentType::Protobuf => body,
        ContentType::Json => match json::to_protobuf(signal, &body) {
            Ok(protobuf) => protobuf.into(),
            Err(error) => {
                return Err(malformed(format!("the body is no OTLP/JSON {} request: {error}", signal.name())));
            }
        },
    };
    let no_request = |error: &WireError| malformed(format!("the body is no {}: {error}", signal.request_message()));
    let body = match policy.apply(signal, &body).map_err(|error| no_request(&error))? {
        None => body,
        Some(rewritten) if rewritten.len() > limit => return Err(too_large(rewritten.len(), limit)),
        Some(rewritten) => rewritten.into(),
    };
    let walked = walker.walk(signal, &tenant, &body, received_unix_nano, Room::of_message_limit(limit));
    let walked = walked.map_err(|error| match error.is_no_room() {
        true => no_room(&error, limit),
        false => no_request(&error),
    })?;
    Ok(Decoded { body, walked })
}

fn too_large(bytes: usize, limit: usize) -> Rejection {
    let message = format!("the body of {bytes} bytes is over the limit of {limit} bytes (message_limit)");
    Rejection { kind: RejectionKind::TooLarge, message, retry_after: None }
}

fn no_room(error: &WireError, limit: usize) -> Rejection {
    let message = format!(
        "the spans of this request would take more than {} bytes of memory, {ROOM_FACTOR} times message_limit: {error}; \
         send fewer spans at once or a smaller resource, which is copied to each of its spans",
        limit.saturating_mul(ROOM_FACTOR)
    );
    Rejection { kind: RejectionKind::TooLarge, message, retry_after: None }
}

fn refuse(error: &spanlake_storage::Error) -> Rejection {
    let kind = match error.kind() {
        spanlake_storage::ErrorKind::Full => RejectionKind::Overloaded,
        _ => RejectionKind::Unavailable,
    };
    Rejection { kind, message: error.to_string(), retry_after: Some(RETRY_AFTER) }
}
