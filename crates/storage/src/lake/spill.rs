//! Spilled parts: hot rows beyond their share of memory, as Parquet files beside the log.
//!
//! How long the store may be away is thereby set by the log's limit instead of by memory. A file holds what a commit will
//! add, in the encoding of a segment, so that it is queried like one and uploaded as it is. It is a cache and never
//! synced: the log holds its rows until their commit, and a start empties the directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use super::Shared;
use super::budget::{Budget, Reservation};
use super::hot::SpillRun;
use crate::promotion::Survey;
use crate::{AddFile, Error, ErrorKind, Position, PromotionList, Result, Segment, Table, segment};

/// The directory's name inside of the log's.
const DIRECTORY: &str = "spill";
/// Waits after failures, such as a full disk: each try encodes rows anew.
const BACK_OFF_FIRST: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Where spilled rows lie, and how many bytes of them there may be.
#[derive(Debug)]
pub(super) struct SpillDirectory {
    path: PathBuf,
    objects: Arc<dyn ObjectStore>,
    budget: Arc<Budget>,
}

/// The rows of one table from one position to another, in one file a day.
#[derive(Debug)]
pub(super) struct SpilledPart {
    pub(super) first: Position,
    pub(super) last: Position,
    pub(super) rows: u64,
    pub(super) files: Vec<Arc<SpilledSegment>>,
    /// What the rows have of attributes that are wanted in columns.
    survey: Survey,
}

/// One file of spilled rows, all of one day. It lives as long as anyone holds this.
#[derive(Debug)]
pub struct SpilledSegment {
    segment: Arc<Segment>,
    directory: Arc<SpillDirectory>,
    /// Its path below the table, once it is committed.
    target: String,
    crc32c: u32,
    _reserved: Reservation,
}

impl SpilledSegment {
    /// The segment. Its path is relative to [`SpilledSegment::object_store`].
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The directory as a store. All spilled segments of a lake share one.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.directory.objects)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Uploads the file to its table.
    async fn upload(self: Arc<Self>, table: &Table) -> Result<AddFile> {
        let this = Arc::clone(&self);
        let bytes = blocking(move || this.read()).await?;
        let mut segment = self.segment.as_ref().clone();
        segment.path.clone_from(&self.target);
        segment.modification_time_ms = table.store().ambient().now_unix_micro() / 1_000;
        segment::upload(table, &segment.path, vec![bytes]).await?;
        Ok(AddFile { segment })
    }

    /// The file's bytes, which are known to be those that were written: after the commit there is no other copy.
    fn read(&self) -> Result<Bytes> {
        let path = self.directory.path.join(&self.segment.path);
        let bytes = std::fs::read(&path).map_err(|error| {
            Error::new(ErrorKind::Retry, format!("cannot read spill file {}", path.display())).with_source(error)
        })?;
        if bytes.len() as u64 != self.segment.size_bytes || crc32c::crc32c(&bytes) != self.crc32c {
            let what = format!(
                "spill file {} is not as it was written: its rows are still in the write-ahead log, a restart reads them \
                 from there",
                path.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(Bytes::from(bytes))
    }
}

impl Drop for SpilledSegment {
    fn drop(&mut self) {
        let path = self.directory.path.join(&self.segment.path);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove a spill file; the next start will");
        }
    }
}

impl SpilledPart {
    /// What the rows have of attributes that are wanted in columns. The files hold the columns that there were when they were
    /// written.
    pub(super) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Uploads the files to their table.
    pub(super) async fn upload(&self, table: &Table) -> Result<Vec<AddFile>> {
        let mut adds = Vec::with_capacity(self.files.len());
        for file in &self.files {
            adds.push(Arc::clone(file).upload(table).await?);
        }
        Ok(adds)
    }
}

