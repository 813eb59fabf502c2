//! A disk on which any call may fail: full, broken, or with half of the work done.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Decides by a seed which call fails, and how.
#[derive(Debug)]
struct Dice {
    state: AtomicU64,
    /// Of 100 calls, so many fail.
    per_cent: AtomicU64,
    is_full: bool,
}

impl Dice {
    fn new(seed: u64, is_full: bool) -> Arc<Self> {
        Arc::new(Self { state: AtomicU64::new(seed * 2 + 1), per_cent: AtomicU64::new(0), is_full })
    }

    /// A number below `end` (splitmix64).
    fn below(&self, end: u64) -> u64 {
        let mut word =
            self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }

    fn roll(&self) -> io::Result<()> {
        if self.below(100) >= self.per_cent.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(if self.is_full { io::ErrorKind::StorageFull.into() } else { io::Error::other("injected failure") })
    }
}

#[derive(Debug)]
struct DiceDisk(Arc<Dice>);

#[derive(Debug)]
struct DiceFile {
    file: Box<dyn DiskFile>,
    dice: Arc<Dice>,
    /// Written since the last sync.
    unsynced: Vec<Range<u64>>,
}

impl DiceDisk {
    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(DiceFile { file, dice: Arc::clone(&self.0), unsynced: Vec::new() })
    }
}

