//! The write-ahead log: ordered, checksummed, synced by group.
//!
//! A log is a directory that belongs to one process (an exclusive lock) and one store (its [`Identity`]):
//!
//! | file | what it is |
//! |---|---|
//! | `lock` | locked while a process has the log open; holds its process id |
//! | `identity` | format version, store, table ids, writer id, epoch; replaced whole |
//! | `wal-<sequence>.log` | a segment: a header, then frames |
//! | `spare-<sequence>.log` | a segment whose frames are all committed, kept to be written over |
//! | `retries` | digests of answered requests whose frames have left the log (retry_file.rs) |
//! | `damaged-<sequence>.log` | a segment that could not be read whole and whose other frames are all committed, kept for people |
//! | `committed-<position>` | empty: every frame up to the position in its name is committed |
//!
//! A frame is one request. Frames are numbered from 1 without gaps ([`crate::Position`]). They are written in groups, and a
//! group is answered only after its sync. Numbers are little-endian, and a frame starts at a multiple of 8:
//!
//! | offset | bytes | frame |
//! |---|---|---|
//! | 0 | 4 | magic `SLF1` |
//! | 4 | 4 | CRC-32C of the bytes 8..56, seeded with the segment's salt |
//! | 8 | 4 | CRC-32C of tenant and payload |
//! | 12 | 4 | payload length |
//! | 16 | 8 | position |
//! | 24 | 8 | last position that was durable when this frame was written |
//! | 32 | 8 | arrival time, nanoseconds since 1970-01-01 |
//! | 40 | 4 | rules version |
//! | 44 | 4 | prices version |
//! | 48 | 2 | tenant length |
//! | 50 | 1 | payload kind |
//! | 51 | 5 | zero |
//! | 56 | | tenant, payload, zeros up to a multiple of 8 |
//!
//! **Invariants.**
//! - The salt is made of writer id, epoch and segment sequence, no two segments share one. A frame that an earlier use of
//!   a recycled file left behind is therefore never taken for a frame of the present one.
//! - A group is written only when the group before it is durable. So a damaged frame can be a torn tail only where nothing
//!   says that it had been durable: no later frame or segment, no *mark* (a header with position 0 that follows the last
//!   frame once the log has been quiet for a second), and not the identity. A torn tail is cut with a log line.
//! - All else is damage. What can be read behind it is read; the positions that cannot are noted in the identity, logged
//!   and counted; the segment is kept aside instead of recycled. Where files are missing, somebody may be able to put
//!   them back: opening is refused until the positions are given up by name. No position is skipped silently.
//! - What is committed is told by a file's name before segments are freed, so that a segment removed by hand is noticed.
//! - After a failed write or sync the segment takes no more frames. The next segment starts at the first position that
//!   did not become durable, and thereby supersedes what the failed write may have left.

mod disk;
#[cfg(test)]
pub(crate) mod faulty_disk;
mod frame;
mod identity;
mod inspect;
mod log;
mod reader;
mod recovery;
mod retry_file;
mod segment;
#[cfg(test)]
mod tests;

pub use disk::{Disk, DiskFile, LocalDisk};
pub use identity::{Epoch, Identity, Lost, LostReason};
pub use inspect::{Damage, Inspection, SegmentReport, export, inspect};
pub use log::{Appended, Log};
pub use recovery::{LogAtRest, Logged, Replay, give_up};
pub(crate) use retry_file::{Answered, RECORD_BYTES, RetryFile};

use std::path::PathBuf;
use std::sync::Arc;

use spanlake_schema::Ambient;

/// The version of the log's files that this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The directory, made where missing.
    pub dir: PathBuf,
    /// The store whose tables the frames go to.
    pub store_url: String,
    /// Size of a segment; a frame that does not fit gets a segment of its own size.
    pub segment_bytes: u64,
    /// Randomness, for the writer id.
    pub ambient: Arc<dyn Ambient>,
    /// The file system; [`LocalDisk`] but in tests.
    pub disk: Arc<dyn Disk>,
}

impl LogOptions {
    /// Segments of this size serve most machines: large enough that a roll is rare, small enough to free space soon.
    pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;
}

/// The bytes that a frame takes in the log.
pub fn frame_bytes(frame: &crate::Frame, payload_bytes: usize) -> u64 {
    frame::padded(frame::FIXED_BYTES as u64 + frame.tenant.len() as u64 + payload_bytes as u64)
}
