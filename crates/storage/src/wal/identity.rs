//! Whose log it is: the lock and the identity file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{IoSlice, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use spanlake_schema::Ambient;

use super::disk::{Disk, disk_error, write_all_at};
use super::segment::newer_version;
use super::{FORMAT_VERSION, LogOptions};
use crate::{Error, ErrorKind, Position, Result};

const FILE: &str = "identity";
const MAGIC: &str = "spanlake-write-ahead-log";

/// What ties a log to one store and one line of positions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The store's URL.
    pub store_url: String,
    /// `tenant/table` to the id in the table's Delta metadata.
    pub tables: BTreeMap<String, String>,
    /// 128 random bits, 32 hex digits: who commits.
    pub writer_id: String,
    /// The writer id before, while segments of it may be left.
    pub previous_writer_id: Option<String>,
    /// Grows each time the log is opened.
    pub epoch: u64,
    /// All frames up to here were committed when the identity was written; later ones may be.
    pub committed_position: Position,
    /// All frames up to here were durable when the identity was written; later ones may be.
    #[serde(default)]
    pub durable_position: Position,
    /// The sequence of the newest segment when the identity was written; 0: there was none.
    #[serde(default)]
    pub newest_sequence: u64,
    /// Who committed under this writer id: one entry for each opening that tables may still refer to, the present one last.
    #[serde(default)]
    pub epochs: Vec<Epoch>,
    /// What could not be read, the latest last. What is committed by now is kept for people, some of it.
    #[serde(default)]
    pub lost: Vec<Lost>,
    /// How many positions were ever lost.
    #[serde(default)]
    pub lost_positions_total: u64,
}

/// One opening of a log, as the tables know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// A positive number: the epoch, then 40 random bits. A copy of the log draws others when it is opened.
    pub nonce: i64,
    /// The log's end when the next opening began: nothing beyond it was committed by this one. `None` for the present one.
    pub last_position: Option<Position>,
}

/// Positions that had been durable and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The first of them.
    pub first: Position,
    /// The last of them.
    pub last: Position,
    /// Why.
    pub reason: LostReason,
    /// The segment's file name; where files are missing, the one before or after them.
    pub file: String,
    /// Where in the file the unreadable part begins.
    pub offset: u64,
    /// When it was noticed, nanoseconds since 1970-01-01.
    pub noticed_unix_nano: u64,
}

/// Why positions cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostReason {
    /// Their bytes are damaged.
    Damaged,
    /// Their files are gone.
    Missing,
}

/// Losses that are kept after they were committed past.
const LOST_MAX: usize = 100;

impl Identity {
    pub(super) fn new(options: &LogOptions) -> Self {
        Self {
            store_url: options.store_url.clone(),
            tables: BTreeMap::new(),
            writer_id: format!("{:032x}", options.ambient.random_u128()),
            previous_writer_id: None,
            epoch: 0,
            committed_position: 0,
            durable_position: 0,
            newest_sequence: 0,
            epochs: Vec::new(),
            lost: Vec::new(),
            lost_positions_total: 0,
        }
    }

    /// Begins to be used by one more process.
    pub(super) fn begin_epoch(&mut self, ambient: &dyn Ambient) {
        self.epoch += 1;
        // Grows with each epoch, as versions of application transactions should.
        let (high, low) = (self.epoch & ((1 << 23) - 1), ambient.random_u128() as u64 & ((1 << 40) - 1));
        self.epochs.push(Epoch { nonce: i64::try_from(high << 40 | low).unwrap_or(i64::MAX), last_position: None });
    }

    /// Notes where the log ended before the present epoch.
    pub(super) fn end_past_epochs(&mut self, last: Position) {
        if let Some((_, past)) = self.epochs.split_last_mut() {
            for epoch in past {
                epoch.last_position = epoch.last_position.or(Some(last));
            }
        }
    }

    /// Whether a loss of these positions was noted before.
    pub(super) fn knows_loss(&self, first: Position, last: Position) -> bool {
        self.lost.iter().any(|lost| lost.first <= first && last <= lost.last)
    }

