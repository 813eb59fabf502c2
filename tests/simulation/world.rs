//! The world of one seed: a store, processes on it, and what their senders know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message;
use spanlake_ingest::{ContentEncoding, ContentType, Decoder, Ingest, IngestOptions, Request};
use spanlake_schema::{Ambient, DEFAULT_TENANT, spans};
use spanlake_storage::invariants::commit_goes_on;
use spanlake_storage::{Lake, LakeOptions, ReadOnlyLake, Store, TableSource, TableView};
use spanlake_testkit::{
    Fault, FaultyStore, NOON_UNIX_NANO, Operation, SplitMix64, Traffic, spans_of, stored_as_promised,
};
use tempfile::TempDir;

use crate::disk::SimulatedDisk;
use crate::promoted;

const PROCESSES: usize = 2;
const TABLE: &str = spans::SPEC.name;
/// Of the table.
const COMMITS: &str = "/spans/_delta_log/";

/// A clock that the simulation moves, and randomness that makes back-off waits zero: all waits are remainders by divisors of
/// this, and so nothing but the seed decides what happens when.
#[derive(Debug)]
struct SimulatedAmbient {
    now_unix_nano: AtomicU64,
    random: Mutex<SplitMix64>,
}

const NO_WAIT: u128 = 50_000 * 128;

impl Ambient for SimulatedAmbient {
    fn now_unix_nano(&self) -> u64 {
        self.now_unix_nano.load(Ordering::Relaxed)
    }

    fn random_u128(&self) -> u128 {
        let mut random = self.random.lock();
        let drawn = u128::from(random.next_u64()) << 32 | u128::from(random.next_u64() >> 32);
        drawn * NO_WAIT
    }
}

/// A request and what its sender knows of it.
struct Sent {
    body: Bytes,
    span_ids: Vec<String>,
    acknowledged: bool,
    /// Who it was sent to: a repeat is known to the one that has it.
    process: usize,
}

struct Process {
    disk: SimulatedDisk,
    objects: FaultyStore<InMemory>,
    running: Option<(Arc<Lake>, Ingest)>,
}

pub(crate) struct World {
    random: SplitMix64,
    ambient: Arc<SimulatedAmbient>,
    traffic: Traffic,
    dir: TempDir,
    objects: FaultyStore<InMemory>,
    processes: Vec<Process>,
    sent: Vec<Sent>,
    /// How the store fails now and then.
    store_faults: &'static [Fault],
}

/// Something that breaks its promise, so that nothing above can keep its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lie {
    /// A disk whose syncs do nothing.
    Sync,
    /// A store that answers puts which it does not do.
    ForgottenPut,
    /// A store that lets one commit overwrite another.
    OverwrittenPut,
}

/// In memory where the system has such a directory: thousands of seeds sync thousands of times.
fn temporary_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

