//! Reading a log that an earlier process left, and deciding where it ends.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use spanlake_schema::Ambient;

use super::disk::is_full;
use super::frame::Salt;
use super::identity::{Identity, Lock, Lost, LostReason};
use super::log::{Extents, Log, Retired};
use super::reader::{Bound, SegmentReader, read_error};
use super::segment::{Listing, SegmentFile, damaged_path, list};
use super::{LocalDisk, LogOptions};
use crate::{Error, ErrorKind, Frame, Position, Result};

/// Gives up positions whose files are missing, so that the log opens again. Returns what is lost by that.
///
/// # Errors
/// As of [`LogAtRest::open`] and [`Replay::next_frame`]; [`ErrorKind::Invalid`] where the directory holds no log.
pub fn give_up(dir: &Path, ambient: Arc<dyn Ambient>, positions: (Position, Position)) -> Result<Vec<Lost>> {
    let Some(identity) = Identity::load(dir)? else {
        let message = format!("{} is no write-ahead log directory: it has no file named identity", dir.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    let options = LogOptions {
        dir: dir.to_path_buf(),
        store_url: identity.store_url,
        segment_bytes: LogOptions::DEFAULT_SEGMENT_BYTES,
        ambient,
        disk: Arc::new(LocalDisk),
    };
    let mut replay = LogAtRest::open(options)?.replay()?;
    replay.give_up(positions.0, positions.1);
    let log = replay.finish()?;
    let known = identity.lost;
    Ok(log.identity().lost.iter().filter(|lost| !known.contains(lost)).cloned().collect())
}

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

/// Reads the frames of a log in order. Nothing is skipped silently: where frames that had been durable are damaged, what is
/// readable behind them follows, their positions are noted in [`Identity::lost`] and an error is logged; where whole files
/// are missing, [`Replay::next_frame`] is [`ErrorKind::Corrupt`] until somebody has given their positions up.
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
    /// Up to here all frames are committed for certain.
    committed: Position,
    /// Each segment that is read to its end.
    ended: Vec<Ended>,
    extents: Extents,
    /// Missing positions that somebody has given up.
    given_up: Option<(Position, Position)>,
    /// Whether the identity could be written when the epoch began.
    is_saved: bool,
    lost_before: Vec<Lost>,
}

/// A segment that is read to its end.
#[derive(Clone, Copy, Debug)]
struct Ended {
    last_position: Position,
    is_damaged: bool,
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
        let before = self.identity.clone();
        self.identity.begin_epoch(self.options.ambient.as_ref());
        self.identity.store_url.clone_from(&self.options.store_url);
        let is_saved = match self.identity.save(&self.options.dir, self.options.disk.as_ref()) {
            Ok(()) => true,
            // What is committed frees space, so that it must be possible to commit.
            Err(error) if before.epoch > 0 && is_disk_full(&error) => {
                tracing::error!(%error, "the write-ahead log is opened all the same, and takes no requests until then");
                self.identity = before;
                false
            }
            Err(error) => return Err(error),
        };
        self.remove_leftovers(&mut listing)?;
        let committed = self.identity.committed_position.max(listing.committed.unwrap_or(0));
        let first = listing.segments.first().and_then(SegmentFile::first_position);
        // A log that a version before has left does not tell what it has freed.
        let next = first.filter(|first| listing.committed.is_none() || *first <= committed).unwrap_or(committed + 1);
        let lost_before = self.identity.lost.clone();
        Ok(Replay {
            options: self.options,
            identity: self.identity,
            lock: self.lock,
            listing,
            index: 0,
            reader: None,
            next,
            committed,
            ended: Vec::new(),
            extents: Extents::default(),
            given_up: None,
            is_saved,
            lost_before,
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
            let Ok(header) = &segment.header else { continue };
            if Some(header.writer_id) == previous {
                let is_damaged = self.identity.lost.iter().any(|lost| lost.file == segment.name());
                if is_damaged { self.keep_damaged(segment)? } else { remove(&segment.path)? }
            } else if header.writer_id != writer {
                let message = format!(
                    "write-ahead log segment {} was written under writer id {:032x}, the log's is {}: it was put here \
                     from another log, move it away",
                    segment.path.display(),
                    header.writer_id,
                    self.identity.writer_id
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        let is_ours = |segment: &SegmentFile| segment.header.as_ref().map_or(true, |header| header.writer_id == writer);
        listing.segments.retain(is_ours);
        for (path, _) in listing.spares.iter().filter(|(_, bytes)| *bytes != self.options.segment_bytes) {
            remove(path)?;
        }
        listing.spares.retain(|(_, bytes)| *bytes == self.options.segment_bytes);
        Ok(())
    }

    fn keep_damaged(&self, segment: &SegmentFile) -> Result<()> {
        let kept = damaged_path(&self.options.dir, segment.sequence);
        self.options.disk.rename(&segment.path, &kept).map_err(|error| {
            let message = format!("cannot rename write-ahead log segment {}", segment.path.display());
            Error::new(ErrorKind::Retry, message).with_source(error)
        })
    }
}

impl Replay {
    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Lets these positions be missing, where their files are.
    pub fn give_up(&mut self, first: Position, last: Position) {
        self.given_up = Some((first, last));
    }

    /// The next frame; `None` at the log's end.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where files with frames that had been durable are missing.
    pub fn next_frame(&mut self) -> Result<Option<Logged>> {
        while let Some(segment) = self.listing.segments.get(self.index).cloned() {
            let bound = self.bound();
            if bound.before.is_some_and(|before| before <= self.next) {
                self.end_segment(false);
                continue;
            }
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => self.open_segment(&segment)?,
            };
            let broken_at = reader.offset;
            let Some(found) = reader.next(self.next, bound)? else {
                let is_damaged = self.finish_segment(&reader, bound)?;
                self.end_segment(is_damaged);
                continue;
            };
            let logged = found.logged;
            if logged.position > self.next {
                self.lose(logged.position - 1, LostReason::Damaged, &segment, broken_at)?;
            }
            self.reader = Some(reader);
            self.next = logged.position + 1;
            if logged.position > self.identity.committed_position {
                self.extents.add(logged.position, found.bytes);
            }
            return Ok(Some(logged));
        }
        let durable = self.identity.durable_position;
        if durable >= self.next {
            self.lose_missing(durable, None, None)?;
        }
        Ok(None)
    }

    /// What the segments behind the present one say about it.
    fn bound(&self) -> Bound {
        let later = self.listing.segments.get(self.index + 1..).unwrap_or_default();
        Bound {
            before: later.iter().find_map(SegmentFile::first_position),
            is_last: later.is_empty(),
            durable: self.identity.durable_position,
        }
    }

    /// Opens a segment to read from its beginning. It may begin behind the position that is due.
    fn open_segment(&mut self, segment: &SegmentFile) -> Result<SegmentReader> {
        let writer = self.identity.writer_number()?;
        let salts = match &segment.header {
            Ok(header) => {
                let first = header.first_position;
                let previous = self.index.checked_sub(1).and_then(|index| self.listing.segments.get(index)).cloned();
                if first < self.next && previous.is_some() {
                    let message = format!(
                        "write-ahead log segment {} begins with frame {first}, the one before it ends with frame {}: it was \
                         put here from elsewhere, move it away",
                        segment.path.display(),
                        self.next - 1
                    );
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                if first > self.next {
                    self.lose_missing(first - 1, previous.as_ref(), Some(segment))?;
                }
                vec![header.salt()]
            }
            Err(problem) => {
                tracing::error!(file = %segment.path.display(), problem, "looking for frames behind a damaged header");
                (0..=self.identity.epoch).map(|epoch| Salt::new(writer, epoch, segment.sequence)).collect()
            }
        };
        SegmentReader::open(segment, salts)
    }

    fn end_segment(&mut self, is_damaged: bool) {
        let name = self.listing.segments[self.index].name();
        let is_damaged = is_damaged
            || self.listing.segments[self.index].header.is_err()
            || self.identity.lost.iter().any(|lost| lost.reason == LostReason::Damaged && lost.file == name);
        self.ended.push(Ended { last_position: self.next - 1, is_damaged });
        self.reader = None;
        self.index += 1;
    }

    /// No more frame of a segment counts. Says whether some of them are lost.
    fn finish_segment(&mut self, reader: &SegmentReader, bound: Bound) -> Result<bool> {
        let segment = &reader.segment;
        let following = self.listing.segments.get(self.index + 1).cloned();
        if let Some(following) = following {
            // Sequences without gaps: no file is missing.
            if let Some(first) = following.first_position()
                && following.sequence == segment.sequence + 1
                && first > self.next
            {
                self.lose(first - 1, LostReason::Damaged, segment, reader.offset)?;
                return Ok(true);
            }
            return Ok(false);
        }
        let is_newest = segment.sequence >= self.identity.newest_sequence;
        let durable = reader.durable().max(if is_newest { bound.durable } else { 0 });
        if durable >= self.next {
            self.lose(durable, LostReason::Damaged, segment, reader.offset)?;
            return Ok(true);
        }
        self.cut(reader)?;
        Ok(false)
    }

    /// The last segment's frames end here: cuts what a torn write left behind.
    fn cut(&self, reader: &SegmentReader) -> Result<()> {
        let torn_bytes = reader.torn_bytes();
        let (path, offset) = (&reader.segment.path, reader.offset);
        if torn_bytes > 0 {
            tracing::warn!(
                file = %path.display(), offset, bytes = torn_bytes, position = self.next,
                "torn tail of the write-ahead log cut: nothing says that its requests were acknowledged"
            );
        }
        let name = reader.segment.name();
        let is_damaged = reader.segment.header.is_err() || self.identity.lost.iter().any(|lost| lost.file == name);
        if reader.segment.bytes > offset && !is_damaged {
            let truncate = || {
                let mut file = self.options.disk.open(path)?;
                file.truncate(offset)?;
                file.sync()
            };
            truncate().map_err(|error: std::io::Error| read_error(path, offset, error))?;
        }
        Ok(())
    }

    /// Frames up to `last` are nowhere, since a file is missing. Whoever removed it may be able to put it back.
    fn lose_missing(
        &mut self,
        last: Position,
        before: Option<&SegmentFile>,
        after: Option<&SegmentFile>,
    ) -> Result<()> {
        let first = self.next.max(self.committed + 1);
        let is_known = self.identity.knows_loss(first, last);
        let is_given_up = self.given_up.is_some_and(|(from, to)| from <= first && last <= to);
        if first <= last && !is_known && !is_given_up {
            let place = match (before.or(self.listing.segments.last()), after) {
                (Some(before), Some(after)) => format!("between {} and {}", before.name(), after.name()),
                (None, Some(after)) => format!("before {}", after.name()),
                (Some(before), None) => format!("after {}", before.name()),
                (None, None) => "of all segments".to_owned(),
            };
            let dir = self.options.dir.display();
            let message = format!(
                "write-ahead log {dir}: the requests at positions {first} to {last} are missing, segment files {place} are \
                 gone: put the files back, or give these requests up with `spanlake wal give-up --wal-dir {dir} --positions \
                 {first}-{last}`"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let none = SegmentFile { path: self.options.dir.clone(), sequence: 0, header: Err(String::new()), bytes: 0 };
        let beside = before.or(after).cloned().unwrap_or(none);
        self.lose(last, LostReason::Missing, &beside, beside.bytes)
    }

    /// Goes on behind `last`. What is not committed up to there is lost.
    fn lose(&mut self, last: Position, reason: LostReason, segment: &SegmentFile, offset: u64) -> Result<()> {
        let first = self.next.max(self.committed + 1);
        self.next = last + 1;
        if first > last {
            return Ok(());
        }
        let file = segment.name();
        if self.identity.knows_loss(first, last) {
            tracing::info!(file, first, last, "these requests of the write-ahead log are known to be lost");
            return Ok(());
        }
        let dir = self.options.dir.display();
        tracing::error!(
            file,
            offset,
            first,
            last,
            ?reason,
            "the write-ahead log is damaged: the requests at these positions are lost, all others are replayed; what is \
             left of the file is kept: see `spanlake wal inspect --wal-dir {dir}`"
        );
        let noticed_unix_nano = self.options.ambient.now_unix_nano();
        self.identity.add_loss(Lost { first, last, reason, file, offset, noticed_unix_nano });
        Ok(())
    }

    /// Reads what is left of the log and opens it for writing.
    pub fn finish(mut self) -> Result<Log> {
        while self.next_frame()?.is_some() {}
        let last = (self.next - 1).max(self.committed);
        let newest = self.listing.segments.last().map_or(0, |segment| segment.sequence);
        self.identity.durable_position = last;
        self.identity.newest_sequence = newest;
        self.identity.committed_position = self.committed;
        // From here on frames may be freed, so that what was lost has to be written down.
        self.identity.end_past_epochs(last);
        let is_saved = match self.identity.save(&self.options.dir, self.options.disk.as_ref()) {
            Ok(()) => self.is_saved,
            Err(error) if self.identity.lost == self.lost_before && is_disk_full(&error) => false,
            Err(error) => return Err(error),
        };
        let retired = self.listing.segments.iter().zip(&self.ended).map(|(segment, ended)| Retired {
            path: segment.path.clone(),
            sequence: segment.sequence,
            last_position: ended.last_position,
            is_damaged: ended.is_damaged,
            recyclable: segment.bytes == self.options.segment_bytes && !ended.is_damaged,
        });
        let mut retired: std::collections::VecDeque<_> = retired.collect();
        if let Some(last) = retired.back_mut() {
            // It was cut to its frames' length.
            last.recyclable = false;
        }
        Ok(Log {
            writer_number: self.identity.writer_number()?,
            last,
            sequence: self.listing.sequence,
            retired,
            spares: self.listing.spares.into_iter().map(|(path, _)| path).collect(),
            extents: self.extents,
            active: None,
            is_identity_saved: is_saved,
            is_marked: true,
            committed: self.listing.committed,
            options: self.options,
            identity: self.identity,
            _lock: self.lock,
        })
    }
}

/// Whether an error of the log's disk is that there is no space.
fn is_disk_full(error: &Error) -> bool {
    std::error::Error::source(error).and_then(|source| source.downcast_ref()).is_some_and(is_full)
}
