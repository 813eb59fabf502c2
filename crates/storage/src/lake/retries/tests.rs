use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use spanlake_schema::DEFAULT_TENANT;
use spanlake_testkit::{Fault, ManualAmbient, Operation, wait_until};
use tempfile::TempDir;

use super::super::tests::{HOUR, TODAY, TextDecode, World, batch_of_line, frame, ids, open};
use super::super::{Entry, Lake, LakeOptions};
use super::*;
use crate::ErrorKind;
use crate::wal::LocalDisk;
use crate::wal::faulty_disk::FaultyDisk;

const WINDOW: Duration = Duration::from_secs(100);

/// A request that stores one row, and whose bytes are this many.
fn request(id: i64, bytes: usize, ambient: &ManualAmbient) -> Entry {
    let line = format!("{HOUR} {id} {} {TODAY}", id + 1);
    let batches = vec![batch_of_line(&line)];
    let mut payload = line.into_bytes();
    payload.resize(payload.len().max(bytes), b'\n');
    let frame = Frame { received_unix_nano: ambient.now_unix_nano(), ..frame(DEFAULT_TENANT) };
    Entry { frame, payload: Bytes::from(payload), batches }
}

/// Segments of 1 MiB, so that few requests fill one.
fn options(world: &World, ambient: &Arc<ManualAmbient>) -> LakeOptions {
    LakeOptions {
        wal_limit_bytes: 8 << 20,
        retry_window: WINDOW,
        ambient: Arc::clone(ambient) as Arc<dyn Ambient>,
        ..world.options()
    }
}

/// How often each id is there.
async fn copies(lake: &Lake) -> BTreeMap<i64, usize> {
    let mut copies = BTreeMap::new();
    for id in ids(lake, HOUR).await {
        *copies.entry(id).or_default() += 1;
    }
    copies
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A new request of so many bytes.
    Send(usize),
    /// One of the requests before, again.
    Repeat(prop::sample::Index),
    Flush,
    /// The process ends without a word, and another one starts.
    Crash,
    /// The process ends in good order, and another one starts.
    Stop,
    /// Seconds go by.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![Just(0), Just(400_000)].prop_map(Step::Send),
        6 => any::<prop::sample::Index>().prop_map(Step::Repeat),
        2 => Just(Step::Flush),
        2 => Just(Step::Crash),
        1 => Just(Step::Stop),
        2 => prop_oneof![Just(10), Just(45), Just(100)].prop_map(Step::Wait),
    ]
}

/// Sends, repeats, flushes (which release frames), ends and starts, and notes what must be there.
async fn follow(steps: Vec<Step>) {
    let (world, ambient) = (World::new(), Arc::new(ManualAmbient::new(7)));
    let mut lake = open(options(&world, &ambient)).await.unwrap();
    let mut sent: Vec<(usize, u64)> = Vec::new();
    let mut expected = BTreeMap::new();
    for step in steps {
        let now = ambient.now_unix_nano();
        let id = match step {
            Step::Send(bytes) => {
                sent.push((bytes, 0));
                sent.len() - 1
            }
            Step::Repeat(index) if !sent.is_empty() => index.index(sent.len()),
            Step::Repeat(_) => continue,
            Step::Flush => {
                lake.flush().await.unwrap();
                continue;
            }
            Step::Crash | Step::Stop => {
                if matches!(step, Step::Stop) {
                    lake.shutdown().await.unwrap();
                }
                drop(lake);
                lake = open(options(&world, &ambient)).await.unwrap();
                continue;
            }
            Step::Wait(seconds) => {
                ambient.advance(Duration::from_secs(seconds));
                continue;
            }
        };
        let (bytes, stored) = &mut sent[id];
        let is_known = *stored > 0 && *stored + WINDOW.as_nanos() as u64 > now;
        let receipt = lake.append_once(request(id as i64, *bytes, &ambient)).await.unwrap();
        assert_eq!(receipt.is_repeat, is_known, "request {id}");
        if !is_known {
            *stored = now;
            *expected.entry(id as i64).or_default() += 1;
        }
    }
    assert_eq!(copies(&lake).await, expected);
    drop(lake);
    let lake = open(options(&world, &ambient)).await.unwrap();
    assert_eq!(copies(&lake).await, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Guarantee: through any sequence of requests, repeats, flushes, crashes, ends and starts, a request that was stored
    /// less than the window ago is known and stored once; an older one is stored anew.
    #[test]
    fn a_request_is_stored_once_within_the_window(steps in prop::collection::vec(step(), 1..36)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follow(steps));
    }
}

