//! Segment files: their names and their headers.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::FORMAT_VERSION;
use super::frame::{Salt, u32_at, u64_at};
use crate::{Error, ErrorKind, Position, Result};

pub(super) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"SPANLKWL";
/// Bytes of the header that are in use; the checksum follows them.
/// Versions are counted up: a larger number is none.
const VERSION_MAX: u32 = u16::MAX as u32;
const CHECKED_BYTES: usize = 56;

/// The first bytes of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) writer_id: u128,
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) first_position: Position,
}

impl SegmentHeader {
    pub(super) fn salt(&self) -> Salt {
        Salt::new(self.writer_id, self.epoch, self.sequence)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.writer_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_position.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..CHECKED_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES], path: &Path) -> Result<Self> {
        let corrupt = |what: &str| {
            let message = format!("write-ahead log segment {} at offset 0: {what}", path.display());
            Err(Error::new(ErrorKind::Corrupt, message))
        };
        if bytes[..8] != MAGIC {
            return corrupt("not a segment of a write-ahead log");
        }
        let version = u32_at(bytes, 8);
        let checksum = u32_at(bytes, CHECKED_BYTES);
        if version != FORMAT_VERSION {
            // A header that fits with our version in it had that one before it was damaged.
            let mut ours = *bytes;
            ours[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
            let is_damaged =
                version == 0 || version > VERSION_MAX || crc32c::crc32c(&ours[..CHECKED_BYTES]) == checksum;
            return if is_damaged {
                corrupt("the format version is damaged")
            } else {
                Err(newer_version(path, version))
            };
        }
        if crc32c::crc32c(&bytes[..CHECKED_BYTES]) != checksum {
            return corrupt("the header's checksum does not match");
        }
        let mut writer_id = [0; 16];
        writer_id.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            writer_id: u128::from_le_bytes(writer_id),
            epoch: u64_at(bytes, 32),
            sequence: u64_at(bytes, 40),
            first_position: u64_at(bytes, 48),
        })
    }
}

pub(super) fn newer_version(path: &Path, version: u32) -> Error {
    let message = format!(
        "write-ahead log file {} has format version {version}, this build reads up to {FORMAT_VERSION}: start the newer \
         version of spanlake that wrote it",
        path.display()
    );
    Error::new(ErrorKind::Invalid, message)
}

/// A segment found at rest.
#[derive(Clone, Debug)]
pub(super) struct SegmentFile {
    pub(super) path: PathBuf,
    /// As its name tells.
    pub(super) sequence: u64,
    /// What is wrong with the header, where it cannot be read.
    pub(super) header: Result<SegmentHeader, String>,
    pub(super) bytes: u64,
}

impl SegmentFile {
    /// The position of its first frame, where the header can be read.
    pub(super) fn first_position(&self) -> Option<Position> {
        self.header.as_ref().ok().map(|header| header.first_position)
    }

    /// The file's name.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// What a log directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Ordered by sequence.
    pub(super) segments: Vec<SegmentFile>,
    pub(super) spares: Vec<(PathBuf, u64)>,
    /// Segments that are kept for their unreadable parts.
    pub(super) damaged: Vec<SegmentFile>,
    /// The highest sequence that any name carries.
    pub(super) sequence: u64,
    /// The position up to which every frame is committed, where a file's name tells.
    pub(super) committed: Option<Position>,
}

pub(super) fn live_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("wal-{sequence:020}.log"))
}

pub(super) fn spare_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("spare-{sequence:020}.log"))
}

pub(super) fn damaged_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("damaged-{sequence:020}.log"))
}

/// The empty file whose name tells up to where every frame is committed. A name is changed in one step and takes no space.
pub(super) fn committed_path(dir: &Path, position: Position) -> PathBuf {
    dir.join(format!("committed-{position:020}"))
}

pub(super) fn list(dir: &Path) -> Result<Listing> {
    let unreadable = |error: std::io::Error| {
        let message = format!("cannot list write-ahead log directory {}", dir.display());
        Error::new(ErrorKind::Retry, message).with_source(error)
    };
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(position) = name.strip_prefix("committed-").and_then(|position| position.parse().ok()) {
            listing.committed = listing.committed.max(Some(position));
            continue;
        }
        let sequence_after = |prefix| name.strip_prefix(prefix)?.strip_suffix(".log")?.parse::<u64>().ok();
        let bytes = || std::fs::metadata(&path).map(|metadata| metadata.len()).map_err(unreadable);
        if let Some(sequence) = sequence_after("wal-") {
            listing.sequence = listing.sequence.max(sequence);
            listing.segments.push(segment_file(&path, sequence, bytes()?)?);
        } else if let Some(sequence) = sequence_after("damaged-") {
            listing.sequence = listing.sequence.max(sequence);
            listing.damaged.push(segment_file(&path, sequence, bytes()?)?);
        } else if let Some(sequence) = sequence_after("spare-") {
            listing.sequence = listing.sequence.max(sequence);
            listing.spares.push((path.clone(), bytes()?));
        }
    }
    listing.segments.sort_by_key(|segment| segment.sequence);
    listing.damaged.sort_by_key(|segment| segment.sequence);
    Ok(listing)
}

fn segment_file(path: &Path, sequence: u64, bytes: u64) -> Result<SegmentFile> {
    let header = match read_header(path, sequence) {
        Ok(header) => Ok(header),
        Err(error) if error.kind() == ErrorKind::Corrupt => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(SegmentFile { path: path.to_path_buf(), sequence, header, bytes })
}

fn read_header(path: &Path, sequence: u64) -> Result<SegmentHeader> {
    let mut bytes = [0; HEADER_BYTES];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    if let Err(error) = read {
        let kind = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            _ => ErrorKind::Retry,
        };
        let message = format!("cannot read the header of write-ahead log segment {}", path.display());
        return Err(Error::new(kind, message).with_source(error));
    }
    let header = SegmentHeader::decode(&bytes, path)?;
    if header.sequence != sequence {
        let message = format!(
            "write-ahead log segment {} at offset 0: its header names sequence {}",
            path.display(),
            header.sequence
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(header)
}
