//! Looking at a log without opening it: what is there, what is damaged, and the requests in it.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::frame::Salt;
use super::identity::Identity;
use super::reader::{Bound, SegmentReader};
use super::segment::{SegmentFile, list};
use super::{Logged, Lost};
use crate::{Error, ErrorKind, Position, Result};

/// What a log directory holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The directory.
    pub dir: PathBuf,
    /// Whose log it is; `None` where that cannot be read.
    pub identity: Option<Identity>,
    /// Why the identity cannot be read.
    pub identity_problem: Option<String>,
    /// The process that has the log open. What is shown may then be older than what it does.
    pub in_use_by: Option<String>,
    /// Every frame up to here is known to be committed. Later ones may be.
    pub committed_position: Position,
    /// Segments set aside for their damage and those in use, in the order of their positions.
    pub segments: Vec<SegmentReport>,
    /// Bytes of files that wait for being used again.
    pub spare_bytes: u64,
}

/// What one segment holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SegmentReport {
    /// The file's name.
    pub file: String,
    /// Whether the log keeps it for its damage only.
    pub is_set_aside: bool,
    /// The file's length.
    pub file_bytes: u64,
    /// The writer id in its header.
    pub writer_id: Option<String>,
    /// How many times the log had been opened when it was made.
    pub epoch: Option<u64>,
    /// What is wrong with its header.
    pub header_problem: Option<String>,
    /// Position of the first frame.
    pub first_position: Option<Position>,
    /// Position of the last frame.
    pub last_position: Option<Position>,
    /// Frames that can be read.
    pub frames: u64,
    /// Their bytes in the file.
    pub frame_bytes: u64,
    /// Their requests' bytes.
    pub payload_bytes: u64,
    /// Frames by tenant.
    pub tenants: BTreeMap<String, u64>,
    /// Frames by kind.
    pub kinds: BTreeMap<u8, u64>,
    /// When the first request arrived, nanoseconds since 1970-01-01.
    pub first_received_unix_nano: Option<u64>,
    /// When the last one did.
    pub last_received_unix_nano: Option<u64>,
    /// What had been durable and cannot be read.
    pub damage: Vec<Damage>,
    /// Bytes behind the last frame of a write that was broken off, or runs right now.
    pub torn_bytes: u64,
}

/// A part of a segment that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// The first position that is lost by it.
    pub first_position: Position,
    /// The last one.
    pub last_position: Position,
}

impl Inspection {
    /// What the log's owner has noted as lost.
    pub fn lost(&self) -> &[Lost] {
        self.identity.as_ref().map(|identity| identity.lost.as_slice()).unwrap_or_default()
    }
}

/// Looks at a log, also at one that a process has open. Writes nothing.
///
/// # Errors
/// [`ErrorKind::Invalid`] where the directory holds no log; [`ErrorKind::Retry`] where it cannot be read.
pub fn inspect(dir: &Path) -> Result<Inspection> {
    visit(dir, false, &mut |_, _| Ok(()))
}