impl Disk for DiceDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = UnsyncedDisk.create(path, bytes)?;
        // The name is there, the space is not.
        self.0.roll()?;
        Ok(self.wrap(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.roll()?;
        Ok(self.wrap(UnsyncedDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.roll()?;
        LocalDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.0.is_full {
            self.0.roll()?;
        }
        LocalDisk.remove(path)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.0.roll()
    }
}

impl DiskFile for DiceFile {
    fn write_at(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else { return Ok(0) };
        self.dice.roll()?;
        let most = 1 + self.dice.below(first.len() as u64) as usize;
        let written = self.file.write_at(&[IoSlice::new(&first[..most])], offset)?;
        self.unsynced.push(offset..offset + written as u64);
        Ok(written)
    }

    fn sync(&mut self) -> io::Result<()> {
        let unsynced = std::mem::take(&mut self.unsynced);
        if let Err(error) = self.dice.roll() {
            // Nobody knows which of the pages are on the disk.
            for range in unsynced {
                if self.dice.below(2) == 0 {
                    let zeros = vec![0; (range.end - range.start) as usize];
                    self.file.write_at(&[IoSlice::new(&zeros)], range.start)?;
                }
            }
            return Err(error);
        }
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.dice.roll()?;
        self.file.truncate(bytes)
    }
}

/// Guarantee: whatever call of the disk fails, in whatever order: what was told durable is replayed at its position; what
/// was refused never stands before it; once the disk works, requests are taken again; nothing counts as lost.
#[test]
fn whatever_fails_what_was_answered_is_there_and_what_was_refused_does_not_hide_it() {
    let mut refused = 0;
    for seed in 0..60 {
        let dir = TempDir::new().unwrap();
        let dice = Dice::new(seed, seed % 2 == 0);
        let with_dice = || LogOptions { disk: Arc::new(DiceDisk(Arc::clone(&dice))), ..options(dir.path()) };
        let (_, mut log) = reopen_with(with_dice()).unwrap();
        let (mut durable, mut released) = (Vec::new(), 0);
        for round in 0..120_u64 {
            dice.per_cent.store(if round % 40 < 30 { 8 } else { 0 }, Ordering::SeqCst);
            let sizes: Vec<_> = (0..=dice.below(3)).map(|_| dice.below(1500) as usize).collect();
            let payloads: Vec<_> = sizes.iter().map(|size| payload(dice.below(256) as u8, *size)).collect();
            let frame = frame("default");
            let group: Vec<_> = payloads.iter().map(|payload| (&frame, payload)).collect();
            let appended = log.append(&group);
            assert_eq!(appended.first, durable.len() as u64 + 1, "seed {seed}");
            durable.extend_from_slice(&payloads[..appended.durable]);
            if let Some(error) = appended.error {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                let says_full =
                    error.to_string().starts_with("the disk of the write-ahead log is full, free some space: ");
                assert_eq!(says_full, dice.is_full, "{error}");
                assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
            } else {
                assert_eq!(appended.durable, payloads.len());
            }
            assert!(round % 40 < 30 || appended.durable == payloads.len(), "seed {seed}: the disk works again");
            match dice.below(8) {
                0 => log.mark(),
                1 => {
                    released = durable.len() as u64 - dice.below(durable.len() as u64 + 1);
                    let _ = log.release(released);
                }
                2 => {
                    drop(log);
                    dice.per_cent.store(0, Ordering::SeqCst);
                    log = reopen_and_check(with_dice(), &mut durable, released, seed);
                }
                _ => {}
            }
        }
        dice.per_cent.store(0, Ordering::SeqCst);
        drop(log);
        reopen_and_check(with_dice(), &mut durable, released, seed);
    }
    assert!(refused > 200, "{refused} requests refused");
}

fn reopen_and_check(options: LogOptions, durable: &mut Vec<Bytes>, released: Position, seed: u64) -> Log {
    let (frames, log) = reopen_with(options).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert_eq!(log.identity().lost, [], "seed {seed}");
    let first = frames.first().map_or(durable.len() as u64 + 1, |logged| logged.position);
    let highest = released.max(log.identity().committed_position);
    assert!(first <= highest + 1, "seed {seed}: begins with {first}, {released} released");
    for logged in &frames {
        match durable.get(logged.position as usize - 1) {
            Some(expected) => assert_eq!(&logged.payload, expected, "seed {seed}, position {}", logged.position),
            // Refused because of its sync, and on the disk nevertheless: nothing came after it.
            None => durable.push(logged.payload.clone()),
        }
    }
    assert_eq!(log.position(), durable.len() as u64, "seed {seed}");
    log
}

/// Guarantee: a log on a full disk is opened, read and freed, since only that makes room; it takes requests once there is
/// space.
#[test]
fn a_log_on_a_full_disk_is_opened_and_freed() {
    let dir = TempDir::new().unwrap();
    let dice = Dice::new(1, true);
    let with_dice = || LogOptions { disk: Arc::new(DiceDisk(Arc::clone(&dice))), ..options(dir.path()) };
    let (_, mut log) = reopen_with(with_dice()).unwrap();
    for seed in 0..8 {
        append(&mut log, &[payload(seed, 3000)]).unwrap();
    }
    drop(log);
    struct Full(DiceDisk);
    impl std::fmt::Debug for Full {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Full")
        }
    }
    impl Disk for Full {
        fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
            let made = self.0.create(path, bytes);
            made.and(Err(io::ErrorKind::StorageFull.into()))
        }

        fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.0.open(path)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.0.remove(path)
        }

        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.0.sync_dir(dir)
        }
    }
    let full = LogOptions { disk: Arc::new(Full(DiceDisk(Arc::clone(&dice)))), ..options(dir.path()) };
    let (frames, mut log) = reopen_with(full).unwrap();
    assert_eq!((frames.len(), log.position()), (8, 8));
    let error = append(&mut log, &[payload(9, 10)]).unwrap_err();
    assert!(error.to_string().starts_with("the disk of the write-ahead log is full"), "{error}");
    // The file that tells what is committed cannot be made; one that is there only changes its name.
    std::fs::write(dir.path().join("committed-00000000000000000000"), "").unwrap();
    drop(log);
    let full = LogOptions { disk: Arc::new(Full(DiceDisk(Arc::clone(&dice)))), ..options(dir.path()) };
    let (_, mut log) = reopen_with(full).unwrap();
    log.release(8).unwrap();
    assert_eq!(segments(dir.path()).len(), 1, "space is free again");
    drop(log);
    let (_, mut log) = reopen_with(with_dice()).unwrap();
    assert_eq!(append(&mut log, &[payload(9, 10)]).unwrap(), 9);
}
