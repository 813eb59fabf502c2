//! Retries: a request that comes again is answered as before and stored nothing of.
//!
//! A sender that got no answer sends again, though the first request may be stored. Each request is known by a digest of
//! its tenant, kind and payload:
//!
//! ```text
//! claim ─► unknown ─► in flight (a claim) ─► logged and synced ─► answered, for the window
//!                          │ failed                                   │ window or memory ends
//!                          ▼                                          ▼
//!                       unknown                                    unknown
//! ```
//!
//! A repeat that meets a claim waits for what becomes of it. The claim lives with the request in the log writer's queue, not
//! with whoever waits for the answer: a sender that hangs up and sends again finds its first request there.
//!
//! After a crash the frames in the log say what was answered, whether or not the answer got out. Before frames leave the log
//! their digests go to a file beside it ([`crate::wal`]). Nothing is kept of the answer itself: it follows from the
//! payload, which the repeat brings along.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use spanlake_schema::Ambient;
use tokio::sync::watch;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::wal::{Answered, RECORD_BYTES, RetryFile};
use crate::{Frame, LakeOptions, LakeStats, Position, Result};

/// What a remembered request costs in memory at worst: its place in the queue, twice since queues double, and its slot in
/// the map, which is a little under half full after it has grown.
const REMEMBERED_BYTES: u64 = 144;
/// So many records beyond twice the needed ones are left in the file before it is written anew.
const SLACK_RECORDS: usize = (64 << 10) / RECORD_BYTES;

/// Which requests were answered lately, and which are under way.
#[derive(Debug)]
pub(super) struct Retries {
    window_ns: u64,
    remembered_max: usize,
    seed: u64,
    ambient: Arc<dyn Ambient>,
    index: Mutex<Index>,
    /// Locked before the index.
    file: Mutex<RetryFile>,
}

#[derive(Debug, Default)]
struct Index {
    known: HashMap<u128, Known>,
    /// The answered ones, oldest first, which is in the order of their positions.
    order: VecDeque<Place>,
    /// Up to here they are in the file.
    saved: Position,
    repeats_total: u64,
    forgotten_total: u64,
}

#[derive(Debug)]
enum Known {
    /// Ends when the claim is decided.
    InFlight(watch::Receiver<()>),
    Answered(Position),
}

#[derive(Clone, Copy, Debug)]
struct Place {
    digest: u128,
    received_unix_nano: u64,
    /// 0 where the frame has left the log.
    position: Position,
}

/// A request that is under way. Dropped undecided, it was not stored.
#[derive(Debug)]
pub(super) struct Claim {
    retries: Arc<Retries>,
    digest: u128,
    _decided: watch::Sender<()>,
}

/// Whether a request is new.
#[derive(Debug)]
pub(super) enum Claimed {
    First(Claim),
    /// Its frame's position, or 0 where that has left the log.
    Repeat(Position),
}

impl Retries {
    /// Reads what is remembered of frames that have left the log. The caller holds the log's lock. `None` where no
    /// window is wanted.
    pub(super) fn open(options: &LakeOptions, disk: &Arc<dyn crate::wal::Disk>) -> Result<Option<Arc<Self>>> {
        let (ambient, window_ns) = (Arc::clone(&options.ambient), nanos(options.retry_window));
        if window_ns == 0 {
            return Ok(None);
        }
        let now = ambient.now_unix_nano();
        let (file, answered) = RetryFile::open(&options.wal_dir, disk, ambient.as_ref(), |one| {
            is_young(one.received_unix_nano, window_ns, now)
        })?;
        let remembered_max = usize::try_from(options.retry_limit_bytes / REMEMBERED_BYTES).unwrap_or(usize::MAX);
        let seed = file.seed();
        let (index, file) = (Mutex::default(), Mutex::new(file));
        let retries = Self { window_ns, remembered_max: remembered_max.max(1), seed, ambient, index, file };
        let mut index = retries.index.lock();
        for one in answered {
            let Answered { digest, received_unix_nano } = one;
            index.remember(Place { digest, received_unix_nano, position: 0 }, retries.remembered_max);
        }
        drop(index);
        Ok(Some(Arc::new(retries)))
    }

    /// 128 bits by which a request is known. The seed is as secret as the log, so that no sender can aim at the digest of
    /// another's request.
    pub(super) fn digest(&self, frame: &Frame, payload: &[u8]) -> u128 {
        let seed = xxh3_64_with_seed(frame.tenant.as_bytes(), self.seed.wrapping_add(u64::from(frame.kind)));
        xxh3_128_with_seed(payload, seed)
    }