    /// Notes a loss.
    pub(super) fn add_loss(&mut self, lost: Lost) {
        self.lost_positions_total += lost.last - lost.first + 1;
        self.lost.push(lost);
        let committed = self.committed_position;
        while self.lost.len() > LOST_MAX
            && let Some(oldest) = self.lost.iter().position(|lost| lost.last <= committed)
        {
            self.lost.remove(oldest);
        }
    }

    /// The identity in a log directory; `None` where the directory holds none yet.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let message = format!("cannot read write-ahead log identity {}", path.display());
                return Err(Error::new(ErrorKind::Retry, message).with_source(error));
            }
        };
        let corrupt = |what: String| {
            Error::new(ErrorKind::Corrupt, format!("write-ahead log identity {}: {what}", path.display()))
        };
        let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
        let mut words = head.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(corrupt(format!("does not begin with {MAGIC}")));
        }
        let version: u32 = words
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| corrupt("names no format version".to_owned()))?;
        if version > FORMAT_VERSION {
            return Err(newer_version(&path, version));
        }
        let crc = words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
        if crc != Some(crc32c::crc32c(body.as_bytes())) {
            return Err(corrupt("its checksum does not match".to_owned()));
        }
        let identity = serde_json::from_str(body).map_err(|error| corrupt(error.to_string()))?;
        Ok(Some(identity))
    }

    /// Replaces the identity of a log directory, durably and whole.
    pub(super) fn save(&self, dir: &Path, disk: &dyn Disk) -> Result<()> {
        let body = serde_json::to_string_pretty(self).map_err(|error| {
            Error::new(ErrorKind::Invalid, "cannot write the write-ahead log's identity as json").with_source(error)
        })?;
        let text = format!("{MAGIC} {FORMAT_VERSION} {:08x}\n{body}", crc32c::crc32c(body.as_bytes()));
        let fresh = dir.join("identity.new");
        let write = || {
            let mut file = disk.create(&fresh, 0)?;
            write_all_at(file.as_mut(), &mut [IoSlice::new(text.as_bytes())], 0)?;
            file.sync()?;
            disk.rename(&fresh, &dir.join(FILE))?;
            disk.sync_dir(dir)
        };
        write().map_err(|error| disk_error("write the identity", &dir.join(FILE), error))
    }

    /// Notes which Delta table a name stands for, or finds that the log is another table's.
    pub(super) fn bind(&mut self, dir: &Path, table: &str, id: &str) -> Result<()> {
        match self.tables.get(table) {
            None => {
                self.tables.insert(table.to_owned(), id.to_owned());
                Ok(())
            }
            Some(known) if known == id => Ok(()),
            Some(known) => {
                let message = format!(
                    "write-ahead log {} belongs to table {table} with id {known}, the store {} has one with id {id}: \
                     give the log its own store, or move the log directory away to begin a new one",
                    dir.display(),
                    self.store_url
                );
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }

    /// The writer id as a number, for checksums.
    pub(super) fn writer_number(&self) -> Result<u128> {
        parse_writer_id(&self.writer_id)
    }

    /// The writer id before, as a number.
    pub(super) fn previous_writer_number(&self) -> Result<Option<u128>> {
        self.previous_writer_id.as_deref().map(parse_writer_id).transpose()
    }
}

fn parse_writer_id(text: &str) -> Result<u128> {
    u128::from_str_radix(text, 16).map_err(|error| {
        let message = format!("write-ahead log identity: writer id {text} is not a hexadecimal number");
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })
}

/// Held while a process has the log open. The operating system lets it go when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing the file is what lets the lock go")] File);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let failed = |error: std::io::Error| {
            let message = format!("cannot lock write-ahead log directory {}", dir.display());
            Error::new(ErrorKind::Invalid, message).with_source(error)
        };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The holder may not have written its id yet; the lock is what counts.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                let message = format!(
                    "write-ahead log directory {} is in use by process {holder}: stop it, or give this one another \
                     wal_dir",
                    dir.display()
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Only for people; the disk may be full.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}
