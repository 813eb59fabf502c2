//! Which requests were answered, for the time after their frames have left the log.
//!
//! As long as a frame is in the log, reading the log tells that its request was answered. Before a segment is given up,
//! the digests of its young requests go to the file `retries` beside it:
//!
//! | offset | bytes | header | | bytes | record |
//! |---|---|---|---|---|---|
//! | 0 | 8 | magic `SPANLKRT` | 0 | 16 | digest |
//! | 8 | 4 | format version | 16 | 8 | arrival time, nanoseconds since 1970-01-01 |
//! | 12 | 4 | zero | 24 | 4 | zero |
//! | 16 | 8 | seed of all digests | 28 | 4 | CRC-32C of the bytes 0..28, seeded with the header's |
//! | 24 | 4 | CRC-32C of the bytes 0..24 | | | |
//! | 28 | 4 | zero | | | |
//!
//! Numbers are little-endian. The file is a convenience for senders, not a promise about rows: whatever in it cannot be read
//! is told and left out, and never keeps a log from opening.

use std::io::{self, IoSlice, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spanlake_schema::Ambient;

use super::disk::{Disk, DiskFile, is_full, write_all_at};
use super::frame::{u32_at, u64_at};
use crate::{Error, ErrorKind, Result};

const FILE: &str = "retries";
const MAGIC: [u8; 8] = *b"SPANLKRT";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
pub(crate) const RECORD_BYTES: usize = 32;
/// No file is read beyond this, however it came to be so long.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// One answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) digest: u128,
    pub(crate) received_unix_nano: u64,
}

/// The file, open for writing.
#[derive(Debug)]
pub(crate) struct RetryFile {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    seed: u64,
    /// Nothing where the disk was full when it was to be written anew: what an earlier process left is still there, and the
    /// next records bring those that are to be kept with them.
    file: Option<Box<dyn DiskFile>>,
    kept: Vec<Answered>,
    /// Records in the file, those too old among them.
    records: usize,
}

impl RetryFile {
    /// Reads what an earlier process left in a log directory, keeps what `keep` says, and writes it anew. The caller
    /// holds the directory's lock. A full disk is no reason not to start: what is committed then frees space.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`] where the file cannot be written though there is space.
    pub(crate) fn open(
        dir: &Path,
        disk: &Arc<dyn Disk>,
        ambient: &dyn Ambient,
        keep: impl Fn(&Answered) -> bool,
    ) -> Result<(Self, Vec<Answered>)> {
        let (seed, mut answered) = match read(dir) {
            Some(found) => found,
            None => (ambient.random_u128() as u64, Vec::new()),
        };
        answered.retain(keep);
        let (file, kept) = match write(dir, disk.as_ref(), seed, &answered) {
            Ok(file) => (Some(file), Vec::new()),
            Err(error) if is_full(&error) => (None, answered.clone()),
            Err(error) => return Err(failed(dir, error)),
        };
        let records = answered.len();
        Ok((Self { dir: dir.to_path_buf(), disk: Arc::clone(disk), seed, file, kept, records }, answered))
    }

    /// What seeds the digests: as secret as the log.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Records in the file.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Adds records and syncs them.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`]; none of them counts as written then.
    pub(crate) fn append(&mut self, answered: &[Answered]) -> Result<()> {
        let Some(file) = &mut self.file else {
            let all = [&self.kept, answered].concat();
            return self.replace(&all);
        };
        let bytes = encode_records(self.seed, answered);
        let offset = (HEADER_BYTES + self.records * RECORD_BYTES) as u64;
        write_all_at(file.as_mut(), &mut [IoSlice::new(&bytes)], offset)
            .and_then(|()| file.sync())
            .map_err(|error| failed(&self.dir, error))?;
        self.records += answered.len();
        Ok(())
    }

