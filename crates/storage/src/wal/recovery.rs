//! Reading a log that an earlier process left, and deciding where it ends.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;

use super::LogOptions;
use super::frame::{ALIGNMENT, FIXED_BYTES, FrameHeader, MAGIC, Salt, u64_at};
use super::identity::{Identity, Lock};
use super::log::{Extents, Log, Retired};
use super::segment::{HEADER_BYTES, Listing, SegmentFile, list};
use crate::{Error, ErrorKind, Frame, Position, Result};

const READ_BUFFER_BYTES: usize = 1 << 20;

/// A log whose lock is held and whose identity is known; its frames are not read yet.
#[derive(Debug)]
pub struct LogAtRest {
    options: LogOptions,
    identity: Identity,
    lock: Lock,
}

/// A frame that an earlier process logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its place.
    pub position: Position,
    /// Who, what, when.
    pub frame: Frame,
    /// The request.
    pub payload: Bytes,
}

/// Reads the frames of a log in order. Nothing is skipped: where a frame is damaged and a later one had been durable
/// after it, [`Replay::next_frame`] is [`ErrorKind::Corrupt`].
#[derive(Debug)]
pub struct Replay {
    options: LogOptions,
    identity: Identity,
    lock: Lock,
    listing: Listing,
    /// Which segment is read.
    index: usize,
    reader: Option<SegmentReader>,
    /// The position of the frame that is read next.
    next: Position,
    /// Last position of each segment that is read to its end.
    ends: Vec<Position>,
    extents: Extents,
}