/// Scenario: the frames of some requests leave the log, and the process ends without a word.
/// Guarantee: they are known to the next process all the same, from the file beside the log.
#[tokio::test]
async fn requests_are_known_after_their_frames_have_left_the_log() {
    let (world, ambient) = (World::new(), Arc::new(ManualAmbient::new(1)));
    let lake = open(options(&world, &ambient)).await.unwrap();
    for id in 0..8 {
        assert!(!lake.append_once(request(id, 400_000, &ambient)).await.unwrap().is_repeat);
    }
    lake.flush().await.unwrap();
    // Each segment takes two of them.
    wait_until("the log is freed", async || (lake.stats().wal_bytes < 1 << 20).then_some(())).await;
    let saved = std::fs::metadata(world.wal_dir().join("retries")).unwrap().len();
    assert!(saved >= 7 * RECORD_BYTES as u64, "{saved} bytes");
    drop(lake);
    let lake = open(options(&world, &ambient)).await.unwrap();
    assert_eq!(lake.stats().retry_requests, 8);
    for id in 0..8 {
        assert!(lake.append_once(request(id, 400_000, &ambient)).await.unwrap().is_repeat, "{id}");
    }
    assert_eq!(copies(&lake).await, (0..8).map(|id| (id, 1)).collect());
    // Another tenant's request, and one of another kind, is another request.
    let other = |frame| Entry { frame, batches: Vec::new(), ..request(0, 400_000, &ambient) };
    let frame = request(0, 0, &ambient).frame;
    assert!(!lake.append_once(other(Frame { kind: 2, ..frame.clone() })).await.unwrap().is_repeat);
    assert!(!lake.append_once(other(Frame { tenant: "other".to_owned(), ..frame })).await.unwrap().is_repeat);
}

/// Scenario: the file of answered requests cannot be synced when frames are to be given up.
/// Guarantee: the frames stay until it can.
#[tokio::test]
async fn frames_stay_in_the_log_until_their_requests_are_remembered() {
    let (world, ambient) = (World::new(), Arc::new(ManualAmbient::new(1)));
    let disk = Arc::new(FaultyDisk::default());
    let decoder = Arc::new(TextDecode);
    let lake = super::super::open::open(options(&world, &ambient), decoder, Arc::clone(&disk) as Arc<_>).await.unwrap();
    for id in 0..4 {
        lake.append_once(request(id, 400_000, &ambient)).await.unwrap();
    }
    disk.retries_fail.store(true, Ordering::SeqCst);
    lake.flush().await.unwrap();
    // The log writer is through with the release once it has taken another request.
    lake.append_once(request(4, 0, &ambient)).await.unwrap();
    assert!(lake.stats().wal_bytes > 4 * 400_000, "nothing was freed");
    disk.retries_fail.store(false, Ordering::SeqCst);
    lake.flush().await.unwrap();
    wait_until("the log is freed", async || (lake.stats().wal_bytes < 1 << 20).then_some(())).await;
    drop(lake);
    let lake = open(options(&world, &ambient)).await.unwrap();
    for id in 0..4 {
        assert!(lake.append_once(request(id, 400_000, &ambient)).await.unwrap().is_repeat, "{id}");
    }
}

/// Scenario: a sender hangs up while its request waits for the log, and sends it again.
/// Guarantee: it is stored once, whatever the log writer was doing.
#[tokio::test]
async fn a_request_whose_sender_hung_up_is_known() {
    let (world, ambient) = (World::new(), Arc::new(ManualAmbient::new(1)));
    let lake = open(options(&world, &ambient)).await.unwrap();
    for id in 0..50 {
        {
            let first = lake.append_once(request(id, 0, &ambient));
            tokio::pin!(first);
            let _ = futures::poll!(&mut first);
        }
        assert!(lake.append_once(request(id, 0, &ambient)).await.unwrap().is_repeat, "{id}");
    }
    assert_eq!(copies(&lake).await, (0..50).map(|id| (id, 1)).collect());
}

#[tokio::test]
async fn a_request_that_was_not_stored_is_not_known() {
    let (world, ambient) = (World::new(), Arc::new(ManualAmbient::new(1)));
    let disk = Arc::new(FaultyDisk::default());
    let decoder = Arc::new(TextDecode);
    let lake = super::super::open::open(options(&world, &ambient), decoder, Arc::clone(&disk) as Arc<_>).await.unwrap();
    disk.sync_fails.store(true, Ordering::SeqCst);
    // The first segment is made by this, which syncs too.
    lake.append_once(request(0, 0, &ambient)).await.unwrap_err();
    assert!(!lake.append_once(request(0, 0, &ambient)).await.unwrap().is_repeat);
    disk.sync_fails.store(true, Ordering::SeqCst);
    lake.append_once(request(1, 0, &ambient)).await.unwrap_err();
    let too_large = Entry {
        batches: vec![("no such table", request(2, 0, &ambient).batches.remove(0).1)],
        ..request(2, 0, &ambient)
    };
    assert_eq!(lake.append_once(too_large).await.unwrap_err().kind(), ErrorKind::Invalid);
    for id in 1..3 {
        assert!(!lake.append_once(request(id, 0, &ambient)).await.unwrap().is_repeat);
        assert!(lake.append_once(request(id, 0, &ambient)).await.unwrap().is_repeat);
    }
    assert_eq!(copies(&lake).await, (0..3).map(|id| (id, 1)).collect());
}

