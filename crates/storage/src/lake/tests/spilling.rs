//! Hot rows beyond their share of memory.

use super::*;

/// A dozen requests of one row, and more where they have been merged.
const SMALL_LIMIT_BYTES: u64 = 100_000;

fn small(world: &World) -> LakeOptions {
    LakeOptions { hot_limit_bytes: SMALL_LIMIT_BYTES, ..world.options() }
}

fn spill_dir(world: &World) -> PathBuf {
    world.wal_dir().join("spill")
}

fn files(world: &World) -> usize {
    std::fs::read_dir(spill_dir(world)).unwrap().count()
}

fn fail_puts(world: &World) {
    world.objects.inject_run(Operation::Put, HOUR, 1, u64::MAX, Fault::Fail);
}

/// As a sender does: again where it is pushed back.
async fn append_until_taken(lake: &Lake, entry: Entry) {
    wait_until("room for a request", async || match lake.append(entry.clone()).await {
        Ok(_) => Some(()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
            None
        }
    })
    .await;
}

/// Guarantee: while the store takes nothing, far more rows than memory may hold are taken and shown, once each; when it is
/// back all of them are committed, in order and once, and no file is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_absorbed_beyond_memory() {
    let world = World::new();
    let lake = open(small(&world)).await.unwrap();
    fail_puts(&world);
    for id in 0..400 {
        append_until_taken(&lake, entry(id..id + 1)).await;
        assert!(lake.stats().hot_bytes <= SMALL_LIMIT_BYTES);
        if id == 4 {
            // One part is with the flusher from here on; the rest is spilled behind it.
            lake.flush().await.unwrap_err();
        }
    }
    // The last spill may be under way.
    let stats = wait_until("spilling to end", async || {
        let stats = lake.stats();
        let ended = stats.spilled_rows + stats.hot_rows == 400 && files(&world) as u64 == stats.spills_total;
        ended.then_some(stats)
    })
    .await;
    assert!(stats.spilled_rows > 300 && stats.spills_total > 5 && stats.spilled_bytes > 0, "{stats:?}");
    assert_ids(&ids(&*lake, HOUR).await, 0..400);

    world.objects.heal();
    lake.flush().await.unwrap();
    assert_ids(&committed_ids(&view(&*lake, HOUR).await).await, 0..400);
    let stats = lake.stats();
    assert_eq!((stats.hot_rows, stats.hot_bytes, stats.spilled_rows, stats.spilled_bytes), (0, 0, 0, 0));
    assert_eq!((stats.committed_rows_total, stats.committed_position, files(&world)), (400, 400, 0));
}