    /// Whether a request is new. Waits while another one like it is under way.
    pub(super) async fn claim(self: &Arc<Self>, digest: u128) -> Claimed {
        loop {
            let mut under_way = {
                let mut index = self.index.lock();
                index.expire(self.window_ns, self.ambient.now_unix_nano());
                match index.known.get(&digest) {
                    None => {
                        let (decided, under_way) = watch::channel(());
                        index.known.insert(digest, Known::InFlight(under_way));
                        return Claimed::First(Claim { retries: Arc::clone(self), digest, _decided: decided });
                    }
                    Some(Known::Answered(position)) => {
                        let position = *position;
                        index.repeats_total += 1;
                        return Claimed::Repeat(position);
                    }
                    Some(Known::InFlight(under_way)) => under_way.clone(),
                }
            };
            // Nothing is ever sent: the channel closes when the claim is decided.
            let _ = under_way.changed().await;
        }
    }

    /// Remembers a request whose frame was found in the log.
    pub(super) fn recover(&self, frame: &Frame, payload: &[u8], position: Position) {
        let received_unix_nano = frame.received_unix_nano;
        if !is_young(received_unix_nano, self.window_ns, self.ambient.now_unix_nano()) {
            return;
        }
        let digest = self.digest(frame, payload);
        self.index.lock().remember(Place { digest, received_unix_nano, position }, self.remembered_max);
    }

    /// Makes what is remembered of the frames up to a position outlive them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Retry`] where it cannot be written: the frames must stay then.
    pub(super) fn save(&self, position: Position) -> Result<()> {
        let mut file = self.file.lock();
        let (answered, is_anew) = {
            let mut index = self.index.lock();
            index.expire(self.window_ns, self.ambient.now_unix_nano());
            let end = index.order.partition_point(|place| place.position <= position);
            let start = index.order.partition_point(|place| place.position <= index.saved).min(end);
            let is_anew = file.records() + (end - start) > 2 * end + SLACK_RECORDS;
            (index.answered(if is_anew { 0 } else { start }..end), is_anew)
        };
        if is_anew {
            file.replace(&answered)?;
        } else if !answered.is_empty() {
            file.append(&answered)?;
        }
        let mut index = self.index.lock();
        index.saved = index.saved.max(position);
        Ok(())
    }

    /// Adds its numbers.
    pub(super) fn tell(&self, stats: &mut LakeStats) {
        let index = self.index.lock();
        stats.retry_requests = index.order.len() as u64;
        stats.retry_bytes = index.order.len() as u64 * REMEMBERED_BYTES;
        stats.retry_repeats_total = index.repeats_total;
        stats.retry_forgotten_total = index.forgotten_total;
    }
}

impl Index {
    fn remember(&mut self, place: Place, remembered_max: usize) {
        let before = self.known.insert(place.digest, Known::Answered(place.position));
        if let Some(Known::Answered(_)) = before {
            // The file has it as well as the log: the process ended between writing the one and cutting the other.
            return;
        }
        self.order.push_back(place);
        while self.order.len() > remembered_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest.digest);
            self.forgotten_total += 1;
        }
    }

    fn expire(&mut self, window_ns: u64, now: u64) {
        while let Some(oldest) = self.order.pop_front_if(|place| !is_young(place.received_unix_nano, window_ns, now)) {
            self.known.remove(&oldest.digest);
        }
    }

    fn answered(&self, range: std::ops::Range<usize>) -> Vec<Answered> {
        let answered = |place: &Place| Answered { digest: place.digest, received_unix_nano: place.received_unix_nano };
        self.order.range(range).map(answered).collect()
    }
}

impl Claim {
    /// Its frame is durable.
    pub(super) fn stored(self, position: Position, received_unix_nano: u64) {
        let place = Place { digest: self.digest, received_unix_nano, position };
        self.retries.index.lock().remember(place, self.retries.remembered_max);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut index = self.retries.index.lock();
        if let Some(Known::InFlight(_)) = index.known.get(&self.digest) {
            index.known.remove(&self.digest);
        }
    }
}

fn is_young(received_unix_nano: u64, window_ns: u64, now: u64) -> bool {
    received_unix_nano.saturating_add(window_ns) > now
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
