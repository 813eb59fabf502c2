//! Starting a lake: whose log is it, what did no commit hold, and then the threads.

use std::collections::HashMap;
use std::sync::Arc;

use spanlake_schema::{DEFAULT_TENANT, TABLES};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::budget::Budget;
use super::fence::{Fence, Fenced};
use super::flusher::{self, Flusher};
use super::hot::HotStore;
use super::retries::Retries;
use super::spill::{self, SpillDirectory};
use super::tables::Tables;
use super::{Counters, Decode, Lake, LakeOptions, Progress, Running, Shared, lineage, writer};
use crate::wal::{Disk, Log, LogAtRest, LogOptions, Replay};
use crate::{Error, ErrorKind, Position, Result, Store, Table};

/// Payload bytes that are decoded before their rows are looked after.
const CHUNK_BYTES: usize = 16 << 20;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// How long a start waits for a store that does not answer a commit.
const FENCE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// A process that died left one commit on its way for each table at most.
const START_TRIES: usize = 10;

pub(super) async fn open(options: LakeOptions, decoder: Arc<dyn Decode>, disk: Arc<dyn Disk>) -> Result<Arc<Lake>> {
    let mut started = start_fenced(&options, &decoder, &disk).await?;
    let end = started.log.position();
    if lineage::is_superseded(&started.shared, started.log.identity(), end)? || started.is_outrun() {
        started.renew().await?;
        started = start_fenced(&options, &decoder, &disk).await?;
    }
    started.run()
}

/// Starts, anew where a commit of an earlier process came in meanwhile.
async fn start_fenced(options: &LakeOptions, decoder: &Arc<dyn Decode>, disk: &Arc<dyn Disk>) -> Result<Started> {
    for _ in 0..START_TRIES {
        if let Some(started) = start(options, decoder, disk).await? {
            return Ok(started);
        }
    }
    let message = format!(
        "commits under the writer id of write-ahead log {} keep coming in: stop the process that makes them",
        options.wal_dir.display()
    );
    Err(Error::new(ErrorKind::Retry, message))
}

/// A lake whose rows are hot again, but which takes no requests yet.
struct Started {
    shared: Arc<Shared>,
    flusher: Flusher,
    log: Log,
    /// The highest position that any table has committed.
    committed_max: Position,
}

async fn start(options: &LakeOptions, decoder: &Arc<dyn Decode>, disk: &Arc<dyn Disk>) -> Result<Option<Started>> {
    let log_options = LogOptions {
        dir: options.wal_dir.clone(),
        store_url: options.store.url().to_owned(),
        segment_bytes: (options.wal_limit_bytes / 8).clamp(SEGMENT_BYTES_MIN, LogOptions::DEFAULT_SEGMENT_BYTES),
        ambient: Arc::clone(&options.ambient),
        disk: Arc::clone(disk),
    };
    let (wal_dir, spill_limit) = (options.wal_dir.clone(), options.wal_limit_bytes);
    let open = move || Ok((LogAtRest::open(log_options)?, SpillDirectory::open(&wal_dir, spill_limit)?));
    let (mut at_rest, spill) = blocking(open).await?;
    check_store(&at_rest, options).await?;
    let tables = open_tables(&mut at_rest, &options.store).await?;
    let replay = blocking(move || at_rest.replay()).await?;
    let (retry_options, retry_disk) = (options.clone(), Arc::clone(disk));
    let retries = blocking(move || Retries::open(&retry_options, &retry_disk)).await?;
    let identity = replay.identity();
    let app_id = format!("spanlake-{}-0", identity.writer_id);
    let shared = Arc::new(Shared {
        lineage: lineage::of(identity, &app_id),
        app_id,
        epoch: identity.epoch,
        tables,
        hot: HotStore::new(Budget::new(
            "memory for rows on their way to the store (memory_limit)",
            options.hot_limit_bytes,
        )),
        spill,
        log_budget: Budget::new("the write-ahead log (wal_limit)", options.wal_limit_bytes),
        retries,
        queue: writer::Queue::default(),
        counters: Counters::default(),
        progress: watch::Sender::new(Progress::default()),
        flush_wanted: Notify::new(),
        merge_wanted: Notify::new(),
        spill_wanted: Notify::new(),
        spill_ended: Notify::new(),
        backfilling: tokio::sync::Mutex::default(),
        options: options.clone(),
    });
    let committed = Committed::of(&shared);
    let committed_max = committed.tables.values().copied().max().unwrap_or(0);
    let mut flusher = Flusher::new(Arc::clone(&shared));
    let log = recover(&shared, &mut flusher, replay, committed, decoder).await?;
    Ok(log.map(|log| Started { shared, flusher, log, committed_max }))
}