/// Hands each frame and its segment's name to `each`, in order: those of the segments set aside, and where `in_use` asks
/// for it also those in use. Writes nothing.
///
/// # Errors
/// As [`inspect`], and what `each` returns; [`ErrorKind::Invalid`] where `in_use` frames are asked for while a process has
/// the log open, which may free them meanwhile.
pub fn export(dir: &Path, in_use: bool, each: &mut dyn FnMut(&str, Logged) -> Result<()>) -> Result<Inspection> {
    let lock = SharedLock::take(dir);
    if let (true, Err(holder)) = (in_use, &lock) {
        let message = format!(
            "write-ahead log directory {} is in use by process {holder}: stop it first, or export only what is set aside \
             (--set-aside)",
            dir.display()
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    visit(dir, !in_use, each)
}

/// Held while frames are read, so that no process opens the log meanwhile.
struct SharedLock(#[expect(dead_code, reason = "closing the file is what lets the lock go")] Option<File>);

impl SharedLock {
    /// The lock, or who has it. A log without a lock file was never opened.
    fn take(dir: &Path) -> Result<Self, String> {
        let path = dir.join("lock");
        let Ok(file) = File::open(&path) else { return Ok(Self(None)) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).unwrap_or_default();
                Err(if holder.trim().is_empty() { "unknown".to_owned() } else { holder.trim().to_owned() })
            }
            _ => Ok(Self(Some(file))),
        }
    }
}

fn visit(dir: &Path, only_set_aside: bool, each: &mut dyn FnMut(&str, Logged) -> Result<()>) -> Result<Inspection> {
    let (identity, identity_problem) = match Identity::load(dir) {
        Ok(identity) => (identity, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let listing = list(dir)?;
    if identity.is_none() && identity_problem.is_none() && listing.segments.is_empty() && listing.damaged.is_empty() {
        let message =
            format!("{} is no write-ahead log directory: it has neither identity nor segments", dir.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let noted = identity.as_ref().map_or(0, |identity| identity.committed_position);
    let mut inspection = Inspection {
        dir: dir.to_path_buf(),
        identity,
        identity_problem,
        in_use_by: SharedLock::take(dir).err(),
        committed_position: noted.max(listing.committed.unwrap_or(0)),
        segments: Vec::new(),
        spare_bytes: listing.spares.iter().map(|(_, bytes)| bytes).sum(),
    };
    let set_aside = listing.damaged.into_iter().map(|segment| (segment, true));
    let mut segments: Vec<_> = set_aside.chain(listing.segments.into_iter().map(|segment| (segment, false))).collect();
    segments.sort_by_key(|(segment, _)| segment.sequence);
    let mut next = inspection.committed_position + 1;
    for (index, (segment, is_set_aside)) in segments.iter().enumerate() {
        if only_set_aside && !is_set_aside {
            continue;
        }
        let later: Vec<_> = segments[index + 1..].iter().map(|(segment, _)| segment).collect();
        let mut report = SegmentReport { is_set_aside: *is_set_aside, ..report_of(segment) };
        match read(segment, &later, &inspection, &mut next, &mut report, each) {
            // The process that has the log open has freed it meanwhile.
            Err(error) if inspection.in_use_by.is_some() && !segment.path.exists() => {
                tracing::debug!(%error, "a segment is gone");
            }
            read => {
                read?;
                inspection.segments.push(report);
            }
        }
    }
    Ok(inspection)
}

fn report_of(segment: &SegmentFile) -> SegmentReport {
    let header = segment.header.as_ref().ok();
    SegmentReport {
        file: segment.name(),
        file_bytes: segment.bytes,
        writer_id: header.map(|header| format!("{:032x}", header.writer_id)),
        epoch: header.map(|header| header.epoch),
        header_problem: segment.header.as_ref().err().cloned(),
        ..SegmentReport::default()
    }
}

/// Reads the frames of one segment. `later` are those behind it.
fn read(
    segment: &SegmentFile,
    later: &[&SegmentFile],
    inspection: &Inspection,
    next: &mut Position,
    report: &mut SegmentReport,
    each: &mut dyn FnMut(&str, Logged) -> Result<()>,
) -> Result<()> {
    let identity = inspection.identity.as_ref();
    let is_newest = later.is_empty() && identity.is_some_and(|own| segment.sequence >= own.newest_sequence);
    let durable = identity.filter(|_| is_newest).map_or(0, |identity| identity.durable_position);
    let before = later.iter().find_map(|later| later.first_position());
    let bound = Bound { before, is_last: later.is_empty() && !report.is_set_aside, durable };
    *next = segment.first_position().unwrap_or(*next);
    let mut reader = SegmentReader::open(segment, salts(segment, identity)?)?;
    loop {
        let broken_at = reader.offset;
        if before.is_some_and(|before| before <= *next) {
            return Ok(());
        }
        let Some(found) = reader.next(*next, bound)? else { break };
        if found.logged.position > *next {
            report.damage.push(Damage {
                offset: broken_at,
                bytes: found.offset - broken_at,
                first_position: *next,
                last_position: found.logged.position - 1,
            });
        }
        *next = found.logged.position + 1;
        report.add(&found.logged, found.bytes);
        each(&report.file, found.logged)?;
    }
    let adjacent = later.first().filter(|later| later.sequence == segment.sequence + 1);
    let end = match adjacent.and_then(|later| later.first_position()) {
        Some(first) => first - 1,
        None => reader.durable().max(durable),
    };
    if end >= *next {
        let bytes = segment.bytes.saturating_sub(reader.offset);
        report.damage.push(Damage { offset: reader.offset, bytes, first_position: *next, last_position: end });
    } else if later.is_empty() {
        report.torn_bytes = reader.torn_bytes();
    }
    Ok(())
}

fn salts(segment: &SegmentFile, identity: Option<&Identity>) -> Result<Vec<Salt>> {
    match (&segment.header, identity) {
        (Ok(header), _) => Ok(vec![header.salt()]),
        (Err(_), None) => Ok(Vec::new()),
        (Err(_), Some(identity)) => {
            let writer = identity.writer_number()?;
            Ok((0..=identity.epoch).map(|epoch| Salt::new(writer, epoch, segment.sequence)).collect())
        }
    }
}

impl SegmentReport {
    fn add(&mut self, logged: &Logged, frame_bytes: u64) {
        self.first_position.get_or_insert(logged.position);
        self.last_position = Some(logged.position);
        self.frames += 1;
        self.frame_bytes += frame_bytes;
        self.payload_bytes += logged.payload.len() as u64;
        *self.tenants.entry(logged.frame.tenant.clone()).or_default() += 1;
        *self.kinds.entry(logged.frame.kind).or_default() += 1;
        self.first_received_unix_nano.get_or_insert(logged.frame.received_unix_nano);
        self.last_received_unix_nano = Some(logged.frame.received_unix_nano);
    }
}
