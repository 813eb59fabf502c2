//! What happens where bytes or files of a log are gone.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::{Logged, Lost, LostReason, give_up};
use super::*;

const HEADER: usize = HEADER_BYTES;

/// A log of frames with payloads of 65 bytes, each a group of its own, which fill their frames without padding.
fn log_of(frames: u8) -> TempDir {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    for seed in 1..=frames {
        append(&mut log, &[payload(seed, 65)]).unwrap();
    }
    dir
}

fn frame_size() -> usize {
    let bytes = frame_bytes(&frame("default"), 65) as usize;
    assert_eq!(bytes, 56 + 7 + 65, "the frame has no padding");
    bytes
}

fn positions(frames: &[Logged]) -> Vec<Position> {
    for logged in frames {
        let seed = logged.position as u8;
        assert_eq!(logged.payload, payload(seed, logged.payload.len()), "the frame at {seed} is the one appended");
    }
    frames.iter().map(|logged| logged.position).collect()
}

fn ranges(lost: &[Lost]) -> Vec<RangeInclusive<Position>> {
    lost.iter().map(|lost| lost.first..=lost.last).collect()
}

fn damaged_files(dir: &Path) -> Vec<PathBuf> {
    list(dir).unwrap().damaged.into_iter().map(|segment| segment.path).collect()
}

fn refusal(dir: &Path) -> String {
    let error = reopen(dir).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    error.to_string()
}

