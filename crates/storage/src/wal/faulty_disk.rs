//! A file system that fails when a test tells it to.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Disk, DiskFile, LocalDisk};

/// A disk whose next calls fail, and whose writes are short.
#[derive(Debug, Default)]
pub(crate) struct FaultyDisk {
    /// The next sync fails.
    pub(crate) sync_fails: Arc<AtomicBool>,
    /// As long as it is set, no sync of the file `retries` succeeds.
    pub(crate) retries_fail: Arc<AtomicBool>,
    /// No file can be made.
    pub(crate) create_fails: AtomicBool,
    /// Writes come out this short; 0: as they come.
    pub(crate) write_bytes_max: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    sync_fails: Arc<AtomicBool>,
    retries_fail: Option<Arc<AtomicBool>>,
    write_bytes_max: Arc<AtomicUsize>,
}

impl FaultyDisk {
    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let (sync_fails, write_bytes_max) = (Arc::clone(&self.sync_fails), Arc::clone(&self.write_bytes_max));
        let holds_retries = path.to_string_lossy().contains("retries");
        let retries_fail = holds_retries.then(|| Arc::clone(&self.retries_fail));
        Box::new(FaultyFile { file, sync_fails, retries_fail, write_bytes_max })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        if self.create_fails.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(self.wrap(path, LocalDisk.create(path, bytes)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, LocalDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        LocalDisk.sync_dir(dir)
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let most = self.write_bytes_max.load(Ordering::SeqCst);
        match slices.first() {
            Some(slice) if most > 0 => self.file.write_at(&[IoSlice::new(&slice[..slice.len().min(most)])], offset),
            _ => self.file.write_at(slices, offset),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let fails_on = self.retries_fail.as_ref().is_some_and(|fails| fails.load(Ordering::SeqCst));
        if fails_on || self.sync_fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("injected sync failure"));
        }
        self.file.sync()
    }

    fn truncate(&mut self, _bytes: u64) -> io::Result<()> {
        // A disk that cannot sync need not truncate either.
        Err(io::Error::other("injected truncation failure"))
    }
}
