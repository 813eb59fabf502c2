//! Reading the frames of one segment, past damage where there is some.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;

use super::Logged;
use super::frame::{ALIGNMENT, FIXED_BYTES, FrameHeader, MAGIC, Salt, u64_at};
use super::segment::{HEADER_BYTES, SegmentFile};
use crate::{Error, ErrorKind, Position, Result};

const READ_BUFFER_BYTES: usize = 1 << 20;

/// Reads frame after frame. Where one is damaged it looks for those behind it.
#[derive(Debug)]
pub(super) struct SegmentReader {
    pub(super) segment: SegmentFile,
    file: BufReader<File>,
    /// The segment's; where its header cannot be read, those it may have.
    salts: Vec<Salt>,
    /// Behind the last frame that was read.
    pub(super) offset: u64,
    rest: Option<Rest>,
}

/// A frame, and where it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) logged: Logged,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Which frames of a segment count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// A later segment begins with this position. It supersedes what a failed write has left in this one.
    pub(super) before: Option<Position>,
    /// Whether a later segment tells that the frames of this one were durable.
    pub(super) is_last: bool,
    /// Frames up to here are known to have been durable.
    pub(super) durable: Position,
}

impl SegmentReader {
    pub(super) fn open(segment: &SegmentFile, salts: Vec<Salt>) -> Result<Self> {
        let offset = (HEADER_BYTES as u64).min(segment.bytes);
        let open = || {
            let mut file = File::open(&segment.path)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(BufReader::with_capacity(READ_BUFFER_BYTES, file))
        };
        let file = open().map_err(|error| read_error(&segment.path, offset, error))?;
        Ok(Self { segment: segment.clone(), file, salts, offset, rest: None })
    }

    /// The next frame, which has this position or, behind damage, a later one; `None` where no more frame counts.
    pub(super) fn next(&mut self, position: Position, bound: Bound) -> Result<Option<Found>> {
        if self.rest.is_none() {
            if let Some(found) = self.read(position)? {
                return Ok(Some(found));
            }
            self.rest = Some(self.examine(position)?);
        }
        let Some(rest) = &mut self.rest else { return Ok(None) };
        let Some(found) = rest.next(position, bound) else { return Ok(None) };
        self.offset = found.offset + found.bytes;
        Ok(Some(found))
    }

    /// The frame at the present offset, where it is whole and has this position.
    fn read(&mut self, position: Position) -> Result<Option<Found>> {
        let room = self.segment.bytes.saturating_sub(self.offset);
        let mut fixed = [0; FIXED_BYTES];
        if room < fixed.len() as u64 {
            return Ok(None);
        }
        self.fill(&mut fixed)?;
        let header =
            decode(&fixed, &self.salts).filter(|header| header.position == position && header.frame_bytes() <= room);
        let Some(header) = header else { return Ok(None) };
        let bytes = header.frame_bytes();
        let mut body = vec![0; bytes as usize - FIXED_BYTES];
        self.fill(&mut body)?;
        let Some((frame, payload)) = header.read_body(&Bytes::from(body)) else { return Ok(None) };
        let offset = self.offset;
        self.offset += bytes;
        Ok(Some(Found { logged: Logged { position, frame, payload }, offset, bytes }))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact(buffer).map_err(|error| read_error(&self.segment.path, self.offset, error))
    }

    /// Looks through all that follows the last whole frame.
    fn examine(&mut self, missing: Position) -> Result<Rest> {
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| self.file.read_to_end(&mut bytes))
            .map_err(|error| read_error(&self.segment.path, self.offset, error))?;
        Ok(Rest::examine(Bytes::from(bytes), self.offset, &self.salts, missing))
    }

    /// Up to which position frames are known to have been durable, by what the rest of the segment says.
    pub(super) fn durable(&self) -> Position {
        self.rest.as_ref().map_or(0, |rest| rest.durable)
    }

    /// How many bytes behind the last frame a write has left that is no frame.
    pub(super) fn torn_bytes(&self) -> u64 {
        let Some(rest) = &self.rest else { return 0 };
        if rest.has_begun { (rest.start + rest.used_bytes).saturating_sub(self.offset) } else { 0 }
    }
}

/// What follows a segment's first damaged or missing frame.
#[derive(Debug)]
struct Rest {
    bytes: Bytes,
    /// Where it begins in the file.
    start: u64,
    /// Whole frames in it, by ascending positions.
    frames: VecDeque<(usize, FrameHeader)>,
    /// The last position that any header in it calls durable.
    durable: Position,
    /// Whether a write had begun there; else there is nothing, or frames of an earlier use of the file.
    has_begun: bool,
    used_bytes: u64,
}

impl Rest {
    fn examine(bytes: Bytes, start: u64, salts: &[Salt], missing: Position) -> Self {
        let mut rest = Self {
            has_begun: looks_begun(&bytes, missing),
            used_bytes: bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1),
            bytes,
            start,
            frames: VecDeque::new(),
            durable: 0,
        };
        let (mut at, mut next) = (0, missing);
        while let Some(fixed) = rest.bytes.get(at..at + FIXED_BYTES) {
            let Some(header) = decode(fixed, salts) else {
                at += ALIGNMENT as usize;
                continue;
            };
            rest.durable = rest.durable.max(header.durable);
            rest.has_begun |= header.position != 0;
            let end = at.saturating_add(usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX));
            if header.position >= next && end <= rest.bytes.len() && rest.body(at, &header).is_some() {
                next = header.position + 1;
                rest.frames.push_back((at, header));
                at = end;
            } else {
                at += ALIGNMENT as usize;
            }
        }
        rest
    }

    fn body(&self, at: usize, header: &FrameHeader) -> Option<(crate::Frame, Bytes)> {
        let end = at + usize::try_from(header.frame_bytes()).ok()?;
        header.read_body(&self.bytes.slice(at + FIXED_BYTES..end))
    }

    /// The next frame that counts. Behind a gap that is every frame where the gap's had been durable; else the gap may be
    /// a write that was torn, and what follows in its group was never acknowledged.
    fn next(&mut self, position: Position, bound: Bound) -> Option<Found> {
        let durable = self.durable.max(bound.durable);
        let counts = |at: Position| {
            let is_known = !bound.is_last || at == position || at - 1 <= durable;
            is_known && bound.before.is_none_or(|before| at < before)
        };
        let (at, header) = self.frames.pop_front_if(|(_, header)| counts(header.position))?;
        let (frame, payload) = self.body(at, &header)?;
        let logged = Logged { position: header.position, frame, payload };
        Some(Found { logged, offset: self.start + at as u64, bytes: header.frame_bytes() })
    }
}

fn decode(fixed: &[u8], salts: &[Salt]) -> Option<FrameHeader> {
    if fixed[..MAGIC.len()] != MAGIC {
        return None;
    }
    salts.iter().find_map(|salt| FrameHeader::decode(fixed, *salt))
}

/// Whether a write of this frame had begun. In a recycled file older frames may follow instead, with lower positions.
fn looks_begun(rest: &[u8], position: Position) -> bool {
    match rest.get(..24) {
        Some(fixed) => fixed[..4] == MAGIC && u64_at(fixed, 16) == position,
        None => rest.iter().any(|byte| *byte != 0),
    }
}

pub(super) fn read_error(path: &Path, offset: u64, error: std::io::Error) -> Error {
    let message = format!("cannot read write-ahead log segment {} at offset {offset}", path.display());
    Error::new(ErrorKind::Retry, message).with_source(error)
}