    /// Writes the file anew with these records and no others.
    ///
    /// # Errors
    /// [`ErrorKind::Retry`]; the file is then as it was.
    pub(crate) fn replace(&mut self, answered: &[Answered]) -> Result<()> {
        let written = write(&self.dir, self.disk.as_ref(), self.seed, answered);
        self.file = Some(written.map_err(|error| failed(&self.dir, error))?);
        self.kept = Vec::new();
        self.records = answered.len();
        Ok(())
    }
}

fn failed(dir: &Path, error: io::Error) -> Error {
    let full = if is_full(&error) { "the disk of the write-ahead log is full, free some space: " } else { "" };
    let message = format!("{full}cannot write the file of answered requests {}", dir.join(FILE).display());
    Error::new(ErrorKind::Retry, message).with_source(error)
}

/// Whole and durable, or not at all.
fn write(dir: &Path, disk: &dyn Disk, seed: u64, answered: &[Answered]) -> io::Result<Box<dyn DiskFile>> {
    let fresh = dir.join("retries.new");
    let mut file = disk.create(&fresh, 0)?;
    let header = encode_header(seed);
    let records = encode_records(seed, answered);
    write_all_at(file.as_mut(), &mut [IoSlice::new(&header), IoSlice::new(&records)], 0)?;
    file.sync()?;
    disk.rename(&fresh, &dir.join(FILE))?;
    disk.sync_dir(dir)?;
    Ok(file)
}

fn encode_header(seed: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&seed.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn encode_records(seed: u64, answered: &[Answered]) -> Vec<u8> {
    let salt = u32_at(&encode_header(seed), 24);
    let mut bytes = Vec::with_capacity(answered.len() * RECORD_BYTES);
    for one in answered {
        let mut record = [0; RECORD_BYTES];
        record[..16].copy_from_slice(&one.digest.to_le_bytes());
        record[16..24].copy_from_slice(&one.received_unix_nano.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &record[..28]);
        record[28..].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&record);
    }
    bytes
}

/// Seed and records, where there is a file with a header of this version.
fn read(dir: &Path) -> Option<(u64, Vec<Answered>)> {
    let path = dir.join(FILE);
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(&path);
    match opened.and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "cannot read which requests were answered: those whose frames have left the log are stored again if they are repeated");
            return None;
        }
    }
    let is_ours = bytes.len() >= HEADER_BYTES
        && bytes[..8] == MAGIC
        && u32_at(&bytes, 8) == VERSION
        && crc32c::crc32c(&bytes[..24]) == u32_at(&bytes, 24);
    if !is_ours {
        tracing::warn!(file = %path.display(), "the file of answered requests has a damaged or unknown header and is begun anew: requests whose frames have left the log are stored again if they are repeated");
        return None;
    }
    let (seed, salt) = (u64_at(&bytes, 16), u32_at(&bytes, 24));
    let records = &bytes[HEADER_BYTES..];
    let whole = records.chunks_exact(RECORD_BYTES);
    let torn_bytes = whole.remainder().len();
    let count = whole.len();
    let answered: Vec<_> = whole.filter_map(|record| decode_record(record, salt)).collect();
    if torn_bytes > 0 || answered.len() < count {
        let damaged = count - answered.len();
        tracing::warn!(file = %path.display(), damaged, torn_bytes, "the file of answered requests is damaged: what cannot be read is left out");
    }
    Some((seed, answered))
}