impl LogAtRest {
    /// Locks the directory and reads whose log it is.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where another process has it open, or a newer version wrote it.
    pub fn open(options: LogOptions) -> Result<Self> {
        let dir = &options.dir;
        std::fs::create_dir_all(dir).map_err(|error| {
            let message = format!("cannot make write-ahead log directory {}", dir.display());
            Error::new(ErrorKind::Invalid, message).with_source(error)
        })?;
        let lock = Lock::take(dir)?;
        let identity = match Identity::load(dir)? {
            Some(identity) => identity,
            None => {
                if let Some(segment) = list(dir)?.segments.first() {
                    let message = format!(
                        "write-ahead log directory {} has segments such as {} but no identity file",
                        dir.display(),
                        segment.path.display()
                    );
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                Identity::new(&options)
            }
        };
        Ok(Self { options, identity, lock })
    }

    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Notes which Delta table a name stands for.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the log belongs to another table of that name.
    pub fn bind(&mut self, table: &str, id: &str) -> Result<()> {
        self.identity.bind(&self.options.dir, table, id)
    }

    /// Begins to read the frames, in a new epoch. The store's URL is the one in the options from here on.
    pub fn replay(mut self) -> Result<Replay> {
        let mut listing = list(&self.options.dir)?;
        self.identity.epoch += 1;
        self.identity.store_url.clone_from(&self.options.store_url);
        self.identity.save(&self.options.dir, self.options.disk.as_ref())?;
        self.remove_leftovers(&mut listing)?;
        let next = match listing.segments.first() {
            Some(segment) => segment.header.first_position,
            None => self.identity.committed_position + 1,
        };
        Ok(Replay {
            options: self.options,
            identity: self.identity,
            lock: self.lock,
            listing,
            index: 0,
            reader: None,
            next,
            ends: Vec::new(),
            extents: Extents::default(),
        })
    }

    /// Removes segments of the writer id before, which were wholly committed when the id was changed, and spares of
    /// another size. Any other writer's segments do not belong here.
    fn remove_leftovers(&self, listing: &mut Listing) -> Result<()> {
        let writer = self.identity.writer_number()?;
        let previous = self.identity.previous_writer_number()?;
        let remove = |path: &Path| {
            self.options.disk.remove(path).map_err(|error| {
                let message = format!("cannot remove write-ahead log file {}", path.display());
                Error::new(ErrorKind::Retry, message).with_source(error)
            })
        };
        for segment in &listing.segments {
            if Some(segment.header.writer_id) == previous {
                remove(&segment.path)?;
            } else if segment.header.writer_id != writer {
                let message = format!(
                    "write-ahead log segment {} was written under writer id {:032x}, the log's is {}: it was put here \
                     from another log, move it away",
                    segment.path.display(),
                    segment.header.writer_id,
                    self.identity.writer_id
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        listing.segments.retain(|segment| segment.header.writer_id == writer);
        for (path, _) in listing.spares.iter().filter(|(_, bytes)| *bytes != self.options.segment_bytes) {
            remove(path)?;
        }
        listing.spares.retain(|(_, bytes)| *bytes == self.options.segment_bytes);
        Ok(())
    }
}

impl Replay {
    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The next frame; `None` at the log's end.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where a frame that had been durable is damaged or missing.
    pub fn next_frame(&mut self) -> Result<Option<Logged>> {
        while let Some(segment) = self.listing.segments.get(self.index).cloned() {
            let following = self.listing.segments.get(self.index + 1).cloned();
            if following.as_ref().is_some_and(|following| following.header.first_position == self.next) {
                self.end_segment();
                continue;
            }
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => SegmentReader::open(&segment)?,
            };
            if let Some((logged, bytes)) = reader.read(self.next)? {
                self.reader = Some(reader);
                self.next += 1;
                if logged.position > self.identity.committed_position {
                    self.extents.add(logged.position, bytes);
                }
                return Ok(Some(logged));
            }
            match following {
                Some(following) => self.bridge(&reader, &following)?,
                None => self.cut(&mut reader)?,
            }
            self.end_segment();
        }
        Ok(None)
    }

    fn end_segment(&mut self) {
        self.ends.push(self.next - 1);
        self.reader = None;
        self.index += 1;
    }

    /// A segment ends before the next one begins. That is in order only where every position between is committed.
    fn bridge(&mut self, reader: &SegmentReader, following: &SegmentFile) -> Result<()> {
        let first = following.header.first_position;
        if first > self.next && first - 1 <= self.identity.committed_position {
            self.next = first;
            return Ok(());
        }
        let message = format!(
            "write-ahead log segment {} at offset {}: frame {} is damaged or missing, segment {} goes on with frame {first}",
            reader.segment.path.display(),
            reader.offset,
            self.next,
            following.path.display(),
        );
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    /// The last segment's frames end here: cuts what a torn write left behind.
    fn cut(&self, reader: &mut SegmentReader) -> Result<()> {
        let torn_bytes = reader.examine_tail(self.next)?;
        let (path, offset) = (&reader.segment.path, reader.offset);
        if torn_bytes > 0 {
            tracing::warn!(
                file = %path.display(), offset, bytes = torn_bytes, position = self.next,
                "torn tail of the write-ahead log cut: its requests were never acknowledged"
            );
        }
        if reader.segment.bytes > offset {
            let truncate = || {
                let mut file = self.options.disk.open(path)?;
                file.truncate(offset)?;
                file.sync()
            };
            truncate().map_err(|error: std::io::Error| read_error(path, offset, error))?;
        }
        Ok(())
    }

    /// Reads what is left of the log and opens it for writing.
    pub fn finish(mut self) -> Result<Log> {
        while self.next_frame()?.is_some() {}
        let retired = self.listing.segments.iter().zip(&self.ends).map(|(segment, end)| Retired {
            path: segment.path.clone(),
            sequence: segment.header.sequence,
            last_position: *end,
            recyclable: segment.bytes == self.options.segment_bytes,
        });
        let mut retired: std::collections::VecDeque<_> = retired.collect();
        if let Some(last) = retired.back_mut() {
            // It was cut to its frames' length.
            last.recyclable = false;
        }
        Ok(Log {
            writer_number: self.identity.writer_number()?,
            last: (self.next - 1).max(self.identity.committed_position),
            sequence: self.listing.sequence,
            retired,
            spares: self.listing.spares.into_iter().map(|(path, _)| path).collect(),
            extents: self.extents,
            active: None,
            options: self.options,
            identity: self.identity,
            _lock: self.lock,
        })
    }
}

#[derive(Debug)]
struct SegmentReader {
    segment: SegmentFile,
    file: BufReader<File>,
    salt: Salt,
    /// Where the next frame begins.
    offset: u64,
}

impl SegmentReader {
    fn open(segment: &SegmentFile) -> Result<Self> {
        let offset = HEADER_BYTES as u64;
        let open = || {
            let mut file = File::open(&segment.path)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(BufReader::with_capacity(READ_BUFFER_BYTES, file))
        };
        let file = open().map_err(|error| read_error(&segment.path, offset, error))?;
        Ok(Self { segment: segment.clone(), file, salt: segment.header.salt(), offset })
    }

    /// The frame at the present offset and its bytes in the log, where it is whole and has this position.
    fn read(&mut self, position: Position) -> Result<Option<(Logged, u64)>> {
        let room = self.segment.bytes.saturating_sub(self.offset);
        let mut fixed = [0; FIXED_BYTES];
        if room < fixed.len() as u64 {
            return Ok(None);
        }
        self.fill(&mut fixed)?;
        let header = FrameHeader::decode(&fixed, self.salt)
            .filter(|header| header.position == position && header.frame_bytes() <= room);
        let Some(header) = header else { return Ok(None) };
        let bytes = header.frame_bytes();
        let mut body = vec![0; bytes as usize - FIXED_BYTES];
        self.fill(&mut body)?;
        let Some((frame, payload)) = header.read_body(&Bytes::from(body)) else { return Ok(None) };
        self.offset += bytes;
        Ok(Some((Logged { position, frame, payload }, bytes)))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact(buffer).map_err(|error| read_error(&self.segment.path, self.offset, error))
    }

    /// Looks at what follows the last whole frame: how many bytes a torn group left; nothing, or frames of an earlier
    /// use of the file, count as zero.
    fn examine_tail(&mut self, missing: Position) -> Result<u64> {
        let mut tail = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| self.file.read_to_end(&mut tail))
            .map_err(|error| read_error(&self.segment.path, self.offset, error))?;
        let mut torn = looks_begun(&tail, missing);
        for at in (ALIGNMENT as usize..tail.len()).step_by(ALIGNMENT as usize) {
            if tail.len() - at < FIXED_BYTES || tail[at..at + MAGIC.len()] != MAGIC {
                continue;
            }
            let Some(later) = FrameHeader::decode(&tail[at..], self.salt) else { continue };
            if later.durable >= missing {
                let message = format!(
                    "write-ahead log segment {} at offset {}: frame {missing} is damaged, frame {} at offset {} was \
                     written after it had been synced",
                    self.segment.path.display(),
                    self.offset,
                    later.position,
                    self.offset + at as u64
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            torn = true;
        }
        let used = tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        Ok(if torn { used } else { 0 })
    }
}

/// Whether a write of this frame had begun. In a recycled file older frames may follow instead, with lower positions.
fn looks_begun(tail: &[u8], position: Position) -> bool {
    match tail.get(..24) {
        Some(fixed) => fixed[..4] == MAGIC && u64_at(fixed, 16) == position,
        None => tail.iter().any(|byte| *byte != 0),
    }
}

fn read_error(path: &Path, offset: u64, error: std::io::Error) -> Error {
    let message = format!("cannot read write-ahead log segment {} at offset {offset}", path.display());
    Error::new(ErrorKind::Retry, message).with_source(error)
}
