mod damage;
mod failing_disk;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::faulty_disk::FaultyDisk;
use super::segment::{HEADER_BYTES, list};
use super::{Disk, DiskFile, FORMAT_VERSION, LocalDisk, Log, LogAtRest, LogOptions, Logged, frame_bytes};
use crate::{Error, ErrorKind, Frame, Position};

const SEGMENT_BYTES: u64 = 4096;

/// The file system without its syncs. None of these tests takes the machine's power away.
#[derive(Debug)]
struct UnsyncedDisk;

#[derive(Debug)]
struct UnsyncedFile(Box<dyn DiskFile>);

impl Disk for UnsyncedDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut file = LocalDisk.create(path, 0)?;
        file.truncate(bytes)?;
        Ok(Box::new(UnsyncedFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(UnsyncedFile(LocalDisk.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove(path)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for UnsyncedFile {
    fn write_at(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.0.write_at(slices, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }
}

fn options(dir: &Path) -> LogOptions {
    LogOptions {
        dir: dir.to_path_buf(),
        store_url: "memory:///".to_owned(),
        segment_bytes: SEGMENT_BYTES,
        ambient: Arc::new(spanlake_schema::System),
        disk: Arc::new(UnsyncedDisk),
    }
}

fn frame(tenant: &str) -> Frame {
    Frame { tenant: tenant.to_owned(), kind: 3, received_unix_nano: u64::MAX - 5, rules_version: 7, prices_version: 9 }
}

fn payload(seed: u8, bytes: usize) -> Bytes {
    (0..bytes).map(|at| seed.wrapping_mul(31).wrapping_add(at as u8)).collect()
}

fn reopen_with(options: LogOptions) -> Result<(Vec<Logged>, Log), Error> {
    let mut replay = LogAtRest::open(options)?.replay()?;
    let mut frames = Vec::new();
    while let Some(logged) = replay.next_frame()? {
        frames.push(logged);
    }
    Ok((frames, replay.finish()?))
}

fn reopen(dir: &Path) -> Result<(Vec<Logged>, Log), Error> {
    reopen_with(options(dir))
}

fn append(log: &mut Log, payloads: &[Bytes]) -> Result<Position, Error> {
    let frame = frame("default");
    let group: Vec<_> = payloads.iter().map(|payload| (&frame, payload)).collect();
    let appended = log.append(&group);
    match appended.error {
        None => {
            assert_eq!(appended.durable, payloads.len());
            Ok(appended.first)
        }
        Some(error) => Err(error),
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    list(dir).unwrap().segments.into_iter().map(|segment| segment.path).collect()
}

fn copy_dir(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Release(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(prop_oneof![8 => 0usize..600, 1 => 4000usize..9000], 1..6).prop_map(Step::Append),
        2 => any::<u8>().prop_map(Step::Release),
        2 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is appended, released and reopened: a replay ends with the last frame, has no gap, holds at least all
    /// that was not released, and each frame is what was appended at its position.
    #[test]
    fn replay_returns_what_was_appended(steps in prop::collection::vec(step(), 1..40)) {
        let dir = TempDir::new().unwrap();
        let (_, mut log) = reopen(dir.path()).unwrap();
        let mut appended: Vec<Bytes> = Vec::new();
        let mut released = 0;
        for step in steps.into_iter().chain([Step::Reopen]) {
            match step {
                Step::Append(sizes) => {
                    let payloads: Vec<_> = sizes.iter().map(|size| payload(appended.len() as u8, *size)).collect();
                    prop_assert_eq!(append(&mut log, &payloads).unwrap(), appended.len() as u64 + 1);
                    appended.extend(payloads);
                }
                Step::Release(part) => {
                    released = released.max(appended.len() as u64 * u64::from(part) / 255);
                    log.release(released).unwrap();
                }
                Step::Reopen => {
                    drop(log);
                    let (frames, reopened) = reopen(dir.path()).unwrap();
                    log = reopened;
                    prop_assert_eq!(log.position(), appended.len() as u64);
                    let first = frames.first().map_or(log.position() + 1, |logged| logged.position);
                    prop_assert!(first <= released + 1);
                    for (position, logged) in (first..=log.position()).zip(&frames) {
                        prop_assert_eq!(logged.position, position);
                        prop_assert_eq!(&logged.payload, &appended[position as usize - 1]);
                        prop_assert_eq!(&logged.frame, &frame("default"));
                    }
                    prop_assert_eq!(frames.len() as u64, log.position() + 1 - first);
                    log.release(released).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_the_log_goes_on() {
    let origin = TempDir::new().unwrap();
    let (_, mut log) = reopen(origin.path()).unwrap();
    for seed in 0..3 {
        append(&mut log, &[payload(seed, 100)]).unwrap();
    }
    drop(log);
    let frame_bytes = frame_bytes(&frame("default"), 100) as usize;
    let (start, end) = (HEADER_BYTES + 2 * frame_bytes, HEADER_BYTES + 3 * frame_bytes);
    // The frame's last bytes are padding, which holds nothing.
    let unpadded = start + 56 + "default".len() + 100;
    for cut in start..=end {
        for shape in ["short", "zeros", "stale"] {
            let copy = copy_dir(origin.path());
            let file = segments(copy.path()).remove(0);
            damage(&file, |bytes| match shape {
                "short" => bytes.truncate(cut),
                "zeros" => bytes[cut..].fill(0),
                _ => bytes[cut..end].fill(0xa5),
            });
            let whole = if shape == "short" { cut == end } else { cut >= unpadded };
            let (frames, mut log) = reopen(copy.path()).unwrap();
            let kept = if whole { 3 } else { 2 };
            assert_eq!(frames.len(), kept, "cut at {cut}, {shape}");
            if cut % 8 != 0 {
                continue;
            }
            assert_eq!(append(&mut log, &[payload(9, 50)]).unwrap(), kept as u64 + 1);
            drop(log);
            let (frames, _) = reopen(copy.path()).unwrap();
            assert_eq!(frames.len(), kept + 1, "cut at {cut}, {shape}");
            assert_eq!(frames[kept].payload, payload(9, 50));
        }
    }
}

#[test]
fn a_damaged_frame_of_the_last_group_is_torn_even_where_later_frames_of_the_group_are_whole() {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    append(&mut log, &[payload(0, 65)]).unwrap();
    append(&mut log, &[payload(1, 65), payload(2, 65), payload(3, 65)]).unwrap();
    drop(log);
    let bytes = frame_bytes(&frame("default"), 65) as usize;
    let file = segments(dir.path()).remove(0);
    damage(&file, |file| file[HEADER_BYTES + 2 * bytes + 70] ^= 1);
    let (frames, mut log) = reopen(dir.path()).unwrap();
    assert_eq!(frames.len(), 2);
    assert_eq!(append(&mut log, &[payload(7, 65)]).unwrap(), 3);
    drop(log);
    let (frames, _) = reopen(dir.path()).unwrap();
    assert_eq!(frames.iter().map(|logged| logged.position).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(frames[2].payload, payload(7, 65));
}

#[test]
fn recycled_segments_never_bring_old_frames_back() {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    for seed in 0..30 {
        append(&mut log, &[payload(seed, 500)]).unwrap();
    }
    log.release(30).unwrap();
    let spares = list(dir.path()).unwrap().spares.len();
    assert!(spares >= 2, "segments were kept for recycling");
    // Fill what is left of the active segment, so that the next frame goes to a recycled file.
    while list(dir.path()).unwrap().spares.len() == spares {
        append(&mut log, &[payload(99, 500)]).unwrap();
    }
    let last = log.position();
    drop(log);
    let file = segments(dir.path()).pop().unwrap();
    let stale = std::fs::read(&file).unwrap();
    let magics = stale.chunks_exact(8).filter(|chunk| chunk[..4] == *b"SLF1").count();
    assert!(magics > 2, "frames of the file's earlier use are still in it");
    let (frames, _) = reopen(dir.path()).unwrap();
    assert_eq!(frames.last().unwrap().position, last);
    assert!(frames.iter().filter(|logged| logged.position > 30).all(|logged| logged.payload == payload(99, 500)));
}

#[test]
fn a_second_process_is_told_who_has_the_log() {
    let dir = TempDir::new().unwrap();
    let (_, log) = reopen(dir.path()).unwrap();
    let error = LogAtRest::open(options(dir.path())).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(log);
    reopen(dir.path()).unwrap();
}

#[test]
fn a_newer_format_is_refused() {
    let origin = TempDir::new().unwrap();
    let (_, mut log) = reopen(origin.path()).unwrap();
    append(&mut log, &[payload(1, 10)]).unwrap();
    drop(log);

    let copy = copy_dir(origin.path());
    damage(&copy.path().join("identity"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let newer = text.replacen(&format!("-log {FORMAT_VERSION} "), &format!("-log {} ", FORMAT_VERSION + 1), 1);
        assert_ne!(text, newer);
        *bytes = newer.into_bytes();
    });
    let error = reopen(copy.path()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("format version 2"), "{error}");

    let copy = copy_dir(origin.path());
    damage(&segments(copy.path())[0], |bytes| {
        bytes[8] += 1;
        let checksum = crc32c::crc32c(&bytes[..56]);
        bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
    });
    let error = reopen(copy.path()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("format version 2"), "{error}");
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for dir in [&one, &two] {
        let (_, mut log) = reopen(dir.path()).unwrap();
        append(&mut log, &[payload(1, 10)]).unwrap();
    }
    std::fs::copy(&segments(one.path())[0], &segments(two.path())[0]).unwrap();
    let error = reopen(two.path()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("another log"), "{error}");
}

#[test]
fn a_table_of_another_store_is_refused() {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    log.bind(&[("default/spans".to_owned(), "id-1".to_owned())]).unwrap();
    drop(log);
    let mut rest = LogAtRest::open(options(dir.path())).unwrap();
    rest.bind("default/spans", "id-1").unwrap();
    let error = rest.bind("default/spans", "id-2").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("id-1") && error.to_string().contains("id-2"), "{error}");
}

#[test]
fn a_renewed_log_has_another_writer_and_no_old_frames() {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    append(&mut log, &[payload(1, 3000)]).unwrap();
    append(&mut log, &[payload(2, 3000)]).unwrap();
    let (writer, left_over) = (log.identity().writer_id.clone(), copy_dir(dir.path()));
    log.renew().unwrap();
    assert_ne!(log.identity().writer_id, writer);
    assert_eq!(append(&mut log, &[payload(3, 30)]).unwrap(), 3);
    drop(log);
    // As if the process had ended between the new identity and the removal of the old segments.
    let old = segments(left_over.path()).remove(0);
    std::fs::copy(&old, dir.path().join(old.file_name().unwrap())).unwrap();
    let (frames, _) = reopen(dir.path()).unwrap();
    assert_eq!(frames.iter().map(|logged| logged.position).collect::<Vec<_>>(), [3]);
}

fn faulty(dir: &Path) -> (Arc<FaultyDisk>, LogOptions) {
    let disk = Arc::new(FaultyDisk::default());
    (Arc::clone(&disk), LogOptions { disk, ..options(dir) })
}

#[test]
fn a_failed_sync_is_an_error_and_its_frames_never_come_back() {
    let dir = TempDir::new().unwrap();
    let (disk, options) = faulty(dir.path());
    let (_, mut log) = reopen_with(options).unwrap();
    append(&mut log, &[payload(1, 100)]).unwrap();
    disk.sync_fails.store(true, Ordering::SeqCst);
    let error = append(&mut log, &[payload(2, 100), payload(3, 100)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains("injected sync failure"), "{error}");
    assert_eq!(log.position(), 1);
    assert_eq!(append(&mut log, &[payload(4, 100)]).unwrap(), 2);
    assert_eq!(segments(dir.path()).len(), 2, "the failed segment takes no more frames");
    let copy = copy_dir(dir.path());
    let (frames, _) = reopen(copy.path()).unwrap();
    assert_eq!(frames.iter().map(|logged| &logged.payload).collect::<Vec<_>>(), [&payload(1, 100), &payload(4, 100)]);
    log.release(2).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    assert!(list(dir.path()).unwrap().spares.is_empty(), "the failed segment is not used again");
}

#[test]
fn a_full_disk_is_an_error_until_there_is_space() {
    let dir = TempDir::new().unwrap();
    let (disk, options) = faulty(dir.path());
    let (_, mut log) = reopen_with(options).unwrap();
    disk.create_fails.store(true, Ordering::SeqCst);
    assert_eq!(append(&mut log, &[payload(1, 100)]).unwrap_err().kind(), ErrorKind::Retry);
    disk.create_fails.store(false, Ordering::SeqCst);
    assert_eq!(append(&mut log, &[payload(2, 100)]).unwrap(), 1);
    // The first segment goes on while the second cannot be made; of a group, what fits is stored.
    disk.create_fails.store(true, Ordering::SeqCst);
    let (big, small, frame) = (payload(3, 3900), payload(4, 100), frame("default"));
    let appended = log.append(&[(&frame, &small), (&frame, &big)]);
    assert_eq!((appended.first, appended.durable), (2, 1));
    assert_eq!(appended.error.unwrap().kind(), ErrorKind::Retry);
    disk.create_fails.store(false, Ordering::SeqCst);
    assert_eq!(append(&mut log, std::slice::from_ref(&big)).unwrap(), 3);
    drop(log);
    let (frames, _) = reopen(dir.path()).unwrap();
    assert_eq!(frames.iter().map(|logged| &logged.payload).collect::<Vec<_>>(), [&payload(2, 100), &small, &big]);
}

#[test]
fn short_writes_are_continued() {
    let dir = TempDir::new().unwrap();
    let (disk, options) = faulty(dir.path());
    disk.write_bytes_max.store(7, Ordering::SeqCst);
    let (_, mut log) = reopen_with(options).unwrap();
    let payloads = [payload(1, 100), payload(2, 5000), payload(3, 0)];
    append(&mut log, &payloads).unwrap();
    drop(log);
    let (frames, _) = reopen(dir.path()).unwrap();
    assert_eq!(frames.into_iter().map(|logged| logged.payload).collect::<Vec<_>>(), payloads);
}

#[test]
fn released_bytes_are_freed_and_a_closed_log_knows_what_is_committed() {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    for seed in 0..200 {
        append(&mut log, &[payload(seed, 1000)]).unwrap();
    }
    let bytes = log.bytes();
    assert_eq!(bytes, 200 * frame_bytes(&frame("default"), 1000));
    let freed = log.release(100).unwrap();
    assert!(freed > bytes / 4 && freed <= bytes / 2, "{freed} of {bytes}");
    assert_eq!(log.release(200).unwrap(), bytes - freed);
    assert_eq!(log.bytes(), 0);
    log.close().unwrap();
    let (frames, log) = reopen(dir.path()).unwrap();
    assert!(frames.len() <= 3, "only the active segment is left");
    assert_eq!((log.position(), log.bytes(), log.identity().committed_position), (200, 0, 200));
}

#[test]
fn positions_go_on_after_a_crash_with_everything_released() {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    append(&mut log, &[payload(1, 100), payload(2, 100)]).unwrap();
    drop(log);
    for _ in 0..3 {
        let (_, mut log) = reopen(dir.path()).unwrap();
        assert_eq!(log.position(), 2);
        log.release(2).unwrap();
    }
    let (_, mut log) = reopen(dir.path()).unwrap();
    assert_eq!(append(&mut log, &[payload(3, 100)]).unwrap(), 3);
    log.release(2).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
}