impl SpillDirectory {
    /// Makes the directory inside of the log's, whose lock is held, and removes what an earlier process left there.
    pub(super) fn open(wal_dir: &Path, limit_bytes: u64) -> Result<Arc<Self>> {
        let path = wal_dir.join(DIRECTORY);
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Retry, format!("cannot empty spill directory {}", path.display())).with_source(error)
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            match std::fs::remove_file(entry.map_err(failed)?.path()) {
                // A view of an earlier lake of this process may have held it, and has let go.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(failed)?,
            }
        }
        let objects = LocalFileSystem::new_with_prefix(&path).map_err(|error| {
            Error::new(ErrorKind::Retry, format!("cannot open spill directory {}", path.display())).with_source(error)
        })?;
        let budget = Budget::new("the directory of spilled rows", limit_bytes);
        Ok(Arc::new(Self { path, objects: Arc::new(objects), budget }))
    }

    /// Bytes of all files.
    pub(super) fn used_bytes(&self) -> u64 {
        self.budget.used_bytes()
    }

    /// Where files are at their limit already, nothing is encoded in vain.
    fn check_room(&self) -> Result<()> {
        self.budget.reserve(1).map(drop)
    }

    /// CPU work and I/O: encodes the rows and writes their files, a day at a time.
    fn write(self: &Arc<Self>, table: &Table, list: &PromotionList, run: &SpillRun, name: &str) -> Result<SpilledPart> {
        let (spec, promoted) = (table.spec(), Arc::clone(&table.snapshot().promoted));
        let batches: Vec<_> = run.batches.iter().map(|hot| hot.batch.clone()).collect();
        let survey = Survey::of(spec, list, &promoted, &batches)?;
        let days = segment::split_by_date(spec, &batches)?;
        drop(batches);
        let mut files = Vec::with_capacity(days.len());
        for (number, (date, batches)) in days.into_iter().enumerate() {
            let encoded = segment::encode_with(spec, &promoted, &batches)?;
            let target = segment::path(date, name, number);
            let bytes = encoded.to_bytes();
            let segment = Segment {
                path: format!("{}-{name}-{number}.zstd.parquet", run.table),
                size_bytes: bytes.len() as u64,
                date: Some(date),
                modification_time_ms: 0,
                stats: Some(Arc::new(encoded.stats)),
                promoted: segment::promoted_names(&promoted),
            };
            files.push(Arc::new(self.put(segment, target, &bytes)?));
        }
        let (first, last) = run.positions();
        Ok(SpilledPart { first, last, rows: run.rows(), files, survey })
    }

    fn put(self: &Arc<Self>, segment: Segment, target: String, bytes: &Bytes) -> Result<SpilledSegment> {
        let reserved = self.budget.reserve(segment.size_bytes)?;
        let path = self.path.join(&segment.path);
        if let Err(error) = std::fs::write(&path, bytes) {
            // Of a file that could not be made there is nothing to remove.
            let _ = std::fs::remove_file(&path);
            let message = format!("cannot write spill file {}", path.display());
            return Err(Error::new(ErrorKind::Retry, message).with_source(error));
        }
        let (directory, crc32c) = (Arc::clone(self), crc32c::crc32c(bytes));
        Ok(SpilledSegment { segment: Arc::new(segment), directory, target, crc32c, _reserved: reserved })
    }
}

/// Spills whenever memory asks for it.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        shared.spill_wanted.notified().await;
        let mut wait = BACK_OFF_FIRST;
        while let Err(error) = make_room(&shared).await {
            tracing::warn!(
                %error, ?wait,
                "cannot spill hot rows, they stay in memory: at its limit senders are pushed back until the store or the \
                 disk takes some"
            );
            tokio::time::sleep(wait).await;
            wait = BACK_OFF_MAX.min(wait * 2);
        }
    }
}

/// Spills until memory asks for no more, or has nothing more to give.
///
/// # Errors
/// [`ErrorKind::Full`] where the directory is at its limit, [`ErrorKind::Retry`] where the disk refuses. The rows stay in
/// memory.
pub(super) async fn make_room(shared: &Arc<Shared>) -> Result<()> {
    while let Some(run) = shared.hot.next_spill() {
        spill(shared, run).await?;
    }
    Ok(())
}

async fn spill(shared: &Arc<Shared>, run: SpillRun) -> Result<()> {
    // From here to the end the run is sealed: whatever happens, it has to be given back.
    let run = Claimed { shared: Arc::clone(shared), run: Some(run) };
    let (directory, name) = (Arc::clone(&shared.spill), shared.segment_name(run.positions().1));
    let written = blocking(move || {
        directory.check_room()?;
        let spilled = run.write(&directory, &name)?;
        run.replace(spilled);
        Ok(())
    });
    let written = written.await;
    shared.counters.update(|stats| match &written {
        Ok(()) => stats.spills_total += 1,
        Err(_) => stats.spill_failures_total += 1,
    });
    written
}

/// A run that stays in memory unless it is replaced.
struct Claimed {
    shared: Arc<Shared>,
    run: Option<SpillRun>,
}

impl Claimed {
    fn positions(&self) -> (Position, Position) {
        self.run.as_ref().map_or((0, 0), SpillRun::positions)
    }

    fn write(&self, directory: &Arc<SpillDirectory>, name: &str) -> Result<SpilledPart> {
        let run = self.run.as_ref().expect("invariant: a run is replaced once");
        let table =
            self.shared.tables.get(&run.tenant, run.table).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("table {}/{} is not open", run.tenant, run.table))
            })?;
        directory.write(&table, &self.shared.options.promote, run, name)
    }

    fn replace(mut self, spilled: SpilledPart) {
        if let Some(run) = self.run.take() {
            self.shared.hot.spilled(&run, spilled);
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.shared.hot.not_spilled(&run);
        }
        self.shared.spill_ended.notify_one();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Retry, "work on a spill file ended early").with_source(error))?
}