/// Guarantee: where the sender waits for the commit, so does a repeat, be it of a request under way or of one that was
/// found in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_waits_for_the_commit_of_the_first() {
    let (world, ambient) = (World::new(), Arc::new(ManualAmbient::new(1)));
    let options = || LakeOptions { ack_on_commit: true, ..options(&world, &ambient) };
    let lake = open(options()).await.unwrap();
    world.objects.inject_run(Operation::Put, HOUR, 1, u64::MAX, Fault::Fail);
    let send = |lake: &Arc<Lake>| {
        let (lake, request) = (Arc::clone(lake), request(0, 0, &ambient));
        tokio::spawn(async move { lake.append_once(request).await })
    };
    let senders = [send(&lake), send(&lake)];
    wait_until("a flush has failed", async || (lake.stats().flush_failures_total > 0).then_some(())).await;
    assert!(senders.iter().all(|sender| !sender.is_finished()));
    senders.iter().for_each(tokio::task::JoinHandle::abort);
    drop(senders);
    wait_until("the senders are gone", async || (Arc::strong_count(&lake) == 1).then_some(())).await;
    drop(lake);
    // The log alone knows it now.
    let lake = open(options()).await.unwrap();
    let repeat = send(&lake);
    wait_until("a flush has failed", async || (lake.stats().flush_failures_total > 0).then_some(())).await;
    assert!(!repeat.is_finished());
    world.objects.heal();
    assert!(repeat.await.unwrap().unwrap().is_repeat);
    assert_eq!(copies(&lake).await, BTreeMap::from([(0, 1)]));
    assert_eq!(lake.stats().hot_rows, 0);
}

fn alone(dir: &TempDir, ambient: &Arc<ManualAmbient>, limit_bytes: u64) -> Arc<Retries> {
    let world = World::new();
    let options =
        LakeOptions { wal_dir: dir.path().to_path_buf(), retry_limit_bytes: limit_bytes, ..options(&world, ambient) };
    let disk: Arc<dyn crate::wal::Disk> = Arc::new(LocalDisk);
    Retries::open(&options, &disk).unwrap().unwrap()
}

#[tokio::test]
async fn a_repeat_waits_for_what_becomes_of_the_first() {
    let (dir, ambient) = (TempDir::new().unwrap(), Arc::new(ManualAmbient::new(1)));
    let retries = alone(&dir, &ambient, 1 << 20);
    let Claimed::First(first) = retries.claim(1).await else { panic!("it is new") };
    let (mut second, mut third) = (Box::pin(retries.claim(1)), Box::pin(retries.claim(1)));
    assert!(futures::poll!(&mut second).is_pending() && futures::poll!(&mut third).is_pending());
    // The first fails: one of the others is the first now, and the last one waits for it.
    drop(first);
    let Claimed::First(second) = second.await else { panic!("the first was not stored") };
    assert!(futures::poll!(&mut third).is_pending());
    second.stored(9, ambient.now_unix_nano());
    let Claimed::Repeat(position) = third.await else { panic!("the second was stored") };
    assert_eq!(position, 9);
}

/// Guarantee: beyond its memory the oldest are forgotten, counted, and the file beside the log stays as small.
#[tokio::test]
async fn memory_and_file_are_bounded_and_the_oldest_are_forgotten_first() {
    assert_eq!((size_of::<Place>(), size_of::<(u128, Known)>()), (32, 32));
    let (dir, ambient) = (TempDir::new().unwrap(), Arc::new(ManualAmbient::new(1)));
    let retries = alone(&dir, &ambient, 100 * REMEMBERED_BYTES);
    for id in 0..10_000_u64 {
        let Claimed::First(claim) = retries.claim(u128::from(id)).await else { panic!("it is new") };
        claim.stored(id + 1, ambient.now_unix_nano());
        if id % 70 == 0 {
            retries.save(id + 1).unwrap();
        }
    }
    let mut stats = LakeStats::default();
    retries.tell(&mut stats);
    assert_eq!((stats.retry_requests, stats.retry_forgotten_total), (100, 9_900));
    assert!(matches!(retries.claim(9_900).await, Claimed::Repeat(9_901)));
    assert!(matches!(retries.claim(9_899).await, Claimed::First(_)));
    let file_bytes = std::fs::metadata(dir.path().join("retries")).unwrap().len();
    assert!(file_bytes < 80_000, "{file_bytes} bytes");
    retries.save(Position::MAX).unwrap();
    drop(retries);
    let retries = alone(&dir, &ambient, 100 * REMEMBERED_BYTES);
    for id in 9_900..10_000 {
        assert!(matches!(retries.claim(id).await, Claimed::Repeat(0)), "{id}");
    }
}
