//! A write-ahead log, damaged in any way: reading it ends, panics nowhere, and whatever frame it gives back is one that was
//! written, at its own position, in order.
//!
//! The input is a program: how many frames of which size, when the log is closed and opened again, and then edits of its
//! files: bytes changed, files cut, lengthened, swapped, removed.
#![no_main]

mod allocated;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spanlake_storage::Frame;
use spanlake_storage::wal::{LocalDisk, Log, LogAtRest, LogOptions};

const SEGMENT_BYTES: u64 = 2048;
const FRAMES_MAX: usize = 64;
/// Whatever lengths the files claim.
const READING_BYTES_MAX: usize = 4 << 20;

/// The input, taken byte by byte; zeros follow its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        u64::from(self.byte()) << 8 | u64::from(self.byte())
    }
}

fn options(dir: &Path) -> LogOptions {
    LogOptions {
        dir: dir.to_owned(),
        store_url: "file:///lake".to_owned(),
        segment_bytes: SEGMENT_BYTES,
        ambient: Arc::new(spanlake_schema::System),
        disk: Arc::new(LocalDisk),
    }
}

fn open(dir: &Path) -> spanlake_storage::Result<Log> {
    LogAtRest::open(options(dir))?.replay()?.finish()
}

fn frame(position: usize) -> Frame {
    Frame {
        tenant: "default".to_owned(),
        kind: 1,
        received_unix_nano: position as u64,
        rules_version: 1,
        prices_version: 1,
    }
}

/// Writes frames as the input says, and returns their payloads.
fn write(dir: &Path, input: &mut Input<'_>) -> Vec<Bytes> {
    let mut log = open(dir).expect("a new log");
    let mut payloads = Vec::new();
    loop {
        let code = input.byte();
        if code == 0 || payloads.len() >= FRAMES_MAX {
            return payloads;
        }
        let count = usize::from(code % 4) + 1;
        let group: Vec<(Frame, Bytes)> = (0..count)
            .map(|index| {
                let size = usize::from(input.byte()) * if code & 16 == 0 { 1 } else { 16 };
                (frame(payloads.len() + index + 1), Bytes::from(vec![code ^ index as u8; size]))
            })
            .collect();
        let refs: Vec<_> = group.iter().map(|(frame, payload)| (frame, payload)).collect();
        assert_eq!(log.append(&refs).durable, count);
        payloads.extend(group.into_iter().map(|(_, payload)| payload));
        if code & 32 != 0 {
            log.release(input.number() % (payloads.len() as u64 + 1)).expect("release");
        }
        if code & 64 != 0 {
            drop(log);
            log = open(dir).expect("the same log");
        }
    }
}

fn edit(files: &[PathBuf], input: &mut Input<'_>) {
    while !input.0.is_empty() {
        let path = &files[usize::from(input.byte()) % files.len()];
        let Ok(mut content) = std::fs::read(path) else { continue };
        let at = input.number() as usize % (content.len() + 1);
        match input.byte() % 8 {
            0 => content.truncate(at),
            1 => content.resize(content.len() + usize::from(input.byte()), 0),
            2 => {
                let other = &files[usize::from(input.byte()) % files.len()];
                content = std::fs::read(other).unwrap_or_default();
            }
            3 => {
                let _ = std::fs::remove_file(path);
                continue;
            }
            4 => {
                let end = (at + usize::from(input.byte())).min(content.len());
                content[at..end].fill(0);
            }
            _ => {
                let value = input.byte();
                if let Some(byte) = content.get_mut(at) {
                    *byte = value;
                }
            }
        }
        std::fs::write(path, content).expect("a file is written");
    }
}

fn read(dir: &Path, payloads: &[Bytes]) {
    let Ok(mut replay) = LogAtRest::open(options(dir)).and_then(LogAtRest::replay) else { return };
    let mut last = 0;
    while let Ok(Some(logged)) = replay.next_frame() {
        assert!(logged.position > last, "{} after {last}", logged.position);
        last = logged.position;
        let written = payloads.get(last as usize - 1);
        assert_eq!(written, Some(&logged.payload), "frame {last}");
        assert_eq!(logged.frame.received_unix_nano, last);
    }
    let _ = replay.finish();
}

fuzz_target!(|input: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let mut input = Input(input);
    let payloads = write(dir.path(), &mut input);
    let entries = std::fs::read_dir(dir.path()).expect("the log");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    edit(&files, &mut input);
    let (bytes, ()) = allocated::peak_bytes(|| read(dir.path(), &payloads));
    assert!(bytes <= READING_BYTES_MAX, "reading takes {bytes} bytes");
});