/// A log belongs to the tables whose ids it holds, wherever they lie now.
async fn check_store(log: &LogAtRest, options: &LakeOptions) -> Result<()> {
    let (identity, url) = (log.identity(), options.store.url());
    let mut known = 0;
    for (name, id) in &identity.tables {
        let refused = |found: &str| {
            let message = format!(
                "write-ahead log {} belongs to store {} and its table {name} with id {id}, the store {url} {found}: give \
                 the log its own store, or move the log directory away to begin a new one",
                options.wal_dir.display(),
                identity.store_url
            );
            Err(Error::new(ErrorKind::Invalid, message))
        };
        let spec = name
            .split_once('/')
            .and_then(|(tenant, table)| Some((tenant, TABLES.iter().copied().find(|spec| spec.name == table)?)));
        let Some((tenant, spec)) = spec else { return refused("is opened by a version that has no such table") };
        match Table::open(&options.store, tenant, spec).await? {
            None => return refused("has no such table"),
            Some(table) if table.snapshot().table_id != *id => return refused("has another one"),
            Some(_) => known += 1,
        }
    }
    if identity.store_url != url {
        if known == 0 {
            let message = format!(
                "write-ahead log {} belongs to store {}, not to {url}: give it its own store, or move the log directory \
                 away to begin a new one",
                options.wal_dir.display(),
                identity.store_url
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        tracing::warn!(from = %identity.store_url, to = %url, "the write-ahead log's tables have moved");
    }
    Ok(())
}

/// Opens the tables of every tenant that the log knows, and notes their ids in it.
async fn open_tables(log: &mut LogAtRest, store: &Store) -> Result<Tables> {
    let tables = Tables::new(store.clone());
    let known = log.identity().tables.keys().filter_map(|name| Some(name.split_once('/')?.0.to_owned()));
    let tenants: std::collections::BTreeSet<String> = known.chain([DEFAULT_TENANT.to_owned()]).collect();
    for tenant in &tenants {
        let opened = tables.create(tenant).await?;
        for (name, id) in opened.ids() {
            log.bind(&name, &id)?;
        }
        tables.publish(opened);
    }
    Ok(tables)
}

/// What each table holds of this log.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    tables: HashMap<(String, &'static str), Position>,
    /// By tenant, up to where no table needs anything.
    tenants: HashMap<String, Position>,
}

impl Committed {
    fn of(shared: &Shared) -> Self {
        let mut committed = Self { tables: HashMap::new(), tenants: HashMap::new() };
        for opened in shared.tables.all() {
            for (name, table) in &opened.tables {
                let position = shared.committed_in(&table.snapshot());
                committed.tables.insert((opened.tenant.clone(), *name), position);
                let lowest = committed.tenants.entry(opened.tenant.clone()).or_insert(position);
                *lowest = position.min(*lowest);
            }
        }
        committed
    }

    /// The position that a table has committed.
    pub(super) fn position(&self, tenant: &str, table: &'static str) -> Position {
        self.tables.get(&(tenant.to_owned(), table)).copied().unwrap_or(0)
    }

    fn lacks(&self, tenant: &str, table: &'static str, position: Position) -> bool {
        self.position(tenant, table) < position
    }

    fn tenant_lacks(&self, tenant: &str, position: Position) -> bool {
        self.tenants.get(tenant).is_none_or(|committed| *committed < position)
    }
}

/// Some frames, decoded.
struct Chunk {
    replay: Replay,
    frames: Vec<(Position, String, Vec<super::hot::Rows>)>,
    at_end: bool,
}

/// Reads the log to its end and makes hot what its tables lack. `None` where that changed meanwhile.
async fn recover(
    shared: &Arc<Shared>,
    flusher: &mut Flusher,
    mut replay: Replay,
    committed: Committed,
    decoder: &Arc<dyn Decode>,
) -> Result<Option<Log>> {
    let committed = Arc::new(committed);
    flusher.fence(Fence::new(Arc::clone(shared), Arc::clone(&committed)));
    let mut replayed_rows = 0;
    loop {
        let (shared_, committed_, decoder_) = (Arc::clone(shared), Arc::clone(&committed), Arc::clone(decoder));
        let chunk = blocking(move || decode_chunk(replay, &shared_, &committed_, decoder_.as_ref())).await?;
        replay = chunk.replay;
        for (position, tenant, rows) in chunk.frames {
            shared.hot.budget.take(rows.iter().map(|rows| rows.bytes).sum());
            replayed_rows += rows.iter().map(|rows| rows.batch.num_rows()).sum::<usize>();
            rows.iter().for_each(|rows| flusher.note_behind(&tenant, rows.table));
            shared.hot.push(position, std::iter::once((tenant.as_str(), rows)));
        }
        // Spilling needs no store that takes writes; where the disk refuses, the store has to.
        if let Err(error) = spill::make_room(shared).await {
            tracing::warn!(%error, "cannot spill rows of the write-ahead log");
            if shared.hot.budget.is_exceeded() {
                if flusher.close_fence().await? == Fenced::TooLate {
                    return Ok(None);
                }
                flusher.flush().await?;
            }
        }
        if chunk.at_end {
            break;
        }
    }
    // A store that can be read, but takes no writes, does not keep requests out. The next flush tries again.
    match tokio::time::timeout(FENCE_PATIENCE, flusher.close_fence()).await {
        Ok(Ok(Fenced::InTime)) => {}
        Ok(Ok(Fenced::TooLate)) => return Ok(None),
        Ok(Err(error)) if error.kind() == ErrorKind::Retry => tracing::warn!(%error, "the store takes no commits"),
        Ok(Err(error)) => return Err(error),
        Err(_) => tracing::warn!("the store answers no commit"),
    }
    let log = blocking(move || replay.finish()).await?;
    shared.hot.advance(log.position());
    if replayed_rows > 0 {
        tracing::info!(rows = replayed_rows, position = log.position(), "rows of the write-ahead log are hot again");
    }
    Ok(Some(log))
}

fn decode_chunk(mut replay: Replay, shared: &Shared, committed: &Committed, decoder: &dyn Decode) -> Result<Chunk> {
    let (mut frames, mut bytes) = (Vec::new(), 0);
    while bytes < CHUNK_BYTES {
        let Some(logged) = replay.next_frame()? else { return Ok(Chunk { replay, frames, at_end: true }) };
        let (tenant, position) = (logged.frame.tenant.as_str(), logged.position);
        if let Some(retries) = &shared.retries {
            retries.recover(&logged.frame, &logged.payload, position);
        }
        if !committed.tenant_lacks(tenant, position) {
            continue;
        }
        bytes += logged.payload.len();
        let mut batches = decoder.decode(&logged.frame, &logged.payload).map_err(|error| {
            let message = format!("cannot read frame {position} of the write-ahead log back into rows");
            Error::new(error.kind(), message).with_source(error)
        })?;
        batches.retain(|(table, _)| committed.lacks(tenant, table, position));
        frames.push((position, tenant.to_owned(), shared.tables.rows(&batches)?));
    }
    Ok(Chunk { replay, frames, at_end: false })
}

impl Started {
    /// Whether tables hold positions of this writer that the log does not: the log is an older copy.
    fn is_outrun(&self) -> bool {
        self.committed_max > self.log.position()
    }

    /// Goes on under a new writer id, since new frames would get positions that tables take for committed already. What
    /// the old frames have that some table lacks is committed first, under the old id.
    async fn renew(mut self) -> Result<()> {
        self.flusher.flush().await?;
        let (dir, end, committed) = (self.shared.options.wal_dir.display(), self.log.position(), self.committed_max);
        tracing::warn!(
            %dir, writer_id = %self.log.identity().writer_id, end, committed,
            "this write-ahead log is an older copy, tables have commits that it does not know: all of its requests are \
             committed, going on under a new writer id"
        );
        let (mut log, retries) = (self.log, self.shared.retries.clone());
        blocking(move || {
            // The frames go, what was answered stays known.
            retries.map_or(Ok(()), |retries| retries.save(end))?;
            log.renew()
        })
        .await
    }

    fn run(mut self) -> Result<Arc<Lake>> {
        let shared = self.shared;
        shared.log_budget.take(self.log.bytes());
        let lost = self.log.identity().lost_positions_total;
        shared.counters.update(|stats| stats.wal_lost_positions_total = lost);
        self.log.keep_epochs(&lineage::nonces(&shared));
        let committed = shared.hot.committed_position();
        shared.progress.send_modify(|progress| progress.committed = committed);
        writer::release(&mut self.log, &shared, committed);
        let (for_writer, log) = (Arc::clone(&shared), self.log);
        let log_writer = std::thread::Builder::new()
            .name("log writer".to_owned())
            .spawn(move || writer::run(log, &for_writer))
            .map_err(|error| Error::new(ErrorKind::Retry, "cannot start the log writer").with_source(error))?;
        let (flushes, requests) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.flusher.run(requests));
        tasks.spawn(flusher::merge_small_batches(Arc::clone(&shared)));
        tasks.spawn(flusher::refresh_tables(Arc::clone(&shared)));
        tasks.spawn(spill::run(Arc::clone(&shared)));
        let running = parking_lot::Mutex::new(Some(Running { log_writer, tasks }));
        Ok(Arc::new(Lake { shared, flushes, running }))
    }
}

/// Runs what blocks on files or the CPU.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Closed, "opening the lake was broken off").with_source(error))?
}
