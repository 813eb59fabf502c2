//! Writing: groups of frames, segments, recycling.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::disk::{DiskFile, disk_error, write_all_at};
use super::frame::{FIXED_BYTES, FrameHeader, Salt};
use super::identity::{Identity, Lock};
use super::segment::{HEADER_BYTES, SegmentHeader, committed_path, damaged_path, live_path, spare_path};
use super::{LogOptions, frame_bytes};
use crate::{Error, ErrorKind, Frame, Position, Result};

/// Spares beyond this many are removed.
const SPARES_MAX: usize = 3;
/// Payloads up to this many bytes are copied beside their header: cheaper than one more slice to write.
const COPIED_BYTES_MAX: usize = 4096;
/// How finely the log remembers which bytes belong to which positions.
const EXTENT_BYTES: u64 = 64 << 10;

/// The log of this process, open for writing. One thread owns it.
#[derive(Debug)]
pub struct Log {
    pub(super) options: LogOptions,
    pub(super) identity: Identity,
    pub(super) writer_number: u128,
    /// The last durable position.
    pub(super) last: Position,
    /// The highest sequence that a file of the directory carries.
    pub(super) sequence: u64,
    pub(super) retired: VecDeque<Retired>,
    pub(super) spares: Vec<PathBuf>,
    pub(super) extents: Extents,
    pub(super) active: Option<Active>,
    /// False where the log was opened on a full disk: it can be read, committed and freed, and takes frames once there is
    /// space.
    pub(super) is_identity_saved: bool,
    /// Whether the disk says by itself that the last group is durable.
    pub(super) is_marked: bool,
    /// The position in the name of the file that tells what is committed.
    pub(super) committed: Option<Position>,
    pub(super) _lock: Lock,
}

/// The segment that takes frames.
#[derive(Debug)]
pub(super) struct Active {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    sequence: u64,
    salt: Salt,
    bytes: u64,
    offset: u64,
}

/// A segment that takes no more frames.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) path: PathBuf,
    pub(super) sequence: u64,
    pub(super) last_position: Position,
    /// Whether it is kept for what could not be read.
    pub(super) is_damaged: bool,
    pub(super) recyclable: bool,
}

/// How many bytes of frames are not committed yet.
#[derive(Debug, Default)]
pub(super) struct Extents(VecDeque<(Position, u64)>);

impl Extents {
    pub(super) fn add(&mut self, last_position: Position, bytes: u64) {
        match self.0.back_mut() {
            Some((last, sum)) if *sum < EXTENT_BYTES => {
                *last = last_position;
                *sum += bytes;
            }
            _ => self.0.push_back((last_position, bytes)),
        }
    }