fn all_bytes(files: &[PathBuf]) -> Vec<Vec<u8>> {
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// The position of the last frame of 65 bytes that no damage touched, in segments of 4 KiB; 100 where the mark behind the
/// hundredth is whole.
fn last_intact(before: &[Vec<u8>], after: &[Vec<u8>]) -> Position {
    let in_segment = (4096 - HEADER) / frame_size();
    let is_same = |index: usize| {
        let start = HEADER + index % in_segment * frame_size();
        let bytes = start..start + frame_size();
        before[index / in_segment][bytes.clone()] == after[index / in_segment][bytes]
    };
    if is_same(100) {
        return 100;
    }
    (0..100).rev().find(|&index| is_same(index)).map_or(0, |index| index as Position + 1)
}

/// Guarantee: whichever bit of a frame in the middle is wrong, only that frame is lost, by name; the others are replayed,
/// the log goes on, the loss is told once and still known later; the segment is kept when the rest of it is committed.
#[test]
fn a_damaged_frame_is_lost_alone_and_its_segment_is_kept() {
    let (origin, size) = (log_of(4), frame_size());
    for at in HEADER + size..HEADER + 2 * size {
        let copy = copy_dir(origin.path());
        let file = segments(copy.path()).remove(0);
        damage(&file, |bytes| bytes[at] ^= 0x10);
        let (frames, mut log) = reopen(copy.path()).unwrap();
        assert_eq!(positions(&frames), [1, 3, 4], "byte {at}");
        let lost = log.identity().lost.clone();
        assert_eq!(ranges(&lost), [2..=2]);
        assert_eq!((lost[0].reason, lost[0].offset), (LostReason::Damaged, (HEADER + size) as u64));
        assert!(file.ends_with(&lost[0].file));
        assert_eq!(append(&mut log, &[payload(5, 65)]).unwrap(), 5);
        if at % 16 != 0 {
            continue;
        }
        drop(log);
        let (frames, mut log) = reopen(copy.path()).unwrap();
        assert_eq!(positions(&frames), [1, 3, 4, 5]);
        assert_eq!((log.identity().lost.clone(), log.identity().lost_positions_total), (lost, 1));
        log.release(5).unwrap();
        assert_eq!(append(&mut log, &[payload(6, 65)]).unwrap(), 6);
        log.release(5).unwrap();
        let kept = damaged_files(copy.path());
        assert_eq!(kept.len(), 1, "the damaged segment is neither recycled nor removed");
        assert!(std::fs::read(&kept[0]).unwrap().len() >= HEADER + 4 * size);
        drop(log);
        assert_eq!(positions(&reopen(copy.path()).unwrap().0), [6]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever bytes of whatever segments are overwritten: opening succeeds, every frame that is returned is the one that
    /// was appended, and every position that had been durable for certain is returned or named as lost. Later openings
    /// agree.
    #[test]
    fn whatever_is_damaged_each_position_is_replayed_or_named(
        hits in prop::collection::vec((0usize..5, 0usize..4096, 1usize..300, any::<u8>()), 1..5),
        is_closed in any::<bool>(),
    ) {
        let dir = TempDir::new().unwrap();
        let (_, mut log) = reopen(dir.path()).unwrap();
        for seed in 1..=100 {
            append(&mut log, &[payload(seed, 65)]).unwrap();
        }
        log.mark();
        if is_closed { log.close().unwrap() } else { drop(log) }
        let files = segments(dir.path());
        prop_assert!(files.len() == 4, "{} segments", files.len());
        let before = all_bytes(&files);
        for (file, start, length, value) in hits {
            damage(&files[file % files.len()], |bytes| bytes[start..(start + length).min(4096)].fill(value));
        }
        let intact = last_intact(&before, &all_bytes(&files));
        let (frames, log) = reopen(dir.path()).unwrap();
        let mut seen = positions(&frames);
        seen.extend(ranges(&log.identity().lost).into_iter().flatten());
        seen.sort_unstable();
        prop_assert!(seen == (1..=log.position()).collect::<Vec<_>>(), "{seen:?}");
        // A log that was closed says where it ends. Else a mark does; where that and frames before it are damaged, nothing
        // tells them from a torn write.
        let known = if is_closed { 100 } else { intact };
        prop_assert!(log.position() >= known, "{} of {known}", log.position());
        let (lost, last) = (log.identity().lost.clone(), log.position());
        drop(log);
        let (again, mut log) = reopen(dir.path()).unwrap();
        prop_assert_eq!(positions(&again), positions(&frames));
        prop_assert_eq!(&log.identity().lost, &lost);
        prop_assert_eq!(append(&mut log, &[payload(7, 65)]).unwrap(), last + 1);
    }
}

/// Guarantee: damage in the very last frame is told from a torn write where the log had rested, or was closed or opened
/// since; else it is cut.
#[test]
fn damage_in_the_last_frame_is_noticed_where_anything_says_it_was_durable() {
    let size = frame_size();
    for proof in ["none", "mark", "close", "open"] {
        let dir = TempDir::new().unwrap();
        let (_, mut log) = reopen(dir.path()).unwrap();
        append(&mut log, &[payload(1, 65)]).unwrap();
        append(&mut log, &[payload(2, 65), payload(3, 65)]).unwrap();
        match proof {
            "mark" => {
                log.mark();
                drop(log);
            }
            "close" => log.close().unwrap(),
            "open" => {
                drop(log);
                reopen(dir.path()).unwrap();
            }
            _ => drop(log),
        }
        let file = segments(dir.path()).remove(0);
        damage(&file, |bytes| bytes[HEADER + 2 * size + 70] ^= 1);
        let (frames, mut log) = reopen(dir.path()).unwrap();
        assert_eq!(positions(&frames), [1, 2], "{proof}");
        let (lost, next) = if proof == "none" { (vec![], 3) } else { (vec![3..=3], 4) };
        assert_eq!((ranges(&log.identity().lost), log.position() + 1), (lost, next), "{proof}");
        assert_eq!(append(&mut log, &[payload(next as u8, 65)]).unwrap(), next);
        drop(log);
        assert_eq!(positions(&reopen(dir.path()).unwrap().0), [1, 2, next], "{proof}");
    }
}

/// Guarantee: a mark is no frame: appends go over it, and it never says more than what is durable.
#[test]
fn a_mark_is_written_over_by_the_next_group() {
    let dir = log_of(2);
    let (_, mut log) = reopen(dir.path()).unwrap();
    for seed in 3..=40 {
        append(&mut log, &[payload(seed, 65)]).unwrap();
        log.mark();
        log.mark();
    }
    drop(log);
    let (frames, log) = reopen(dir.path()).unwrap();
    assert_eq!(positions(&frames), (1..=40).collect::<Vec<_>>());
    assert!(log.identity().lost.is_empty());
}

#[test]
fn frames_behind_a_damaged_header_are_found() {
    let origin = TempDir::new().unwrap();
    let (_, mut log) = reopen(origin.path()).unwrap();
    for seed in 1..=100 {
        append(&mut log, &[payload(seed, 65)]).unwrap();
    }
    log.release(0).unwrap();
    drop(log);
    let files = segments(origin.path()).len();
    for damaged in 0..files {
        for change in [|bytes: &mut Vec<u8>| bytes[20] ^= 1, |bytes: &mut Vec<u8>| bytes[..HEADER].fill(0)] {
            let copy = copy_dir(origin.path());
            damage(&segments(copy.path())[damaged], change);
            let (frames, mut log) = reopen(copy.path()).unwrap();
            assert_eq!(positions(&frames), (1..=100).collect::<Vec<_>>());
            assert!(log.identity().lost.is_empty());
            log.release(100).unwrap();
            append(&mut log, &[payload(101, 65)]).unwrap();
            log.release(100).unwrap();
            assert_eq!(damaged_files(copy.path()).len(), 1, "it is kept");
        }
    }
    // A segment without any readable byte.
    let copy = copy_dir(origin.path());
    damage(&segments(copy.path())[1], |bytes| bytes.fill(0xff));
    let (frames, log) = reopen(copy.path()).unwrap();
    assert_eq!(ranges(&log.identity().lost), [32..=62]);
    assert_eq!(frames.len(), 69);
}

/// Guarantee: a segment removed by hand is noticed, be it the oldest, one in the middle or, after a close, the newest;
/// the refusal names positions, place and command; given up by that command, the log opens again.
#[test]
fn missing_segments_are_refused_until_they_are_given_up() {
    let origin = TempDir::new().unwrap();
    let (_, mut log) = reopen(origin.path()).unwrap();
    for seed in 1..=6 {
        append(&mut log, &[payload(seed, 3000)]).unwrap();
    }
    log.release(1).unwrap();
    log.close().unwrap();
    let files = segments(origin.path());
    assert_eq!(files.len(), 5, "the first is freed");
    for (removed, lost) in [(0..1, 2..=2), (2..3, 4..=4), (1..3, 3..=4), (3..5, 5..=6), (0..5, 2..=6)] {
        let copy = copy_dir(origin.path());
        for file in &segments(copy.path())[removed] {
            std::fs::remove_file(file).unwrap();
        }
        let text = refusal(copy.path());
        let named = format!("positions {} to {} are missing", lost.start(), lost.end());
        assert!(text.contains(&named), "{text}");
        let command = format!("--wal-dir {} --positions {}-{}", copy.path().display(), lost.start(), lost.end());
        assert!(text.contains("put the files back") && text.contains(&command), "{text}");
        refusal(copy.path());

        let ambient = Arc::new(spanlake_schema::System);
        let others = give_up(copy.path(), ambient.clone(), (90, 99)).unwrap_err();
        assert_eq!(others.to_string(), text, "other positions than those that are missing");
        let given_up = give_up(copy.path(), ambient, (*lost.start(), *lost.end())).unwrap();
        assert_eq!(ranges(&given_up), std::slice::from_ref(&lost));
        assert_eq!(given_up[0].reason, LostReason::Missing);
        let (frames, log) = reopen(copy.path()).unwrap();
        let left: Vec<_> = (2..=6).filter(|position| !lost.contains(position)).collect();
        assert_eq!(positions(&frames), left);
        assert_eq!((log.position(), log.identity().lost_positions_total), (6, lost.count() as u64));
    }
}

/// Guarantee: what is freed in good order is never taken for missing, wherever the process ends.
#[test]
fn freed_segments_are_not_missing() {
    let dir = TempDir::new().unwrap();
    let (_, mut log) = reopen(dir.path()).unwrap();
    for seed in 1..=60_u8 {
        let position = append(&mut log, &[payload(seed, 1500)]).unwrap();
        log.release(position.saturating_sub(u64::from(seed % 5))).unwrap();
        let copy = copy_dir(dir.path());
        let (frames, log) = reopen(copy.path()).unwrap();
        assert_eq!(log.position(), position);
        assert!(log.identity().lost.is_empty() && frames.last().is_none_or(|last| last.position == position));
    }
    log.close().unwrap();
    assert!(reopen(dir.path()).unwrap().1.identity().lost.is_empty());
}

#[test]
fn a_log_without_its_identity_or_with_a_damaged_one_is_refused() {
    let dir = log_of(1);
    damage(&dir.path().join("identity"), |bytes| *bytes.last_mut().unwrap() ^= 1);
    let text = refusal(dir.path());
    assert!(text.contains("identity") && text.contains("checksum does not match"), "{text}");
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("no identity file") && text.contains(dir.path().to_str().unwrap()), "{text}");
}