fn decode_record(record: &[u8], salt: u32) -> Option<Answered> {
    if crc32c::crc32c_append(salt, &record[..28]) != u32_at(record, 28) {
        return None;
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&record[..16]);
    Some(Answered { digest: u128::from_le_bytes(digest), received_unix_nano: u64_at(record, 16) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use spanlake_testkit::ManualAmbient;
    use tempfile::TempDir;

    use super::super::LocalDisk;
    use super::super::faulty_disk::FaultyDisk;
    use super::*;

    fn answered(count: u64) -> Vec<Answered> {
        (0..count).map(|n| Answered { digest: u128::from(n) << 77 | 5, received_unix_nano: n * 10 }).collect()
    }

    fn open(dir: &Path, seed: u64) -> (RetryFile, Vec<Answered>) {
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
        RetryFile::open(dir, &disk, &ManualAmbient::new(seed), |_| true).unwrap()
    }

    #[test]
    fn what_was_appended_and_replaced_is_read_back_under_the_same_seed() {
        let dir = TempDir::new().unwrap();
        let (mut file, none) = open(dir.path(), 1);
        assert!(none.is_empty());
        file.append(&answered(3)).unwrap();
        file.append(&answered(2)).unwrap();
        let seed = file.seed();
        drop(file);
        let (mut file, read) = open(dir.path(), 2);
        assert_eq!((file.seed(), file.records()), (seed, 5));
        assert_eq!(read, [answered(3), answered(2)].concat());
        file.replace(&answered(1)).unwrap();
        file.append(&answered(2)).unwrap();
        drop(file);
        let (file, read) = open(dir.path(), 3);
        assert_eq!((file.seed(), read), (seed, [answered(1), answered(2)].concat()));
    }

    /// Guarantee: on a full disk it opens with what it has, which stays there; once there is space, all of it is written anew.
    #[test]
    fn a_full_disk_does_not_keep_it_from_opening() {
        let dir = TempDir::new().unwrap();
        let (mut file, _) = open(dir.path(), 1);
        file.append(&answered(3)).unwrap();
        let seed = file.seed();
        drop(file);
        let faulty = Arc::new(FaultyDisk::default());
        faulty.create_fails.store(true, Ordering::SeqCst);
        let disk: Arc<dyn Disk> = Arc::<FaultyDisk>::clone(&faulty);
        let (mut file, read) = RetryFile::open(dir.path(), &disk, &ManualAmbient::new(2), |_| true).unwrap();
        assert_eq!((file.seed(), read), (seed, answered(3)));
        let error = file.append(&answered(2)).unwrap_err();
        assert!(error.to_string().starts_with("the disk of the write-ahead log is full, free some space: "), "{error}");
        assert_eq!(open(dir.path(), 3).1, answered(3));
        faulty.create_fails.store(false, Ordering::SeqCst);
        file.append(&answered(2)).unwrap();
        file.append(&answered(1)).unwrap();
        drop(file);
        let (file, read) = open(dir.path(), 4);
        assert_eq!((file.seed(), read), (seed, [answered(3), answered(2), answered(1)].concat()));
    }

    /// Guarantee: wherever the file is cut, the whole records before the cut are read; whichever byte is damaged, at most one
    /// record, or with the header all of them, is lost. It always opens and takes further records.
    #[test]
    fn a_torn_or_damaged_file_opens_without_what_cannot_be_read() {
        let origin = TempDir::new().unwrap();
        let (mut file, _) = open(origin.path(), 1);
        file.append(&answered(2)).unwrap();
        drop(file);
        let bytes = std::fs::read(origin.path().join(FILE)).unwrap();
        assert_eq!(bytes.len(), HEADER_BYTES + 2 * RECORD_BYTES);
        let reopened = |bytes: &[u8]| {
            let dir = TempDir::new().unwrap();
            std::fs::write(dir.path().join(FILE), bytes).unwrap();
            let (mut file, read) = open(dir.path(), 2);
            if bytes.len().is_multiple_of(16) {
                file.append(&answered(1)).unwrap();
                drop(file);
                assert_eq!(open(dir.path(), 3).1, [read.clone(), answered(1)].concat());
            }
            read
        };
        for cut in 0..bytes.len() {
            let whole = cut.saturating_sub(HEADER_BYTES) / RECORD_BYTES;
            assert_eq!(reopened(&bytes[..cut]), answered(2)[..whole], "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            let read = reopened(&damaged);
            match at.checked_sub(HEADER_BYTES) {
                // The last four bytes of the header say nothing.
                None if at >= 28 => assert_eq!(read.len(), 2),
                None => assert!(read.is_empty(), "damaged at {at}"),
                Some(at) => {
                    let mut rest = answered(2);
                    rest.remove(at / RECORD_BYTES);
                    assert_eq!(read, rest, "damaged at {at}");
                }
            }
        }
    }
}