/// Guarantee: as `views_never_miss_nor_repeat_a_row_while_flushes_run`, with rows that go through files, and a store that
/// fails now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_never_miss_nor_repeat_a_row_while_it_is_spilled() {
    const REQUESTS: i64 = 400;
    let world = World::new();
    let lake = open(small(&world)).await.unwrap();
    world.objects.fail_by_seed(7, 300, &[Fault::Fail, Fault::LostAnswer]);
    let (sent, acknowledged) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let appending = tokio::spawn({
        let (lake, sent, acknowledged) = (Arc::clone(&lake), Arc::clone(&sent), Arc::clone(&acknowledged));
        async move {
            for id in 0..REQUESTS {
                sent.fetch_add(1, Ordering::SeqCst);
                append_until_taken(&lake, entry(id..id + 1)).await;
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let flushing = tokio::spawn({
        let (lake, acknowledged) = (Arc::clone(&lake), Arc::clone(&acknowledged));
        async move {
            while acknowledged.load(Ordering::SeqCst) < REQUESTS {
                // The store may fail; the rows stay.
                let _ = lake.flush().await;
                tokio::task::yield_now().await;
            }
        }
    });
    let (mut before, mut mixed) = (0, 0);
    while before < REQUESTS as u64 {
        let at_least = acknowledged.load(Ordering::SeqCst) as u64;
        let view = view(&*lake, HOUR).await;
        let now = count(&view);
        let at_most = sent.load(Ordering::SeqCst) as u64;
        assert!((at_least..=at_most).contains(&now), "{at_least} <= {now} <= {at_most}");
        assert!(now >= before, "{before} rows, then {now}");
        mixed += u64::from(!view.spilled.is_empty() && !view.hot.is_empty());
        before = now;
        tokio::task::yield_now().await;
    }
    appending.await.unwrap();
    flushing.await.unwrap();
    assert!(mixed > 0 && lake.stats().spills_total > 0, "{mixed} views with spilled rows");
    world.objects.heal();
    assert_ids(&ids(&*lake, HOUR).await, 0..REQUESTS);
    lake.flush().await.unwrap();
    assert_ids(&committed_ids(&view(&*lake, HOUR).await).await, 0..REQUESTS);
}

/// Guarantee: rows are spilled while the store hangs, too, not only between failing tries.
#[tokio::test]
async fn a_hanging_store_does_not_keep_rows_in_memory() {
    let world = World::new();
    let lake = open(LakeOptions { flush_bytes: 1, ..small(&world) }).await.unwrap();
    world.objects.inject(Operation::Put, HOUR, 1, Fault::Delay(Duration::from_secs(86_400)));
    for id in 0..200 {
        append_until_taken(&lake, entry(id..id + 1)).await;
    }
    assert!(lake.stats().spilled_rows > 100, "{:?}", lake.stats());
    assert_ids(&ids(&*lake, HOUR).await, 0..200);
    assert_eq!(lake.stats().committed_position, 0);
}

/// Guarantee: a view shows its rows for as long as it is held, though their commit has taken the files away from others.
#[tokio::test]
async fn files_stay_while_a_view_reads_them() {
    let world = World::new();
    let lake = open(small(&world)).await.unwrap();
    fail_puts(&world);
    for id in 0..100 {
        append_until_taken(&lake, entry(id..id + 1)).await;
    }
    let held = view(&*lake, HOUR).await;
    assert!(!held.spilled.is_empty());
    world.objects.heal();
    lake.flush().await.unwrap();
    assert_eq!(lake.stats().spilled_rows, 0);
    assert_eq!(files(&world), held.spilled.len());
    assert_ids(&ids_of(&held).await, 0..100);
    drop(held);
    assert_eq!((files(&world), lake.stats().spilled_bytes), (0, 0));
}

/// Guarantee: spill files are a cache. A crash leaves some behind, and the next start reads the log instead.
#[tokio::test]
async fn a_start_empties_the_directory_and_reads_the_log() {
    let world = World::new();
    let lake = open(small(&world)).await.unwrap();
    fail_puts(&world);
    for id in 0..100 {
        append_until_taken(&lake, entry(id..id + 1)).await;
    }
    let crashed = world.copy_of_log();
    drop(lake);
    std::fs::create_dir(crashed.path().join("spill")).unwrap();
    std::fs::write(crashed.path().join("spill/left-behind.parquet"), "rows").unwrap();
    let lake = world.open_copy(&crashed).await;
    assert_eq!(std::fs::read_dir(crashed.path().join("spill")).unwrap().count(), 0);
    assert_ids(&ids(&*lake, HOUR).await, 0..100);
}

/// Guarantee: where neither store nor spill directory take anything, senders are pushed back at the limit of memory, no row
/// is lost, and senders are taken again as soon as the directory takes rows.
#[tokio::test]
async fn a_disk_that_refuses_pushes_senders_back() {
    let world = World::new();
    let lake = open(small(&world)).await.unwrap();
    fail_puts(&world);
    std::fs::remove_dir(spill_dir(&world)).unwrap();
    std::fs::write(spill_dir(&world), "no directory").unwrap();
    let mut accepted = 0;
    let error = loop {
        match lake.append(entry(accepted..accepted + 1)).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert!(accepted > 5, "{accepted}");
    wait_until("a failed spill", async || (lake.stats().spill_failures_total > 0).then_some(())).await;
    assert_eq!((lake.stats().spilled_rows, lake.stats().spilled_bytes), (0, 0));
    assert_ids(&ids(&*lake, HOUR).await, 0..accepted);

    std::fs::remove_file(spill_dir(&world)).unwrap();
    std::fs::create_dir(spill_dir(&world)).unwrap();
    for id in accepted..accepted + 50 {
        append_until_taken(&lake, entry(id..id + 1)).await;
    }
    assert!(lake.stats().spilled_rows > 0);
    world.objects.heal();
    lake.flush().await.unwrap();
    assert_ids(&committed_ids(&view(&*lake, HOUR).await).await, 0..accepted + 50);
}

/// Guarantee: the directory has a limit too.
#[tokio::test]
async fn spill_files_keep_to_their_limit() {
    const LIMIT_BYTES: u64 = 9_000;
    let world = World::new();
    let lake = open(LakeOptions { wal_limit_bytes: LIMIT_BYTES, ..small(&world) }).await.unwrap();
    fail_puts(&world);
    let accepted = AtomicI64::new(0);
    wait_until("both memory and directory to be full", async || {
        let id = accepted.load(Ordering::SeqCst);
        match lake.append(entry(id..id + 1)).await {
            Ok(_) => accepted.store(id + 1, Ordering::SeqCst),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Full, "{error}"),
        }
        let stats = lake.stats();
        assert!(stats.spilled_bytes <= LIMIT_BYTES && stats.hot_bytes <= SMALL_LIMIT_BYTES, "{stats:?}");
        (stats.spill_failures_total > 0).then_some(())
    })
    .await;
    assert!(lake.stats().spilled_rows > 0);
    world.objects.heal();
    lake.flush().await.unwrap();
    assert_ids(&committed_ids(&view(&*lake, HOUR).await).await, 0..accepted.into_inner());
}

/// Guarantee: a file that was damaged on the disk is never committed: its rows come from the log with the next start.
#[tokio::test]
async fn a_damaged_file_is_not_committed() {
    let world = World::new();
    let lake = open(small(&world)).await.unwrap();
    fail_puts(&world);
    for id in 0..100 {
        append_until_taken(&lake, entry(id..id + 1)).await;
    }
    let path = spill_dir(&world).join(&view(&*lake, HOUR).await.spilled[0].segment().path);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    world.objects.heal();
    let error = lake.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    drop(lake);
    let lake = world.open().await;
    lake.flush().await.unwrap();
    assert_ids(&committed_ids(&view(&*lake, HOUR).await).await, 0..100);
}