const STORE_FAULTS: &[Fault] = &[Fault::Fail, Fault::LostAnswer, Fault::Late, Fault::Delay(Duration::from_millis(0))];

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        let dir = temporary_directory();
        let objects = FaultyStore::new(InMemory::new());
        let mut random = SplitMix64::new(seed ^ 0x5eed);
        let processes = (0..PROCESSES).map(|number| Process {
            disk: SimulatedDisk::new(random.next_u64(), dir.path().join(format!("trash-{number}"))),
            objects: objects.other_client(),
            running: None,
        });
        let processes = processes.collect();
        let ambient = SimulatedAmbient {
            now_unix_nano: AtomicU64::new(NOON_UNIX_NANO),
            random: Mutex::new(SplitMix64::new(random.next_u64())),
        };
        let traffic = Traffic::new(random.next_u64()).without_content();
        let mut world = Self {
            random,
            ambient: Arc::new(ambient),
            traffic,
            dir,
            objects,
            processes,
            sent: Vec::new(),
            store_faults: STORE_FAULTS,
        };
        world.start(0).await;
        world
    }

    pub(crate) fn lie(&mut self, lie: Lie) {
        match lie {
            Lie::Sync => self.processes.iter().for_each(|process| process.disk.lie()),
            Lie::ForgottenPut => self.store_faults = &[Fault::Forget],
            Lie::OverwrittenPut => self.store_faults = &[Fault::Overwrite],
        }
    }

    fn store(&self, process: usize) -> Store {
        let objects = Arc::new(self.processes[process].objects.clone());
        Store::with_object_store("memory:///lake", objects).with_ambient(Arc::clone(&self.ambient) as Arc<dyn Ambient>)
    }

    fn options(&self, process: usize) -> LakeOptions {
        LakeOptions {
            store: self.store(process),
            wal_dir: self.dir.path().join(format!("wal-{process}")),
            // The smallest segments there are.
            wal_limit_bytes: 8 << 20,
            hot_limit_bytes: 64 << 20,
            flush_interval: Duration::from_secs(3600),
            flush_bytes: u64::MAX,
            ack_on_commit: false,
            commit_timeout: Duration::from_secs(60),
            ambient: Arc::clone(&self.ambient) as Arc<dyn Ambient>,
            retry_window: Duration::from_secs(900),
            retry_limit_bytes: 1 << 20,
            promote: promoted::list(process),
        }
    }

    /// Starts a process; on a store that fails too much it stays down.
    async fn start(&mut self, process: usize) {
        if self.processes[process].running.is_some() {
            return;
        }
        let disk = Arc::new(self.processes[process].disk.clone());
        match Lake::open_on(self.options(process), Arc::new(Decoder::default()), disk).await {
            Ok(lake) => {
                let options = IngestOptions {
                    message_limit_bytes: 1 << 20,
                    in_flight_limit_bytes: 8 << 20,
                    ambient: Arc::clone(&self.ambient) as Arc<dyn Ambient>,
                };
                self.processes[process].running = Some((Arc::clone(&lake), Ingest::new(lake, options)));
            }
            Err(error) => {
                // The log writer of the one before may hold the lock for a moment longer.
                let is_locked = error.to_string().contains("is in use by process");
                let may_pass = error.kind() == spanlake_storage::ErrorKind::Retry || is_locked;
                assert!(may_pass, "a start is refused: {error}");
                self.restart_cleanly(process);
            }
        }
    }

    /// What is not running has neither disk nor store failures of its own.
    fn restart_cleanly(&mut self, process: usize) {
        self.processes[process].disk.crash();
        self.processes[process].objects = self.objects.other_client();
    }

    fn crash(&mut self, process: usize) {
        let dying = &mut self.processes[process];
        dying.disk.die_after(0);
        dying.objects.die_after(0);
        dying.running = None;
        self.restart_cleanly(process);
    }

    /// A running process, started where none is.
    async fn someone(&mut self) -> Option<usize> {
        let process = self.random.index(PROCESSES);
        self.start(process).await;
        self.processes[process].running.is_some().then_some(process)
    }

    pub(crate) async fn step(&mut self) {
        match self.random.below(100) {
            0..38 => self.export().await,
            38..51 => self.flush().await,
            51..63 => self.look().await,
            63..71 => self.die_somewhere().await,
            71..74 => self.die_sending_a_commit().await,
            74..77 => self.lose_a_commit().await,
            77..80 => self.shut_down().await,
            80..86 => self.fail_by_seed(),
            86..90 => self.objects.heal(),
            90..94 => {
                let most = self.random.index(3);
                self.objects.deliver_late(most).await;
            }
            94..97 => self.fail_disk(),
            _ => self.move_clock(),
        }
    }

    fn fail_by_seed(&mut self) {
        let (seed, per_mille) = (self.random.next_u64(), self.random.between(20, 400));
        self.objects.fail_by_seed(seed, per_mille, self.store_faults);
    }

    fn fail_disk(&mut self) {
        let (process, per_mille) = (self.random.index(PROCESSES), self.random.between(0, 200));
        self.processes[process].disk.fail(per_mille);
    }

    fn move_clock(&mut self) {
        let (ahead, by_ns) = (self.random.chance(700), self.random.below(120_000_000_000));
        let now = self.ambient.now_unix_nano.load(Ordering::Relaxed);
        let then = if ahead { now + by_ns } else { now - by_ns };
        self.ambient.now_unix_nano.store(then, Ordering::Relaxed);
    }

    /// Sends a request: mostly a new one, else one that got no answer, or one that did.
    async fn export(&mut self) {
        let Some(process) = self.someone().await else { return };
        let index = match self.random.below(10) {
            0..3 => (0..self.sent.len()).rev().find(|index| self.sent[*index].process == process),
            _ => None,
        };
        let index = index.unwrap_or_else(|| {
            let request = self.traffic.request(self.random.between(1, 3) as usize);
            let span_ids = spans_of(&request).map(|span| hex(&span.span_id)).collect();
            let body = Bytes::from(request.encode_to_vec());
            self.sent.push(Sent { body, span_ids, acknowledged: false, process });
            self.sent.len() - 1
        });
        self.send(index).await;
    }

    async fn send(&mut self, index: usize) {
        let sent = &self.sent[index];
        let Some((_, ingest)) = &self.processes[sent.process].running else { return };
        let request = Request {
            tenant: DEFAULT_TENANT.to_owned(),
            content_type: ContentType::Protobuf,
            content_encoding: ContentEncoding::Identity,
            body: sent.body.clone(),
        };
        if ingest.export(spanlake_ingest::Signal::Traces, request).await.is_ok() {
            self.sent[index].acknowledged = true;
        }
    }

    async fn flush(&mut self) {
        let Some(process) = self.someone().await else { return };
        if let Some((lake, _)) = &self.processes[process].running
            && let Err(error) = lake.flush().await
        {
            let may_pass = error.kind() == spanlake_storage::ErrorKind::Retry;
            assert!(may_pass, "a flush is refused: {error}");
        }
    }

    /// Dies at some call to the store or the disk, in the middle of a flush or of a request.
    async fn die_somewhere(&mut self) {
        let Some(process) = self.someone().await else { return };
        let calls = self.random.below(12);
        if self.random.chance(500) {
            self.processes[process].objects.die_after(calls);
            if let Some((lake, _)) = &self.processes[process].running {
                // It fails, or was faster.
                let _ = lake.flush().await;
            }
        } else {
            self.processes[process].disk.die_after(calls);
            for _ in 0..3 {
                self.export().await;
            }
        }
        self.crash(process);
        self.start(process).await;
    }

    /// Dies with a commit on its way, which comes in before the next process starts, or while it works, or not yet.
    async fn die_sending_a_commit(&mut self) {
        let Some(process) = self.someone().await else { return };
        self.export().await;
        if let Some((lake, _)) = &self.processes[process].running {
            self.processes[process].objects.die_at_put(COMMITS);
            let _ = lake.flush().await;
        }
        self.crash(process);
        let comes_early = self.random.chance(200);
        if comes_early {
            self.objects.deliver_late(usize::MAX).await;
        }
        self.start(process).await;
        if self.random.chance(700) {
            self.objects.deliver_late(usize::MAX).await;
        }
        for _ in 0..self.random.below(3) {
            self.export().await;
        }
        if self.random.chance(700) {
            self.flush().await;
        }
        self.look().await;
    }

    /// A commit is done, but nothing of it can be learned for so long that it is given up.
    async fn lose_a_commit(&mut self) {
        let Some(process) = self.someone().await else { return };
        self.export().await;
        if let Some((lake, _)) = &self.processes[process].running {
            let objects = &self.processes[process].objects;
            objects.inject(Operation::Put, COMMITS, 1, Fault::LostAnswer);
            objects.inject_run(Operation::Put, COMMITS, 1, u64::MAX, Fault::Fail);
            let (reads, lists) = (self.random.below(12), self.random.below(12));
            objects.inject_run(Operation::Get, COMMITS, 2, reads, Fault::Fail);
            objects.inject_run(Operation::List, COMMITS, 2, lists, Fault::Fail);
            // It fails, or finds its commit.
            let _ = lake.flush().await;
        }
        self.objects.heal();
        self.look().await;
        if self.random.chance(700) {
            self.export().await;
            self.flush().await;
        }
    }

    async fn shut_down(&mut self) {
        let Some(process) = self.someone().await else { return };
        if let Some((lake, ingest)) = self.processes[process].running.take() {
            // Where the store fails it says so, and the log has the rest.
            let _ = lake.shutdown().await;
            drop((lake, ingest));
        }
        self.restart_cleanly(process);
    }

    /// What each process shows.
    async fn look(&mut self) {
        for process in 0..PROCESSES {
            let Some((lake, _)) = &self.processes[process].running else { continue };
            let view = lake.view(DEFAULT_TENANT, TABLE).await.expect("a view").expect("a table");
            // What others sent is there once they have committed it.
            self.check(&self.ids(&view).await, |sent| sent.process == process, "seen by a process");
        }
    }

    /// Every span id that a view shows, and how often.
    async fn ids(&self, view: &TableView) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for segment in &view.snapshot.segments {
            let path = view.table.object_path(&segment.path).expect("a path");
            count(&mut ids, &self.read(&path).await);
        }
        for batch in &view.hot {
            count(&mut ids, std::slice::from_ref(batch));
        }
        ids
    }

    /// An object, read past all faults.
    pub(crate) async fn bytes(&self, path: &Path) -> Bytes {
        self.objects.inner().get(path).await.expect("a segment").bytes().await.expect("its bytes")
    }

    /// A segment's span ids.
    async fn read(&self, path: &Path) -> Vec<RecordBatch> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(self.bytes(path).await).expect("a Parquet file");
        let mask = ProjectionMask::columns(builder.parquet_schema(), ["span_id"]);
        let reader = builder.with_projection(mask).build().expect("a reader");
        reader.collect::<Result<_, _>>().expect("rows")
    }

    fn check(&self, stored: &BTreeMap<String, usize>, has_to_show: impl Fn(&Sent) -> bool, when: &str) {
        let mut known = 0;
        for sent in &self.sent {
            let counts: Vec<usize> = sent.span_ids.iter().map(|id| stored.get(id).copied().unwrap_or(0)).collect();
            known += counts.iter().filter(|count| **count > 0).count();
            let kept = stored_as_promised(sent.acknowledged && has_to_show(sent), &counts);
            kept.unwrap_or_else(|broken| panic!("{when}: {broken}: {:?}", sent.span_ids));
        }
        assert_eq!(stored.len(), known, "{when}: spans that nobody sent");
    }

    /// Everything works again, late puts come in, every request gets its answer, all is flushed: the tables alone have to
    /// show each span once.
    pub(crate) async fn settle(&mut self) {
        self.objects.heal();
        for process in 0..PROCESSES {
            let was_running = self.processes[process].running.is_some();
            if was_running && self.random.chance(300) {
                self.crash(process);
            }
            for _ in 0..10_000 {
                self.processes[process].disk.fail(0);
                self.start(process).await;
                if self.processes[process].running.is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        self.objects.deliver_late(usize::MAX).await;
        for index in 0..self.sent.len() {
            if !self.sent[index].acknowledged {
                self.send(index).await;
            }
        }
        self.look().await;
        for process in &mut self.processes {
            let Some((lake, ingest)) = process.running.take() else { continue };
            lake.shutdown().await.expect("an end in good order");
            drop((lake, ingest));
        }
        assert!(self.sent.iter().all(|sent| sent.acknowledged), "a request got no answer though all works");
        let at_rest = ReadOnlyLake::open(self.store(0)).await.expect("a store");
        let view = at_rest.view(DEFAULT_TENANT, TABLE).await.expect("a view").expect("a table");
        self.check(&self.ids(&view).await, |_| true, "at rest");
        self.check_promoted(&view).await;
        self.check_transactions().await;
    }

    /// In the table's own log, each writer's positions only grow.
    async fn check_transactions(&self) {
        let prefix = Path::from(format!("{DEFAULT_TENANT}/{TABLE}/_delta_log"));
        let mut commits: Vec<Path> =
            self.objects.inner().list(Some(&prefix)).map_ok(|meta| meta.location).try_collect().await.expect("a list");
        commits.retain(|path| path.extension() == Some("json"));
        commits.sort();
        let mut reached: BTreeMap<String, i64> = BTreeMap::new();
        for path in commits {
            let bytes = self.objects.inner().get(&path).await.expect("a commit").bytes().await.expect("its bytes");
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let action: serde_json::Value = serde_json::from_slice(line).expect("an action");
                let Some(transaction) = action.get("txn") else { continue };
                let application = transaction["appId"].as_str().expect("an id").to_owned();
                let version = transaction["version"].as_i64().expect("a version");
                if application.ends_with("-copy") {
                    continue;
                }
                let before = reached.insert(application.clone(), version);
                assert!(commit_goes_on(before, version), "{application}: {before:?}, then {version}");
            }
        }
    }
}

fn count(ids: &mut BTreeMap<String, usize>, batches: &[RecordBatch]) {
    for batch in batches {
        let column = batch.column_by_name("span_id").expect("a column of ids");
        for id in column.as_string::<i32>().iter().flatten() {
            *ids.entry(id.to_owned()).or_default() += 1;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