    fn release(&mut self, position: Position) -> u64 {
        let mut freed = 0;
        while let Some(&(last, bytes)) = self.0.front()
            && last <= position
        {
            freed += bytes;
            self.0.pop_front();
        }
        freed
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// How a group of frames fared.
#[derive(Debug)]
pub struct Appended {
    /// The position of the first frame.
    pub first: Position,
    /// How many frames, from the first on, are durable.
    pub durable: usize,
    /// Why the others are not. They are not in the log; append them again or refuse them.
    pub error: Option<Error>,
    /// Syncs.
    pub syncs: u64,
    /// Time spent in syncs.
    pub sync_time: Duration,
}

impl Log {
    /// Writes frames and syncs them. What is durable on return is answered; the rest is not in the log.
    pub fn append(&mut self, frames: &[(&Frame, &Bytes)]) -> Appended {
        let mut appended =
            Appended { first: self.last + 1, durable: 0, error: None, syncs: 0, sync_time: Duration::ZERO };
        while appended.durable < frames.len() {
            match self.append_to_segment(&frames[appended.durable..], &mut appended) {
                Ok(written) => appended.durable += written,
                Err(error) => {
                    appended.error = Some(error);
                    break;
                }
            }
        }
        appended
    }

    /// Writes and syncs as many frames as fit into one segment, and says how many.
    fn append_to_segment(&mut self, frames: &[(&Frame, &Bytes)], appended: &mut Appended) -> Result<usize> {
        let Some((frame, payload)) = frames.first() else { return Ok(0) };
        let last = self.last;
        let active = self.segment_with_room(frame_bytes(frame, payload.len()))?;
        let group = Group::encode(frames, last, active.salt, active.bytes - active.offset)?;
        let path = active.path.clone();
        let mut write = || {
            write_all_at(active.file.as_mut(), &mut group.slices(frames), active.offset)?;
            let started = Instant::now();
            let synced = active.file.sync();
            appended.syncs += 1;
            appended.sync_time += started.elapsed();
            synced
        };
        if let Err(error) = write() {
            self.abandon_segment();
            return Err(disk_error("write or sync a segment", &path, error));
        }
        active.offset += group.bytes;
        self.last += group.frames as u64;
        self.is_marked = false;
        self.extents.add(self.last, group.bytes);
        Ok(group.frames)
    }

    /// The active segment, or the next one where that has no room.
    fn segment_with_room(&mut self, bytes: u64) -> Result<&mut Active> {
        if self.active.as_ref().is_none_or(|active| active.bytes - active.offset < bytes) {
            let next = self.create_segment(HEADER_BYTES as u64 + bytes)?;
            if let Some(full) = self.active.replace(next) {
                self.retire(full, true);
            }
        }
        self.active.as_mut().ok_or_else(|| Error::new(ErrorKind::Closed, "write-ahead log has no segment"))
    }

    /// After a failed write or sync nobody knows what the disk holds: the segment takes no more frames, and the next one
    /// starts at the position that failed here.
    fn abandon_segment(&mut self) {
        if let Some(mut active) = self.active.take() {
            if active.offset == HEADER_BYTES as u64 && self.options.disk.remove(&active.path).is_ok() {
                // None of its frames was acknowledged. Else a disk that goes on failing would be filled with segments.
                return;
            }
            // Only a courtesy to whoever reads the file: the next segment's first position is what supersedes the rest.
            let _ = active.file.truncate(active.offset);
            tracing::error!(file = %active.path.display(), offset = active.offset, "write-ahead log segment abandoned");
            self.retire(active, false);
        }
    }

    /// Writes behind the last group that it is durable, as the next group would. Without it nobody could tell damage in
    /// the last group from a write that was torn before its requests were acknowledged. For quiet times; does nothing
    /// where nothing was appended since.
    pub fn mark(&mut self) {
        let Some(active) = self.active.as_mut().filter(|_| !self.is_marked) else { return };
        self.is_marked = true;
        let mark = FrameHeader::mark(self.last).encode(active.salt);
        if active.bytes - active.offset < mark.len() as u64 {
            return;
        }
        let written = write_all_at(active.file.as_mut(), &mut [IoSlice::new(&mark)], active.offset);
        if let Err(error) = written.and_then(|()| active.file.sync()) {
            tracing::warn!(%error, file = %active.path.display(), "cannot mark the end of the write-ahead log");
            self.abandon_segment();
        }
    }

    fn retire(&mut self, active: Active, intact: bool) {
        self.retired.push_back(Retired {
            is_damaged: false,
            recyclable: intact && active.bytes == self.options.segment_bytes,
            path: active.path,
            sequence: active.sequence,
            last_position: self.last,
        });
    }

    /// Makes the next segment, from a spare where there is one. Its name appears only with its header in it.
    fn create_segment(&mut self, needed_bytes: u64) -> Result<Active> {
        if !self.is_identity_saved {
            self.identity.epoch += 1;
            self.identity.save(&self.options.dir, self.options.disk.as_ref())?;
            self.is_identity_saved = true;
        }
        let bytes = self.options.segment_bytes.max(needed_bytes);
        let dir = self.options.dir.clone();
        self.sequence += 1;
        let header = SegmentHeader {
            writer_id: self.writer_number,
            epoch: self.identity.epoch,
            sequence: self.sequence,
            first_position: self.last + 1,
        };
        let spare = if bytes == self.options.segment_bytes { self.spares.pop() } else { None };
        let draft = spare.clone().unwrap_or_else(|| spare_path(&dir, self.sequence));
        let path = live_path(&dir, self.sequence);
        let disk = &self.options.disk;
        let make = || {
            let mut file = if spare.is_some() { disk.open(&draft)? } else { disk.create(&draft, bytes)? };
            write_all_at(file.as_mut(), &mut [IoSlice::new(&header.encode())], 0)?;
            file.sync()?;
            disk.rename(&draft, &path)?;
            disk.sync_dir(&dir)?;
            Ok(file)
        };
        match make() {
            Ok(file) => {
                let (salt, offset) = (header.salt(), HEADER_BYTES as u64);
                Ok(Active { file, path, sequence: self.sequence, salt, bytes, offset })
            }
            Err(error) => {
                self.discard(&[draft, path.clone()]);
                Err(segment_error(&path, error))
            }
        }
    }

    /// Removes what a failed creation left, so that a full disk has its space back. An empty segment that stays
    /// nevertheless does no harm: it holds no frames.
    fn discard(&self, paths: &[PathBuf]) {
        for path in paths {
            let _ = self.options.disk.remove(path);
        }
    }

    /// Gives up frames that every table has committed: their segments are recycled. Returns how many bytes of frames
    /// that frees.
    pub fn release(&mut self, position: Position) -> Result<u64> {
        let freed = self.extents.release(position);
        self.identity.committed_position = self.identity.committed_position.max(position.min(self.last));
        self.name_committed(self.identity.committed_position)?;
        // The newest segment says where positions go on, and stays until there is another.
        let kept = usize::from(self.active.is_none());
        self.free_segments(position, kept)?;
        Ok(freed)
    }

    /// The last position of the segments that [`Log::release`] would give up; `None` where it would give up none.
    pub fn freed_by(&self, position: Position) -> Option<Position> {
        let kept = usize::from(self.active.is_none());
        let freed = self.retired.iter().take(self.retired.len().saturating_sub(kept));
        freed.take_while(|retired| retired.last_position <= position).last().map(|retired| retired.last_position)
    }

    /// Puts the committed position into a file's name.
    fn name_committed(&mut self, position: Position) -> Result<()> {
        let (dir, disk) = (&self.options.dir, &self.options.disk);
        let path = committed_path(dir, position);
        let named = match self.committed {
            Some(before) if before >= position => return Ok(()),
            Some(before) => match disk.rename(&committed_path(dir, before), &path) {
                // Somebody has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path, 0).map(drop),
                renamed => renamed,
            },
            None => disk.create(&path, 0).map(drop),
        };
        named.map_err(|error| segment_error(&path, error))?;
        self.committed = Some(position);
        Ok(())
    }

    fn free_segments(&mut self, position: Position, kept: usize) -> Result<()> {
        let is_due = |retired: &VecDeque<Retired>| {
            retired.len() > kept && retired.front().is_some_and(|retired| retired.last_position <= position)
        };
        if !is_due(&self.retired) {
            return Ok(());
        }
        let sync_dir =
            || self.options.disk.sync_dir(&self.options.dir).map_err(|error| segment_error(&self.options.dir, error));
        // What is committed is told before the files go: whoever finds them missing knows that they were not needed.
        sync_dir()?;
        while is_due(&self.retired)
            && let Some(retired) = self.retired.front()
        {
            self.recycle_or_remove(retired).map_err(|error| segment_error(&retired.path, error))?;
            let recycled = self.retired.pop_front();
            if let Some(retired) = recycled
                && retired.recyclable
                && self.spares.len() < SPARES_MAX
            {
                self.spares.push(spare_path(&self.options.dir, retired.sequence));
            }
        }
        sync_dir()
    }

    fn recycle_or_remove(&self, retired: &Retired) -> io::Result<()> {
        if retired.recyclable && self.spares.len() < SPARES_MAX {
            self.options.disk.rename(&retired.path, &spare_path(&self.options.dir, retired.sequence))
        } else if retired.is_damaged {
            self.options.disk.rename(&retired.path, &damaged_path(&self.options.dir, retired.sequence))
        } else {
            self.options.disk.remove(&retired.path)
        }
    }

    /// Notes which Delta table a name stands for.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the log belongs to another table of that name.
    pub fn bind(&mut self, tables: &[(String, String)]) -> Result<()> {
        let mut identity = self.identity.clone();
        for (table, id) in tables {
            identity.bind(&self.options.dir, table, id)?;
        }
        if identity != self.identity {
            self.note_end(&mut identity);
            identity.save(&self.options.dir, self.options.disk.as_ref())?;
            self.identity = identity;
        }
        Ok(())
    }

    /// Takes a new writer id and drops all frames. The caller has committed them, or found them committed.
    pub fn renew(&mut self) -> Result<()> {
        let old = self.identity.writer_id.clone();
        self.identity.writer_id = format!("{:032x}", self.options.ambient.random_u128());
        self.identity.previous_writer_id = Some(old);
        self.identity.epoch += 1;
        self.identity.committed_position = self.last;
        self.identity.durable_position = self.last;
        self.identity.newest_sequence = 0;
        self.identity.save(&self.options.dir, self.options.disk.as_ref())?;
        self.writer_number = self.identity.writer_number()?;
        if let Some(active) = self.active.take() {
            self.retire(active, false);
        }
        for retired in &mut self.retired {
            retired.recyclable = false;
        }
        self.extents = Extents::default();
        self.name_committed(self.last)?;
        self.free_segments(self.last, 0)
    }

    /// Writes down that all frames up to the released position are committed, so that the next start need not read them,
    /// and where the log ends.
    pub fn close(self) -> Result<()> {
        let mut identity = self.identity.clone();
        self.note_end(&mut identity);
        identity.save(&self.options.dir, self.options.disk.as_ref())
    }

    fn note_end(&self, identity: &mut Identity) {
        let newest = self.active.as_ref().map(|active| active.sequence);
        identity.durable_position = self.last;
        identity.newest_sequence = newest.or(self.retired.back().map(|retired| retired.sequence)).unwrap_or(0);
    }

    /// The last durable position.
    pub fn position(&self) -> Position {
        self.last
    }

    /// Bytes of frames that are not released.
    pub fn bytes(&self) -> u64 {
        self.extents.bytes()
    }

    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Forgets past epochs but the last few and those with these nonces, which tables refer to.
    pub fn keep_epochs(&mut self, nonces: &[i64]) {
        const LATEST: usize = 8;
        let epochs = &mut self.identity.epochs;
        let latest = epochs.len().saturating_sub(LATEST);
        let mut index = 0;
        epochs.retain(|epoch| {
            index += 1;
            index > latest || nonces.contains(&epoch.nonce)
        });
    }
}

fn segment_error(path: &Path, error: io::Error) -> Error {
    disk_error("make, recycle or remove a segment", path, error)
}

/// Frames as they are written: headers, tenants and small payloads in one buffer, large payloads where they are.
struct Group {
    frames: usize,
    bytes: u64,
    buffer: Vec<u8>,
    pieces: Vec<Piece>,
}

enum Piece {
    Buffer(Range<usize>),
    Payload(usize),
}

impl Group {
    fn encode(frames: &[(&Frame, &Bytes)], durable: Position, salt: Salt, room_bytes: u64) -> Result<Self> {
        let mut group = Self { frames: 0, bytes: 0, buffer: Vec::new(), pieces: Vec::new() };
        let mut start = 0;
        for (index, (frame, payload)) in frames.iter().enumerate() {
            let bytes = frame_bytes(frame, payload.len());
            if group.bytes + bytes > room_bytes {
                break;
            }
            let header = FrameHeader::new(frame, payload, durable + 1 + index as u64, durable).ok_or_else(|| {
                let message = format!(
                    "a request of {} bytes for tenant {:.40} does not fit into a frame of the write-ahead log",
                    payload.len(),
                    frame.tenant
                );
                Error::new(ErrorKind::Invalid, message)
            })?;
            group.buffer.extend_from_slice(&header.encode(salt));
            group.buffer.extend_from_slice(frame.tenant.as_bytes());
            if payload.len() <= COPIED_BYTES_MAX {
                group.buffer.extend_from_slice(payload);
            } else {
                group.pieces.push(Piece::Buffer(start..group.buffer.len()));
                group.pieces.push(Piece::Payload(index));
                start = group.buffer.len();
            }
            let unpadded = (FIXED_BYTES + frame.tenant.len() + payload.len()) as u64;
            group.buffer.resize(group.buffer.len() + (bytes - unpadded) as usize, 0);
            group.frames += 1;
            group.bytes += bytes;
        }
        group.pieces.push(Piece::Buffer(start..group.buffer.len()));
        Ok(group)
    }

    fn slices<'a>(&'a self, frames: &'a [(&Frame, &Bytes)]) -> Vec<IoSlice<'a>> {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Buffer(range) => IoSlice::new(&self.buffer[range.clone()]),
                Piece::Payload(index) => IoSlice::new(frames[*index].1),
            })
            .collect()
    }
}
